"""The pages about the gate name every line, setting, flag, outcome and key of a verdict, with its figures."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from timberline.__main__ import build_parser
from timberline.benchmarks.__main__ import _EXIT_CODES
from timberline.benchmarks.analysis.statistics import look_levels, spent_shares
from timberline.benchmarks.analysis.verdict import required_lines
from timberline.benchmarks.measure.workload import WORKLOADS, Mix, Workload
from timberline.benchmarks.settings import DEFAULT_GATES, GateSettings, load_gate_settings
from timberline.registry.manifest import GateLimits
from timberline.registry.verdict import Verdict, VerdictLine, VersionDigests

ROOT = Path(__file__).resolve().parents[2]
GATE = (ROOT / "docs" / "reference" / "gate.md").read_text("utf-8")
READ = (ROOT / "docs" / "how-to" / "read-a-verdict.md").read_text("utf-8")
STATISTICS = (ROOT / "docs" / "explanation" / "gate-statistics.md").read_text("utf-8")
GATES = tomllib.loads(DEFAULT_GATES.read_text("utf-8"))
LIMITS = {"slices": None} | {
    field.encode_name: field.default
    for field in msgspec.structs.fields(GateLimits)
    if field.default is not msgspec.NODEFAULT
}


def section(title: str, page: str = GATE) -> str:
    """The text under the heading ``title``, of any level, up to the next heading."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[2]


def documented_defaults(title: str) -> dict[str, Any]:
    """Key → default of a table of settings; "none" is None. No key stands twice."""
    rows = re.findall(r"^\| `(\w+)` \| `?(.*?)`? \| \S", section(title), re.MULTILINE)
    assert len(rows) == len({key for key, _ in rows}), f"a key of {title} stands twice"
    return {key: None if text == "none" else tomllib.loads(f"x = {text}")["x"] for key, text in rows}


