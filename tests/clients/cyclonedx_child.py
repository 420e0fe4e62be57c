"""What CycloneDX's own library finds wrong in documents: one line of JSON, a list of complaints for each.

Called with ``{"documents": [text, …]}``.
"""

import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

found = []
for text in json.loads(sys.argv[1])["documents"]:
    document = json.loads(open(text, encoding="utf-8").read())  # noqa: PTH123, SIM115
    version = SchemaVersion.from_version(document["specVersion"])
    error = JsonStrictValidator(version).validate_str(json.dumps(document))
    found.append([] if error is None else [str(error)[:500]])
print(json.dumps(found))
