"""features.sql: what it may say, what it means, and how a refusal points into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from timberline.registry.signature import Column
from timberline.training.features import (
    FeatureError,
    FeatureProgram,
    ValueType,
    parse_features,
)

_COLUMNS = (
    Column(name="Elevation", datatype="INT64"),
    Column(name="Slope", datatype="FP64", is_nullable=True),
    Column(name="Soil_Type1", datatype="INT64"),
    Column(name="Soil_Type2", datatype="INT64"),
    Column(name="is_day", datatype="BOOL"),
    Column(name="region", datatype="BYTES"),
)


def _parse(sql: str) -> FeatureProgram:
    return parse_features(sql, _COLUMNS)


def test_features_stand_in_the_order_of_the_select() -> None:
    """The order is the network's input order, and must not depend on anything else."""
    program = _parse("SELECT Slope, Elevation + 1 AS higher, Elevation FROM raw")
    assert program.names == ("Slope", "higher", "Elevation")


def test_columns_pattern_and_star_expand_to_plain_columns_as_duckdb_expands_them() -> None:
    """Forty one-hot columns are written as one item; which columns those are is DuckDB's rule."""
    for items in (
        "COLUMNS('Soil')",
        "COLUMNS('_Type[0-9]$')",
        "COLUMNS('^S')",
        "* EXCLUDE (region, is_day)",
        "* EXCLUDE REGION",
        "COLUMNS(* EXCLUDE (region))",
        "raw.* EXCLUDE (region)",
    ):
        program = _parse(f"SELECT {items} FROM raw")
        assert all(feature.is_plain_column for feature in program.features)
        with duckdb.connect() as connection:
            declared = ", ".join(f"0 AS {c.name}" for c in _COLUMNS)
            connection.execute(f"CREATE TABLE raw AS SELECT {declared}")
            described = connection.execute(f"SELECT {items} FROM raw").description
        assert list(program.names) == [d[0] for d in described or ()], items


@pytest.mark.parametrize(
    ("expression", "may_hold_null"),
    [
        ("Slope", True),
        ("Slope * 2 + Elevation", True),
        ("CASE WHEN Elevation > 0 THEN Slope ELSE 0 END", True),
        ("coalesce(Slope, 0)", False),
        ("Slope IS NULL", False),
        ("Elevation + 1", False),
        ("Elevation / (Elevation - 1)", False),  # NULL at 0/0, which no column's NULL explains
        ("Elevation / coalesce(Slope, 0)", False),
        ("sqrt(Elevation)", False),
    ],
)
def test_null_of_a_column_is_told_from_a_computation_without_an_answer(
    expression: str, may_hold_null: bool
) -> None:
    """The one is filled when served, by rule; the other has no answer."""
    assert _parse(f"SELECT Soil_Type1, {expression} AS f FROM raw").nullable == (False, may_hold_null)


def test_nullability_of_a_deeply_shared_expression_is_found_at_once() -> None:
    """Each power names its base twice: a walk over every path would take 2 ** 30 steps."""
    nested = "Elevation"
    for _ in range(30):
        nested = f"power({nested} - 1, 2)"
    assert _parse(f"SELECT sqrt({nested}) AS f FROM raw").nullable == (False,)


def test_names_of_columns_ignore_case_and_come_out_as_declared() -> None:
    """As in DuckDB; the prepared table then holds the column once."""
    program = _parse('SELECT elevation, raw.SLOPE AS steepness, "is_DAY" FROM RAW')
    assert program.names == ("Elevation", "steepness", "is_day")
    assert [f.is_plain_column for f in program.features] == [True, False, True]


def test_select_sql_is_the_same_however_the_text_is_written() -> None:
    """The digest of what is computed must not change with comments, case or line breaks."""
    one = _parse("SELECT sqrt(Elevation) AS root, Soil_Type1 IN (1, 2) AS listed FROM raw")
    two = _parse("select -- a comment\n SQRT( elevation ) root,\n (soil_type1 in (1,2)) as listed from RAW;")
    assert one.select_sql("raw") == two.select_sql("raw")


