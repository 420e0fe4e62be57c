"""What features.sql learns from the training split: vocabularies, and the constants of ``fitted.*``.

Every figure is the same for any order of threads: sums are taken by one of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from timberline.registry.errors import StageError
from timberline.registry.runs import ROW_COLUMN, Fitted
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.working_copy import bring
from timberline.registry.signature import ClassLabel
from timberline.training.config import FeaturesSection
from timberline.training.data.database import Connection, fetch_row
from timberline.training.data.splits import mix_rows
from timberline.training.errors import DatasetError, FeatureError
from timberline.training.features import Feature, FeatureProgram, ValueType
from timberline.training.features.learned import Learned
from timberline.training.features.program import list_tables, make_table, render

FITTED_FILE = "fitted.json"
FOLDS = 5
_FOLD = f"({{}} % {FOLDS})"
_AGGREGATES = {
    "mean": "avg({0})",
    "median": "quantile_cont({0}, 0.5)",
    "quantile": "quantile_cont({0}, {1!r})",
    "std": "stddev_samp({0})",
    "min": "min({0})",
    "max": "max({0})",
}

# A program with what it learned put into it.
Bind = Callable[[Fitted], FeatureProgram]


@dataclasses.dataclass(frozen=True)
class FittedFeatures:
    """A program with all that it learned, and its features as training rows have them.

    ``training_sql``: of each feature whose target mean is out of fold there, its SQL by name.
    """

    program: FeatureProgram
    fitted: Fitted
    training_sql: dict[str, str]
    prepare_sql: tuple[str, ...]


def load_fitted(prepared: Path) -> Fitted:
    """What was learned for the prepared data in ``prepared``.

    Raises:
        StageError: the file is missing or damaged.
    """
    bring(prepared, FITTED_FILE)
    path = prepared / FITTED_FILE
    try:
        return decode_json(path.read_bytes(), Fitted)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise StageError(
            f"not readable as what was learned: {error}", where=str(path), hint="Run `timberline etl` again."
        ) from error


def fit_features(
    connection: Connection,
    program: FeatureProgram,
    bind: Bind,
    *,
    settings: FeaturesSection,
    classes: Sequence[ClassLabel],
    relation: str,
    seed: int,
    where: str,
) -> FittedFeatures:
    """Learn from ``relation``, the training rows, what ``program`` needs.

    Args:
        bind: makes the program again with what was learned.
        relation: what follows FROM, with ``__row__``, ``__class__`` and the program's columns.
        seed: of the folds of target means.
        where: the model's name in errors.

    Raises:
        DatasetError: a constant has no value, as no training row has one.
        FeatureError: a target mean is of a class that there is not.
    """
    fitter = _Fitter(connection, classes, relation, mix_rows(ROW_COLUMN, seed, "fold"), where)
    known = fitter.fit_learned(program.learned)
    # A text feature may be computed with constants: its vocabulary comes last.
    names = [feature.name for feature in program.features if feature.expression.type is ValueType.VARCHAR]
    _refuse_unknown_names(settings, names, where)
    without = {name: tuple[str, ...]() for name in names}
    texts = bind(msgspec.structs.replace(known, vocabularies=without)) if names else program
    by_name = {feature.name: feature for feature in texts.features}
    vocabularies = {name: fitter.fit_vocabulary(by_name[name], settings) for name in names}
    fitted = msgspec.structs.replace(known, vocabularies=vocabularies)
    bound = bind(fitted)
    training_sql, tables = _fold_features(fitter, program, bind, bound, fitted)
    return FittedFeatures(bound, fitted, training_sql, (*bound.prepare_sql, *tables))


def _refuse_unknown_names(settings: FeaturesSection, names: Sequence[str], where: str) -> None:
    for name in settings.vocabulary:
        if name not in names:
            raise DatasetError(
                f"is about {name!r}, which is no feature that is text",
                where=f"{where}: features.vocabulary",
                hint=f"Such features are: {', '.join(names) or 'none'}.",
            )


def _fold_features(
    fitter: _Fitter, program: FeatureProgram, bind: Bind, bound: FeatureProgram, fitted: Fitted
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The SQL of features with target means, for training rows: each row by the other folds' means."""
    targets = [learned for learned in program.learned if learned.function == "target_mean"]
    if not targets:
        return {}, ()
    folds = []
    for fold in range(FOLDS):
        constants, tables = dict(fitted.constants), dict(fitted.tables)
        for learned in targets:
            constants_of_one, tables[learned.key] = fitter.fit_target_mean(learned, without=fold)
            constants.update(constants_of_one)
        folds.append(bind(msgspec.structs.replace(fitted, constants=constants, tables=tables)))
    sql: dict[str, str] = {}
    for index, feature in enumerate(bound.features):
        texts = [part.feature_sql(part.features[index]) for part in folds]
        if any(text != bound.feature_sql(feature) for text in texts):
            cases = " ".join(f"WHEN {fold} THEN {text}" for fold, text in enumerate(texts))
            sql[feature.name] = f"CASE {fitter.fold} {cases} END"
    return sql, tuple(statement for part in folds for statement in part.prepare_sql)


