"""What a request may find: the version being served, and whether the service is stopping."""

from __future__ import annotations

from inference.errors import NotFoundError, NotReadyError
from inference.versions import LiveVersion


class ServiceState:
    """One process's state; changed on the event loop's thread only.

    A request takes ``live`` once and keeps it to its end, so that it sees one version whole.
    """

    def __init__(self, live: LiveVersion) -> None:
        self.live = live
        self.is_draining = False

    @property
    def is_ready(self) -> bool:
        """Whether new work should be sent here."""
        return not self.is_draining

    def check_ready(self) -> None:
        """Raise `NotReadyError` if new work should go elsewhere."""
        if self.is_draining:
            raise NotReadyError("the service is stopping", hint="Ask again; another one will answer.")

    def find(self, model: str, version: str | None) -> LiveVersion:
        """The version that a path names; without a number, the one being served.

        Raises:
            NotFoundError: this service does not serve it.
        """
        live = self.live
        if model != live.model:
            raise NotFoundError(f"model {model[:80]!r} is not served here", hint=f"There is: {live.model}.")
        if version is not None and version != str(live.version):
            raise NotFoundError(
                f"version {version[:80]!r} is not served here", where=model, hint=f"There is: {live.version}."
            )
        return live