def test_select_sql_reads_any_relation() -> None:
    """The exporter selects from chunks of its own, and the ETL one feature at a time."""
    program = _parse("SELECT Elevation, Elevation * 2 AS twice FROM raw")
    sql = program.select_sql("(SELECT 21 AS Elevation)")
    with duckdb.connect() as connection:
        result = connection.execute(sql)
        assert [(name, str(kind)) for name, kind, *_ in result.description or ()] == [
            ("Elevation", "FLOAT"),
            ("twice", "FLOAT"),
        ]
        assert result.fetchall() == [(21.0, 42.0)]
        single = program.feature_sql(program.features[1])
        assert connection.execute(f"SELECT {single} FROM (SELECT 4 AS Elevation)").fetchall() == [(8.0,)]


def test_narrow_integer_columns_do_not_overflow() -> None:
    """The prepared table stores small integers in small types; a product of two must not fail there."""
    sql = _parse("SELECT Soil_Type1 * Soil_Type2 AS product FROM raw").select_sql("raw")
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE raw AS SELECT 100::TINYINT AS Soil_Type1, 100::TINYINT AS Soil_Type2"
        )
        assert connection.execute(sql).fetchall() == [(10_000.0,)]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("Elevation / 2", 3.5),
        ("Elevation // 2", 3.0),
        ("-Elevation // 2", -3.0),
        ("-Elevation % 4", -3.0),
        ("Elevation // (Elevation - 7)", None),
        ("Elevation % 0", None),
        ("Elevation / 0", float("inf")),
        ("-Elevation / 0", float("-inf")),
        ("(Elevation - 7) / 0", None),
        ("sqrt(-Elevation)", None),
        ("ln(Elevation - 7)", float("-inf")),
        ("round(Elevation / 2)", 4.0),
        ("round(-Elevation / 2)", -4.0),
        ("CAST(Elevation / 2 + 1 AS BIGINT)", 4.0),
        ("CAST((Elevation + 2) / 2 AS BIGINT)", 4.0),
        ("round(Elevation * 18.73, -1)", 130.0),
        ("round(Elevation / 9, 2)", 0.78),
        ("-Elevation ^ 2", 49.0),
        ("2 ^ 3 ^ 2 + Elevation * 0", 64.0),
        ("Elevation ** 3", 343.0),
        ("greatest(Elevation, Slope)", 7.0),
        ("least(Slope, Elevation, 3)", 3.0),
        ("Slope IS NULL", 1.0),
        ("Slope > 1 OR Elevation > 1", 1.0),
        ("Slope > 1 AND Elevation > 1", None),
        ("Slope > 1 AND Elevation > 9", 0.0),
        ("NOT (Slope > 1)", None),
        ("Elevation IN (1, NULL)", None),
        ("Elevation NOT IN (1, 2)", 1.0),
        ("CASE WHEN Slope > 1 THEN 1 ELSE 2 END", 2.0),
        ("CASE Elevation WHEN 7 THEN 5 END", 5.0),
        ("CASE region WHEN 'north' THEN 5 ELSE 6 END", 5.0),
        ("if(is_day, Elevation, 0)", 7.0),
        ("coalesce(Slope, Elevation, 0)", 7.0),
        ("nullif(Elevation, 7)", None),
        ("CAST(is_day AS INTEGER) + 1", 2.0),
        ("CAST(CASE WHEN is_day THEN 0.75 ELSE Elevation END AS BIGINT)", 1.0),
        ("degrees(radians(Elevation))", 7.0),
        ("Elevation * pi() / pi()", 7.0),
        ("log10(Elevation * 1000 / 7)", 3.0),
        ("log(2, Elevation + 1)", 3.0),
        ("atan2(Elevation, 0) * 2 / pi()", 1.0),
        ("Elevation * 1e60", float("inf")),
    ],
)
def test_expression_means_what_the_table_of_operators_says(expression: str, value: float | None) -> None:
    """These are the choices where engines differ; each is fixed in `training.features.language`."""
    row = "SELECT 7 AS Elevation, NULL::DOUBLE AS Slope, true AS is_day, 'north' AS region"
    with duckdb.connect() as connection:
        sql = _parse(f"SELECT {expression} AS f FROM raw").select_sql(f"({row})")
        ((found,),) = connection.execute(sql).fetchall()
    assert found == (value if value is None else pytest.approx(value, rel=1e-7))


