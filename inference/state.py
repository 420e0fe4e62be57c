"""What a request may find: the versions being served, and whether the service is stopping."""

from __future__ import annotations

from collections.abc import Iterable

from inference.errors import NotFoundError, NotReadyError
from inference.request import Request
from inference.versions import LiveVersion


class ServiceState:
    """One process's state; changed on the event loop's thread only.

    A request takes its version once and keeps it to its end, so that it sees one version whole.

    Args:
        live: the version of each model, the default model's first.
    """

    def __init__(self, live: Iterable[LiveVersion]) -> None:
        self.models = {version.model: version for version in live}
        self.default = next(iter(self.models))
        self.is_draining = False

    @property
    def live(self) -> LiveVersion:
        """The version of the default model."""
        return self.models[self.default]

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
        named = request.named
        if not named:
            return self.models[self.default]
        return self.find(named["model"], named.get("version"))

    def find(self, model: str, version: str | None) -> LiveVersion:
        """The version that a path names; without a number, the one being served.

        Raises:
            NotFoundError: this service does not serve it.
        """
        live = self.models.get(model)
        if live is None:
            there = ", ".join(self.models)
            raise NotFoundError(f"model {model[:80]!r} is not served here", hint=f"There is: {there}.")
        if version is not None and version != str(live.version):
            raise NotFoundError(
                f"version {version[:80]!r} is not served here", where=model, hint=f"There is: {live.version}."
            )
        return live
