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
    """features.sql has something that cannot be computed in front of a served network."""

    exit_code = 2