@dataclasses.dataclass(frozen=True)
class _Fitter:
    connection: Connection
    classes: Sequence[ClassLabel]
    relation: str
    row_hash: str
    where: str

    @property
    def fold(self) -> str:
        """The fold of a row as SQL, 0 to `FOLDS` - 1."""
        return _FOLD.format(self.row_hash)

    def fit_learned(self, calls: Sequence[Learned]) -> Fitted:
        constants: dict[str, float | str | None] = {}
        tables: dict[str, dict[str, float]] = {}
        for table in list_tables(learned.argument for learned in calls):
            self.connection.execute(make_table(table))
        for learned in calls:
            if learned.function == "target_mean":
                found, tables[learned.key] = self.fit_target_mean(learned)
                constants.update(found)
            elif learned.function == "frequency":
                found, tables[learned.key] = self._fit_frequency(learned)
                constants.update(found)
            else:
                constants[learned.key] = self._fit_constant(learned)
        return Fitted(constants=constants, tables=tables)

    def _fit_constant(self, learned: Learned) -> float | str:
        value = render(learned.argument)
        if learned.function == "mode":
            sql = (
                f"SELECT value FROM (SELECT {value} AS value FROM {self.relation}) WHERE value IS NOT NULL "
                "GROUP BY value ORDER BY count(*) DESC, value LIMIT 1"
            )
        else:
            aggregate = _AGGREGATES[learned.function].format(value, learned.parameter)
            sql = f"SELECT {aggregate} FROM {self.relation}"
        with self._one_thread():
            found = self.connection.execute(sql).fetchall()
        result: float | str | None = found[0][0] if found else None
        if result is None:
            raise DatasetError(
                "has no value: it is NULL in every training row, or there are too few",
                where=f"{self.where}: fitted.{learned.key}",
                hint="Leave it out of features.sql.",
            )
        return result

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Sums of floating-point numbers depend on their order."""
        (threads,) = fetch_row(self.connection, "SELECT current_setting('threads')")
        self.connection.execute("SET threads = 1")
        try:
            yield
        finally:
            self.connection.execute(f"SET threads = {threads}")

    def _fit_frequency(self, learned: Learned) -> tuple[dict[str, float], dict[str, float]]:
        counts = {key: rows for key, rows, _ in self._count(learned, "0", "true")}
        total = sum(counts.values())
        null = counts.pop(None, 0)
        table = {_write_key(key): rows / total for key, rows in counts.items()}
        return learned.constants(0.0, null / total), table

    def fit_target_mean(
        self, learned: Learned, *, without: int | None = None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The constants and the table of a target mean, over all training rows or all but one fold's."""
        inside = "true" if without is None else f"{self.fold} <> {without}"
        hits = f"CASE WHEN __class__ = {self._class_index(learned)} THEN 1 ELSE 0 END"
        found = {key: (rows, hit) for key, rows, hit in self._count(learned, hits, inside)}
        total = sum(rows for rows, _ in found.values())
        mean = sum(hit for _, hit in found.values()) / max(total, 1)
        smoothing = learned.parameter or 0.0
        shares = {key: _smooth(rows, hit, smoothing, mean) for key, (rows, hit) in found.items()}
        null = shares.pop(None, mean)
        return learned.constants(mean, null), {_write_key(key): share for key, share in shares.items()}

    def _class_index(self, learned: Learned) -> int:
        values = [label.value for label in self.classes]
        if learned.class_value is None:
            return len(values) - 1
        if learned.class_value not in values:
            raise FeatureError(
                f"there is no class {learned.class_value!r}",
                where=f"{self.where}: fitted.{learned.key}",
                hint=f"The classes are: {', '.join(values[:20])}.",
            )
        return values.index(learned.class_value)

    def _count(self, learned: Learned, hits: str, inside: str) -> list[tuple[str | float | None, int, int]]:
        return self.connection.execute(
            f"SELECT key, count(*), sum(hit) FROM (SELECT {render(learned.argument)} AS key, {hits} AS hit "
            f"FROM (FROM {self.relation}) WHERE {inside}) GROUP BY key ORDER BY key"
        ).fetchall()

    def fit_vocabulary(self, feature: Feature, settings: FeaturesSection) -> tuple[str, ...]:
        """The values that have a code of their own, in the order of their codes."""
        own = settings.vocabulary.get(feature.name)
        min_count = (own and own.min_count) or settings.min_count
        max_size = (own and own.max_size) or settings.max_size
        (text,) = feature.expression.arguments  # type: ignore[union-attr]  # a look-up of its code
        for table in list_tables([text]):
            self.connection.execute(make_table(table))
        found = self.connection.execute(
            f"SELECT value FROM (SELECT {render(text)} AS value FROM {self.relation}) "
            f"WHERE value IS NOT NULL GROUP BY value HAVING count(*) >= {min_count} "
            f"ORDER BY count(*) DESC, value LIMIT {max_size}"
        ).fetchall()
        return tuple(value for (value,) in found)


def _smooth(rows: int, hits: int, smoothing: float, mean: float) -> float:
    return (hits + smoothing * mean) / (rows + smoothing)


def _write_key(key: str | float | None) -> str:
    """A category as the key of `Fitted.tables`: text as it is, a whole number in digits."""
    return key if isinstance(key, str) else str(int(key or 0))
