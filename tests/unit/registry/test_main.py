"""``python -m registry`` from parsed flags to exit code, in process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.manifests import build_verdict, give_verdict, publish_tiny, remove_ledger_entry
from tests.support.registry_tree import folder_of
from timberline.registry.__main__ import main
from timberline.registry.aliases import move_alias, read_alias, read_history
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import promote
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.store import MODEL_FILE, Store
from timberline.registry.verdict import VERDICT_FILE, encode_verdict

Command = Any


@pytest.fixture
def store(store: Store) -> Store:
    """tiny@1 in production, tiny@2 the candidate."""
    publish_tiny(store)
    publish_tiny(store)
    give_verdict(store, "tiny", 1)
    promote(store, "tiny", 1)
    move_alias(store, "tiny", "candidate", 2, expected=None, reason="exported")
    return store


@pytest.fixture
def run(store: Store, capsys: pytest.CaptureFixture[str], restored_logging: None) -> Command:
    """Runs a command on the registry; returns its exit code, stdout and stderr."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--registry", store.location, "--log-format", "human"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_output_off_a_terminal_is_json(run: Command) -> None:
    """A script that pipes the command must not have to cut columns."""
    code, out, _ = run("list")
    versions = msgspec.json.decode(out)
    assert code == 0
    assert [(v["model"], v["version"], v["aliases"]) for v in versions] == [
        ("tiny", 1, ["production"]),
        ("tiny", 2, ["candidate"]),
    ]


@pytest.mark.parametrize(
    "words", [("list",), ("list", "tiny"), ("show", "tiny@2"), ("verify",), ("alias", "tiny")]
)
def test_every_reading_command_has_a_table(run: Command, words: tuple[str, ...]) -> None:
    """People get text that is aligned, on request also off a terminal."""
    code, out, _ = run(*words, "--no-json")
    assert code == 0
    assert "tiny" in out
    assert not out.startswith(("{", "["))


def test_show_without_a_version_is_production(run: Command) -> None:
    """A bare name means what serves now, everywhere."""
    _, out, _ = run("show", "tiny")
    assert msgspec.json.decode(out)["manifest"]["version"] == 1


def test_show_table_has_the_facts(run: Command) -> None:
    """The page a reviewer reads before a release."""
    _, out, _ = run("show", "tiny@2", "--no-json")
    for fact in (
        "tiny@2",
        "ONNX Runtime (not known) and later",
        "0.7500 [0.7000, 0.8000]",
        "Spruce",
        "height",
        "0 to 100",
        "model.onnx",
        "none",
    ):
        assert fact in out


def test_promote_takes_the_candidate(store: Store, run: Command) -> None:
    """`timberline promote` names a model and no number."""
    give_verdict(store, "tiny", 2)
    code, out, _ = run("promote", "tiny")
    record = read_alias(store, "tiny", PRODUCTION)
    assert code == 0
    assert record
    assert record.version == msgspec.json.decode(out)["version"] == 2


