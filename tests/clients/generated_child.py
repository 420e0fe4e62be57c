"""A client that ``openapi-python-client`` generated, in a process of its own.

Reads {"url", "package", "folder", "model", "row", "token"} from its argument and prints what it saw as
JSON. The script uses the package as its own README does.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def talk(url: str, package: str, folder: str, model: str, row: dict[str, Any], token: str) -> dict[str, Any]:
    """One row, several, and what is said of the model."""
    sys.path.insert(0, folder)
    client_class = importlib.import_module(package).AuthenticatedClient
    models = importlib.import_module(f"{package}.models")

    def find(name: str) -> Any:
        return importlib.import_module(f"{package}.api.default.{name}")

    tensors = [
        models.InferenceRequestInputsItem.from_dict(
            {
                "name": name,
                "datatype": "BYTES" if isinstance(value, str) else "FP64",
                "shape": [1],
                "data": [value],
            }
        )
        for name, value in row.items()
    ]
    with client_class(base_url=url, token=token, raise_on_unexpected_status=True) as client:
        predict = find("predict")
        one = predict.sync(client=client, body=models.Row.from_dict(row))
        many = predict.sync(client=client, body=models.Rows(instances=[models.Row.from_dict(row)] * 2))
        short = predict.sync(client=client, body=models.Row.from_dict(row), probabilities=False)
        wrong = predict.sync_detailed(client=client, body=models.Row.from_dict({**row, "rings": "40"}))
        infer = find("v2_models_model_infer")
        request = models.InferenceRequest(inputs=tensors, model_name=model)
        answer = infer.sync(model, client=client, body=request)
        ready = find("v2_health_ready").sync(client=client)
        return {
            "one": one.to_dict(),
            "many": many.to_dict(),
            "short": short.to_dict(),
            "wrong": [wrong.status_code, wrong.parsed.to_dict()],
            "infer": answer.to_dict(),
            "ready": ready.to_dict(),
            "metadata": find("v2_models_model").sync(model, client=client).to_dict()["name"],
            "status": find("v1_models_model").sync(model, client=client).to_dict()["ready"],
        }


if __name__ == "__main__":
    print(json.dumps(talk(**json.loads(sys.argv[1]))))
