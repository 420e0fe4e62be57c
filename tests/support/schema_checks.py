"""What schemathesis checks on top of its own checks; loaded by it (``SCHEMATHESIS_HOOKS``)."""

from __future__ import annotations

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, Response

# The one reason to refuse a row that fits its schema: finite values whose answer is not.
_NOT_COMPUTABLE = "the model has no finite answer for these values"


@schemathesis.check
def valid_rows_are_answered(ctx: CheckContext, response: Response, case: Case) -> None:
    """JSON that fits the schema is answered.

    Schemathesis' own ``positive_data_acceptance`` is left out for this: it also asks it of CSV, of
    float32 rows and of tensors, of which a schema can say no more than that they are text, bytes
    or arrays, and of finite numbers near 1.8e308, which no float32 network has an answer for.
    """
    is_valid = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if case.method.upper() != "POST" or "/infer" in case.path or not is_valid:
        return
    if case.media_type == "application/json" and response.status_code != 200:
        assert response.status_code == 400, response.text
        assert _NOT_COMPUTABLE in response.json()["error"], response.text
