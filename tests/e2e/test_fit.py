"""The training loop: learns, repeats, resumes, stops."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.support.prepared import forced_precision
from timberline.training.config import MlpNetwork, MlpPleNetwork, TrainingSection
from timberline.training.errors import TrainingError
from timberline.training.fit import choose_precision, make_deterministic
from timberline.training.model.checkpoints import Epoch
from timberline.training.model.dataset import PreparedSplit
from timberline.training.model.loop import FitResult, choose_batch_rows, fit_network, learning_rate
from timberline.training.model.network import build_network
from timberline.training.model.scaling import measure_features

SETTINGS = TrainingSection(epochs=4, batch_rows=64, learning_rate=0.01, ema_momentum=0.9, clip_norm=1.0)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedSplit, PreparedSplit]:
    """Two classes divided by a circle in the plane, 600 rows to train on and 200 to validate."""
    folder = tmp_path_factory.mktemp("prepared")
    found = []
    for seed, (name, rows) in enumerate((("train", 600), ("validation", 200))):
        points = np.random.default_rng(seed).uniform(-1, 1, (rows, 2)).astype(np.float32)
        inside = (points**2).sum(axis=1) < 0.6
        table = pa.table({"__class__": pa.array(inside, pa.int16()), "x": points[:, 0], "y": points[:, 1]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=128)
        found.append(PreparedSplit(folder / f"{name}.parquet", ("x", "y")))
    return found[0], found[1]


def choose_forced() -> str:
    """The precision that tests/platforms asks for, float32 by default."""
    return "mixed_bfloat16" if forced_precision() == "mixed_bfloat16" else "float32"


def fit(
    splits: tuple[PreparedSplit, PreparedSplit],
    checkpoints: Path,
    config: TrainingSection = SETTINGS,
    *,
    resume: bool = False,
) -> tuple[keras.Model, FitResult]:
    make_deterministic(config.seed)
    statistics = measure_features(splits[0].read_batches(), ("x", "y"), 2)
    shape = MlpPleNetwork(widths=(16, 16), bins=8, embedding_width=4, dropout=0.1)
    network = build_network(shape, statistics, 2, seed=config.seed, precision=choose_forced())
    return network, fit_network(network, *splits, config, checkpoints=checkpoints, resume=resume)


def flat(network: keras.Model) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in network.get_weights()])


def untimed(history: tuple[Epoch, ...]) -> list[tuple[float, ...]]:
    return [(e.loss, e.accuracy, e.validation_loss, e.validation_accuracy, e.learning_rate) for e in history]


def test_training_learns_and_two_runs_are_the_same(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """A figure that cannot be repeated cannot be compared with the next release's."""
    config = TrainingSection(epochs=12, batch_rows=32, learning_rate=0.01, ema_momentum=0.9)
    network, fitted = fit(splits, tmp_path / "one", config)
    again, refitted = fit(splits, tmp_path / "two", config)
    # Who answers one half for every row loses log(2); whatever the kernels, what is learned ends far below.
    assert fitted.history[-1].validation_loss < math.log(2)
    assert untimed(fitted.history) == untimed(refitted.history)
    np.testing.assert_array_equal(flat(network), flat(again))


class _Stopped(Exception):  # noqa: N818  stands for the kill; not an error of the program
    pass


class _StopsReading(PreparedSplit):
    """Fails as the third epoch starts to read, after two checkpoints."""

    epochs = 0

    def shuffled_batches(self, *arguments: Any, **named: Any) -> Any:
        self.epochs += 1
        if self.epochs == 3:
            raise _Stopped
        return super().shuffled_batches(*arguments, **named)