def tables(tree: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """``[a.b]`` → its own keys, of every table in a settings file."""
    own = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    found = {prefix: own} if prefix else {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= tables(value, f"{prefix}.{key}".lstrip("."))
    return found


@pytest.mark.parametrize("name", sorted(tables(GATES)))
def test_every_key_of_gates_toml_is_told_with_its_value(name: str) -> None:
    """A number that decides a release, stated wrongly, misleads worse than none."""
    assert documented_defaults(f"`[{name}]`") == tables(GATES)[name]


def test_every_section_of_the_settings_is_in_gates_toml() -> None:
    """What the test above looks at is all that there is."""
    assert set(GATES) == set(GateSettings.__struct_fields__)


def test_levels_of_each_family_add_up_to_what_is_documented() -> None:
    """A gate that is right 99 times in 100 about each of ten lines blocks every tenth equal candidate."""
    latency, accuracy = GATES["latency"], GATES["accuracy"]
    rates = section("How often the gate is wrong", STATISTICS)
    documented = re.findall(r"^\| ([\w ]+) \| `.*` \| ([\d.]+) % \|$", rates, re.MULTILINE)
    blocking = {key: level for key, level in latency.items() if key.startswith("alpha_")}
    del blocking["alpha_pass"]
    real = {
        # Memory and start-up are two lines at one level.
        "latencies and resources": sum(blocking.values()) + latency["alpha_resources"],
        "failed requests": GATES["validity"]["alpha_errors"],
        "predictions": sum(
            accuracy[f"alpha_{name}"] for name in ("block", "total", "recall", "probabilities", "baseline")
        ),
    }
    assert {family: float(share) / 100 for family, share in documented} == pytest.approx(real)
    others = {"alpha_pass", "alpha_improvement", "alpha_noise"}  # of no wrong BLOCK by chance
    levels = {key for key in accuracy if key.startswith("alpha_")}
    assert len(levels - others) == 5, "a family was forgotten"


def smallest_found(line: str, restarts: int) -> float:
    """In percent: limit + (t(1 - alpha) + z(0.95)) s0 / sqrt(K), at the level of that look."""
    settings, limits = load_gate_settings(), GateLimits()
    latency, looks = settings.latency, settings.duet.looks
    alpha, s0, limit = {
        "net_p50": (
            latency.alpha_net_p50,
            latency.s0.net_p50,
            latency.net_p50_limit * limits.max_p50_increase,
        ),
        "service_p50": (latency.alpha_service_p50, latency.s0.service_p50, limits.max_service_p50_increase),
        "net_p99": (latency.alpha_net_p99, latency.s0.net_p99, limits.max_p99_increase),
        "p50": (latency.alpha_client_p50, latency.s0.client_p50, limits.max_p50_increase),
        "client_p99": (latency.alpha_client_p99, latency.s0.client_p99, limits.max_p99_increase),
        "cpu_per_request": (latency.alpha_cpu, latency.s0.cpu_per_request, limits.max_cpu_increase),
    }[line]
    level = look_levels(looks, alpha, spent_shares(looks, latency.spend_block))[looks.index(restarts)]
    quantiles = float(student.isf(level, latency.nu0 + restarts - 1) + norm.ppf(0.95))
    error = quantiles * s0 / math.sqrt(restarts)
    # The one is a difference of shares, the others are logarithms of ratios.
    return 100 * (limit + error if line == "net_p50" else math.expm1(math.log1p(limit) + error))


def test_documented_power_of_the_latency_lines_is_that_of_the_settings() -> None:
    """What the gate can find is what a release is trusted for."""
    text = section("How the latencies are judged", STATISTICS)
    head = re.search(r"^\| restarts \| (.*) \|$", text, re.MULTILINE)
    assert head
    lines = re.findall(r"`(\w+)`", head[1])
    rows = re.findall(r"^\| (\d+) \| ([\d. |]+) \|$", text, re.MULTILINE)
    assert [int(row) for row, _ in rows] == [4, 8, 40]
    for restarts, cells in rows:
        documented = [float(cell) for cell in cells.split(" | ")]
        real = [float(f"{smallest_found(line, int(restarts)):.2g}") for line in lines]
        assert documented == real, restarts


def test_every_limit_of_a_model_is_told_with_its_default() -> None:
    """These are what a user sets."""
    assert documented_defaults("`[gate]` in model.toml") == msgspec.to_builtins(LIMITS) | {
        "improve": list(LIMITS["improve"])
    }


def line_names() -> set[str]:
    """Names of lines, as they stand in the sources that make them."""
    sources = [
        *(ROOT / "benchmarks" / "analysis").glob("*.py"),
        ROOT / "benchmarks" / "gate" / "comparison.py",
    ]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    named = re.findall(r'(?:\bname=|\bsay\(|_Question\(|_question\()\s*"([a-z]\w*)"', text)
    return set(named) | required_lines(GateLimits(max_log_loss=1.0), is_first=False)


@pytest.mark.parametrize("name", sorted(line_names()))
def test_every_line_of_a_verdict_is_in_the_table(name: str) -> None:
    """Who is blocked looks the line up."""
    assert len(line_names()) > 15
    first_cells = re.findall(r"^\| (`.*?`) \|", section("Lines"), re.MULTILINE)
    assert f"`{name}`" in ", ".join(first_cells).split(", ")


def test_every_limit_is_named_by_a_line() -> None:
    """A limit that no line names is judged by nothing, or its line was forgotten."""
    assert [key for key in LIMITS if key != "slices" and f"`{key}`" not in section("Lines")] == []


@pytest.mark.parametrize(("outcome", "code"), sorted(_EXIT_CODES.items()))
def test_every_outcome_is_told_with_its_exit_code(outcome: str, code: int) -> None:
    """Pipelines are written from this table."""
    assert f"| {outcome} | {code} |" in section("Outcomes and exit codes")


@pytest.mark.parametrize(("outcome", "code"), sorted(_EXIT_CODES.items()))
def test_every_exit_code_leads_to_what_to_do(outcome: str, code: int) -> None:
    """Whoever looks at a red job has the code and the name of a line, and nothing else yet."""
    assert re.search(rf"^\| {code} \| {outcome}\b.*\(#{outcome.lower()}\) \|$", READ, re.MULTILINE)


def test_every_line_that_may_block_has_something_to_do() -> None:
    """As above."""
    rows = re.findall(r"^\| (`.*?`) \|[^|]*\|([^|]*)\|", section("Lines"), re.MULTILINE)
    blocking = [name for name, outcomes in rows if "BLOCK" in outcomes]
    assert len(blocking) > 15
    assert [name for name in blocking if name not in section("BLOCK", READ)] == []


@pytest.mark.parametrize("key", [*Verdict.__struct_fields__, "seal", *VersionDigests.__struct_fields__])
def test_every_key_of_a_verdict_is_documented(key: str) -> None:
    """Programs read the file."""
    assert f"`{key}`" in section("`verdict.json`")


@pytest.mark.parametrize("key", VerdictLine.__struct_fields__)
def test_every_key_of_a_line_is_documented(key: str) -> None:
    """As above."""
    assert f"`{key}`" in section("`verdict.json`")


@pytest.mark.parametrize("key", [*Workload.__struct_fields__, *Mix.__struct_fields__])
def test_every_key_of_a_workload_is_documented(key: str) -> None:
    """A user's own traffic is a file of these."""
    assert re.search(rf"`(\[\[)?{key}(\]\])?`", section("Workloads"))


@pytest.mark.parametrize("name", sorted(path.stem for path in WORKLOADS.glob("*.toml")))
def test_every_workload_is_documented(name: str) -> None:
    """`--workload` takes these names."""
    assert f"| `{name}` |" in section("Workloads")


# The verbs of the page and the section in which their flags stand.
FLAGS = {
    "gate": "Flags of `timberline gate`",
    "calibrate": "Calibration of a machine",
    "calibrate-training": "Calibration of a recipe",
    "selftest": "Self-test",
    "load": "Load",
}


def flags_of(verb: str) -> list[str]:
    """The flags of one verb of the command line that are its own."""
    _, verbs = build_parser()
    common = {"--model", "--models", "--data", "--registry", "--log-level", "--log-format", "--help", "-h"}
    flags = [flag for action in verbs.choices[verb]._actions for flag in action.option_strings]
    return [flag for flag in flags if flag not in common]


@pytest.mark.parametrize(("verb", "flag"), [(verb, flag) for verb in FLAGS for flag in flags_of(verb)])
def test_every_flag_is_documented(verb: str, flag: str) -> None:
    """`--help` says what a flag is called; the reference says when it is wanted."""
    assert f"`{flag}" in section(FLAGS[verb])
