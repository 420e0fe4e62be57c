"""The verbs of ``python -m benchmarks`` that only the developers of this project run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from timberline.registry.runtime.cli import print_json, print_result
from timberline.registry.runtime.options import Verbs

AddVerb = Callable[..., argparse.ArgumentParser]


def add_verbs(verbs: Verbs[argparse.ArgumentParser], add_verb: AddVerb) -> None:
    """The verbs, each by ``add_verb(verbs, name, text, action, *places)``."""
    etl = add_verb(
        verbs, "etl", "the ETL beside a bare COPY and beside pandas, in one run", run_etl, "models"
    )
    etl.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    service = add_verb(
        verbs, "service", "processor time a request, beside a no-op and other services", run_service
    )
    service.add_argument("--rounds", type=int, default=10, help="how often each is measured (default 10)")
    service.add_argument("--window-s", type=float, default=1.0, help="seconds of load a round (default 1)")
    service.add_argument("--connections", type=int, default=16, help="closed-loop clients (default 16)")
    service.add_argument("--starts", type=int, default=3, help="starts of the service (default 3)")
    service.add_argument("--seed", type=int, default=0, help="of the order of the rounds (default 0)")
    service.add_argument(
        "--rivals",
        nargs="?",
        const="all",
        default="there",
        choices=["none", "there", "all"],
        help="other services: none, those that are there (default), or all, installed if need be",
    )
    service.add_argument("--beside", default="", help="another checkout: its service is measured as well")
    service.add_argument("--targets", type=Path, help="the bounds (default targets.toml)")
    service.add_argument("--check", action="store_true", help="end with 1 on a missed target")
    attacks = add_verb(verbs, "attacks", "what honest clients notice of attacks on the service", run_attacks)
    attacks.add_argument("--only", default="", metavar="REGEX", help="attacks whose names match")
    attacks.add_argument("--json", type=Path, metavar="FILE", help="the figures (default DATA/bench/…)")
    attacks.add_argument("--again-s", type=float, default=2.0, help="seconds a cut attack is begun again")
    attacks.add_argument("--bounds", type=Path, help="the bounds (default bounds.toml)")
    attacks.add_argument("--check", action="store_true", help="end with 1 on a bound that is not kept")
    registry = add_verb(verbs, "registry", "what a registry takes, in a folder and in a bucket", run_registry)
    registry.add_argument("--rounds", type=int, default=5, help="how often each is done (default 5)")
    registry.add_argument("--versions", type=int, default=5000, help="of the long registry (default 5000)")
    registry.add_argument("--check", action="store_true", help="end with 1 on a missed bound")
    starts = add_verb(
        verbs, "bucket-start", "what a service of a bucket takes to load, look and start", run_bucket_start
    )
    starts.add_argument("--rounds", type=int, default=5, help="how often each is done (default 5)")
    starts.add_argument("--check", action="store_true", help="end with 1 on a missed bound")
    categories = add_verb(
        verbs, "categories", "what columns of text cost, beside columns of numbers", run_categories
    )
    categories.add_argument("--rounds", type=int, default=10, help="how often each is measured (default 10)")
    categories.add_argument("--check", action="store_true", help="end with 1 on a missed bound")
    rivals = add_verb(verbs, "rivals", "install the services to compare with, each on its own", run_rivals)
    for verb in (service, rivals):
        verb.add_argument(
            "--environments", type=Path, default=Path("var/rivals"), help="where other services are installed"
        )


def run_etl(options: argparse.Namespace) -> int:
    """Print what the ETL, a bare COPY and pandas take."""
    from timberline.benchmarks.dev.etl import measure_etl

    print_json(
        measure_etl(model=options.model, models=options.models, data=options.data, rounds=options.rounds)
    )
    return 0


def run_service(options: argparse.Namespace) -> int:
    """Print and keep what a request costs each server; 1 on a missed target, with ``--check``."""
    from timberline.benchmarks.dev.service.report import (
        DEFAULT_TARGETS,
        Settings,
        format_service,
        load_targets,
        write_report,
    )
    from timberline.benchmarks.dev.service.speed import measure_service
    from timberline.registry.aliases import resolve
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    store, ref = open_store(options.registry), ModelRef.parse(options.model)
    report = measure_service(
        store,
        ref.model,
        resolve(store, ref),
        Settings(
            rounds=options.rounds,
            window_s=options.window_s,
            connections=options.connections,
            starts=options.starts,
            seed=options.seed,
            beside=options.beside,
        ),
        load_targets(options.targets or DEFAULT_TARGETS),
        environments=options.environments,
        competitors=options.rivals,
    )
    sys.stderr.write(format_service(report) + "\n")
    print_result(report)
    path = options.data / "bench" / f"service-{report.model}-{report.version}.json"
    sys.stderr.write(f"report: {write_report(report, path)}\n")
    is_missed = any(target.is_met is False for target in report.targets)
    return 1 if options.check and is_missed else 0


def run_attacks(options: argparse.Namespace) -> int:
    """Print and keep what honest clients notice; 1 on a bound that is not kept, with ``--check``."""
    from timberline.benchmarks.dev.attacks.run import Settings, measure_attacks
    from timberline.benchmarks.dev.attacks.table import (
        DEFAULT_BOUNDS,
        format_attacks,
        load_bounds,
    )
    from timberline.benchmarks.dev.service.report import write_report
    from timberline.registry.aliases import resolve
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    store, ref = open_store(options.registry), ModelRef.parse(options.model)
    report = measure_attacks(
        store,
        ref.model,
        resolve(store, ref),
        Settings(only=options.only, again_s=options.again_s),
        load_bounds(options.bounds or DEFAULT_BOUNDS),
    )
    default = options.data / "bench" / f"attacks-{report.model}-{report.version}.json"
    sys.stderr.write(format_attacks(report) + "\n")
    print_result(report)
    sys.stderr.write(f"report: {write_report(report, options.json or default)}\n")
    is_over = bool(report.left_out) or any(row.is_over for row in report.rows)
    return 1 if options.check and is_over else 0


def run_registry(options: argparse.Namespace) -> int:
    """Print and keep what operations of a registry take; 1 on a missed bound, with ``--check``."""
    from timberline.benchmarks.dev.registry import Settings, format_registry, measure_registry
    from timberline.benchmarks.dev.service.report import write_report
    from timberline.registry.aliases import open_reference
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    version = open_reference(open_store(options.registry), ModelRef.parse(options.model))
    settings = Settings(rounds=options.rounds, versions=options.versions)
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        report = measure_registry(version, settings, Path(scratch))
    sys.stderr.write(format_registry(report) + "\n")
    print_result(report)
    path = options.data / "bench" / f"registry-{report.model}-{report.version}.json"
    sys.stderr.write(f"report: {write_report(report, path)}\n")
    return 1 if options.check and not all(figure.is_met for figure in report.figures.values()) else 0


def run_bucket_start(options: argparse.Namespace) -> int:
    """Print what a service of a bucket takes; 1 on a missed bound, with ``--check``."""
    from timberline.benchmarks.dev.bucket_start import measure_starts
    from timberline.benchmarks.dev.registry import format_figures
    from timberline.registry.aliases import open_reference
    from timberline.registry.names import ModelRef
    from timberline.registry.store import open_store

    version = open_reference(open_store(options.registry), ModelRef.parse(options.model))
    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        figures = measure_starts(version, options.rounds, Path(scratch))
    sys.stderr.write(format_figures(f"{version}; the bucket is on loopback", figures) + "\n")
    print_result(figures)
    return 1 if options.check and not all(figure.is_met for figure in figures.values()) else 0


def run_categories(options: argparse.Namespace) -> int:
    """Print what columns of text cost; 1 on a missed bound, with ``--check``."""
    from timberline.benchmarks.dev.categories import format_categories, measure_categories

    with tempfile.TemporaryDirectory(prefix="timberline-") as scratch:
        report = measure_categories(options.rounds, Path(scratch))
    sys.stderr.write(format_categories(report) + "\n")
    print_result(report)
    return 1 if options.check and not report.is_met else 0


def run_rivals(options: argparse.Namespace) -> int:
    """Install the competitors' environments and print their interpreters."""
    from timberline.benchmarks.dev.competitors.environments import list_competitors, make_environment

    print_result({name: str(make_environment(options.environments, name)) for name in list_competitors()})
    return 0
