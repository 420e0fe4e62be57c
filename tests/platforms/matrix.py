"""The settings of the numeric libraries and of pip that the tests must not depend on; runs them all.

``python -m tests.platforms.matrix [NAME ...]`` (`make test-platforms`) runs each setting's files in a
process of their own, under the setting's environment, and prints a table; 1 if any test failed. Hours on
two processors. `test_small_form.py` is what of it belongs to `make test`.

oneDNN (TensorFlow's kernels) and OpenBLAS (numpy's, scipy's) choose their code by processor; a capped one
stands in for an older processor. onnxruntime has no such switch: its graphs are held to Keras's answers.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A setting takes minutes; this is for one that hangs.
_DEADLINE_S = 3600.0

# tests that call TensorFlow or compare its answers
NETWORKS = (
    "tests/platforms/test_numbers.py",
    "tests/contract/test_networks_compose.py",
    "tests/contract/test_networks_convert.py",
    "tests/unit/exporter",
    "tests/unit/training",
    "tests/fault/test_training_kill.py",
    "tests/e2e/test_export.py",
    "tests/e2e/test_fit.py",
    "tests/e2e/test_fit_stage.py",
    "tests/docs/test_readme.py",
    "tests/e2e/test_repeats.py",
    "tests/e2e/test_story.py",
)
# tests whose sums numpy or scipy does
ARRAYS = (
    "tests/platforms/test_numbers.py",
    "tests/unit/benchmarks",
    "tests/unit/training",
    "tests/property/test_features_parity.py",
    "tests/e2e/test_fit.py",
    "tests/e2e/test_fit_stage.py",
    "tests/e2e/test_gate.py",
    "tests/e2e/test_repeats.py",
    "tests/e2e/test_replays.py",
)
# tests that call pip
PIP = (
    "tests/contract/test_locks.py",
    "tests/fault/test_sources_faults.py",
    "tests/unit/training/sources/test_package.py",
)


@dataclass(frozen=True)
class Setting:
    """One column of the matrix.

    Args:
        environment: what is set on top of this process's own.
        tests: the files that are run under it.
        is_small: `make test` runs `test_numbers.py` under it too.
        needs: a flag of /proc/cpuinfo without which the processor cannot do it.
    """

    name: str
    environment: Mapping[str, str]
    tests: tuple[str, ...]
    is_small: bool = False
    needs: str = ""


def _network(name: str, precision: str, *, is_small: bool = False, needs: str = "", **more: str) -> Setting:
    environment = {"TIMBERLINE_TRAINING_PRECISION": precision, **more}
    return Setting(f"{name}, {precision}", environment, NETWORKS, is_small, needs)


# The one that this Python's first release brought, and below the newest that was tried.
_OLDEST_PIP = {(3, 11): "22.3", (3, 12): "23.2.1"}.get(sys.version_info[:2], "24.2")

SETTINGS = (
    Setting("as this machine is", {}, (*NETWORKS, *ARRAYS)),
    _network("oneDNN off", "float32", TF_ENABLE_ONEDNN_OPTS="0", is_small=True),
    _network("oneDNN off", "mixed_bfloat16", TF_ENABLE_ONEDNN_OPTS="0"),
    _network("oneDNN SSE4.1", "float32", ONEDNN_MAX_CPU_ISA="SSE41"),
    _network("oneDNN AVX2", "float32", ONEDNN_MAX_CPU_ISA="AVX2", is_small=True),
    _network("oneDNN AVX-512", "float32", ONEDNN_MAX_CPU_ISA="AVX512_CORE", needs="avx512f"),
    _network("oneDNN AVX-512", "mixed_bfloat16", ONEDNN_MAX_CPU_ISA="AVX512_CORE", needs="avx512f"),
    _network(
        "oneDNN AVX-512 BF16", "mixed_bfloat16", ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16", needs="avx512_bf16"
    ),
    _network("oneDNN uncapped", "float32"),
    _network("oneDNN uncapped", "mixed_bfloat16", needs="avx512f", is_small=True),
    *(
        Setting(f"OpenBLAS {core}", {"OPENBLAS_CORETYPE": core}, ARRAYS, needs=flag)
        for core, flag in (("Nehalem", ""), ("Haswell", "avx2"), ("SkylakeX", "avx512f"))
    ),
    *(Setting(f"pip {pip}", {"TIMBERLINE_TEST_PIP": pip}, PIP) for pip in (_OLDEST_PIP, "26.3")),
)
# Pairs that are no platform, and why.
LEFT_OUT = {
    "oneDNN SSE4.1 or AVX2, mixed_bfloat16": "TensorFlow asks the processor and oneDNN the cap: with AVX-512 "
    'the first bfloat16 product aborts the process. `precision = "auto"` is float32 there.',
}


@dataclass(frozen=True)
class Outcome:
    """What became of one setting's tests."""

    setting: str
    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    seconds: float = 0.0
    log: str = field(default="", repr=False)