@pytest.mark.parametrize(
    ("expression", "type", "nullable"),
    [
        ("Elevation + 1", ValueType.BIGINT, False),
        ("Elevation + 1.5", ValueType.DOUBLE, False),
        ("Elevation / 2", ValueType.DOUBLE, False),
        ("Elevation / Soil_Type1", ValueType.DOUBLE, True),
        ("Slope * 2", ValueType.DOUBLE, True),
        ("coalesce(Slope, 0)", ValueType.DOUBLE, False),
        ("coalesce(Elevation, 0.5)", ValueType.DOUBLE, False),
        ("CASE WHEN is_day THEN Elevation ELSE 0.5 END", ValueType.DOUBLE, False),
        ("CASE WHEN is_day THEN 0.5 ELSE Elevation END", ValueType.DOUBLE, False),
        ("Slope > 1", ValueType.BOOLEAN, True),
        ("Slope IS NULL", ValueType.BOOLEAN, False),
        ("region = 'x'", ValueType.BOOLEAN, False),
        ("CASE WHEN is_day THEN 1 END", ValueType.BIGINT, True),
        ("CASE WHEN is_day THEN Elevation ELSE 2.5 END", ValueType.DOUBLE, False),
        ("sqrt(abs(Elevation))", ValueType.DOUBLE, False),
        ("sqrt(Elevation)", ValueType.DOUBLE, True),
        ("sqrt(Elevation * Elevation + 1)", ValueType.DOUBLE, False),
        ("sin(Elevation)", ValueType.DOUBLE, False),
        ("Elevation % 7", ValueType.BIGINT, False),
    ],
)
def test_expression_has_type_and_nullability(expression: str, type: ValueType, nullable: bool) -> None:
    """Guards in the SQL and nodes in the graph are spared where NULL is impossible."""
    (feature,) = _parse(f"SELECT {expression} AS f FROM raw").features
    assert (feature.expression.type, feature.expression.nullable) == (type, nullable)


