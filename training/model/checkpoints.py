"""The state of a training run after an epoch: one file, whole or absent.

All state that later epochs depend on is in it; the order of the rows, the dropout masks and the
learning rate are functions of (seed, epoch, step) and need not be saved.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np

from timberline.registry.runtime.documents import decode_json, encode_document
from timberline.registry.runtime.files import write_atomically
from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.working_copy import discard, refresh, share_file
from timberline.training.errors import TrainingError

_logger = logging.getLogger("training.model.checkpoints")

_FILE = "checkpoint.npz"
_HISTORY = "history.json"


class Epoch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One epoch's line in history.json; losses in nats, accuracies 0 to 1, ``seconds`` of wall clock."""

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


def write_history(folder: Path, history: Sequence[Epoch]) -> None:
    """Write ``history.json``: the epochs of a finished run."""
    (folder / _HISTORY).write_bytes(encode_document(history))


def read_history(folder: Path) -> list[Epoch]:
    """The epochs of the run in ``folder``.

    Raises:
        TrainingError: its ``history.json`` is missing or damaged.
    """
    path = folder / _HISTORY
    try:
        return decode_json(path.read_bytes(), list[Epoch])
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise TrainingError(
            f"not readable as a history: {error}", where=str(path), hint="Run `timberline train` again."
        ) from error


@dataclasses.dataclass
class TrainingState:
    """The finished epochs, and the weights of the best of them (by validation loss)."""

    history: list[Epoch]
    best_epoch: int
    best_weights: list[np.ndarray[Any, Any]]


def save_checkpoint(
    folder: Path, network: keras.Model, optimizer: keras.Optimizer, state: TrainingState
) -> None:
    """Replace the folder's checkpoint by the state after the last epoch in ``state``.

    Where the data is in a bucket it is put there too, once a minute, for whoever goes on from it elsewhere.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "history": np.frombuffer(msgspec.json.encode(state.history), np.uint8),
        "best_epoch": np.array(state.best_epoch),
    }
    for prefix, values in _groups(network, optimizer, state).items():
        arrays.update({f"{prefix}{index:04}": value for index, value in enumerate(values)})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(folder / _FILE, buffer.getvalue())
    try:
        share_file(folder / _FILE, is_frequent=True)
    except OSError as error:  # the training itself can go on
        log_event(_logger, f"the checkpoint stays on this machine: {error}", logging.WARNING)


def _groups(
    network: keras.Model, optimizer: keras.Optimizer, state: TrainingState
) -> dict[str, list[np.ndarray[Any, Any]]]:
    return {
        "network": [weight.numpy() for weight in network.weights],
        "optimizer": [variable.numpy() for variable in optimizer.variables],
        "best": state.best_weights,
    }


def load_checkpoint(folder: Path, network: keras.Model, optimizer: keras.Optimizer) -> TrainingState | None:
    """Put the saved state into ``network`` and ``optimizer``; None, and no change, if there is none.

    Raises:
        TrainingError: the file is there but is not a checkpoint of this network.
    """
    path = folder / _FILE
    if not path.is_file():
        refresh(path)
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes())) as saved:
            arrays = dict(saved)
        history = decode_json(arrays["history"].tobytes(), list[Epoch])
        best = _numbered(arrays, "best")
        _assign(network.weights, _numbered(arrays, "network"))
        _assign(optimizer.variables, _numbered(arrays, "optimizer"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise TrainingError(
            f"not a checkpoint of this network: {error}",
            where=str(path),
            hint="Train without --resume; that starts afresh.",
        ) from error
    return TrainingState(history, int(arrays["best_epoch"]), best)


def _numbered(arrays: dict[str, np.ndarray[Any, Any]], prefix: str) -> list[np.ndarray[Any, Any]]:
    return [
        arrays[name] for name in sorted(arrays) if name.startswith(prefix) and name[len(prefix) :].isdigit()
    ]


def _assign(variables: list[Any], values: list[np.ndarray[Any, Any]]) -> None:
    if len(variables) != len(values):
        raise ValueError(f"{len(values)} arrays for {len(variables)} variables")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def discard_checkpoint(folder: Path) -> None:
    """Remove the run's checkpoint, if there is one."""
    discard(folder)