def run_setting(setting: Setting, tests: Iterable[str] | None = None) -> Outcome:
    """Run the setting's files, or ``tests``, under it in one pytest process.

    A process that died or hung counts as one failure that names its end.
    """
    with tempfile.TemporaryDirectory(prefix="timberline-platforms-") as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        started = time.monotonic()
        end, log = _run([*command, *dict.fromkeys(setting.tests if tests is None else tests)], setting)
        seconds = time.monotonic() - started
        cases = list(ET.parse(report).getroot().iter("testcase")) if report.is_file() else []
    broken = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    failed = [f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}" for case in broken]
    if end and not failed:
        failed.append(end)
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = max(len(cases) - len(broken) - skipped, 0)
    return Outcome(setting.name, passed, skipped, tuple(failed), seconds, log)


def _run(command: list[str], setting: Setting) -> tuple[str, str]:
    """How the process ended, nothing if well, and what it printed."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **setting.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return f"not done after {_DEADLINE_S:.0f} s", str(error.stdout or "")
    if done.returncode < 0:
        return f"the process died of {signal.Signals(-done.returncode).name}", done.stdout
    return f"pytest ended with {done.returncode}" if done.returncode else "", done.stdout


def missing_flag(setting: Setting, processor: Path = Path("/proc/cpuinfo")) -> str:
    """The flag that this processor lacks for the setting, or nothing."""
    flags = processor.read_text("utf-8", errors="replace").split() if processor.is_file() else []
    return setting.needs if setting.needs not in ["", *flags] else ""


def format_table(outcomes: Iterable[Outcome], lacking: Mapping[str, str]) -> str:
    """One line a setting, the failed tests below it, and what was left out with its reason."""
    lines = [f"{'setting':40} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}"]
    for outcome in outcomes:
        counts = f"{outcome.passed:7} {len(outcome.failed):7} {outcome.skipped:8} {outcome.seconds:8.0f}"
        lines += [f"{outcome.setting:40} {counts}", *(f"    {name}" for name in outcome.failed)]
    lines += [f"{name:40} left out: this processor has no {flag}" for name, flag in lacking.items()]
    lines += [f"{name:40} left out: {reason}" for name, reason in LEFT_OUT.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the settings whose names hold one of the words, or all; 1 if any test failed under any."""
    parser = argparse.ArgumentParser(prog="python -m tests.platforms.matrix", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of the names of the settings to run")
    words = parser.parse_args(arguments).words
    chosen = [s for s in SETTINGS if not words or any(word in s.name for word in words)]
    lacking = {s.name: flag for s in chosen if (flag := missing_flag(s))}
    outcomes = []
    for setting in (s for s in chosen if s.name not in lacking):
        outcomes.append(run_setting(setting))
        if outcomes[-1].failed:
            sys.stderr.write(outcomes[-1].log)
        sys.stderr.write(format_table(outcomes[-1:], {}).splitlines()[1] + "\n")
    sys.stdout.write(format_table(outcomes, lacking) + "\n")
    return int(not outcomes or any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
