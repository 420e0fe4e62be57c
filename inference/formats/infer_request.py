"""An Open Inference Protocol request around its tensors: the JSON part and the blobs.

A body is one JSON object, or, with the header ``Inference-Header-Content-Length``, that many bytes
of JSON and then the blobs of its binary tensors, one behind the other in the order of the inputs.
Values are left as they were sent; `inference/formats/tensors.py` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from timberline.inference.errors import MalformedBodyError
from timberline.inference.formats.outline import Limits, count_keys, find_marks

_BINARY_SIZE = "binary_data_size"
# What changes the meaning of an answer must not be overlooked; other parameters are hints.
_UNSUPPORTED = ("classification", "shared_memory_region")
# No length has more digits than the largest 64-bit number.
_LENGTH = re.compile(rb"[0-9]{1,19}")
_BYTE = re.compile(r"\(byte (\d+)\)")
_DATA = re.compile(rb'"data"\s*:\s*\[\Z')
_DATA_DEPTH = 4  # {"inputs": [{"data": [
# A request of a thousand columns, each an input of its own, has some 100 KB around its data.
_LIMITS = Limits(longest=1 << 20)
# A message never echoes a whole payload; the decoder does, if the payload is one long name.
_LONGEST = 120

# As they were sent. Implementations put hints of their own here, of any shape (MLServer's "content_type" and
# "headers", Triton's "sequence_id", "priority", "timeout"); only what is read is decoded.
Parameters = dict[str, msgspec.Raw]
_Optional = Parameters | None | UnsetType
_NOT_SAID = (UNSET, None)


class RequestedInput(msgspec.Struct, forbid_unknown_fields=True):
    """One input tensor as it was sent; ``data`` is its JSON, empty if it is a blob."""

    name: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    datatype: str
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: _Optional = UNSET


class RequestedOutput(msgspec.Struct, forbid_unknown_fields=True):
    """One output tensor that was asked for."""

    name: str
    parameters: _Optional = UNSET


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON part of a request.

    ``model_name`` and ``model_version`` are the path's by the protocol; KServe's client repeats them here.
    """

    inputs: list[RequestedInput]
    outputs: list[RequestedOutput] | UnsetType | None = UNSET
    id: str | UnsetType | None = UNSET
    parameters: _Optional = UNSET
    model_name: str | UnsetType | None = UNSET
    model_version: str | int | UnsetType | None = UNSET


class InferRequest(NamedTuple):
    """A request in its parts; names and types are not checked against the model yet."""

    inputs: Sequence[RequestedInput]
    blobs: Sequence[memoryview | None]  # of each input; None where the values are in its JSON
    outputs: Mapping[str, bool] | None  # name → whether as a blob, in order; None for all of them
    is_binary: bool  # whether outputs that say nothing are wanted as blobs
    id: str | None
    model_name: str = ""  # as the body repeats them; empty where it does not
    model_version: str = ""


_decode = msgspec.json.Decoder(Envelope).decode


def read_header_length(value: bytes | None, body_length: int) -> int:
    """How many bytes of the body are JSON; 0 for a body that is one blob.

    Args:
        value: of the header ``Inference-Header-Content-Length``, None without one.
        body_length: in bytes, after the body was inflated.

    Raises:
        MalformedBodyError: it is no number, or larger than the body.
    """
    if value is None:
        return body_length
    if not _LENGTH.fullmatch(value):
        raise _refuse_length(f"{value.decode('latin-1')[:80]!r} is no length")
    length = int(value)
    if length > body_length:
        raise _refuse_length(f"{length} is more than the body's {body_length} bytes")
    return length


