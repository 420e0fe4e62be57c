"""Clients that public generators make of ``/openapi.json`` compile, and predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clients import ask_as, find_client_python, find_node_programs, run
from tests.support.service import RunningService, Serve
from tests.support.tiny_model import (
    MIXED_COLUMNS,
    NUMERIC_COLUMNS,
    expect_probabilities,
)

ATOL = 1e-6  # float32 against float64, some operations deep
TOKEN = "token-for-generated-0123"
ROWS = {"tiny": {"rings": 40, "height": 12.5}, "tiny_text": {"soil": "sand", "rings": 40, "height": 12.5}}


@pytest.fixture(scope="module")
def service(model: str, serve: Serve) -> RunningService:
    """The model's service, behind a path and with a token: both stand in the document."""
    return serve(model, "--root-path", "/models/x", environment={"TIMBERLINE_SERVE_TOKENS": TOKEN})


@pytest.fixture(scope="module")
def document(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document as a file."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    status, _, body = service.request("GET", "/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"})
    assert status == 200
    path.write_bytes(body)
    return path


def test_openapi_python_client_makes_a_client_that_predicts(
    service: RunningService, document: Path, model: str, tmp_path: Path
) -> None:
    """A whole client, not the pieces that its generator could make something of."""
    programs = find_client_python("openapi").parent
    generate = [str(programs / "openapi-python-client"), "generate", "--path", str(document)]
    run([*generate, "--output-path", str(tmp_path / "generated")], tmp_path)
    (package,) = [path.name for path in (tmp_path / "generated").iterdir() if (path / "py.typed").is_file()]
    made = {path.stem for path in (tmp_path / "generated" / package / "api" / "default").glob("*.py")}
    told = json.loads(document.read_bytes())
    operations = [operation for item in told["paths"].values() for operation in item.values()]
    assert {one["operationId"] for one in operations if isinstance(one, dict)} == made - {"__init__"}
    url = f"http://127.0.0.1:{service.port}{told['servers'][0]['url']}"
    order = {"package": package, "folder": str(tmp_path / "generated"), "row": ROWS[model], "token": TOKEN}
    seen: dict[str, Any] = ask_as("openapi", "generated_child.py", url=url, model=model, **order)
    values = (12.5, 40, False, None)
    row = values if model == "tiny" else ("sand", *values, None)
    columns = NUMERIC_COLUMNS if model == "tiny" else MIXED_COLUMNS
    expected = expect_probabilities(columns, [row])
    assert seen["one"]["version"] == 1
    for answer in (seen["one"], *seen["many"]["predictions"]):
        found = list(answer["probabilities"].values())
        np.testing.assert_allclose(found, expected[0], rtol=0, atol=ATOL)
    assert seen["infer"]["outputs"][1]["data"] == expected.argmax(axis=1).tolist()
    assert "probabilities" not in seen["short"]
    assert seen["wrong"][0] == 400
    assert '"rings": expected an integer' in seen["wrong"][1]["error"]
    assert (seen["ready"]["ready"], seen["metadata"], seen["status"]) == (True, model, True)


def test_openapi_typescript_makes_types_that_compile(document: Path, model: str, tmp_path: Path) -> None:
    """And that hold what is sent to them: a wrong row is an error before it is a request."""
    programs = find_node_programs("typescript")
    # Without the flag it takes a column with a default for one that must be given.
    flags = ["--default-non-nullable=false", "-o", str(tmp_path / "types.ts")]
    run([str(programs / "openapi-typescript"), str(document), *flags], tmp_path)
    row = json.dumps(ROWS[model])
    values = '["sand", 1, 2, true, null, null]' if model == "tiny_text" else "[1, 2, true, null]"
    program = f"""
        import type {{ components, paths }} from "./types";
        type Row = components["schemas"]["Row"];
        type Body = NonNullable<paths["/predict"]["post"]["requestBody"]>["content"]["application/json"];
        const row: Row = {row};
        export const single: Body = row;
        export const several: Body = {{ instances: [row, row] }};
        export const values: components["schemas"]["RowValues"] = {values};
        // @ts-expect-error
        export const wrong: Row = {{ ...row, rings: "40" }};
        // @ts-expect-error
        export const long: components["schemas"]["RowValues"] = [...values, 1];
        type Answer = paths["/predict"]["post"]["responses"][200]["content"]["application/json"];
        export const read = (answer: Answer) =>
          "label" in answer ? answer.label : answer.predictions.length;
    """
    (tmp_path / "program.ts").write_text(program, "utf-8")
    run([str(programs / "tsc"), "--noEmit", "--strict", "program.ts"], tmp_path)
