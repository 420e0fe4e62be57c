"""Is this reply the right one? The version that was asked answered, and with the numbers it must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from timberline.benchmarks.measure.records import Body, Form, Target
from timberline.registry.signature import PROBABILITIES_OUTPUT

# Bare float32 answers name their version here and nowhere else.
_VERSION_HEADER = "x-model-version"
_LENGTH_HEADER = "inference-header-content-length"


class _Reading(NamedTuple):
    """What a reply says: who answered (None where the body does not tell), and what.

    ``rows`` hold probabilities in the order of the classes; None where they are not those.
    """

    source: str | None
    rows: Sequence[Sequence[float] | None]


def check_reply(
    status: int,
    content: bytes | None,
    target: Target,
    body: Body,
    headers: Mapping[str, str] | None = None,
) -> str:
    """What is wrong with a reply to ``body``, in a few words; "" when nothing is.

    Args:
        status: of HTTP.
        content: the reply's body.
        target: who was asked.
        body: what was sent; its form says how the reply is read.
        headers: the reply's; names are looked up in small letters.
    """
    content, headers = content or b"", headers or {}
    if status != 200:
        return f"HTTP {status}: {content[:80].decode(errors='replace')}"
    try:
        source, rows = _READERS[body.form](content, headers, target)
    except (ValueError, RecursionError) as error:  # the first: also what msgspec raises
        return f"reply is not a prediction: {error}"
    expected = f"{target.model}@{target.version}"
    named = headers.get(_VERSION_HEADER)
    if source is None and named is None:
        return f"the reply names no version, expected {expected}"
    for found in (source, named):
        if found is not None and found != expected:
            return f"{found} answered, expected {expected}"
    if len(rows) != body.rows:
        return f"{len(rows)} predictions for {body.rows} rows"
    return _compare(rows, target, body.answers.get(target.arm))


def _compare(
    given: Sequence[Sequence[float] | None], target: Target, expected: tuple[tuple[float, ...], ...] | None
) -> str:
    for row, probabilities in enumerate(given):
        if probabilities is None:
            return f"row {row}: probabilities are not those of classes {', '.join(target.classes)[:60]}"
        if expected is None:
            continue
        for name, found, known in zip(target.classes, probabilities, expected[row], strict=True):
            # Written so that NaN fails.
            if not abs(found - known) <= target.atol:
                return f"row {row}: class {name} has {found:.6g}, the manifest {known:.6g}"
    return ""


# POST /predict answered in JSON: to JSON and CSV


class _Prediction(msgspec.Struct):
    probabilities: dict[str, float]


class _Reply(msgspec.Struct):
    model: str
    version: int
    probabilities: dict[str, float] | None = None
    predictions: list[_Prediction] | None = None


_decode = msgspec.json.Decoder(_Reply).decode


def _read_json(content: bytes, headers: Mapping[str, str], target: Target) -> _Reading:
    reply = _decode(content)
    given = (
        [reply.probabilities] if reply.predictions is None else [p.probabilities for p in reply.predictions]
    )
    rows = [_order(probabilities, target.classes) for probabilities in given]
    return _Reading(f"{reply.model}@{reply.version}", rows)


def _order(probabilities: dict[str, float] | None, classes: tuple[str, ...]) -> list[float] | None:
    if probabilities is None or probabilities.keys() != set(classes):
        return None
    return [probabilities[name] for name in classes]


# POST /predict answered in kind: to float32


def _read_floats(content: bytes, headers: Mapping[str, str], target: Target) -> _Reading:
    values = np.frombuffer(content, "<f4").reshape(-1, len(target.classes))
    return _Reading(None, values.tolist())


# Open Inference Protocol: an output's values are in the JSON or, one after the other, behind it


class _Blob(msgspec.Struct):
    binary_data_size: int = 0


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float] | None = None
    parameters: _Blob = msgspec.field(default_factory=_Blob)


class _Inferred(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[_Output]


_decode_inferred = msgspec.json.Decoder(_Inferred).decode


def _read_inferred(content: bytes, headers: Mapping[str, str], target: Target) -> _Reading:
    length = int(headers.get(_LENGTH_HEADER, len(content)))
    reply, offset = _decode_inferred(content[:length]), length
    source = f"{reply.model_name}@{reply.model_version}"
    for output in reply.outputs:
        size = output.parameters.binary_data_size
        if output.name == PROBABILITIES_OUTPUT:
            return _Reading(source, _read_output(output, content[offset : offset + size], target))
        offset += size
    raise ValueError(f"it has no output {PROBABILITIES_OUTPUT}")


def _read_output(output: _Output, blob: bytes, target: Target) -> Sequence[Sequence[float] | None]:
    if output.datatype != "FP32" or len(output.shape) != 2:
        raise ValueError(f"{output.name} is {output.datatype} of shape {output.shape}")
    if output.shape[1] != len(target.classes):
        return [None] * output.shape[0]
    values = np.frombuffer(blob, "<f4") if output.data is None else np.array(output.data)
    rows: list[list[float]] = values.reshape(output.shape).tolist()
    return rows


_READERS: dict[Form, Callable[[bytes, Mapping[str, str], Target], _Reading]] = {
    "json": _read_json,
    "csv": _read_json,
    "float32": _read_floats,
    "oip": _read_inferred,
    "oip_binary": _read_inferred,
}