def read_request(body: bytes, header_length: int, limits: Limits = _LIMITS) -> InferRequest:
    """Take ``body`` apart, its first ``header_length`` bytes being JSON.

    Of a long JSON part every input's ``data`` is cut out first: only the frame around them is decoded
    here, which is no longer than ``limits`` allow.

    Raises:
        MalformedBodyError: not JSON, not an inference request, a name given twice, or blobs whose
            sizes do not add up to what is behind the JSON.
    """
    text = body if header_length == len(body) else body[:header_length]
    cuts = _find_data(text, limits) if len(text) > limits.block else []
    frame = _cut_out(text, cuts) if cuts else text
    envelope = _parse(frame, cuts)
    if not envelope.inputs:
        raise MalformedBodyError('"inputs" is empty, expected at least one tensor')
    _check_keys(frame, envelope)
    if cuts:
        _put_back(envelope.inputs, text, cuts)
    parameters = envelope.parameters or {}
    is_binary = _read_flag(parameters, "binary_data_output", "parameters", False)
    return InferRequest(
        inputs=envelope.inputs,
        blobs=_split_blobs(envelope.inputs, memoryview(body)[header_length:]),
        outputs=_read_outputs(envelope.outputs, is_binary) if envelope.outputs else None,
        is_binary=is_binary,
        id=envelope.id or (envelope.id if envelope.id == "" else None),
        model_name=envelope.model_name or "",
        model_version="" if envelope.model_version in _NOT_SAID else str(envelope.model_version),
    )


def _find_data(text: bytes, limits: Limits) -> list[slice]:
    """What is between the brackets of every input's ``data``.

    Raises:
        MalformedBodyError: there is too much around them.
    """
    cuts: list[slice] = []
    begin: int | None = None  # of the one that is not closed yet
    cut_bytes = 0
    for marks in find_marks(text, 0, limits.block, has_commas=False):
        opening = np.flatnonzero((marks.kinds == 1) & (marks.depths == _DATA_DEPTH))
        closing = np.flatnonzero((marks.kinds == -1) & (marks.depths == _DATA_DEPTH - 1))
        at = 0
        while True:
            found = opening if begin is None else closing
            first = int(np.searchsorted(found, at))
            if first == len(found):
                break
            at = int(found[first]) + 1
            offset = int(marks.offsets[at - 1])
            if begin is not None:
                cuts.append(slice(begin, offset))
                cut_bytes += offset - begin
                begin = None
            elif _DATA.search(text, max(0, offset - _LONGEST), offset + 1):
                begin = offset + 1
        if (marks.end if begin is None else begin) - cut_bytes > limits.longest:
            raise MalformedBodyError(
                f"more than {limits.longest:,} bytes of JSON outside of the inputs' data, "
                "the most that are read"
            )
    return cuts


def _cut_out(text: bytes, cuts: Sequence[slice]) -> bytes:
    """``text`` with the number of each cut in its place."""
    parts: list[bytes] = []
    end = 0
    for number, cut in enumerate(cuts):
        parts += (text[end : cut.start], b"%d" % number)
        end = cut.stop
    return b"".join([*parts, text[end:]])


def _put_back(inputs: Sequence[RequestedInput], text: bytes, cuts: Sequence[slice]) -> None:
    """Give the inputs their data, as views of ``text``.

    Raises:
        MalformedBodyError: an input has data that was not found by its name.
    """
    view = memoryview(text)
    numbered = {b"[%d]" % number: cut for number, cut in enumerate(cuts)}
    for tensor in inputs:
        if tensor.data:
            # Each once, or an array of another name would stand for one; parameters may hold the others.
            cut = numbered.pop(bytes(tensor.data), None)
            if cut is None:
                raise MalformedBodyError('"data" is no array, or its name is written with escapes')
            tensor.data = msgspec.Raw(view[cut.start - 1 : cut.stop + 1])


def _find_offset(offset: int, cuts: Sequence[slice]) -> int:
    """Offset in the whole text of a byte of the frame."""
    for number, cut in enumerate(cuts):
        if offset <= cut.start:
            break
        offset += cut.stop - cut.start - len(str(number))
    return offset


def _parse(text: bytes, cuts: Sequence[slice] = ()) -> Envelope:
    try:
        return _decode(text)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        what = f"{what[:_LONGEST]}..." if len(what) > _LONGEST else what
        raise MalformedBodyError(what[0].lower() + what[1:], where=path.strip("`.")) from None
    except msgspec.DecodeError as error:
        if not text.strip():
            raise MalformedBodyError(
                "the body is empty", hint='Send {"inputs": [...]}; GET /v2/models/<model> names them.'
            ) from None
        is_no_number = b"NaN" in text or b"Infinity" in text  # not by an expression: 100 times as slow
        hint = "JSON has no NaN and no Infinity; null is NULL." if is_no_number else ""
        what = _BYTE.sub(lambda found: f"(byte {_find_offset(int(found[1]), cuts)})", str(error))
        raise MalformedBodyError(f"the body is not JSON: {what}", hint=hint) from None
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"the body is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise MalformedBodyError("the body is nested too deeply; data has at most two levels") from None


