"""The features of a model as a graph of stock ONNX operators: raw rows in, features out.

`Lowering` turns the typed tree into single values: columns, sums of columns, conditions in three-valued
logic. A condition is two bools, *is true* and *is false*; NULL is neither. Comparisons with NaN are false in
ONNX, so a comparison with NULL is neither by itself. What chooses between constants by one value alone
is made by `choices`, whatever its form, functions of numbers by `formulas`; `emit` writes nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import onnx

from timberline.exporter.compiler.choices import CHOOSING, Table, tabulate, write, write_truth
from timberline.exporter.compiler.dates import build_of_dates
from timberline.exporter.compiler.emit import Emitter, build_model, share_out
from timberline.exporter.compiler.formulas import build_formula
from timberline.exporter.compiler.scalars import NAN, Affine, Scalar, ScalarGraph, is_exact
from timberline.exporter.compiler.text import (
    TEXT_OPSET,
    fold_language,
    like_language,
    undo,
    write_length,
    write_pattern,
    write_words,
)
from timberline.registry.signature import NULL_TEXT
from timberline.training.features import (
    Call,
    ColumnRef,
    Expression,
    FeatureProgram,
    Literal,
    LookupTable,
    ValueType,
)
from timberline.training.features.texts import CUTS, TESTS, list_cuts

# From how many branches on a CASE is one table lookup (five nodes) and not a chain of Where.
_TABLE_BRANCHES = 5
# How far whole keys of a table may reach to be places in it: so far in any case, and farther the more there
# are, as 10,000 zip codes would be as many comparisons.
_DENSE_KEYS, _PLACES_PER_KEY, _MOST_PLACES = 4096, 64, 2**20
# The operator set that brings BitwiseAnd, BitwiseOr and BitwiseXor.
_BITWISE_OPSET, _BITWISE = 18, {"bit_and", "bit_or", "bit_xor"}
_INVERSE = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}
_COMPARISON = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}


def build_feature_graph(program: FeatureProgram, opset: int) -> onnx.ModelProto:
    """Compile the features into ONNX.

    Args:
        program: the checked features.sql.
        opset: version of the ONNX operator set, 17 or later; the graph may need a newer one: `find_opset`.

    Returns:
        A model with the inputs ``numeric`` (DOUBLE, (rows, numeric columns); NULL is NaN) and ``text``
        (STRING, (rows, text columns); NULL is ``NULL_TEXT``), each left out if there is no such
        column, and the output ``features`` (FLOAT, (rows, features)) in the order of the SELECT; NULL
        is NaN. Computed in double, cast to float last. The row axis is free. Text costs one
        LabelEncoder of ai.onnx.ml: ONNX cannot compare strings before opset 19.
    """
    return _build(program, opset)[0]


def trace_feature_graph(
    program: FeatureProgram, opset: int
) -> tuple[onnx.ModelProto, dict[str, dict[int, float]]]:
    """As `build_feature_graph`, and by node the share of it that each feature (by index) accounts for."""
    model, outputs, purposes = _build(program, opset)
    return model, share_out(outputs, purposes)


def find_opset(program: FeatureProgram, opset: int) -> int:
    """The operator set that the features need: ``opset``, or a newer one for functions of text or of bits."""
    waiting, seen = [feature.expression for feature in program.features], set[Expression]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Call) and part not in seen:
            seen.add(part)
            waiting += part.arguments
            if _is_test_of_text(part) or part.operator in CUTS | {"length", "concat"}:
                return max(opset, TEXT_OPSET)
            if part.operator in _BITWISE:
                opset = max(opset, _BITWISE_OPSET)
    return opset


def _build(
    program: FeatureProgram, opset: int
) -> tuple[onnx.ModelProto, Sequence[Scalar], Mapping[str, Sequence[Scalar]]]:
    lowering = Lowering(program)
    for feature in program.features:
        lowering.note_words(feature.expression)
    outputs = [lowering.feature(feature.expression) for feature in program.features]
    numeric = [column for column in program.columns if column.datatype != "BYTES"]
    vocabulary = lowering.vocabulary
    emitter = Emitter(
        numeric_is_whole=[column.datatype != "FP64" and not column.is_nullable for column in numeric],
        text_count=len(program.columns) - len(numeric),
        vocabulary=vocabulary,
        opset=find_opset(program, opset),
    )
    model, purposes = build_model(outputs, emitter)
    return model, outputs, purposes


class Lowering:
    """Translates every expression object once; ``vocabulary`` fills with the text constants met."""

    def __init__(self, program: FeatureProgram) -> None:
        self._graph = ScalarGraph()
        self._inputs: dict[str, tuple[str, int]] = {}
        for kind, is_text in (("numeric", False), ("text", True)):
            names = [c.name for c in program.columns if (c.datatype == "BYTES") == is_text]
            self._inputs.update({name: (kind, index) for index, name in enumerate(names)})
        self.vocabulary: dict[str, float] = {}
        # What each text that is cut from others may be compared with.
        self._words: dict[Expression, dict[str, float]] = {}
        # The parts of expressions that are the one value that an expression chooses by.
        self._wholes: set[Expression] = set()
        # Each is computed once: `_value`, `_truth`, … say what of.
        self.value: Callable[[Expression], Scalar] = functools.cache(self._value)
        self.truth: Callable[[Expression, bool], Scalar] = functools.cache(self._truth)
        self._affine: Callable[[Expression, bool], Affine | None] = functools.cache(self._find_affine)
        self._table: Callable[[Call], Table | None] = functools.cache(self._tabulate)
        self._subject: Callable[[Expression], Expression | None] = functools.cache(self._find_subject)

    def feature(self, expression: Expression) -> Scalar:
        """The expression where its last bits decide nothing: as a feature, rounded to 32 bits anyway."""
        affine = self._affine(expression, False)
        return self._affine_value(affine) if affine is not None else self.value(expression)

    def _value(self, expression: Expression) -> Scalar:  # noqa: PLR0911  (one line a kind of expression)
        """The expression as a double: NULL is NaN, a boolean 0 or 1, text its number in the vocabulary."""
        if isinstance(expression, Literal):
            return self._graph.number(self._number(expression))
        if isinstance(expression, ColumnRef):
            kind, index = self._inputs[expression.column]
            return self._graph.make(kind, payload=index)
        affine = self._affine(expression, True)
        if affine is not None:
            return self._affine_value(affine)
        table = self._table(expression)
        if table is not None:
            return write(self._graph, table, _TABLE_BRANCHES)
        if _is_test_of_text(expression):
            return self._null_as_nan(expression, self._graph.make("number", self._test_text(expression)))
        if expression.type is ValueType.BOOLEAN and not _is_picked(expression):
            return self._condition_value(expression)
        if expression.table is not None:
            return self._lookup(expression.table, expression.arguments[0])
        if expression.operator in CUTS or expression.operator == "concat":
            return self._cut(expression)
        if expression.operator == "length":
            return self._null_as_nan(
                expression, write_length(self._graph, self._string(expression.arguments[0]))
            )
        if expression.operator == "case":
            return self._case(expression)
        if expression.operator == "coalesce":
            return self._coalesce(expression)
        of_dates = build_of_dates(self._graph, expression, self.value)
        if of_dates is not None:
            return of_dates
        argument = self._angle if expression.operator in {"sin", "cos"} else self.value
        formula = build_formula(self._graph, expression, [argument(a) for a in expression.arguments])
        assert formula is not None, expression.operator
        return formula

    def _angle(self, expression: Expression) -> Scalar:
        """As `value`; degrees in radians join the product of sums, as they round there as written.

        Anything longer could end in another last bit, and what a sine is compared with is not known here.
        """
        if not isinstance(expression, Call) or expression.operator != "mul":
            return self.value(expression)
        kinds = {type(argument) for argument in expression.arguments}
        return self.feature(expression) if kinds == {ColumnRef, Literal} else self.value(expression)

    def _number(self, literal: Literal) -> float:
        if literal.value is None:
            return NAN
        if isinstance(literal.value, str):
            return self.vocabulary.setdefault(literal.value, float(len(self.vocabulary) + 1))
        return float(literal.value)

    def _condition_value(self, expression: Expression) -> Scalar:
        graph, is_true = self._graph, self.truth(expression, True)
        if not expression.nullable or self.truth(expression, False) is graph.negate(is_true):
            return graph.make("number", is_true)
        one_or_null = graph.choose(is_true, graph.number(1.0), graph.number(NAN))
        return graph.choose(self.truth(expression, False), graph.number(0.0), one_or_null)

    # Conditions.

    def _truth(self, expression: Expression, wanted: bool) -> Scalar:  # noqa: PLR0911  (as above)
        """Whether the condition is true (or, if ``wanted`` is False, false); NULL is neither."""
        graph = self._graph
        if isinstance(expression, Literal):
            return graph.truth(expression.value is wanted)
        table = self._table(expression) if isinstance(expression, Call) else None
        if table is not None:
            return write_truth(graph, table, wanted)
        if isinstance(expression, ColumnRef) or _is_picked(expression):
            side = "Greater" if wanted else "Less"
            return graph.make(side, self.value(expression), graph.number(0.5))
        if not wanted and not expression.nullable:
            return graph.negate(self.truth(expression, True))
        arguments = expression.arguments
        match expression.operator:
            case "not":
                return self.truth(arguments[0], not wanted)
            case "and":
                parts = [self.truth(a, wanted) for a in arguments]
                return graph.every(parts) if wanted else graph.some(parts)
            case "or":
                parts = [self.truth(a, wanted) for a in arguments]
                return graph.some(parts) if wanted else graph.every(parts)
            case "is_null":
                return self._is_null(arguments[0])
            case "case":
                return self._case_truth(arguments, wanted)
            case "coalesce":
                return self._coalesce_truth(arguments, wanted)
        if _is_test_of_text(expression):
            return self._text_truth(expression, wanted)
        return self._comparison(expression.operator if wanted else _INVERSE[expression.operator], arguments)

    def _is_null(self, expression: Expression) -> Scalar:
        graph = self._graph
        if not expression.nullable:
            return graph.truth(False)
        if isinstance(expression, Call) and expression.operator in CUTS | {"length"}:
            return self._is_null(expression.arguments[0])
        if isinstance(expression, Call) and (expression.operator == "concat" or _is_test_of_text(expression)):
            return graph.some([self._is_null(argument) for argument in expression.arguments])
        if expression.type is ValueType.BOOLEAN and not isinstance(expression, ColumnRef):
            return graph.negate(graph.some([self.truth(expression, True), self.truth(expression, False)]))
        value = self.value(expression)
        return graph.make("IsNaN", value)

    def _comparison(self, operator: str, arguments: tuple[Expression, ...]) -> Scalar:
        graph = self._graph
        a, b = (self.value(argument) for argument in arguments)
        if operator != "ne":
            return graph.make(_COMPARISON[operator], a, b)
        if any(argument.nullable for argument in arguments):
            return graph.some([graph.make("Less", a, b), graph.make("Greater", a, b)])
        return graph.negate(graph.make("Equal", a, b))

    def _case_truth(self, arguments: tuple[Expression, ...], wanted: bool) -> Scalar:
        graph = self._graph
        *pairs, default = arguments
        result = self.truth(default, wanted)
        for condition, value in reversed(list(zip(pairs[::2], pairs[1::2], strict=True))):
            is_chosen = self.truth(condition, True)
            chosen = graph.every([is_chosen, self.truth(value, wanted)])
            result = graph.some([chosen, graph.every([graph.negate(is_chosen), result])])
        return result

    def _coalesce_truth(self, arguments: tuple[Expression, ...], wanted: bool) -> Scalar:
        graph = self._graph
        result = self.truth(arguments[-1], wanted)
        for argument in reversed(arguments[:-1]):
            is_other = graph.negate(self.truth(argument, not wanted))
            result = graph.some([self.truth(argument, wanted), graph.every([is_other, result])])
        return result

    # What is decided by one value.

    def _tabulate(self, expression: Call) -> Table | None:
        """The expression as a table over one value, if it only chooses by that."""
        subject = None if self._is_whole(expression) else self._subject(expression)
        if subject is None or isinstance(subject, Literal):
            return None
        constants = _list_constants(expression, self._wholes)
        for literal in constants:
            self._number(literal)
        is_subject = self._wholes.__contains__
        return tabulate(expression, self.value(subject), subject, is_subject, constants, self.vocabulary)

    def _find_subject(self, expression: Expression) -> Expression | None:  # noqa: PLR0911  (as above)
        """The value that the expression chooses by; a literal if it is constant, None if by several."""
        if isinstance(expression, Literal):
            return expression
        if isinstance(expression, Call) and expression.operator in TESTS:
            return None
        if isinstance(expression, ColumnRef) or self._is_whole(expression):
            if self.value(expression).operator == "const":
                return None
            self._wholes.add(expression)
            return expression
        found: Expression = Literal(None, ValueType.DOUBLE)
        for argument in expression.arguments:
            subject = self._subject(argument)
            if subject is None:
                return None
            if isinstance(found, Literal):
                found = subject
            elif not isinstance(subject, Literal) and self.value(subject) is not self.value(found):
                return None
        return found

    def _is_whole(self, call: Call) -> bool:
        """Whether it computes: rounding does, unless it rounds constants."""
        argument = call.arguments[0]
        if call.operator not in CHOOSING:
            return True
        is_rounding = call.operator == "to_float" or (
            call.operator == "to_bigint" and argument.type is ValueType.DOUBLE
        )
        if not is_rounding or isinstance(argument, Literal):
            return False
        table = self._table(argument) if isinstance(argument, Call) else None
        return table is None or bool(table.is_own.any())

    # Look-ups.

    def _lookup(self, table: LookupTable, argument: Expression) -> Scalar:
        """What ``table`` has for the argument: a place in the table, and what is there."""
        graph = self._graph
        for text in (*table.keys, *table.values, table.other, table.null):
            if isinstance(text, str):
                self._number(Literal(text, ValueType.VARCHAR))
        if self.value(argument).operator == "const":
            return self._look_up_constant(table, self.value(argument))
        if argument.type is ValueType.VARCHAR:
            if isinstance(argument, ColumnRef):
                place = graph.make("word", payload=self._inputs[argument.column][1])
            else:
                place = graph.make("to_word", self.value(argument), payload=argument.nullable)
            return graph.make("lookup", place, payload=table)
        return self._lookup_number(table, argument)

    def _look_up_constant(self, table: LookupTable, place: Scalar) -> Scalar:
        """What there is for an argument that turned out to be the same in every row."""
        keys = [self._constant(key) for key in table.keys]
        found = dict(zip(keys, table.values, strict=True)).get(float(place.constant or 0.0), table.other)
        is_null = place is self._graph.number(NAN)
        return self._graph.number(self._constant(table.null if is_null else found))

    def _lookup_number(self, table: LookupTable, argument: Expression) -> Scalar:
        """By whole numbers that lie close together, a place in the table; by others, one comparison a key."""
        graph, value = self._graph, self.value(argument)
        numbers = [float(key) for key in table.keys]
        other, null = (graph.number(self._constant(item)) for item in (table.other, table.null))
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, -1.0)
        reach = min(max(_DENSE_KEYS, _PLACES_PER_KEY * len(numbers)), _MOST_PLACES)
        if numbers and high - low < reach and all(number.is_integer() for number in numbers):
            inside = [
                graph.make("GreaterOrEqual", value, graph.number(low)),
                graph.make("LessOrEqual", value, graph.number(high)),
            ]
            if argument.type is not ValueType.BIGINT:
                inside.append(graph.make("Equal", graph.make("Floor", value), value))
            width = high - low + 1
            place = graph.choose(
                graph.every(inside), graph.make("Sub", value, graph.number(low)), graph.number(width)
            )
            if argument.nullable and table.null != table.other:
                place = graph.choose(graph.make("IsNaN", value), graph.number(width + 1), place)
            return graph.make("lookup", graph.make("to_index", place), payload=table)
        conditions = [graph.make("Equal", value, graph.number(number)) for number in numbers]
        values = [graph.number(self._constant(item)) for item in table.values]
        if argument.nullable and table.null != table.other:
            conditions.append(graph.make("IsNaN", value))
            values.append(null)
        if len(conditions) >= _TABLE_BRANCHES:
            return graph.make("select", *conditions, *values, other)
        for condition, chosen in zip(conditions, values, strict=True):
            other = graph.choose(condition, chosen, other)
        return other

    def _constant(self, value: float | str | None) -> float:
        return self._number(Literal(value, ValueType.VARCHAR if isinstance(value, str) else ValueType.DOUBLE))

    # Text.

    def note_words(self, expression: Expression) -> None:
        """Note what the texts that are cut in a feature may turn out to be: any word in it."""
        words: dict[str, float] = {}
        cuts: list[Call] = []
        waiting, seen = [expression], set[Expression]()
        while waiting:
            part = waiting.pop()
            if part in seen:
                continue
            seen.add(part)
            if isinstance(part, Literal) and isinstance(part.value, str):
                words[part.value] = self._number(part)
            if not isinstance(part, Call):
                continue
            if part.operator in CUTS or part.operator == "concat":
                cuts.append(part)
            waiting += part.arguments[:1] if part.operator in CUTS | TESTS else part.arguments
            if part.table is not None:
                found = (*part.table.keys, *part.table.values, part.table.other, part.table.null)
                words.update({text: self._constant(text) for text in found if isinstance(text, str)})
        for cut in cuts:
            self._words.setdefault(cut, {}).update(words)

    def _cut(self, expression: Call) -> Scalar:
        """The number of the word that has been cut or joined."""
        cuts = list_cuts(expression)
        text = self._string(cuts[-1].arguments[0] if cuts else expression)
        return self._null_as_nan(expression, write_words(self._graph, text, cuts, self._words[expression]))

    def _null_as_nan(self, expression: Expression, value: Scalar) -> Scalar:
        return self._graph.choose(self._is_null(expression), self._graph.number(NAN), value)

    def _text_truth(self, expression: Call, wanted: bool) -> Scalar:
        graph, found = self._graph, self._test_text(expression)
        nulls = [self._is_null(argument) for argument in expression.arguments]
        return graph.every([found if wanted else graph.negate(found), *map(graph.negate, nulls)])

    def _test_text(self, expression: Call) -> Scalar:
        """Whether the test is true; of NULL anything."""
        value, other = expression.arguments
        if expression.operator in TESTS:
            pattern = _write_test(expression)
            return self._graph.make("matches", self._string(_uncut(value)), payload=pattern)
        is_same = self._graph.make("same_text", self._string(value), self._string(other))
        return is_same if expression.operator == "eq" else self._graph.negate(is_same)

    def _string(self, expression: Expression) -> Scalar:
        """The text itself; `NULL_TEXT` where it is NULL, or anything if it is joined."""
        graph = self._graph
        if isinstance(expression, Literal):
            return graph.text(NULL_TEXT if expression.value is None else str(expression.value))
        if isinstance(expression, ColumnRef):
            return graph.make("string", payload=self._inputs[expression.column][1])
        if expression.operator == "concat":
            parts = [self._string(argument) for argument in expression.arguments]
            return functools.reduce(lambda a, b: graph.make("join", a, b), parts)
        if expression.operator == "coalesce":
            *others, result = (self._string(argument) for argument in expression.arguments)
            for argument, text in reversed(list(zip(expression.arguments[:-1], others, strict=True))):
                result = self._choose_text(self._is_null(argument), result, text)
            return result
        *pairs, default = expression.arguments
        result = self._string(default)
        for condition, value in reversed(list(zip(pairs[::2], pairs[1::2], strict=True))):
            result = self._choose_text(self.truth(condition, True), self._string(value), result)
        return result

    def _choose_text(self, condition: Scalar, text: Scalar, other: Scalar) -> Scalar:
        if condition.operator == "const":
            return text if condition.payload else other
        return self._graph.make("where_text", condition, text, other)

    # Choices.

    def _case(self, expression: Call) -> Scalar:
        *pairs, default = expression.arguments
        conditions: list[Scalar] = []
        values = []
        for condition, value in zip(pairs[::2], pairs[1::2], strict=True):
            is_true = self.truth(condition, True)
            if is_true.constant is True:
                default = value
                break
            if is_true.constant is None:
                conditions.append(is_true)
                values.append(self.value(value))
        values.append(self.value(default))
        if len(conditions) >= _TABLE_BRANCHES:
            return self._graph.make("select", *conditions, *values)
        result = values[-1]
        for is_true, chosen in reversed(list(zip(conditions, values[:-1], strict=True))):
            result = self._graph.choose(is_true, chosen, result)
        return result

    def _coalesce(self, expression: Call) -> Scalar:
        graph = self._graph
        last = next((i for i, a in enumerate(expression.arguments) if not a.nullable), -1)
        *others, final = expression.arguments[: last + 1] if last >= 0 else expression.arguments
        result = self.value(final)
        for argument in reversed(others):
            result = graph.choose(self._is_null(argument), result, self.value(argument))
        return result

    # Sums of columns.

    def _affine_value(self, affine: Affine) -> Scalar:
        if not affine.terms:
            return self._graph.number(affine.bias)
        if affine.bias == 0 and len(affine.terms) == 1 and affine.terms[0][1] == 1:
            return self._graph.make("numeric", payload=affine.terms[0][0])
        return self._graph.make("affine", payload=affine)

    def _find_affine(self, expression: Expression, exactly: bool) -> Affine | None:  # noqa: PLR0911  (as above)
        """The expression as a sum of columns that are whole and never NULL, if it is one.

        A matrix product adds in an order of its own: ``exactly`` asks for a sum that no order
        rounds, since a comparison may turn on the last bit. A NULL or infinity in any column would
        reach every sum.
        """
        if isinstance(expression, Literal):
            value = expression.value
            is_usable = isinstance(value, int | float) and (is_exact(value) or not exactly)
            return Affine((), float(value)) if is_usable else None  # type: ignore[arg-type]
        if expression.nullable:
            return None
        if isinstance(expression, ColumnRef):
            kind, index = self._inputs[expression.column]
            is_whole = kind == "numeric" and expression.type is not ValueType.DOUBLE
            return Affine(((index, 1.0),), 0.0) if is_whole else None
        if expression.operator not in {"add", "sub", "mul", "div", "neg", "to_double", "to_bigint"}:
            return None
        if expression.operator == "to_bigint" and expression.arguments[0].type is ValueType.DOUBLE:
            return None
        parts = [self._affine(argument, exactly) for argument in expression.arguments]
        combined = _combine(expression.operator, [p for p in parts if p], exactly) if all(parts) else None
        if combined is None:
            return None
        return combined if combined.is_exact or (combined.is_close and not exactly) else None


def _is_test_of_text(expression: Call) -> bool:
    """Whether it is a pattern, or compares two texts of which neither is a constant."""
    if expression.operator not in {"eq", "ne"}:
        return expression.operator in TESTS
    are_constant = [isinstance(argument, Literal) for argument in expression.arguments]
    return expression.arguments[0].type is ValueType.VARCHAR and not any(are_constant)


def _uncut(value: Expression) -> Expression:
    cuts = list_cuts(value)
    return cuts[-1].arguments[0] if cuts else value


def _write_test(expression: Call) -> str:
    """The regular expression that a test of text is."""
    value, pattern = expression.arguments
    assert isinstance(pattern, Literal)
    if expression.operator == "regexp_full_match":
        return str(pattern.value)
    language = like_language(str(pattern.value))
    if expression.operator == "ilike":
        language = fold_language(language)
    for cut in list_cuts(value):
        language = undo(cut, language)
    return write_pattern([language])


def _is_picked(expression: Call) -> bool:
    """Whether it is a choice between conditions, none of them constant: cheaper between their values."""
    if expression.operator == "case":
        values = [*expression.arguments[1:-1:2], expression.arguments[-1]]
        return len(values) > _TABLE_BRANCHES or not any(isinstance(v, Literal) for v in values)
    return expression.operator == "coalesce" and not any(isinstance(a, Literal) for a in expression.arguments)


def _list_constants(expression: Expression, wholes: set[Expression]) -> list[Literal]:
    """The constants in it, outside of ``wholes``."""
    found: dict[Expression, None] = {}
    waiting = [expression]
    while waiting:
        part = waiting.pop()
        if part not in found and part not in wholes:
            found[part] = None
            waiting += reversed(part.arguments) if isinstance(part, Call) else ()
    return [part for part in found if isinstance(part, Literal)]


def _combine(operator: str, parts: list[Affine], exactly: bool) -> Affine | None:  # noqa: PLR0911  (as above)
    nothing = Affine((), 0.0)
    first, last = parts[0], parts[-1]
    match operator:
        case "add":
            return first.plus(last, 1.0)
        case "sub":
            return first.plus(last, -1.0)
        case "neg":
            return nothing.plus(first, -1.0)
        case "mul" if not first.terms:
            return nothing.plus(last, first.bias)
        case "mul" if not last.terms:
            return nothing.plus(first, last.bias)
        case "div" if not last.terms and last.bias and (is_exact(1 / last.bias) or not exactly):
            return nothing.plus(first, 1 / last.bias)
        case "mul" | "div":
            return None
    return first
