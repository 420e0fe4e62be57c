"""KServe's own Python models of its objects, as pip installs them; run in the client ``kserve``.

Reads a list of objects as JSON from standard input and prints for each a list of what is wrong with it:
fields that its class does not know, wherever they are, and what KServe's or Kubernetes' classes refuse.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import kserve.models
import kubernetes.client.models

PREFIXES = {"serving.kserve.io/v1alpha1": "V1alpha1", "serving.kserve.io/v1beta1": "V1beta1"}
PLAIN: dict[str, set[type]] = {"str": {str}, "int": {int}, "bool": {bool}, "float": {int, float}}


def find_class(name: str) -> Any:
    """The class of a type's name; None where it is none (quantities, any object)."""
    return getattr(kserve.models, name, None) or getattr(kubernetes.client.models, name, None)


def list_faults(value: Any, type_name: str, place: str) -> list[str]:
    """What is wrong with a value that should be of this type of the generated classes."""
    if found := re.fullmatch(r"[Ll]ist\[(.*)\]|[Dd]ict[(\[]str, (.*)[)\]]", type_name):
        kind = list if found[1] else dict
        if not isinstance(value, kind):
            return [f"{place}: no {kind.__name__}"]
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return [
            fault for at, one in parts for fault in list_faults(one, found[1] or found[2], f"{place}.{at}")
        ]
    if type_name in PLAIN:
        return [] if type(value) in PLAIN[type_name] else [f"{place}: no {type_name}"]
    model = find_class(type_name)
    return list_model_faults(value, model, place) if hasattr(model, "attribute_map") else []


def list_model_faults(value: Any, model: Any, place: str) -> list[str]:
    """The same of an object."""
    if not isinstance(value, dict):
        return [f"{place}: no object"]
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    faults = [f"{place}: unknown field {name}" for name in value if name not in attributes]
    known = {attributes[name]: one for name, one in value.items() if name in attributes}
    for attribute, one in known.items():
        name = model.attribute_map[attribute]
        faults += list_faults(one, model.openapi_types[attribute], f"{place}.{name}")
    try:
        model(**known)  # required fields
    except ValueError as error:
        faults.append(f"{place}: {error}")
    return faults


def main() -> None:
    """Answer for every object."""
    answers = []
    for document in json.load(sys.stdin):
        prefix = PREFIXES[document["apiVersion"]]
        answers.append(list_faults(document, f"{prefix}{document['kind']}", document["kind"]))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