def _check_keys(text: bytes, envelope: Envelope) -> None:
    """Refuse a name given twice, of which the decoder keeps the last silently.

    Every key has a colon behind it, so as many colons outside of ``data`` and of the parameters' values
    as distinct names means as many keys; only colons within strings call for the closer look.
    """
    parts = [envelope, *envelope.inputs, *(envelope.outputs or ())]
    count = sum(_count_names(part) for part in parts)
    values = [tensor.data for tensor in envelope.inputs]
    for part in parts:
        if part.parameters:
            values += part.parameters.values()
    if text.count(b":") - sum(bytes(value).count(b":") for value in values) == count:
        return
    if count_keys(text) - sum(count_keys(bytes(value)) for value in values) != count:
        raise MalformedBodyError("a name is given twice in one object")


def _count_names(part: Envelope | RequestedInput | RequestedOutput) -> int:
    given = [value for value in msgspec.structs.astuple(part) if value is not UNSET]
    names = sum(bool(value) if isinstance(value, msgspec.Raw) else 1 for value in given)
    return names + (len(part.parameters) if part.parameters else 0)


def _split_blobs(inputs: Sequence[RequestedInput], rest: memoryview) -> list[memoryview | None]:
    blobs: list[memoryview | None] = []
    offset = 0
    for tensor in inputs:
        size = _read_size(tensor)
        blobs.append(None if size is None else rest[offset : offset + size])
        offset += size or 0
    if offset != len(rest):
        raise MalformedBodyError(
            f"the inputs' {_BINARY_SIZE} add up to {offset} bytes, {len(rest)} are behind the JSON",
            hint="Inference-Header-Content-Length says where the JSON ends.",
        )
    return blobs


def _read_size(tensor: RequestedInput) -> int | None:
    """Bytes of the tensor's blob; None if it has none."""
    where = f'input "{tensor.name[:80]}"'
    parameters = tensor.parameters or {}
    _refuse_unsupported(parameters, where)
    size = _read_parameter(parameters, _BINARY_SIZE, where)
    if size is None:
        if not tensor.data:
            raise MalformedBodyError(f"has neither data nor {_BINARY_SIZE}", where=where)
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise MalformedBodyError(f"{_BINARY_SIZE} is {size!r:.80}, expected a number of bytes", where=where)
    if tensor.data:
        raise MalformedBodyError(f"has both data and {_BINARY_SIZE}", where=where)
    return size


def _read_outputs(outputs: Sequence[RequestedOutput], is_binary: bool) -> dict[str, bool]:
    wanted: dict[str, bool] = {}
    for output in outputs:
        where = f'output "{output.name[:80]}"'
        if output.name in wanted:
            raise MalformedBodyError("is asked for twice", where=where)
        parameters = output.parameters or {}
        _refuse_unsupported(parameters, where)
        wanted[output.name] = _read_flag(parameters, "binary_data", where, is_binary)
    return wanted


def _read_flag(parameters: Parameters, name: str, where: str, otherwise: bool) -> bool:
    value = _read_parameter(parameters, name, where)
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        raise MalformedBodyError(f"{name} is {value!r:.80}, expected true or false", where=where)
    return value


def _read_parameter(parameters: Parameters, name: str, where: str) -> Any:
    """The value of a parameter, None where there is none."""
    value = parameters.get(name)
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedBodyError(f"{name} cannot be read", where=where) from None


def _refuse_unsupported(parameters: Mapping[str, Any], where: str) -> None:
    for name in _UNSUPPORTED:
        if name in parameters:
            raise MalformedBodyError(f'the parameter "{name}" is not supported here', where=where)


def _refuse_length(what: str) -> MalformedBodyError:
    return MalformedBodyError(what, where="header Inference-Header-Content-Length")