@pytest.mark.parametrize(
    ("sql", "place", "message"),
    [
        ("SELECT Elevation,\n  sum(Slope) AS s\nFROM raw", "2:3", "the aggregate sum() is not supported"),
        ("SELECT count(*) AS n FROM raw", "1:8", "the aggregate count() is not supported"),
        ("SELECT rank() OVER (ORDER BY Slope) AS r FROM raw", "1:", "a window function is not supported"),
        ("SELECT (SELECT 1) AS s FROM raw", "1:", "a subquery is not supported"),
        ("SELECT Elevation IN (SELECT 1) AS s FROM raw", "1:8", "with 'query' is not supported"),
        ("SELECT Elevation FROM raw JOIN other USING (id)", "1:", "JOIN is not supported"),
        ("SELECT Elevation FROM raw, other", "1:", "JOIN is not supported"),
        ("SELECT Elevation\nFROM raw\nWHERE Slope > 1", "3:7", "WHERE is not supported"),
        ("SELECT Elevation FROM raw GROUP BY Elevation", "1:36", "GROUP BY is not supported"),
        ("SELECT Elevation FROM raw ORDER BY Slope", "1:36", "ORDER BY is not supported"),
        ("SELECT Elevation FROM raw LIMIT 5", "1:33", "LIMIT is not supported"),
        ("SELECT DISTINCT Elevation FROM raw", "1:", "DISTINCT is not supported"),
        ("WITH RECURSIVE t AS (SELECT 1 AS a FROM raw) SELECT a FROM t", "1:", "RECURSIVE is not supported"),
        ("WITH t AS (DELETE FROM raw) SELECT a FROM t", "1:", "expected a SELECT, found DELETE"),
        ("WITH t(a, b) AS (SELECT Slope FROM raw) SELECT a FROM t", "1:", "2 names for 1 columns"),
        ("SELECT t.Slope FROM raw AS r", "1:8", "there is no table 't'"),
        ("SELECT Slope FROM (SELECT Slope FROM raw LIMIT 1)", "1:", "LIMIT is not supported"),
        ("SELECT Slope FROM (SELECT Slope FROM raw) TABLESAMPLE 5", "1:", "SAMPLE is not supported"),
        ("SELECT Elevation FROM other", "1:23", "expected FROM raw, found FROM other"),
        ("SELECT 1 AS one", "1:8", "expected FROM raw, found no FROM"),
        ("SELECT Elevation FROM raw UNION SELECT Slope FROM raw", "1:", "expected one SELECT, found UNION"),
        ("SELECT Elevation FROM raw; SELECT 1", "1:", "expected one SELECT, found 2 statements"),
        ("", "1:1", "expected one SELECT, found nothing"),
        ("DROP TABLE raw", "1:", "expected one SELECT, found DROP"),
        ("SELECT\n  soundex(Elevation) AS s FROM raw", "2:3", "the function soundex() is not supported"),
        ("SELECT random() AS r FROM raw", "1:8", "the function random() is not supported"),
        ("SELECT Elevation AS a, Slope AS A FROM raw", "1:", "the name 'A' is given twice"),
        ("SELECT Elevation, COLUMNS('Elev') FROM raw", "1:", "the name 'Elevation' is given twice"),
        ("SELECT Elevation,\n  Slope + 1\nFROM raw", "2:3", "a computed feature has no name"),
        ("SELECT Slope + 1 AS elevation FROM raw", "1:", "has the name of a raw column"),
        ("SELECT Slope AS Elevation FROM raw", "1:", "has the name of a raw column"),
        ("SELECT pi() AS f FROM raw", "1:", "feature 'f' is a constant"),
        ("SELECT Elevation + FROM raw", "1:20", "not valid SQL at 'FROM': something is missing before it"),
        ("SELECT 'open FROM raw", "1:1", "not valid SQL"),
        ("SELECT COLUMNS('zone') FROM raw", "1:8", "no column matches 'zone'"),
        ("SELECT COLUMNS('(') FROM raw", "1:8", "is no regular expression"),
        ("SELECT COLUMNS('Soil') + 1 AS f FROM raw", "1:8", "the name 'f' is given twice"),
        ("SELECT COLUMNS('Soil') + 1 FROM raw", "1:8", "computed features have no names"),
        ("SELECT COLUMNS('Soil') + COLUMNS('Sl') AS f FROM raw", "1:8", "two different COLUMNS"),
        ("SELECT ln(COLUMNS('^[Sr]')) AS 'ln_\\0' FROM raw", "1:11", "for region, ln takes numbers"),
        ("SELECT up * 2 AS f, Slope AS up FROM raw", "1:8", "'up' is not known yet"),
        ("SELECT * REPLACE (1 AS Slop) FROM raw", "1:24", "there is no input column 'Slop'"),
        ("SELECT * RENAME (Slope AS s) FROM raw", "1:8", "RENAME of a star is not supported"),
        ("SELECT other.Elevation FROM raw", "1:8", "there is no table 'other'"),
        ("SELECT region < 'n' AS f FROM raw", "1:8", "text has no order here"),
        ("SELECT lower(region) = region AS f FROM raw", "1:", "can be compared with constants only"),
        ("SELECT region = 1 AS f FROM raw", "1:8", "text and BIGINT cannot be mixed"),
        ("SELECT CAST(region AS DOUBLE) AS f FROM raw", "1:13", "text cannot be cast"),
        (
            "SELECT CAST(Slope AS DECIMAL(9, 2)) AS f FROM raw",
            "1:13",
            "CAST to DECIMAL(9, 2) is not supported",
        ),
        ("SELECT TRY_CAST(region AS DOUBLE) AS f FROM raw", "1:", "what is a number in a text is not known"),
        ("SELECT Elevation & 3 + 1 AS f FROM raw", "1:8", "bit operators beside others need parentheses"),
        ("SELECT ~Elevation + 1 AS f FROM raw", "1:9", "bit operators beside others need parentheses"),
        ("SELECT Slope & 1 AS f FROM raw", "1:8", "bits are of whole numbers"),
        ("SELECT Elevation << Elevation AS f FROM raw", "1:8", "whole constant from 0 to 52"),
        ("SELECT is_day + 1 AS f FROM raw", "1:8", "+ takes numbers, and got BOOLEAN"),
        ("SELECT Slope // 2 AS f FROM raw", "1:8", "// divides whole numbers"),
        ("SELECT round(Slope, Elevation) AS f FROM raw", "1:8", "whole constant from -22 to 22"),
        ("SELECT Slope >> 1 AS f FROM raw", "1:8", "shift whole numbers"),
        ("SELECT abs(Slope, 2) AS f FROM raw", "1:20", "not valid SQL at ')'"),
        ("SELECT log(Slope, 2, 3) AS f FROM raw", "1:23", "not valid SQL at ')'"),
        ("SELECT floor(Slope, 2) AS f FROM raw", "1:14", "the function floor() with 'decimals' is not"),
        ("SELECT if(is_day, 1) AS f FROM raw", "1:11", "too few arguments"),
        ("SELECT Slope * 1e400 AS f FROM raw", "1:16", "1e400 is beyond the range of DOUBLE"),
        ("SELECT Slope AS __row__ FROM raw", "1:", "'__row__' cannot be a feature's name"),
        ('SELECT Slope AS "" FROM raw', "1:", "'' cannot be a feature's name"),
        ("SELECT abs(Slope) FILTER (WHERE is_day) AS f FROM raw", "1:8", "is not supported"),
        ("SELECT greatest(DISTINCT Slope) AS f FROM raw", "1:", "is not supported"),
    ],
)
def test_refusal_names_line_and_column_and_what_is_supported(sql: str, place: str, message: str) -> None:
    """What cannot be compiled is refused before anything is trained, where its author can find it."""
    with pytest.raises(FeatureError) as caught:
        _parse(sql)
    text = str(caught.value)
    assert text.startswith(f"features.sql:{place}")
    assert message in caught.value.what
    assert text.endswith("The language is described in docs/reference/features.md.")


