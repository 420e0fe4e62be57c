"""``python -m benchmarks gate | calibrate | selftest | …``: judge a candidate, measure the rest."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timberline.benchmarks.settings import DEFAULT_GATES, GateSettings, load_gate_settings
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.cli import print_result, read_options, run_command
from timberline.registry.runtime.logs import configure_logging
from timberline.registry.runtime.options import Place, Verbs, add_verb, find_data, find_model
from timberline.registry.runtime.working_copy import is_remote, name_path, open_data

if TYPE_CHECKING:
    from timberline.benchmarks.selftest.run import SelfTest
    from timberline.registry.manifest import GateLimits

# The verdict decides the exit code; only 0 lets a release go on.
_EXIT_CODES = {"PASS": 0, "BLOCK": 1, "INCONCLUSIVE": 2, "INVALID": 3}

# The verbs whose DATA may be a bucket.
_IN_BUCKETS = {"gate", "bench", "load", "calibrate", "history"}

# The candidates of a self-test; see `benchmarks.selftest.scenarios`.
# A worse model is blocked before it is measured, so that few whole gates tell; draws tell the rest.
_ARMS = "aa,cpu_3=5,cpu_10,service_20,work_20,tail,worse_1=5,worse_2=5"
# Shares of the answers that are changed, and how many held-out rows there are (0: all) in draws.
_DROPS, _SIZES = (0.0, 0.01, 0.02), (5_000, 20_000, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; its result goes to stdout as JSON, the table for people to stderr."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    add_verbs(verbs)
    if importlib.util.find_spec("timberline.benchmarks.dev"):  # not in a wheel
        importlib.import_module("timberline.benchmarks.dev.verbs").add_verbs(verbs, _add_verb)
    options = read_options(parser, arguments)
    return int(options.run(options))


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verbs of this part, for its own command line and for `timberline`."""
    gate = _add_verb(verbs, "gate", "judge the candidate against the champion", _gate, "set")
    gate.add_argument("--candidate", metavar="REF", help="default: MODEL@candidate")
    gate.add_argument(
        "--champion", metavar="REF", help="default: MODEL@production; given, the verdict is not stored"
    )
    gate.add_argument("--again", action="store_true", help="measure even if these digests passed already")
    gate.add_argument("--looks", metavar="N,N", help="restarts after which it may be decided")
    gate.add_argument(
        "--calibrations",
        type=Path,
        metavar="DIR",
        help="spreads by class of machine (default: DATA/calibrations)",
    )
    text = "percentiles, throughput, start-up and memory of one version"
    bench = _add_verb(verbs, "bench", text, _bench, "set")
    bench.add_argument(
        "--users", metavar="N,N", default="1,16", help="closed-loop clients, one run each (default 1,16)"
    )
    for verb in (gate, bench):
        verb.add_argument(
            "--window-s", type=float, metavar="SECONDS", help="seconds of load a restart or run"
        )
        verb.add_argument(
            "--workload", metavar="NAME", help="a name in benchmarks/workloads, or a .toml file"
        )
        verb.add_argument(
            "--gates",
            type=Path,
            metavar="FILE",
            default=DEFAULT_GATES,
            help="the rules (default: the committed gates.toml)",
        )
    text = "latency under open-loop load, and the highest rate under an objective"
    load = _add_verb(verbs, "load", text, _load, "set")
    kind = load.add_mutually_exclusive_group(required=True)
    kind.add_argument("--rate", metavar="N,N", help="requests a second, Poisson arrivals, one run each")
    kind.add_argument("--users", metavar="N,N", help="closed-loop clients, one run each")
    kind.add_argument("--sweep", action="store_true", help="look for the highest rate under the objective")
    load.add_argument("--candidate", metavar="REF", help="side by side; default: MODEL@candidate")
    load.add_argument("--champion", metavar="REF", help="side by side; default: MODEL@production")
    load.add_argument(
        "--objective-ms", type=float, metavar="MS", help="greatest p99 latency, from the due time"
    )
    load.add_argument("--rounds", type=int, metavar="N", help="rounds with fresh processes")
    load.add_argument("--window-s", type=float, metavar="SECONDS", help="seconds of one window, at least")
    load.add_argument("--workload", metavar="NAME", help="a name in benchmarks/workloads, or a .toml file")
    load.add_argument(
        "--rules", type=Path, metavar="FILE", help="the rules (default: the committed load.toml)"
    )
    load.add_argument("--check", action="store_true", help="end with 1 on a candidate that bears less")
    _add_proof_verbs(verbs)
    _add_verb(verbs, "history", "every release of a model, and what changed between them", _history)


