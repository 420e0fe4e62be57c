"""What breaks around the gate: never a PASS, and no process is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from tests.support.ended import starting
from tests.support.evaluations import draw_evaluation, publish_judged
from tests.support.manifests import build_manifest
from tests.support.quick import quick_settings
from tests.support.registry_tree import folder_of
from tests.support.wrong_services import Answer, answering
from timberline.benchmarks.errors import BenchmarkError
from timberline.benchmarks.gate.run import run_gate
from timberline.benchmarks.measure.duet import build_arm, find_problem
from timberline.benchmarks.measure.records import Body, Observation, Outcome, Plan, Target, read_observations
from timberline.benchmarks.measure.services import drive, launch_driver
from timberline.registry.manifest import Golden
from timberline.registry.runtime.files import digest_file
from timberline.registry.store import MODEL_FILE, open_store
from timberline.registry.verdict import VERDICT_FILE, Verdict, decode_verdict, encode_verdict

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
RIGHT = {"probabilities": {"1": 0.75, "2": 0.25}, "model": "tiny", "version": 1}
BODY = Body(payload=b'{"rings": 3}', rows=1, answers={"candidate": ((0.75, 0.25),)})


def drive_at(url: str, folder: Path) -> Outcome:
    """A real Locust run against one service."""
    target = Target(
        arm="candidate", url=url, model="tiny", version=1, classes=("1", "2"), atol=1e-5, golden=(BODY,)
    )
    plan = Plan(
        targets=(target,),
        bodies=(BODY,),
        users=1,
        window_s=0.2,
        warmup_cycles=1,
        seed="0",
        request_timeout_s=5.0,
        observations=str(folder / "observations.csv.gz"),
    )
    log = folder / "locust.log"
    with launch_driver(log=log, stop_timeout_s=5.0) as driver:
        return drive(driver, plan, timeout_s=DEADLINE_S, log=log)


def explain(outcome: Outcome, seen: list[Observation]) -> str:
    """Why the run of `drive_at` is not believed."""
    return find_problem(outcome, seen, {"candidate": build_arm(seen, 1.0, 1)}, quick_settings().duet)


def test_right_answers_are_counted_with_unrounded_latencies(tmp_path: Path) -> None:
    """The control of the tests below; and Locust's own rounding to milliseconds stays out."""
    with answering(lambda _: (200, RIGHT)) as url:
        outcome = drive_at(url, tmp_path)
    seen = read_observations(tmp_path / "observations.csv.gz")
    assert explain(outcome, seen) == ""
    assert len(seen) == outcome.cycles > 0
    assert any(one.latency_ms != round(one.latency_ms) for one in seen)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _: (200, RIGHT | {"version": 2}), "tiny@2 answered, expected tiny@1"),
        (lambda n: (200, RIGHT) if n % 2 else (500, {"error": "no"}), "HTTP 500"),
        (lambda n: (200, RIGHT) if n != 4 else (503, {"error": "busy"}), "1 failed requests"),
        (lambda _: (200, RIGHT | {"probabilities": {"1": 0.25, "2": 0.75}}), "the manifest 0.75"),
    ],
    ids=["wrong version behind the port", "half fail", "a single one fails", "wrong answers"],
)
def test_a_misbehaving_service_is_not_believed(tmp_path: Path, answer: Answer, message: str) -> None:
    """One failed or wrong request among thousands makes a restart INVALID, with the reason."""
    with answering(answer) as url:
        outcome = drive_at(url, tmp_path)
    seen = read_observations(tmp_path / "observations.csv.gz")
    assert message in explain(outcome, seen)


def test_a_service_that_went_away_is_not_believed(tmp_path: Path) -> None:
    """Refused connections are quick; they must not look like quick answers."""
    with answering(lambda _: (200, RIGHT)) as url:
        pass
    outcome = drive_at(url, tmp_path)
    assert outcome.failures > 0
    seen = read_observations(tmp_path / "observations.csv.gz")
    assert all("refused" in one.problem for one in seen)
    assert "refused" in explain(outcome, seen)


def test_a_load_generator_without_an_outcome_is_not_believed(tmp_path: Path) -> None:
    """A Locust run that ends early with exit code 0 says nothing at all."""
    log = tmp_path / "locust.log"
    with launch_driver(log=log, stop_timeout_s=5.0) as driver:
        driver.kill()
        plan = Plan(
            targets=(),
            bodies=(),
            users=1,
            window_s=1,
            warmup_cycles=0,
            seed="",
            request_timeout_s=1,
            observations="",
        )
        with pytest.raises(BenchmarkError, match="no outcome"):
            drive(driver, plan, timeout_s=DEADLINE_S, log=log)