def test_unknown_column_names_the_nearest_one() -> None:
    """A typo is the most frequent mistake."""
    with pytest.raises(FeatureError, match="Did you mean 'Soil_Type1'"):
        _parse("SELECT Soil_Typ1 FROM raw")


def test_a_refusal_shows_the_line_with_a_caret_under_the_place() -> None:
    """A line of a hundred columns is searched by eye otherwise."""
    with pytest.raises(FeatureError) as caught:
        _parse("SELECT Elevation\n,\tElevatoin + 1 AS e FROM raw")
    assert str(caught.value).splitlines() == [
        "features.sql:2:3: there is no input column 'Elevatoin'. Did you mean 'Elevation'?",
        "  2 | , Elevatoin + 1 AS e FROM raw",
        "        ^",
        "The language is described in docs/reference/features.md.",
    ]


@pytest.mark.parametrize("before", [0, 30, 400])
@pytest.mark.parametrize("behind", [0, 400])
def test_of_a_long_line_what_is_around_the_place_is_shown(before: int, behind: int) -> None:
    """Generated statements are one line; the excerpt has to fit a terminal and point at the right word."""
    head = "".join(f"Slope AS s{index}, " for index in range(before))
    tail = "".join(f", Slope AS t{index}" for index in range(behind))
    with pytest.raises(FeatureError) as caught:
        _parse(f"SELECT {head}Slop{tail} FROM raw")
    _, line, caret, _ = str(caught.value).splitlines()
    assert line[caret.index("^") :].startswith("Slop")
    assert len(line) < 110


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("avg(Slope)", "fitted.mean(x)"),
        ("sum(Slope)", "a + b"),
        ("min(Slope)", "least(a, b)"),
        ("stddev_samp(Slope)", "fitted.std(x)"),
        ("count(*)", "fitted.frequency(x)"),
        ("row_number() OVER (ORDER BY Slope)", "A feature sees one row"),
        ("(SELECT max(Slope) FROM raw)", "map {'a': 1, 'b': 2}[x]"),
        ("sqt(Slope)", "'sqrt'"),
        ("strpos(region, 'n')", "contains(x, 'part')"),
        ("regexp_replace(region, 'n', 'm')", "regexp_matches(x, 'a.*')"),
        ("iff(is_day, 1, 2)", "if(condition, a, b)"),
        ("random()", "The same row always has the same features"),
    ],
)
def test_what_the_language_does_not_have_is_answered_with_the_nearest_that_it_has(
    expression: str, hint: str
) -> None:
    """An author knows other dialects; a list of forty operators does not say which one is meant."""
    with pytest.raises(FeatureError) as caught:
        _parse(f"SELECT {expression} AS f FROM raw")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT Elevation + 1 AS up, up * 2 AS up2, UP2 + up AS up3 FROM raw",
        "SELECT Elevation AS e, e + Slope AS f FROM raw",
        "WITH w AS (SELECT *, Elevation + 1 AS up FROM raw) SELECT Slope, up * Slope AS f FROM w",
        "WITH w AS (SELECT Elevation + 1 AS a FROM raw), v AS (SELECT a * 2 AS b, a FROM w) SELECT b FROM v",
        "WITH w(p, q) AS (SELECT Elevation, Slope FROM raw) SELECT q, k.p FROM w AS k",
        "WITH raw AS (SELECT Elevation + 1 AS z FROM raw) SELECT z, raw.z * 2 AS f FROM raw",
        "WITH w AS (WITH v AS (SELECT Slope AS s FROM raw) SELECT s FROM v) SELECT s FROM w",
        "SELECT f.up FROM (SELECT Elevation + 1 AS up FROM raw) AS f",
        "WITH w AS (SELECT 2 AS two, Slope FROM raw) SELECT Slope * two AS f FROM w",
        "WITH w AS (SELECT Elevation + 1 AS a FROM raw) SELECT a + 1 AS b, a AS c, b AS d FROM w",
        "SELECT r.Slope FROM raw AS r",
        "SELECT COLUMNS(['Slope', 'elevation']) FROM raw",
        "SELECT ln(1 + abs(COLUMNS('S.*[ep]'))) AS 'log_\\0' FROM raw",
        "SELECT COLUMNS('(S)o(.*)e.') * 2 AS 'x_\\2_\\1_\\0', Slope FROM raw",
        "SELECT COLUMNS(* EXCLUDE (region, is_day)) * 1 AS '\\0_1' FROM raw",
        "WITH w AS (SELECT * REPLACE (Slope * 2 AS Slope) FROM raw) SELECT Slope + 1 AS f FROM w",
        "SELECT Slope * 2 AS slope2, Elevation AS Slope3, Slope + 1 AS e FROM raw",
    ],
)
def test_statement_is_inlined_to_what_duckdb_makes_of_it(sql: str) -> None:
    """Aliases, WITH and COLUMNS are DuckDB's own forms: it runs the author's text, we run ours."""
    row = (
        "SELECT 7 AS Elevation, 2.5 AS Slope, 1 AS Soil_Type1, 3 AS Soil_Type2, true AS is_day, 'n' AS region"
    )
    program = _parse(sql)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE raw AS {row}")
        written = connection.execute(sql)
        names = [name for name, *_ in written.description or ()]
        (expected,) = written.fetchall()
        (found,) = connection.execute(program.select_sql("raw")).fetchall()
    assert list(program.names) == names
    assert found == pytest.approx(tuple(map(float, expected)))


def test_replaced_column_of_a_star_gets_a_name_of_its_own() -> None:
    """The prepared table holds the raw column under its name, and no two columns of one name."""
    program = _parse("SELECT * EXCLUDE (region, is_day) REPLACE (ln(Slope) AS slope) FROM raw")
    assert program.names == ("Elevation", "Slope_replaced", "Soil_Type1", "Soil_Type2")
    assert program.features[1].text == "ln(Slope)"


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    """A generated file can nest deeper than the parser's stack."""
    with pytest.raises(FeatureError, match="nested too deeply"):
        _parse(f"SELECT {'(' * 3000}Slope{')' * 3000} AS f FROM raw")


def test_feature_language_needs_neither_duckdb_nor_tensorflow() -> None:
    """The exporter imports it across the wall; heavy imports would come along."""
    code = "import sys, timberline.training.features\n"
    code += "print({'duckdb', 'tensorflow', 'keras'} & set(sys.modules))"
    root = Path(__file__).parents[4]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == "set()"
