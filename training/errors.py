"""The training branch of the error tree (registry/errors.py draws the whole)."""

from __future__ import annotations

from timberline.registry.errors import LifecycleError


class TrainingError(LifecycleError):
    """A source, the data or a training run is not usable."""


class SourceError(TrainingError):
    """The data could not be fetched, or is not what was asked for."""


class DatasetError(TrainingError):
    """The fetched table breaks a rule that the model folder states."""

    exit_code = 1


class FeatureError(TrainingError):
    """features.sql has something that cannot be computed in front of a served network.

    ``excerpt`` shows the place in lines of their own, which follow the message.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "", excerpt: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.excerpt = excerpt

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.excerpt}" if self.excerpt else super().__str__()
