"""What a request may find: the versions being served, and whether the service is stopping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from timberline.inference.errors import NotFoundError, NotReadyError
from timberline.inference.formats.request import Request
from timberline.inference.models.traffic import Split
from timberline.inference.models.versions import LiveVersion


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Which version answers what; never changed, only replaced in whole.

    - ``default``: the version of the model behind the routes that name none;
    - ``models``: the version of each model by its name, the default model's first;
    - ``canary``: a second version of the default model, which answers the requests that ``split`` takes.
    """

    default: LiveVersion
    models: Mapping[str, LiveVersion]
    canary: LiveVersion | None
    split: Split | None

    @classmethod
    def of(
        cls, versions: Iterable[LiveVersion], canary: LiveVersion | None = None, split: Split | None = None
    ) -> RoutingTable:
        """A table of one version for each model, the default model's first."""
        models = {live.model: live for live in versions}
        return cls(next(iter(models.values())), models, canary, split)

    def list_versions(self, model: str) -> list[LiveVersion]:
        """The live versions of ``model``, the one that a path without a number means first."""
        main = self.models.get(model)
        if main is None:
            return []
        return [main] if main is not self.default or self.canary is None else [main, self.canary]


class ServiceState:
    """One process's state; changed on the event loop's thread only.

    A request takes its version once and keeps it to its end, so that it sees one version whole.
    """

    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self.is_draining = False

    @property
    def models(self) -> Mapping[str, LiveVersion]:
        """The version of each model by its name, the default model's first."""
        return self.table.models

    @property
    def live(self) -> LiveVersion:
        """The version of the default model."""
        return self.table.default

    @property
    def is_ready(self) -> bool:
        """Whether new work should be sent here."""
        return not self.is_draining

    def check_ready(self) -> None:
        """Raise `NotReadyError` if new work should go elsewhere."""
        if self.is_draining:
            raise NotReadyError("the service is stopping", hint="Ask again; another one will answer.")

    def choose(self, request: Request) -> LiveVersion:
        """The version that answers ``request``: of the model its path names, else of the default one.

        Raises:
            NotFoundError: this service does not serve it.
        """
        table = self.table
        named = request.named
        if named:
            model, version = named["model"], named.get("version")
            if version is not None or model != table.default.model:
                return self.find(model, version)
        if table.canary is not None and table.split is not None and table.split.takes(request):
            return table.canary
        return table.default

    def find(self, model: str, version: str | None) -> LiveVersion:
        """The version that a path names; without a number, the one that is no canary.

        Raises:
            NotFoundError: this service does not serve it.
        """
        there = self.table.list_versions(model)
        if not there:
            models = ", ".join(self.models)
            raise NotFoundError(f"model {model[:80]!r} is not served here", hint=f"There is: {models}.")
        if version is None:
            return there[0]
        for live in there:
            if version == str(live.version):
                return live
        versions = ", ".join(str(live.version) for live in there)
        raise NotFoundError(
            f"version {version[:80]!r} is not served here", where=model, hint=f"There is: {versions}."
        )

    def list_versions(self, model: str) -> list[str]:
        """Numbers of the live versions of ``model``, the one that a path without a number means first.

        Raises:
            NotFoundError: this service does not serve the model.
        """
        self.find(model, None)
        return [str(live.version) for live in self.table.list_versions(model)]
