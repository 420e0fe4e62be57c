"""The exporter's branch of the error tree (registry/errors.py draws the whole)."""

from __future__ import annotations

from timberline.registry.errors import LifecycleError


class ExportError(LifecycleError):
    """A run could not be turned into a version."""


class UnsupportedLayerError(ExportError):
    """The network or the features need an operator that stock ONNX does not have."""

    exit_code = 2


class ParityInputError(ExportError):
    """The two sides cannot be compared: names, dtypes or shapes differ, or only one side has NaN."""