def test_model_comes_from_the_flag_or_the_environment(
    store: Store, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part of the house takes --model and MODEL."""
    give_verdict(store, "tiny", 2)
    assert run("promote", "--model", "tiny")[0] == 0
    monkeypatch.setenv("MODEL", "tiny")
    assert run("rollback")[0] == 0
    assert [record.version for record in read_history(store, "tiny", PRODUCTION)] == [1, 2, 1]


def test_refused_promotion_ends_with_1_and_changes_nothing(store: Store, run: Command) -> None:
    """1 is "the answer is no": a pipeline stops there without calling it a broken machine."""
    code, out, err = run("promote", "tiny@2")
    assert (code, out) == (1, "")
    assert "tiny@2: has no verdict of the gate" in err
    assert len(read_history(store, "tiny", PRODUCTION)) == 1


def _tampered(store: Store) -> bytes:
    data = encode_verdict(give_verdict(store, "tiny", 2, "INCONCLUSIVE"))
    return data.replace(b'"INCONCLUSIVE"', b'"PASS"')


def _sealed_contradiction(store: Store) -> bytes:
    """By someone who knows how seals are made, but not that lines must add up."""
    verdict = give_verdict(store, "tiny", 2, "BLOCK")
    tree = {**msgspec.to_builtins(verdict), "outcome": "PASS"}
    body = msgspec.json.format(msgspec.json.encode(tree, order="sorted"), indent=2) + b"\n"
    return msgspec.json.encode({**tree, "seal": digest_bytes(body)})


def _for_another_digest(store: Store) -> bytes:
    verdict = give_verdict(store, "tiny", 2)
    other = msgspec.structs.replace(verdict.candidate, model_sha256="0" * 64)
    return encode_verdict(msgspec.structs.replace(verdict, candidate=other))


def _of_another_version(store: Store) -> bytes:
    return encode_verdict(
        build_verdict("tiny", store.open_version("tiny", 1).digests, store.open_version("tiny", 1).digests)
    )


def _against_another_champion(store: Store) -> bytes:
    publish_tiny(store)
    return encode_verdict(
        build_verdict("tiny", store.open_version("tiny", 2).digests, store.open_version("tiny", 3).digests)
    )


def _without_a_champion(store: Store) -> bytes:
    return encode_verdict(build_verdict("tiny", store.open_version("tiny", 2).digests))


def _of_the_first_schema(store: Store) -> bytes:
    return encode_verdict(msgspec.structs.replace(give_verdict(store, "tiny", 2), schema_version=1))


@pytest.mark.parametrize(
    ("forge", "reported"),
    [
        (_tampered, "changed after the gate wrote it"),
        (_sealed_contradiction, "the outcome is PASS, but not of accuracy"),
        (_for_another_digest, "the verdict is for other bytes"),
        (_of_another_version, "the verdict is for other bytes"),
        (_against_another_champion, "given against tiny@3"),
        (_without_a_champion, "given against no champion"),
        (_of_the_first_schema, "has no seal"),
    ],
)
def test_promotion_by_evidence_that_does_not_hold_ends_with_1(
    store: Store, run: Command, forge: Callable[[Store], bytes], reported: str
) -> None:
    """Each of these says PASS; a pipeline must stop at it, and hear what to do."""
    store.open_version("tiny", 2).write_document(VERDICT_FILE, forge(store))
    before = read_history(store, "tiny", PRODUCTION)
    code, out, err = run("promote", "tiny@2")
    assert (code, out) == (1, "")
    assert reported in err
    assert "Nothing was changed. Run `timberline gate tiny`" in err
    assert read_history(store, "tiny", PRODUCTION) == before


def test_forced_promotion_is_shown_as_forced(run: Command) -> None:
    """The history is only worth something if it is legible."""
    assert run("promote", "tiny@2", "--force")[0] == 2
    assert run("promote", "tiny@2", "--force", "--reason", "fire")[0] == 0
    _, out, _ = run("alias", "tiny@production", "--no-json")
    assert "promote, FORCED" in out
    assert "fire" in out


def test_list_and_show_tell_of_a_forced_promotion(run: Command) -> None:
    """What serves against the gate's advice must meet the eye, not only who asks for the history."""
    assert run("promote", "tiny@2", "--force", "--reason", "fire")[0] == 0
    _, out, _ = run("list")
    assert [version["forced"] for version in msgspec.json.decode(out)] == [[], ["production"]]
    assert "production (FORCED)" in run("list", "--no-json")[1]
    shown = run("show", "tiny", "--no-json")[1]
    assert "promote, FORCED" in shown
    assert "fire" in shown
    assert run("rollback", "tiny")[0] == 0
    _, out, _ = run("list")
    assert [version["forced"] for version in msgspec.json.decode(out)] == [[], []]


def test_list_shows_a_pass_from_before_a_rollback_as_void(store: Store, run: Command) -> None:
    """Who reads PASS in a list promotes it, and is refused."""
    give_verdict(store, "tiny", 2)
    for verb in ("promote", "rollback"):
        assert run(verb, "tiny")[0] == 0
    assert "void: PASS before a rollback" in run("list", "--no-json")[1]


def test_repair_is_the_way_out_of_a_damaged_alias(store: Store, run: Command) -> None:
    """Every command says what to type, and that is enough."""
    record = Path(store.location, "tiny", "aliases", PRODUCTION, "1.json")
    record.write_bytes(record.read_bytes()[:100])
    for words in (("list",), ("verify",), ("show", "tiny"), ("rollback", "tiny"), ("alias", "tiny")):
        code, out, err = run(*words)
        assert code == 1, words
        assert "tiny/aliases/production/1.json" in out + err, words
    assert run("show", "tiny@2", "--json")[0] == 1
    assert run("verify", "tiny@2")[0] == 0
    assert run("repair", "tiny@production", "2")[0] == 2
    code, out, _ = run("repair", "tiny@production", "2", "--reason", "the disk was full")
    assert (code, msgspec.json.decode(out)["forced"]) == (0, True)
    assert run("verify")[0] == 0
    assert "repair, FORCED" in run("alias", "tiny@production", "--no-json")[1]
    assert "needs no repair" in run("repair", "tiny@production", "1", "--reason", "x", "--no-json")[1]


def test_lost_version_is_told_until_it_is_written_off(store: Store, run: Command) -> None:
    """A nightly verify must not go on failing for a version that was removed on purpose."""
    publish_tiny(store)
    shutil.rmtree(folder_of(store.open_version("tiny", 3)))
    for verb in ("list", "verify"):
        code, out, _ = run(verb, "--no-json")
        assert code == 1
        assert "tiny@3" in out
        assert "is lost" in out
    code, out, _ = run("repair", "tiny@3", "--reason", "too large", "--no-json")
    assert (code, out) == (0, "tiny@3 is written off; its number is not used again\n")
    assert [run(verb)[0] for verb in ("list", "verify")] == [0, 0]


@pytest.mark.parametrize("place", ["absent", "empty"])
def test_verify_of_nothing_ends_with_2(run: Command, tmp_path: Path, place: str) -> None:
    """A registry whose path was mistyped is not whole; a nightly job would be green for ever."""
    (tmp_path / "empty").mkdir()
    assert main(["verify", "--registry", str(tmp_path / place)]) == 2


def test_verify_of_an_alias_looks_at_it_and_at_its_version(store: Store, run: Command) -> None:
    """Who asks for tiny@production asks for what is served under that name."""
    code, out, _ = run("verify", "tiny@production")
    assert code == 0
    assert [check["name"] for check in msgspec.json.decode(out)] == ["tiny@1", "tiny@production"]
    path = folder_of(store.open_version("tiny", 1)) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"Spruce"', b'"Larch!"'))
    remove_ledger_entry(store, "tiny", 1)
    code, out, _ = run("verify", "tiny@production")
    assert code == 1
    assert "the alias was moved to" in out


def test_version_with_its_digest_is_a_reference(store: Store, run: Command) -> None:
    """A deployment that names the bytes finds out when the number means others."""
    digest = store.open_version("tiny", 2).digests.manifest_sha256
    assert run("show", f"tiny@2#sha256:{digest}")[0] == 0
    code, _, err = run("verify", f"tiny@2#sha256:{'0' * 64}")
    assert code == 1
    assert "the reference names 000000000000" in err


def test_verify_reads_the_documents_too(store: Store, run: Command) -> None:
    """The report is what people read before they release."""
    evidence = {"report.md": digest_bytes(b"measured")}
    verdict = msgspec.structs.replace(give_verdict(store, "tiny", 2), evidence=evidence)
    store.open_version("tiny", 2).write_document(VERDICT_FILE, encode_verdict(verdict))
    store.open_version("tiny", 2).write_document("report.md", b"measured")
    assert run("verify")[0] == 0
    store.open_version("tiny", 2).write_document("report.md", b"embellished")
    assert run("verify", "tiny@1")[0] == 0
    code, out, _ = run("verify")
    assert code == 1
    assert "report.md is not the one that the verdict rests on" in out


def test_rollback_with_nothing_before_ends_with_1(run: Command) -> None:
    """As a refusal, not as a failure."""
    code, _, err = run("rollback", "tiny")
    assert code == 1
    assert "there is no version before 1" in err


def test_verify_ends_with_1_when_a_file_is_damaged(store: Store, run: Command) -> None:
    """A nightly job needs an exit code and a name."""
    assert run("verify", "tiny@1")[0] == 0
    (folder_of(store.open_version("tiny", 1)) / MODEL_FILE).write_bytes(b"rotten!!")
    code, out, _ = run("verify")
    assert code == 1
    checks = {check["name"]: check for check in msgspec.json.decode(out)}
    assert checks["tiny@2"]["is_whole"]
    assert "model.onnx has digest" in checks["tiny@1"]["findings"]
    code, out, _ = run("verify", "tiny@1", "--no-json")
    assert code == 1
    assert "DAMAGED" in out


def test_alias_set_points_an_alias_at_a_version(store: Store, run: Command) -> None:
    """For staging and experiments; production is guarded."""
    assert run("alias", "set", "tiny@staging", "2", "--reason", "look")[0] == 0
    record = read_alias(store, "tiny", "staging")
    assert record
    assert (record.version, record.reason) == (2, "look")
    assert run("alias", "set", "tiny@production", "2")[0] == 1
    assert len(read_history(store, "tiny", PRODUCTION)) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("show", "tiny@9"),
        ("show", "other"),
        ("show", "Tiny"),
        ("list", "other"),
        ("alias", "set", "tiny", "2"),
        ("alias", "set", "tiny@staging", "nine"),
        ("alias", "tiny", "2"),
        ("repair", "tiny", "--reason", "x"),
        ("repair", "tiny@production", "--reason", "x"),
        ("repair", "tiny@2"),
        ("repair", "tiny@9", "--reason", "x"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(run: Command, words: tuple[str, ...]) -> None:
    """2 is "look at your command"; a traceback would say "look at ours"."""
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
