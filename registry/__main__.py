"""``python -m registry list | show | verify | alias | promote | rollback | repair``: versions and names."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from timberline.registry import checks, promotion, show
from timberline.registry.aliases import (
    AliasRecord,
    inspect_history,
    list_aliases,
    open_reference,
    read_alias,
    resolve,
)
from timberline.registry.errors import ConfigError, DamageError
from timberline.registry.names import CANDIDATE, ModelRef
from timberline.registry.runtime.cli import RERUN_HINT, print_json, read_options, run_command
from timberline.registry.runtime.logs import configure_logging
from timberline.registry.runtime.options import Verbs, add_verb, find_model
from timberline.registry.store import Store, open_store

_HELP = {
    "list": "every version: when, how good, how big, aliases, verdict (of all models if none is named)",
    "show": "everything about one version (MODEL means MODEL@production)",
    "verify": "compare every file with its manifest (of all models if none is named)",
    "alias": "where aliases point and pointed: alias MODEL | MODEL@ALIAS | set MODEL@ALIAS VERSION",
    "promote": "point production at a version, if its verdict passes (MODEL means MODEL@candidate)",
    "rollback": "point production at the version before",
    "repair": "settle damage: repair MODEL@ALIAS VERSION (where it points) | MODEL@VERSION (it is lost)",
}

_CHANGING = ("alias", "promote", "rollback", "repair")
# A rollback that is repeated goes back one more.
_CHECK_HINT = "`timberline alias MODEL` tells whether it has moved"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 1 when the answer is no (refused, damaged)."""
    parser = argparse.ArgumentParser(prog="python -m registry", description=__doc__)
    add_verbs(parser.add_subparsers(dest="verb", required=True, metavar="verb"))
    options = read_options(parser, arguments)
    return int(options.run(options))


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verbs of this part, for its own command line and for `timberline`."""
    for name, text in _HELP.items():
        many = name in ("alias", "repair")
        command = add_verb(verbs, name, text, _main, "registry", model=None if many else "MODEL[@VERSION]")
        if many:
            command.add_argument("words", nargs="*", metavar="MODEL[@VERSION]")
            command.add_argument("--model", default="", help="the same as MODEL")
        command.add_argument(
            "--json", action=argparse.BooleanOptionalAction, help="JSON (the default off a terminal)"
        )
        if name in _CHANGING:
            command.add_argument("--reason", metavar="TEXT", help="why, for the alias's history")
        if name == "promote":
            command.add_argument("--force", action="store_true", help="without a passing verdict")


def _main(options: argparse.Namespace) -> int:
    configure_logging(options.log_level or "info", options.log_format or "auto")
    hint = _CHECK_HINT if options.verb in _CHANGING else RERUN_HINT
    return run_command("registry", lambda: _run(options), hint=hint)


def _run(options: argparse.Namespace) -> int:
    try:
        return _VERBS[options.verb](open_store(options.registry), options)
    except DamageError as error:  # an answer here; for a gate or a service it is "could not find out"
        logging.getLogger("registry").error("%s", error, extra={"fields": {"code": error.code}})
        return 1


def _list(store: Store, options: argparse.Namespace) -> int:
    named = options.model
    summaries = show.summarise_versions(store, ModelRef.parse(named).model if named else None)
    _print(options, summaries, lambda: show.versions_table(summaries, store.location))
    return 1 if any(summary.problem for summary in summaries) else 0


def _show(store: Store, options: argparse.Namespace) -> int:
    details = show.read_details(store, open_reference(store, _ref(options)))
    _print(options, details, lambda: show.details_text(details))
    return 1 if details.problems else 0


def _verify(store: Store, options: argparse.Namespace) -> int:
    ref = ModelRef.parse(options.model) if options.model else None
    version = _find_version(store, ref) if ref else None
    found = checks.check_versions(store, ref, version)
    _print(options, found, lambda: show.checks_table(found))
    return 0 if all(check.is_whole for check in found) else 1


def _find_version(store: Store, ref: ModelRef) -> int | None:
    """The version to verify, if one is named; of a damaged alias it is the alias that is to be verified."""
    if ref.version:
        return resolve(store, ref)
    if ref.alias:
        try:
            record = read_alias(store, ref.model, ref.alias)
        except DamageError:
            return None
        return record.version if record else resolve(store, ref)
    return None


def _alias(store: Store, options: argparse.Namespace) -> int:
    words = options.words or [str(_ref(options))]
    if words[0] == "set" and len(words) == 3:
        return _set_alias(store, options, ModelRef.parse(words[1]), words[2])
    if len(words) != 1:
        raise ConfigError(f"found {' '.join(words)!r}", where="alias", hint=f"Usage: {_HELP['alias']}.")
    ref = ModelRef.parse(words[0])
    names = [ref.alias] if ref.alias else list_aliases(store, ref.model)
    histories = [inspect_history(store, ref.model, name) for name in names]
    records = [record for history in histories for record in history.records]
    _print(options, records, lambda: show.history_table(records))
    findings = [finding for history in histories for finding in history.problems]
    for finding in findings:
        logging.getLogger("registry").error("%s", finding, extra={"fields": {"code": DamageError.code}})
    return 1 if findings else 0


def _set_alias(store: Store, options: argparse.Namespace, ref: ModelRef, version: str) -> int:
    if not ref.alias:
        raise ConfigError(f"found {str(ref)!r}, expected MODEL@ALIAS", where="alias set")
    number = resolve(store, ModelRef.parse(f"{ref.model}@{version}"))
    record = promotion.set_alias(store, ref.model, ref.alias, number, reason=options.reason or "set by hand")
    return _print_move(options, record)


def _promote(store: Store, options: argparse.Namespace) -> int:
    ref = _ref(options)
    version = resolve(store, ref, default=CANDIDATE)
    record = promotion.promote(store, ref.model, version, force=options.force, reason=options.reason)
    return _print_move(options, record)


def _rollback(store: Store, options: argparse.Namespace) -> int:
    record = promotion.rollback(store, _ref(options).model, reason=options.reason)
    return _print_move(options, record)


def _repair(store: Store, options: argparse.Namespace) -> int:
    words = options.words or [str(_ref(options))]
    ref = ModelRef.parse(words[0])
    if ref.version and len(words) == 1:
        done = promotion.write_off(store, ref.model, ref.version, reason=options.reason)
        if not done and ref.version in store.versions(ref.model):
            _refuse_beyond_repair(checks.check_versions(store, ref, ref.version))
        _print(
            options, {"name": str(ref), "done": done or None}, lambda: f"{ref} {done or 'needs no repair'}\n"
        )
        return 0
    if not ref.alias or len(words) != 2:
        raise ConfigError(f"found {' '.join(words)!r}", where="repair", hint=f"Usage: {_HELP['repair']}.")
    number = resolve(store, ModelRef.parse(f"{ref.model}@{words[1]}"))
    record = promotion.repair(store, ref.model, ref.alias, number, reason=options.reason)
    if record is None:
        _print(options, {"name": str(ref), "done": None}, lambda: f"{ref} needs no repair\n")
        return 0
    return _print_move(options, record)


def _refuse_beyond_repair(found: list[checks.Check]) -> None:
    """What lies beside a whole version, a verdict or a report, is for the gate to write again."""
    for check in found:
        if not check.is_whole:
            hint = "Nothing was changed. Restore it from a copy of the registry, or run the gate again."
            raise DamageError(check.findings, where=check.name, hint=hint)


_VERBS = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "alias": _alias,
    "promote": _promote,
    "rollback": _rollback,
    "repair": _repair,
}


def _ref(options: argparse.Namespace) -> ModelRef:
    return ModelRef.parse(find_model(options))


def _print_move(options: argparse.Namespace, record: AliasRecord) -> int:
    name = f"{record.model}@{record.alias}"
    _print(options, record, lambda: f"{name} is version {record.version}: {record.reason}\n")
    return 0


def _print(options: argparse.Namespace, value: object, write: Callable[[], str]) -> None:
    """The result on stdout: a table for people on a terminal, JSON for everything else."""
    if sys.stdout.isatty() if options.json is None else not options.json:
        sys.stdout.write(write())
    else:
        print_json(value)


if __name__ == "__main__":
    sys.exit(main())