def _add_proof_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    selftest = _add_verb(
        verbs, "selftest", "gates on candidates known to be as good, slower or worse", _selftest, "set"
    )
    selftest.add_argument("--arms", default=_ARMS, metavar="ARM[=N],…", help=f"default {_ARMS}")
    selftest.add_argument(
        "--gates", dest="count", type=int, metavar="N", default=100, help="gates an arm (default 100)"
    )
    selftest.add_argument(
        "--draws", type=int, metavar="N", help="no gates: N worse models of each kind, by their answers alone"
    )
    selftest.add_argument(
        "--replays",
        type=Path,
        metavar="FOLDER",
        help="no gates: every two runs of one recipe (DATA/repeats/MODEL/…), by their answers alone",
    )
    selftest.add_argument(
        "--worse",
        action="append",
        default=[],
        metavar="ARM=FOLDER",
        help="with --replays: runs of a worse recipe, beside every run of the recipe",
    )
    selftest.add_argument("--limits", type=Path, metavar="FILE", help="a model.toml, for its [gate]")
    selftest.add_argument("--report", action="store_true", help="run nothing, show what is there")
    selftest.add_argument(
        "--rejudge", action="store_true", help="re-evaluate stored runs with the current rules"
    )
    calibrate = _add_verb(
        verbs, "calibrate", "measure and store how far identical processes differ here", _calibrate, "set"
    )
    calibrate.add_argument(
        "--restarts",
        dest="count",
        type=int,
        metavar="N",
        default=24,
        help="restarts of each process (default 24)",
    )
    for verb in (calibrate, selftest):
        verb.add_argument(
            "--csv", type=Path, metavar="FILE", help="one row a gate (default DATA/selftest/gates.csv)"
        )
        verb.add_argument("--window-s", type=float, metavar="SECONDS", help="seconds of load a restart")
        verb.add_argument(
            "--workload", metavar="NAME", help="a name in benchmarks/workloads, or a .toml file"
        )
        verb.add_argument(
            "--rules",
            dest="gates",
            type=Path,
            metavar="FILE",
            default=DEFAULT_GATES,
            help="the rules (default: the committed gates.toml)",
        )


def _add_verb(
    verbs: Verbs[argparse.ArgumentParser],
    name: str,
    text: str,
    action: Callable[[argparse.Namespace], int],
    *places: Place,
) -> argparse.ArgumentParser:
    verb = add_verb(verbs, name, text, _main, "data", "registry", *places, model="MODEL[@VERSION]")
    verb.set_defaults(action=action)
    return verb


