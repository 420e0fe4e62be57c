"""``timberline release MODEL``: every stage from the raw table to production, a process each."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Iterator

from timberline.benchmarks.settings import GateSettings
from timberline.registry.runtime.cli import run_command
from timberline.registry.runtime.logs import configure_logging, log_event
from timberline.registry.runtime.options import Verbs, add_verb, find_model
from timberline.training.config import load_model_config

_logger = logging.getLogger("release")
# What each stage takes of the shared options.
_STAGES = {
    **dict.fromkeys(("fetch", "etl", "train", "evaluate"), ("models", "data")),
    "export": ("models", "data", "registry"),
    "gate": ("data", "registry"),
    "promote": ("registry",),
}


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verb ``release``."""
    text = "fetch, etl, train, evaluate, export, gate and promote: what is done already is skipped"
    add_verb(verbs, "release", text, run, "models", "data", "registry", "set")


def run(options: argparse.Namespace) -> int:
    """Run the stages until one ends with another code than 0, which is the release's.

    The gate's are 1 BLOCK, 2 INCONCLUSIVE and 3 INVALID: nothing is promoted then. A stage that a signal
    killed, as the kernel does without memory, gives 128 and the signal's number.
    """
    configure_logging(options.log_level or "info", options.log_format or "auto")
    return run_command("release", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    options.data = options.data or read_data(options)
    for stage in _STAGES:
        words = [sys.executable, "-m", "timberline", stage, find_model(options), *list_flags(options, stage)]
        if code := subprocess.run(words, check=False).returncode:
            log_event(_logger, "release stopped", logging.ERROR, stage=stage, exit_code=code)
            return code if code > 0 else 128 - code
    return 0


def read_data(options: argparse.Namespace) -> str:
    """``[paths] data`` of model.toml, for every stage: the gate, which reads none, looks for rows there too.

    Raises:
        ConfigError: there is no such model folder, or a setting in it is wrong.
    """
    overrides = [override for override in options.set if not _is_rule(override)]
    return load_model_config(options.models, find_model(options), overrides=overrides).paths.data


def list_flags(options: argparse.Namespace, stage: str) -> Iterator[str]:
    """What of the release's options a stage is started with."""
    for name in _STAGES[stage]:
        if value := getattr(options, name):
            yield from (f"--{name}", str(value))
    for name in ("log_level", "log_format"):
        if value := getattr(options, name):
            yield from (f"--{name.replace('_', '-')}", value)
    for override in options.set if stage != "promote" else ():
        if _is_rule(override) == (stage == "gate"):
            yield from ("--set", override)


def _is_rule(override: str) -> bool:
    """Whether it is for a section of gates.toml; every other one is model.toml's."""
    return override.partition(".")[0] in GateSettings.__struct_fields__
