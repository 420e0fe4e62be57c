"""``timberline VERB [MODEL] …``: every verb of every part behind one name."""

from __future__ import annotations

import sys

if sys.argv[1:2] == ["health"]:
    # Asked every few seconds: what is imported below would cost ten times as much as asking.
    from timberline.inference.server.probe import main as ask

    if (_code := ask(sys.argv[2:])) is not None:
        sys.exit(_code)

import argparse
import difflib
import importlib
import importlib.util
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from timberline import __version__
from timberline.registry.runtime.cli import read_options, run_command
from timberline.registry.runtime.options import Verbs

_PARTS = ("registry", "training", "exporter", "inference", "benchmarks")
# Of a module that is no part's: the parts that it runs.
_NEEDS = {
    "release": {"training", "exporter", "inference", "benchmarks"},
    "features": {"training", "exporter"},
}
# The module under `timberline` that brings each verb.
_GROUPS = {
    "a table": {**dict.fromkeys(("init", "fetch", "etl"), "training.__main__"), "features": "features"},
    "a version": {
        **dict.fromkeys(("train", "evaluate"), "training.__main__"),
        "export": "exporter.__main__",
        "release": "release",
    },
    "a decision": {
        "gate": "benchmarks.__main__",
        **dict.fromkeys(("promote", "rollback"), "registry.__main__"),
        **dict.fromkeys(("history", "calibrate"), "benchmarks.__main__"),
        "calibrate-training": "training.__main__",
        "selftest": "benchmarks.__main__",
    },
    "the registry": dict.fromkeys(("list", "show", "verify", "alias", "repair"), "registry.__main__"),
    "serving": {
        **dict.fromkeys(("serve", "health"), "inference.__main__"),
        **dict.fromkeys(("bench", "load"), "benchmarks.__main__"),
    },
    "this installation": {"doctor": "doctor", "completion": "", "help": ""},
}
_MODULES = {verb: module for verbs in _GROUPS.values() for verb, module in verbs.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0: done, 1: the answer is no, 2: wrong use, 3: the environment failed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words in (["help"], ["--help"], ["-h"]):
        sys.stdout.write(describe_verbs(build_parser()[1]))
        return 0
    if words[0] == "help":
        words = [*words[1:], "--help"]
    # A service is to hold no other verb's modules.
    module = _MODULES.get(words[0])
    parser, verbs = build_parser({module} if module else set(_MODULES.values()))
    if not words[0].startswith("-") and words[0] not in verbs.choices:
        parser.error(_describe_unknown(words[0], verbs))
    options = read_options(parser, words)
    return int(options.run(options))


def build_parser(
    modules: Collection[str] = tuple(_MODULES.values()),
) -> tuple[argparse.ArgumentParser, Verbs[argparse.ArgumentParser]]:
    """The parser of the verbs that ``modules`` bring, as far as this installation has them; and the verbs."""
    parser = argparse.ArgumentParser(prog="timberline", usage="timberline VERB [MODEL] [options]")
    parser.add_argument("--version", action="version", version=f"timberline {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", prog="timberline")
    # An image holds the parts of its role.
    missing = {part for part in _PARTS if not importlib.util.find_spec(f"timberline.{part}")}
    for module in dict.fromkeys(modules):
        needed = _NEEDS.get(module, {module.partition(".")[0]})
        if module and not needed & missing:
            importlib.import_module(f"timberline.{module}").add_verbs(verbs)
    text = "print the code that makes a shell complete verbs and options"
    completion = verbs.add_parser("completion", help=text, description=text)
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    completion.set_defaults(
        run=lambda options: run_command("completion", lambda: _complete(parser, verbs, options.shell))
    )
    return parser, verbs


def _complete(parser: argparse.ArgumentParser, verbs: Verbs[argparse.ArgumentParser], shell: str) -> int:
    import shtab

    models = shtab.cmd("ls models 2>/dev/null")
    for verb in verbs.choices.values():
        for action in verb._actions:
            completed: Any = action  # an attribute of shtab's own
            if action.dest == "model":
                completed.complete = models
            elif action.metavar in ("DIR", "PLACE"):
                completed.complete = shtab.DIRECTORY
            elif action.type is Path:
                completed.complete = shtab.FILE
    sys.stdout.write(shtab.complete(parser, shell=shell))
    return 0


def describe_verbs(verbs: Verbs[argparse.ArgumentParser]) -> str:
    """What ``timberline --help`` shows: the verbs by group, a line each."""
    helps = {action.dest: action.help for action in verbs._choices_actions}
    helps["help"] = "show the options of a verb: help VERB"
    lines = ["usage: timberline VERB [MODEL] [options]", ""]
    for group, names in _GROUPS.items():
        if shown := [f"   {name:19}{helps[name]}" for name in names if name in helps]:
            lines += [group, *shown, ""]
    lines += [
        "MODEL is a folder of --models, or a version: forest_cover, forest_cover@candidate, forest_cover@7.",
        "'timberline help VERB' shows the options of a verb.",
    ]
    return "\n".join(lines) + "\n"


def _describe_unknown(word: str, verbs: Verbs[argparse.ArgumentParser]) -> str:
    if word in _MODULES:
        return f"{word} is not part of this installation; 'timberline help' lists what is"
    near = difflib.get_close_matches(word, verbs.choices, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; 'timberline help' lists the verbs"
    return f"{word!r} is no verb{hint}"


if __name__ == "__main__":
    sys.exit(main())