def _main(options: argparse.Namespace) -> int:
    configure_logging(options.log_level or "info", options.log_format or "auto")
    options.model = find_model(options)
    return run_command("benchmarks", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    location = find_data(options)
    if is_remote(location):
        _refuse_bucket(options)
    with open_data(location) as options.data:
        return int(options.action(options))


def _refuse_bucket(options: argparse.Namespace) -> None:
    """Stop a verb that keeps its files in DATA in a way that a bucket cannot.

    Raises:
        ConfigError: it does.
    """
    if options.verb not in _IN_BUCKETS:
        raise ConfigError(f"{options.verb} works in a folder", where="--data", hint="Give --data a folder.")
    if options.verb == "calibrate" and options.csv is None:
        raise ConfigError(
            "calibrate appends to a file, which a bucket cannot do",
            where="--data",
            hint="Give that file a place on this machine with --csv.",
        )


def _settings(options: argparse.Namespace) -> GateSettings:
    flags = {key: getattr(options, key, None) for key in ("window_s", "workload")}
    if getattr(options, "looks", None):
        flags["looks"] = f"[{options.looks}]"
    overrides = [f"duet.{key}={value}" for key, value in flags.items() if value is not None]
    return load_gate_settings(options.gates, overrides=[*options.set, *overrides], environment=os.environ)


def _gate(options: argparse.Namespace) -> int:
    from timberline.benchmarks.gate.run import run_gate
    from timberline.benchmarks.report.terminal import format_verdict
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    ref = ModelRef.parse(options.model)
    candidate = options.candidate or (None if ref == ModelRef(ref.model) else options.model)
    result = run_gate(
        open_store(options.registry),
        ref.model,
        options.data,
        _settings(options),
        candidate=candidate,
        champion=options.champion,
        again=options.again,
        calibrations=options.calibrations,
    )
    if result.verdict is not None:
        sys.stderr.write(format_verdict(result.verdict) + "\n")
    if result.skipped:
        sys.stderr.write(f"skipped: {result.skipped}\n")
    print_result(result.summary())
    return _EXIT_CODES[result.verdict.outcome] if result.verdict else 0


def _bench(options: argparse.Namespace) -> int:
    from timberline.benchmarks.load.run import format_bench, run_bench
    from timberline.registry.aliases import resolve
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    store, ref = open_store(options.registry), ModelRef.parse(options.model)
    users = [int(count) for count in options.users.split(",")]
    measured = run_bench(store, ref.model, resolve(store, ref), _settings(options), users)
    sys.stderr.write(format_bench(measured) + "\n")
    print_result(measured)
    return 0


def _load(options: argparse.Namespace) -> int:
    if options.check and not (options.sweep and (options.candidate or options.champion)):
        raise ConfigError(
            "compares the rates of two versions", where="--check", hint="Add --sweep --candidate."
        )
    from timberline.benchmarks.load.measure import read_loads
    from timberline.benchmarks.load.report import format_load
    from timberline.benchmarks.load.run import run_load
    from timberline.benchmarks.load.settings import DEFAULT_LOAD, LoadSettings
    from timberline.registry.names import ModelRef
    from timberline.registry.runtime.settings import load_settings
    from timberline.registry.store import open_store

    flags = {
        "objective.p99_ms": options.objective_ms,
        "compare.rounds": options.rounds,
        "window.window_s": options.window_s,
        "window.workload": options.workload,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
    report, folder = run_load(
        open_store(options.registry),
        ModelRef.parse(options.model),
        options.data,
        load_settings(
            options.rules or DEFAULT_LOAD,
            LoadSettings,
            overrides=[*options.set, *overrides],
            environment=os.environ,
        ),
        read_loads(rates=options.rate, users=options.users),
        candidate=options.candidate,
        champion=options.champion,
    )
    sys.stderr.write(f"{format_load(report)}\nreport: {name_path(folder / 'load.md')}\n")
    print_result(report)
    if report.problem:
        return _EXIT_CODES["INVALID"]
    return 1 if options.check and report.is_below else 0


def _selftest(options: argparse.Namespace) -> int:
    from timberline.benchmarks.selftest.run import list_nightly, list_rejudged, run_selftest
    from timberline.benchmarks.selftest.scenarios import (
        NIGHTLY,
        find_alarm,
        format_rates,
        measure_rates,
        parse_scenarios,
    )

    if options.draws is not None:
        return _draw(options)
    if options.replays is not None:
        return _replay(options)
    test = _open_selftest(options)
    if not (options.report or options.rejudge):
        run_selftest(test, parse_scenarios(options.arms, options.count))
    done = [row for row in test.read_done() if row.arm != NIGHTLY]
    rows = list_rejudged(test) if options.rejudge else [*done, *list_nightly(test)]
    rates, alarm = measure_rates(rows), find_alarm(rows)
    sys.stderr.write(f"{format_rates(rates)}\n{alarm}\n")
    print_result({"rates": rates, "alarm": alarm or None})
    return 1 if alarm or any(rate.finding == "broken" for rate in rates) else 0


def _draw(options: argparse.Namespace) -> int:
    from timberline.benchmarks.selftest.worse import Draws, format_draws, measure_draws, run_draws

    test = _open_selftest(options)
    path = options.csv or options.data / "selftest" / "draws.csv"
    draws = Draws(test.store, test.model, test.version, test.settings, path)
    if not options.report:
        run_draws(draws, drops=_DROPS, sizes=_SIZES, count=options.draws)
    rates = measure_draws(draws.read_done(), test.settings, draws.limit)
    sys.stderr.write(f"{format_draws(rates)}\n")
    print_result(rates)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from timberline.benchmarks.selftest.replay_rates import (
        CHAINS,
        Judge,
        format_replays,
        judge_pairs,
        measure_rates,
    )
    from timberline.benchmarks.selftest.replays import Replays, measure_replays, write_pairs
    from timberline.benchmarks.selftest.scenarios import read_folders

    settings, limits = _settings(options), _read_limits(options)
    path = options.csv or options.data / "selftest" / "replays.csv"
    replays = Replays(path, read_folders(options.replays, options.worse))
    if not options.report:
        measure_replays(replays, slices=tuple(limits.slices), chains=CHAINS)
    judge = Judge(replays.read_runs(), limits, settings.accuracy)
    pairs = judge_pairs(replays.read_pairs(), judge)
    if not options.report:
        write_pairs(replays, pairs)
    rates = measure_rates(pairs, judge)
    sys.stderr.write(f"{format_replays(rates)}\n")
    print_result(rates)
    return 1 if any(rate.finding == "broken" for rate in rates) else 0


def _read_limits(options: argparse.Namespace) -> GateLimits:
    from timberline.benchmarks.settings import read_limits
    from timberline.registry.aliases import open_reference
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    if options.limits is not None:
        return read_limits(options.limits)
    return open_reference(open_store(options.registry), ModelRef.parse(options.model)).manifest.gate


def _calibrate(options: argparse.Namespace) -> int:
    from timberline.benchmarks.selftest.run import calibrate

    calibration, path = calibrate(_open_selftest(options), options.count)
    print_result(calibration)
    sys.stderr.write(f"calibration: {name_path(path)}\n")
    return 0


def _open_selftest(options: argparse.Namespace) -> SelfTest:
    from timberline.benchmarks.selftest.run import SelfTest
    from timberline.registry.aliases import resolve
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    store, ref = open_store(options.registry), ModelRef.parse(options.model)
    path = options.csv or options.data / "selftest" / "gates.csv"
    return SelfTest(store, ref.model, resolve(store, ref), options.data, _settings(options), path)


def _history(options: argparse.Namespace) -> int:
    from timberline.benchmarks.report.history import read_release_history, write_page
    from timberline.benchmarks.report.release_table import format_history
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    history = read_release_history(open_store(options.registry), ModelRef.parse(options.model).model)
    sys.stderr.write(format_history(history.model, history.releases, history.changes) + "\n")
    print_result(history)
    sys.stderr.write(f"page: {name_path(write_page(history, options.data))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
