"""Two people promote at once: one wins, the other gets a conflict, and the evidence still counts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.manifests import give_verdict, publish_tiny
from tests.support.pausing_store import PausingStore
from timberline.registry.aliases import AliasRecord, move_alias, read_history
from timberline.registry.errors import AliasConflictError, PromotionRefusedError, RegistryError
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import promote
from timberline.registry.store import Store, open_store


def _prepare(root: Path) -> Store:
    """Version 1 in production; 2 and 3 with passing verdicts against it."""
    store = open_store(root)
    for _ in range(3):
        publish_tiny(store)
    give_verdict(store, "tiny", 1)
    promote(store, "tiny", 1)
    give_verdict(store, "tiny", 2)
    give_verdict(store, "tiny", 3)
    return store


def _try_promote(store: Store, version: int) -> AliasRecord | RegistryError:
    try:
        return promote(store, "tiny", version)
    except RegistryError as error:
        return error


def test_one_of_two_racing_promoters_wins(tmp_path: Path) -> None:
    """Both passed against version 1, held at the very last step: the second was never compared with the
    first, so letting both through would replace a champion that was not beaten."""
    store = _prepare(tmp_path)
    barrier = threading.Barrier(2)
    stores = [Store(PausingStore(tmp_path, lambda: barrier.wait(timeout=30))) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(_try_promote, stores, (2, 3)))
    winners = [result for result in results if isinstance(result, AliasRecord)]
    losers = [result for result in results if isinstance(result, AliasConflictError)]
    assert len(winners) == len(losers) == 1
    assert [record.version for record in read_history(store, "tiny", PRODUCTION)] == [1, winners[0].version]


def test_verdict_is_void_once_another_version_is_in_production(tmp_path: Path) -> None:
    """The promoter who comes a moment later is refused by rule: the champion is not the one he beat."""
    store = _prepare(tmp_path)
    promote(store, "tiny", 2)
    refusal = _try_promote(store, 3)
    assert isinstance(refusal, PromotionRefusedError)
    assert "given against tiny@1" in str(refusal)
    assert [record.version for record in read_history(store, "tiny", PRODUCTION)] == [1, 2]


def test_many_racing_moves_leave_one_unbroken_history(tmp_path: Path) -> None:
    """Every move that was reported as done is in the history, once, and no number is missing."""
    _prepare(tmp_path)

    def move(_: int) -> AliasRecord | None:
        store = open_store(tmp_path)
        seen = len(read_history(store, "tiny", "staging")) or None
        try:
            return move_alias(store, "tiny", "staging", 1, expected=seen, reason="race")
        except AliasConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        moves = [record for record in pool.map(move, range(40)) if record]
    history = read_history(open_store(tmp_path), "tiny", "staging")
    assert [record.sequence for record in history] == list(range(1, len(history) + 1))
    assert sorted(moves, key=lambda record: record.sequence) == history