def judge(folder: Path, **candidate: Any) -> Verdict:
    """Publish a champion and a candidate, run the gate, return what it stored."""
    store = open_store(folder / "registry")
    publish_judged(store, alias="production")
    version = publish_judged(store, alias="candidate", **candidate)
    result = run_gate(store, "tiny", folder / "data", quick_settings())
    data = store.read_document("tiny", version, VERDICT_FILE)
    assert data is not None
    assert decode_verdict(data) == result.verdict
    assert not list((folder / "data").rglob(".partial-*"))
    return decode_verdict(data)


def test_a_service_that_does_not_start_is_invalid(tmp_path: Path) -> None:
    """No answer is not a fast answer."""
    verdict = judge(tmp_path, model_bytes=b"not ONNX")
    assert verdict.outcome == "INVALID"
    (line,) = [line for line in verdict.lines if line.name == "answers"]
    assert line.outcome == "INVALID"
    assert "tiny@2: ended with exit code" in line.reason


def test_golden_rows_that_the_graph_does_not_reproduce_are_invalid(tmp_path: Path) -> None:
    """The manifest is about another graph; whichever part notices first, nothing passes."""
    golden = Golden(rows=((1.0, 2, True, None),), class_indexes=(0,), probabilities=((1.0, 0.0, 0.0),))
    assert judge(tmp_path, golden=golden).outcome == "INVALID"


def test_an_empty_workload_is_invalid(tmp_path: Path) -> None:
    """Without golden rows there is nothing to send, and nothing sent is nothing proven."""
    nothing = Golden(rows=(), class_indexes=(), probabilities=())
    store = open_store(tmp_path / "registry")
    publish_judged(store, alias="candidate", golden=nothing)
    verdict = run_gate(store, "tiny", tmp_path / "data", quick_settings()).verdict
    assert verdict is not None
    assert verdict.outcome == "INVALID"


def test_another_test_split_is_invalid(tmp_path: Path) -> None:
    """Of another table, on which the champion cannot be asked: nobody knows what it learned from."""
    lineage = build_manifest().lineage
    lineage = msgspec.structs.replace(lineage, test_fingerprint="22" * 16, data_fingerprint="33" * 16)
    verdict = judge(tmp_path, lineage=lineage)
    assert verdict.outcome == "INVALID"
    assert any("has no seen_rows.parquet" in line.reason for line in verdict.lines)


def test_too_few_rows_are_inconclusive(tmp_path: Path) -> None:
    """An equal candidate on a handful of rows has proven nothing."""
    evaluation = draw_evaluation(rows=200)
    store = open_store(tmp_path / "registry")
    publish_judged(store, alias="production", evaluation_bytes=evaluation)
    publish_judged(store, alias="candidate", evaluation_bytes=evaluation)
    verdict = run_gate(store, "tiny", tmp_path / "data", quick_settings()).verdict
    assert verdict is not None
    assert verdict.outcome == "INCONCLUSIVE"


@pytest.mark.parametrize("damaged", [1, 2])
def test_tampered_bytes_are_invalid_and_never_served(tmp_path: Path, damaged: int) -> None:
    """Champion or candidate: a graph that is not its manifest's is not started at all."""
    store = open_store(tmp_path / "registry")
    publish_judged(store, alias="production")
    publish_judged(store, alias="candidate")
    path = folder_of(store.open_version("tiny", damaged)) / MODEL_FILE
    path.write_bytes(path.read_bytes() + b"\0")
    result = run_gate(store, "tiny", tmp_path / "data", quick_settings())
    assert result.verdict is not None
    assert result.verdict.outcome == "INVALID"
    told = {line.name: line.outcome for line in result.verdict.lines}
    assert told["digests"] == "INVALID"
    assert "answers" not in told
    assert not list((tmp_path / "data").rglob("*.log"))


def test_a_removed_column_blocks_without_a_measurement(tmp_path: Path) -> None:
    """Bodies of today's clients would be refused; the two cannot even be asked the same."""
    verdict = judge(tmp_path, signature=build_manifest().signature)
    assert verdict.outcome == "BLOCK"
    assert next(line for line in verdict.lines if line.name == "signature").outcome == "BLOCK"


