"""What Argo Rollouts makes of a measurement: Successful, Failed or Inconclusive.

Its rules, as docs/features/analysis.md of its repository states them: a Job that completes is Successful and
one that fails is Failed, whatever its exit code. A value is Failed where the failure condition holds,
Successful where the success condition holds, and Inconclusive where both are given and neither holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.support.helm import Document

_COMPARISON = re.compile(r'^(len\(result\)|result\[0\]|result) (==|!=|<=|>=|<|>) ("[A-Z]+"|[\d.]+)$')
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<=": lambda a, b: bool(a <= b),
    ">=": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
}


def judge_job(exit_code: int) -> str:
    """The phase of a Job's measurement, with a backoffLimit of 0."""
    return "Failed" if exit_code else "Successful"


def judge_value(metric: Document, value: Any) -> str:
    """The phase of a value's measurement."""
    if holds(metric["failureCondition"], value):
        return "Failed"
    return "Successful" if holds(metric["successCondition"], value) else "Inconclusive"


def holds(condition: str, value: Any) -> bool:
    """Whether an expression of comparisons with ``&&`` between them holds; another kind is not read."""
    for comparison in condition.split(" && "):
        found = _COMPARISON.match(comparison)
        assert found, comparison
        left, operator, right = found.groups()
        expected = right.strip('"') if right.startswith('"') else float(right)
        if not _COMPARE[operator](_read(left, value), expected):
            return False
    return True


def _read(name: str, value: Any) -> Any:
    if name == "len(result)":
        return len(value)
    return value[0] if name == "result[0]" else value


def read_path(path: str, tree: Any) -> Any:
    """What a JSONPath of keys and indexes leads to; `LookupError` where it leads nowhere, as in Argo."""
    assert re.fullmatch(r"\{\$(\.\w+|\[\d+\])+\}", path), path
    for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        tree = tree[key] if key else tree[int(index)]
    return tree