def test_a_run_resumed_from_a_checkpoint_ends_as_one_in_one_go(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """Otherwise an interrupted night's training would have to start again."""
    whole, fitted = fit(splits, tmp_path / "whole")

    broken = _StopsReading(splits[0].path, splits[0].features)
    with pytest.raises(tf.errors.UnknownError, match="Stopped"):
        fit((broken, splits[1]), tmp_path / "broken")
    resumed, refitted = fit(splits, tmp_path / "broken", resume=True)
    assert refitted.resumed_from == 2
    assert untimed(refitted.history) == untimed(fitted.history)
    np.testing.assert_array_equal(flat(resumed), flat(whole))


def test_without_resume_an_old_checkpoint_is_discarded(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """Asking for a fresh run and getting the end of an old one would be a silent lie."""
    fit(splits, tmp_path)
    _, fitted = fit(splits, tmp_path)
    assert fitted.resumed_from == 0
    assert len(fitted.history) == SETTINGS.epochs


@pytest.mark.parametrize(
    ("rows", "batch"),
    [(1, 1), (39, 1), (40, 2), (96, 4), (941, 32), (10_240, 512), (20_480, 1024), (371_847, 1024)],
)
def test_without_batch_rows_an_epoch_has_twenty_steps(rows: int, batch: int) -> None:
    """At 1,024 rows a batch the 941 rows of a table were one step an epoch, and one answer for all."""
    assert choose_batch_rows(TrainingSection(), rows) == batch
    assert batch == 1 or rows // batch >= 20
    assert choose_batch_rows(TrainingSection(batch_rows=7), rows) == 7


def test_training_takes_the_batch_that_it_chose(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """The rate of a step depends on the number of steps, so both have to follow the same batch."""
    config = TrainingSection(epochs=2, learning_rate=0.01)
    rows = choose_batch_rows(config, splits[0].rows)
    network, fitted = fit(splits, tmp_path / "chosen", config)
    again, given = fit(splits, tmp_path / "given", msgspec.structs.replace(config, batch_rows=rows))
    assert untimed(fitted.history) == untimed(given.history)
    np.testing.assert_array_equal(flat(network), flat(again))


def test_early_stopping_returns_the_best_epoch(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """The weights that are kept are those of the lowest validation loss, not the last ones."""
    config = TrainingSection(
        epochs=60, batch_rows=16, learning_rate=0.05, schedule="constant", early_stopping_patience=2
    )
    # Every class of the validation rows is the other one: what is learned makes that loss worse, surely.
    table = pq.read_table(splits[1].path)
    other = pa.array(1 - table["__class__"].to_numpy(), pa.int16())
    path = tmp_path / "inverted.parquet"
    pq.write_table(table.set_column(table.column_names.index("__class__"), "__class__", other), path)
    _, fitted = fit((splits[0], PreparedSplit(path, splits[1].features)), tmp_path / "checkpoints", config)
    losses = [line.validation_loss for line in fitted.history]
    assert len(losses) < config.epochs
    assert fitted.epoch == int(np.argmin(losses)) == len(losses) - 1 - 2


# Which of the two is seen first depends on what the processor's kernels make of NaN.
DIVERGED = r"(the loss became (nan|inf)|the weights \S+ are not finite)"


def test_a_diverging_loss_stops_at_the_step_in_which_it_is_seen(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """A network of NaN would save, load and answer without an error; a night of it is lost as well."""
    config = TrainingSection(epochs=2, batch_rows=16, learning_rate=1e30, warmup_fraction=0.0)
    with pytest.raises(TrainingError, match=rf"epoch 1, step [1-3] of 38: {DIVERGED}") as caught:
        fit(splits, tmp_path, config)
    assert "Lower training.learning_rate, set training.clip_norm" in str(caught.value)
    assert not (tmp_path / "checkpoint.npz").exists()


def test_weights_of_nan_fail_even_where_the_kernels_hide_them(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """oneDNN's fused product and ReLU make 0 of NaN: the loss is finite, the network dead."""
    make_deterministic(0)
    statistics = measure_features(splits[0].read_batches(), ("x", "y"), 2)
    network = build_network(MlpNetwork(widths=(8,)), statistics, 2, seed=0)
    kernel = network.get_layer("hidden_0").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(
        TrainingError, match=r"epoch 1, step 1 of 10: (the loss became nan|the weights hidden_0/)"
    ):
        fit_network(network, *splits, SETTINGS, checkpoints=tmp_path)


def test_a_later_epoch_that_diverges_leaves_the_finite_checkpoint_of_the_one_before(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """With a lower rate somebody may want to go on from there; from NaN nobody can."""
    fit(splits, tmp_path, TrainingSection(epochs=1, batch_rows=64, learning_rate=0.01))
    before = (tmp_path / "checkpoint.npz").read_bytes()
    wild = TrainingSection(epochs=2, batch_rows=64, learning_rate=1e30, warmup_fraction=0.0)
    with pytest.raises(TrainingError, match=rf"epoch 2, step [1-3] of 10: {DIVERGED}"):
        fit(splits, tmp_path, wild, resume=True)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    with np.load(io.BytesIO(before)) as saved:
        assert all(np.isfinite(saved[name]).all() for name in saved.files)


def test_a_feature_near_the_end_of_float32_is_named_when_training_diverges(tmp_path: Path) -> None:
    """Standardised, 1e38 less its mean overflows; the message must lead to the column."""
    found = []
    for name in ("train", "validation"):
        wild = np.where(np.arange(64) % 2 == 0, np.float32(-3e38), np.float32(3e38)).astype(np.float32)
        tame = np.linspace(0, 1, 64, dtype=np.float32)
        table = pa.table({"__class__": pa.array(np.arange(64) % 2, pa.int16()), "tame": tame, "wild": wild})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        found.append(PreparedSplit(tmp_path / f"{name}.parquet", ("tame", "wild")))
    statistics = measure_features(found[0].read_batches(), ("tame", "wild"), 2)
    make_deterministic(0)
    network = build_network(MlpNetwork(widths=(8,), scaling="minmax"), statistics, 2, seed=0)
    with pytest.raises(
        TrainingError, match=rf"epoch 1, step 1 of 1: {DIVERGED}; the largest input is wild = 3e"
    ):
        fit_network(network, found[0], found[1], SETTINGS, checkpoints=tmp_path / "checkpoints")


def _pack_history(history: bytes) -> bytes:
    file = io.BytesIO()
    np.savez(file, history=np.frombuffer(history, np.uint8))
    return file.getvalue()


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04 not really", _pack_history(b"[" * 100_000), _pack_history(b'"\xe4"')]
)
def test_a_damaged_checkpoint_is_refused(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path, data: bytes
) -> None:
    """Half a state resumed is worse than none; the message says how to start afresh."""
    (tmp_path / "checkpoint.npz").write_bytes(data)
    with pytest.raises(TrainingError, match="not a checkpoint of this network"):
        fit(splits, tmp_path, resume=True)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    """The first steps of Adam have no history, and the last ones should only settle."""
    config = TrainingSection(learning_rate=0.1, warmup_fraction=0.1, schedule="cosine")
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.0001


def test_a_constant_rate_stays_after_the_warm_up() -> None:
    """The baseline network is trained as its reference was."""
    config = TrainingSection(learning_rate=0.1, warmup_fraction=0.0, schedule="constant")
    assert {learning_rate(config, step, 7) for step in range(7)} == {0.1}


@pytest.mark.parametrize(
    ("asked", "flags", "precision"),
    [
        ("auto", "avx2 amx_bf16 amx_tile", "mixed_bfloat16"),
        ("auto", "avx2 fma avx512_bf16", "float32"),
        ("float32", "amx_bf16", "float32"),
        ("mixed_bfloat16", "avx2", "mixed_bfloat16"),
    ],
)
def test_auto_precision_follows_the_processor(tmp_path: Path, asked: Any, flags: str, precision: str) -> None:
    """bfloat16 without AMX tiles is slower than float32; an explicit choice always wins."""
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    assert choose_precision(asked, tmp_path / "cpuinfo", {}) == precision


@pytest.mark.parametrize(
    ("variable", "value", "precision"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_bf16", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", "mixed_bfloat16"),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", "mixed_bfloat16"),
        ("TF_ENABLE_ONEDNN_OPTS", "0", "float32"),
        ("TF_ENABLE_ONEDNN_OPTS", "1", "mixed_bfloat16"),
    ],
)
def test_auto_precision_follows_what_the_environment_leaves_of_the_processor(
    tmp_path: Path, variable: str, value: str, precision: str
) -> None:
    """oneDNN capped below the tiles emulates bfloat16, or aborts the process."""
    (tmp_path / "cpuinfo").write_text("flags : avx2 amx_bf16 amx_tile\n")
    assert choose_precision("auto", tmp_path / "cpuinfo", {variable: value}) == precision


def test_auto_precision_is_float32_where_the_processor_is_unknown(tmp_path: Path) -> None:
    """macOS has no /proc/cpuinfo."""
    assert choose_precision("auto", tmp_path / "absent", {}) == "float32"


def test_nan_fields_never_reach_the_history(
    splits: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """history.json is JSON, which has no NaN."""
    _, fitted = fit(splits, tmp_path)
    assert all(math.isfinite(value) for line in untimed(fitted.history) for value in line)


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedSplit, PreparedSplit]:
    """Two classes by the colour (of 3) and the town (of 40); a number that is often NULL says nothing."""
    folder = tmp_path_factory.mktemp("towns")
    found = []
    for seed, (name, rows) in enumerate((("train", 2000), ("validation", 500))):
        random = np.random.default_rng(seed)
        colours, codes = random.integers(2, 5, rows), random.integers(2, 42, rows)
        columns = {
            "__class__": pa.array((colours == 3) ^ (codes % 2 == 0), pa.int16()),
            "colour": colours.astype(np.float32),
            "town": codes.astype(np.float32),
            "noise": np.where(random.random(rows) < 0.3, np.nan, random.normal(size=rows)).astype(np.float32),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=512)
        found.append(PreparedSplit(folder / f"{name}.parquet", ("colour", "town", "noise"), (5, 42, None)))
    return found[0], found[1]


def fit_towns(
    towns: tuple[PreparedSplit, PreparedSplit],
    checkpoints: Path,
    config: TrainingSection,
    *,
    resume: bool = False,
) -> tuple[keras.Model, FitResult]:
    make_deterministic(config.seed)
    train = towns[0]
    statistics = measure_features(
        train.read_batches(), train.features, 2, category_sizes=train.category_sizes
    )
    shape = MlpPleNetwork(widths=(32,), bins=4, embedding_width=2, dropout=0.1)
    network = build_network(shape, statistics, 2, seed=config.seed, precision=choose_forced())
    return network, fit_network(network, *towns, config, checkpoints=checkpoints, resume=resume)


def test_categories_are_learned_and_two_runs_are_the_same(
    towns: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """One-hots and embeddings together decide here: neither alone says more than a coin."""
    config = TrainingSection(epochs=12, batch_rows=32, learning_rate=0.02, ema_momentum=0.9, clip_norm=1.0)
    network, fitted = fit_towns(towns, tmp_path / "one", config)
    again, refitted = fit_towns(towns, tmp_path / "two", config)
    assert fitted.history[-1].validation_loss < math.log(2) / 2
    assert untimed(fitted.history) == untimed(refitted.history)
    np.testing.assert_array_equal(flat(network), flat(again))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_network_with_categories_trains_in_either_precision(
    towns: tuple[PreparedSplit, PreparedSplit], tmp_path: Path, precision: str
) -> None:
    """Where the processor has tiles, `auto` trains in bfloat16; the tables stay in float32."""
    train = towns[0]
    statistics = measure_features(
        train.read_batches(), train.features, 2, category_sizes=train.category_sizes
    )
    network = build_network(MlpNetwork(widths=(8,)), statistics, 2, seed=0, precision=precision)
    config = TrainingSection(epochs=1, batch_rows=256)
    fitted = fit_network(network, *towns, config, checkpoints=tmp_path)
    assert math.isfinite(fitted.history[0].validation_loss)
    tables = [weight for weight in network.trainable_weights if weight.name == "table"]
    assert {weight.dtype for weight in tables} == {"float32"}
    assert len(tables) == 2


def test_a_run_over_categories_that_is_resumed_ends_as_one_in_one_go(
    towns: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """The moments of single rows are state as well, and unseen rows are filled in only in what is kept."""
    config = TrainingSection(epochs=4, batch_rows=64, learning_rate=0.02, ema_momentum=0.9)
    whole, fitted = fit_towns(towns, tmp_path / "whole", config)

    train = towns[0]
    broken = _StopsReading(train.path, train.features, train.category_sizes)
    with pytest.raises(tf.errors.UnknownError, match="Stopped"):
        fit_towns((broken, towns[1]), tmp_path / "broken", config)
    resumed, refitted = fit_towns(towns, tmp_path / "broken", config, resume=True)
    assert refitted.resumed_from == 2
    assert untimed(refitted.history) == untimed(fitted.history)
    np.testing.assert_array_equal(flat(resumed), flat(whole))


def test_the_kept_network_answers_an_unseen_code_like_the_mean_row(
    towns: tuple[PreparedSplit, PreparedSplit], tmp_path: Path
) -> None:
    """Also after averaging: the average of rows that were only drawn is not an answer."""
    network, _ = fit_towns(towns, tmp_path, TrainingSection(epochs=2, batch_rows=64, ema_momentum=0.9))
    layer = network.get_layer("categories_4")
    rows, share = layer.weights_by_code.numpy(), layer.constants["share"].numpy()
    assert share[:2].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(rows[:2], np.tile(share @ rows, (2, 1)), atol=1e-6)