@pytest.mark.parametrize(
    "change", ["candidate", "champion", "config", "outcome", "seal", "schema", "report", "bytes"]
)
def test_a_verdict_about_something_else_is_not_reused(tmp_path: Path, change: str) -> None:
    """A pass for other bytes, another champion or other rules must be earned again."""
    store = open_store(tmp_path / "registry")
    publish_judged(store, alias="production")
    # A removed column blocks before any process starts, and what is reused does not depend on the reason.
    version = publish_judged(store, alias="candidate", signature=build_manifest().signature)
    earned = run_gate(store, "tiny", tmp_path / "data", quick_settings()).verdict
    assert earned is not None
    other = "0" * 64
    passed = tuple(msgspec.structs.replace(line, outcome="PASS") for line in earned.lines)
    # Without evidence: the reports beside it are written anew in between.
    passing = msgspec.structs.replace(earned, outcome="PASS", lines=passed, evidence={})
    changed: dict[str, bytes] = {
        "candidate": encode_verdict(
            msgspec.structs.replace(
                passing, candidate=msgspec.structs.replace(passing.candidate, model_sha256=other)
            )
        ),
        "champion": encode_verdict(msgspec.structs.replace(passing, champion=passing.candidate)),
        "config": encode_verdict(msgspec.structs.replace(passing, config_digest=other)),
        "outcome": encode_verdict(msgspec.structs.replace(passing, outcome="INCONCLUSIVE")),
        "seal": encode_verdict(passing).replace(b'"created_at": "2', b'"created_at": "1'),
        "schema": encode_verdict(msgspec.structs.replace(passing, schema_version=1)),
        "report": encode_verdict(msgspec.structs.replace(passing, evidence={"report.json": other})),
        "bytes": encode_verdict(passing)[:-9],
    }
    store.open_version("tiny", version).write_document(VERDICT_FILE, changed[change])
    assert run_gate(store, "tiny", tmp_path / "data", quick_settings()).skipped == ""
    store.open_version("tiny", version).write_document(VERDICT_FILE, encode_verdict(passing))
    assert run_gate(store, "tiny", tmp_path / "data", quick_settings()).skipped != ""


def test_a_version_against_itself_is_not_blocked_and_stores_nothing(tmp_path: Path) -> None:
    """An A/A run is for calibration; it is no evidence about taking over from production."""
    store = open_store(tmp_path / "registry")
    version = publish_judged(store, alias="production")
    result = run_gate(
        store, "tiny", tmp_path / "data", quick_settings(), candidate="tiny@1", champion="tiny@1"
    )
    assert result.verdict is not None
    # One short restart need not be enough for a PASS.
    assert result.verdict.outcome in ("PASS", "INCONCLUSIVE")
    assert result.report is not None
    assert {"report.json", "restart-01.csv.gz"} <= result.verdict.evidence.keys()
    for name, digest in result.verdict.evidence.items():
        assert digest_file(result.report.parent / name) == digest
    assert store.read_document("tiny", version, VERDICT_FILE) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_gate_leaves_no_process_and_no_verdict(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, a cancelled CI job, or a kill that leaves no time to clean up."""
    store = open_store(tmp_path / "registry")
    version = publish_judged(store, alias="candidate")
    command = [sys.executable, "-m", "benchmarks", "gate", "--model", "tiny", "--window-s", "600"]
    command += ["--registry", str(tmp_path / "registry"), "--data", str(tmp_path / "data")]
    command += ["--log-level", "debug", "--log-format", "json"]
    gate = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert gate.stderr is not None
    with gate.stderr:
        try:
            events = (json.loads(line) for line in gate.stderr)
            ready = next(event for event in events if event["event"] == "services ready")
            children = [psutil.Process(pid) for pid in ready["pids"]]
            gate.send_signal(number)
            gate.wait(DEADLINE_S)
        finally:
            gate.kill()
    assert len(children) == 2
    assert gate.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert alive == []
    assert store.read_document("tiny", version, VERDICT_FILE) is None


def test_a_gate_that_is_asked_to_end_is_run_again_to_its_verdict(tmp_path: Path) -> None:
    """As the first process of a container, with a service and the load generator below it."""
    store = open_store(tmp_path / "registry")
    # The first version is judged by its floors alone, so that the outcome is the same on every machine.
    version = publish_judged(store, alias="candidate")
    command = ["-m", "benchmarks", "gate", "--model", "tiny", "--registry", store.location]
    command += ["--data", str(tmp_path / "data"), "--looks", "1", "--set", "duet.min_pairs=2"]
    command += ["--set", "duet.max_standstill_share=1", "--log-level", "debug"]
    with starting([*command, "--window-s", "600"], tmp_path / "log") as gate:
        gate.await_event("services ready")
        assert len(gate.find().children(recursive=True)) == 2
        gate.end()
    assert store.read_document("tiny", version, VERDICT_FILE) is None
    command += ["--window-s", "0.5"]
    again = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    verdict = store.read_document("tiny", version, VERDICT_FILE)
    assert verdict is not None
    assert decode_verdict(verdict).outcome == "PASS"
    assert [path.name for path in (tmp_path / "data" / "gates" / "tiny").iterdir()] == ["1-first"]
