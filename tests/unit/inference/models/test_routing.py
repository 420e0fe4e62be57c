"""Which version a request finds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.tiny_model import publish_numeric
from timberline.inference.errors import NotFoundError
from timberline.inference.formats.request import Request
from timberline.inference.models.routing import RoutingTable, ServiceState
from timberline.inference.models.traffic import Split
from timberline.inference.models.versions import load_version
from timberline.registry.store import Store


@pytest.fixture
def store(store: Store) -> Store:
    """A registry with tiny@1, tiny@2 and other@1."""
    for model in ("tiny", "tiny", "other"):
        publish_numeric(store, model)
    return store


def build_state(store: Store, share: float | None = None) -> ServiceState:
    """tiny@1 and other@1, and with a share tiny@2 as the canary."""
    main = [load_version(store.open_version(model, 1), max_rows=10) for model in ("tiny", "other")]
    if share is None:
        return ServiceState(RoutingTable.of(main))
    canary = load_version(store.open_version("tiny", 2), max_rows=10)
    return ServiceState(RoutingTable.of(main, canary, Split(share, "x-request-key", seed=1)))


def ask(**named: str) -> Request:
    """A request whose path names these."""
    return Request("POST", "/predict", b"", (), b"", named)


def choose(state: ServiceState, **named: str) -> str:
    """``model@version`` that answers."""
    live = state.choose(ask(**named))
    return f"{live.model}@{live.version}"


def test_a_path_without_a_model_means_the_first(store: Store) -> None:
    """The settings say so, and `/predict` names no model."""
    state = build_state(store)
    assert (choose(state), choose(state, model="other")) == ("tiny@1", "other@1")
    assert (state.live.model, list(state.models)) == ("tiny", ["tiny", "other"])


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"model": "third"}, "model 'third' is not served here. There is: tiny, other."),
        ({"model": "tiny", "version": "2"}, "tiny: version '2' is not served here. There is: 1."),
        ({"model": "tiny", "version": "01"}, "tiny: version '01' is not served here. There is: 1."),
    ],
)
def test_what_is_not_served_is_not_found(store: Store, named: Mapping[str, str], message: str) -> None:
    """Another version's answer instead would be taken for the one asked for."""
    with pytest.raises(NotFoundError) as caught:
        build_state(store).choose(ask(**named))
    assert str(caught.value) == message


def test_the_canary_takes_its_share_of_the_default_model_only(store: Store) -> None:
    """By any path that leaves the choice to the service; other models have no part in it."""
    state = build_state(store, share=1.0)
    assert choose(state) == choose(state, model="tiny") == "tiny@2"
    assert choose(state, model="other") == "other@1"
    assert choose(build_state(store, share=0.0)) == "tiny@1"


def test_a_path_with_a_number_gets_that_version_past_the_canary(store: Store) -> None:
    """Whoever names a version compares the two, and must get the one named."""
    for share in (0.0, 1.0):
        state = build_state(store, share)
        assert [choose(state, model="tiny", version=number) for number in "12"] == ["tiny@1", "tiny@2"]
        assert state.list_versions("tiny") == ["1", "2"]
        assert state.list_versions("other") == ["1"]
        assert state.find("tiny", None).version == 1


def test_the_routing_table_changes_in_whole(store: Store) -> None:
    """One assignment: there is no moment with the new canary beside the old main version."""
    state = build_state(store, share=1.0)
    assert state.table.canary is not None
    state.table = RoutingTable.of([state.table.canary, state.models["other"]])
    assert (choose(state), state.list_versions("tiny")) == ("tiny@2", ["2"])
