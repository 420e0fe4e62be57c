"""What to write instead: for a function of SQL that the language does not have, the nearest that it has."""

from __future__ import annotations

import re

from sqlglot import exp

from timberline.training.features.language import OPERATORS, REWRITTEN, nearest

_ONE_ROW = "A feature sees one row"
_TRAINING = f"{_ONE_ROW}; what is known of the whole training split is"
# Function → the nearest thing in the language.
_INSTEAD = {
    "any_value": f"{_TRAINING} fitted.mode(x).",
    "approx_quantile": f"{_TRAINING} fitted.quantile(x, 0.9).",
    "avg": f"{_TRAINING} fitted.mean(x).",
    "cot": "Write 1 / tan(x).",
    "count": f"{_TRAINING} fitted.frequency(x).",
    "age": "Write date_diff('day', b, a).",
    "century": "Write year(d) // 100.",
    "date_add": "Write d + 1, a day later, or subtract: date_diff('day', a, b).",
    "date_sub": "Write d - 1, a day earlier, or date_diff('month', a, b), which counts their starts.",
    "dayname": "Write isodow(d), 1 to 7.",
    "decade": "Write year(d) // 10.",
    "date_format": "Write the parts: year(d), month(d), dayofweek(d).",
    "datediff": "Write date_diff('day', a, b).",
    "epoch_ms": "Write epoch(ts) * 1000.",
    "decode": "Write CASE x WHEN 'a' THEN 1 ... END, or map {'a': 1}[x].",
    "div": "Write a // b.",
    "iff": "Write if(condition, a, b).",
    "iif": "Write if(condition, a, b).",
    "element_at": "It gives a list of one value. Write map {'a': 1}[x].",
    "instr": "Write contains(x, 'part').",
    "isnull": "Write x IS NULL.",
    "levenshtein": "Compare with constants: x IN ('a', 'b').",
    "max": f"{_TRAINING} fitted.max(x); of several columns of a row it is greatest(a, b).",
    "mean": f"{_TRAINING} fitted.mean(x).",
    "median": f"{_TRAINING} fitted.median(x).",
    "min": f"{_TRAINING} fitted.min(x); of several columns of a row it is least(a, b).",
    "monthname": "Write month(d), 1 to 12.",
    "mode": f"{_TRAINING} fitted.mode(x).",
    "now": "What is served today is answered tomorrow as well: give the moment as a column.",
    "nvl": "Write coalesce(a, b).",
    "nvl2": "Write if(x IS NOT NULL, a, b).",
    "position": "Write contains(x, 'part').",
    "quantile_cont": f"{_TRAINING} fitted.quantile(x, 0.9).",
    "random": "The same row always has the same features; there is no random number.",
    "regexp_extract": "Ask whether it matches, regexp_matches(x, 'a.*'), or cut with split_part or left.",
    "regexp_like": "Write regexp_matches(x, 'a.*').",
    "regexp_replace": "Ask whether it matches, regexp_matches(x, 'a.*'), or cut with split_part or left.",
    "replace": "Ask what is in it, contains(x, 'part'), or name the words: map {'a': 'b'}[x].",
    "reverse": "Ask for the end: ends_with(x, 'part') or right(x, 2).",
    "rlike": "Write regexp_matches(x, 'a.*').",
    "stddev": f"{_TRAINING} fitted.std(x).",
    "stddev_samp": f"{_TRAINING} fitted.std(x).",
    "str_to_date": "Declare the column's type and format in model.toml.",
    "strftime": "Write the parts: year(d), month(d), dayofweek(d).",
    "strip_accents": "Name the words: map {'é': 'e'}[x].",
    "strlen": "Write length(x), which counts characters.",
    "strpos": "Write contains(x, 'part').",
    "strptime": "Declare the column's type and format in model.toml.",
    "sum": f"{_TRAINING} fitted.mean(x); of several columns of a row it is a + b.",
    "to_char": "Write the parts: year(d), month(d), dayofweek(d).",
    "to_date": "Declare the column's type and format in model.toml.",
    "to_timestamp": "Declare the column's type and format in model.toml.",
    "today": "What is served today is answered tomorrow as well: give the moment as a column.",
    "zeroifnull": "Write coalesce(x, 0).",
}
_SAME = {
    "datesub": "date_sub",
    "epoch_us": "epoch_ms",
    "current_date": "today",
    "current_timestamp": "now",
    "datetime_diff": "datediff",
    "get_current_timestamp": "now",
    "map_extract": "element_at",
    "quantile": "quantile_cont",
    "rand": "random",
    "std": "stddev",
    "stddev_pop": "stddev",
    "timestamp_diff": "datediff",
    "to_number": "to_date",
    "ts_or_ds_diff": "datediff",
    "var_samp": "stddev",
    "variance": "stddev",
}


def advise(node: exp.Expr, name: str) -> str:
    """The hint for a piece of SQL that is refused; ``name`` is its function's, as written."""
    if isinstance(node, exp.Window | exp.WithinGroup):
        return f"{_TRAINING} fitted.mean(x), fitted.frequency(x) and the like."
    if isinstance(node, exp.Query | exp.Exists | exp.Subquery):
        return f"{_ONE_ROW}; a small table can be written as a map: map {{'a': 1, 'b': 2}}[x]."
    if isinstance(node, exp.Interval):
        return "Write d + 1 for a day later; of a TIMESTAMP count its seconds: epoch(ts) + 3600."
    if not isinstance(node, exp.Func):
        return ""
    known = _SAME.get(name, name)
    if known in _INSTEAD:
        return _INSTEAD[known]
    return nearest(name, _list_functions(), cutoff=0.7) or (
        f"{_TRAINING} fitted.mean(x) and the like." if isinstance(node, exp.AggFunc) else ""
    )


def _list_functions() -> list[str]:
    written = " ".join([*(form for form, _ in OPERATORS.values()), *REWRITTEN])
    return sorted(set(re.findall(r"\b([a-z][a-z_0-9]*)\(", written)))
