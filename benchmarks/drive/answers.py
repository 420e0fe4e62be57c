"""Is this reply the right one? The version that was asked answered, and with the numbers it must give."""

from __future__ import annotations

import msgspec

from benchmarks.drive.plan import Body, Target


class _Prediction(msgspec.Struct):
    probabilities: dict[str, float]


class _Reply(msgspec.Struct):
    model: str
    version: int
    probabilities: dict[str, float] | None = None
    predictions: list[_Prediction] | None = None


_decode = msgspec.json.Decoder(_Reply).decode


def check_reply(status: int, content: bytes | None, target: Target, body: Body) -> str:
    """What is wrong with a reply to ``body``, in a few words; "" when nothing is."""
    if status != 200:
        return f"HTTP {status}: {(content or b'')[:80].decode(errors='replace')}"
    try:
        reply = _decode(content or b"")
    except msgspec.DecodeError as error:
        return f"reply is not a prediction: {error}"
    if (reply.model, reply.version) != (target.model, target.version):
        return f"{reply.model}@{reply.version} answered, expected {target.model}@{target.version}"
    predictions = reply.predictions
    given = [reply.probabilities] if predictions is None else [p.probabilities for p in predictions]
    if len(given) != body.rows:
        return f"{len(given)} predictions for {body.rows} rows"
    return _compare(given, target, body.answers.get(target.arm))


def _compare(
    given: list[dict[str, float] | None] | list[dict[str, float]],
    target: Target,
    expected: tuple[tuple[float, ...], ...] | None,
) -> str:
    for row, probabilities in enumerate(given):
        if probabilities is None or set(probabilities) != set(target.classes):
            return f"row {row}: probabilities are not those of classes {', '.join(target.classes)[:60]}"
        if expected is None:
            continue
        for name, known in zip(target.classes, expected[row], strict=True):
            # Written so that NaN fails.
            if not abs(probabilities[name] - known) <= target.atol:
                return f"row {row}: class {name} has {probabilities[name]:.6g}, the manifest {known:.6g}"
    return ""
