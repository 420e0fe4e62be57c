"""The training loop: epochs of seeded batches, validation, early stopping, a checkpoint an epoch.

A run is a function of the prepared data, the configuration and the seed: epoch e's row order and
dropout masks depend on (seed, e), the learning rate on the step. So a run that was killed and
resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf

from timberline.registry.runtime.logs import log_event
from timberline.registry.runtime.progress import Progress
from timberline.training.config import TrainingSection
from timberline.training.errors import TrainingError
from timberline.training.model.checkpoints import (
    Epoch,
    TrainingState,
    discard_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from timberline.training.model.dataset import PreparedSplit, as_dataset
from timberline.training.model.network import fill_unseen, reset_dropout
from timberline.training.model.optimizer import build_optimizer, prepare_gradients

_logger = logging.getLogger(__name__)
_STEPS_AN_EPOCH = 20
_MAX_BATCH_ROWS = 1024
_HINT = (
    "Lower training.learning_rate, set training.clip_norm, or scale down what is very large in features.sql."
)
# (features, classes) → [loss, correct], both summed over the rows; a training step adds whether the loss and
# the new weights are finite, 1 or 0
Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The result of a fit; the network holds the weights of ``epoch`` (0-based)."""

    history: tuple[Epoch, ...]
    epoch: int
    resumed_from: int


def fit_network(
    network: keras.Model,
    train: PreparedSplit,
    validation: PreparedSplit,
    config: TrainingSection,
    *,
    checkpoints: Path,
    resume: bool = False,
) -> FitResult:
    """Train ``network`` in place.

    It ends with the weights (averaged, if ``ema_momentum`` is given) of the last epoch, or with
    ``early_stopping_patience`` of the epoch with the lowest validation loss.

    Args:
        network: features → logits; its weights are drawn but not trained.
        checkpoints: folder for this run's checkpoint; kept when the call fails or is killed.
        resume: go on from the checkpoint, if there is one; without it an old one is discarded.

    Raises:
        TrainingError: the loss or a weight became NaN or infinite, or the checkpoint is of another network.
    """
    loop = _Loop(network, train, validation, config)
    if not resume:
        discard_checkpoint(checkpoints)
    state = load_checkpoint(checkpoints, network, loop.optimizer) or TrainingState([], 0, [])
    resumed_from = len(state.history)
    if resumed_from:
        log_event(_logger, "resuming", epochs_done=resumed_from, epochs=config.epochs)
    with Progress("train", config.epochs * train.rows, "rows", logger=_logger) as progress:
        progress.advance(resumed_from * train.rows)
        for epoch in range(resumed_from, config.epochs):
            if _should_stop(state, config.early_stopping_patience):
                break
            line = loop.run_epoch(epoch, progress)
            with loop.averaged_weights():
                line = loop.validate(line)
                _keep_best(state, line, network, config.early_stopping_patience)
            save_checkpoint(checkpoints, network, loop.optimizer, state)
            log_event(_logger, "epoch", logging.DEBUG, **msgspec.structs.asdict(line))
    network.set_weights(state.best_weights)
    return FitResult(tuple(state.history), state.best_epoch, resumed_from)


def choose_batch_rows(config: TrainingSection, rows: int) -> int:
    """``batch_rows`` as given, or the greatest power of two up to 1,024 that makes 20 steps of ``rows``.

    With fewer steps an epoch a small table is not learned in a usual number of epochs.
    """
    if config.batch_rows is not None:
        return config.batch_rows
    return min(_MAX_BATCH_ROWS, 1 << (max(1, rows // _STEPS_AN_EPOCH).bit_length() - 1))


def _should_stop(state: TrainingState, patience: int | None) -> bool:
    return patience is not None and len(state.history) - 1 - state.best_epoch >= patience


def _keep_best(state: TrainingState, line: Epoch, network: keras.Model, patience: int | None) -> None:
    """Note the epoch; its weights are kept if they are the best so far, or always without early stopping."""
    history = state.history
    better = not history or line.validation_loss < history[state.best_epoch].validation_loss
    if patience is None or better:
        state.best_epoch, state.best_weights = line.epoch, network.get_weights()
    history.append(line)


class _Loop:
    """A network with its optimiser and its two compiled steps, for as long as one fit lasts."""

    def __init__(
        self, network: keras.Model, train: PreparedSplit, validation: PreparedSplit, config: TrainingSection
    ) -> None:
        self.optimizer = build_optimizer(config)
        self.optimizer.build(network.trainable_variables)
        self._network = network
        self._train = train
        self._validation = validation
        self._config = config
        self._batch_rows = choose_batch_rows(config, train.rows)
        self._train_step = _compile_train_step(network, self.optimizer, config)
        self._score_step = _compile_score_step(network)

    def run_epoch(self, epoch: int, progress: Progress) -> Epoch:
        """One pass over the training rows; the validation fields are still NaN."""
        started = time.monotonic()
        config, train = self._config, self._train
        reset_dropout(self._network, config.seed, epoch)
        seed = (config.seed, epoch)
        batches = as_dataset(
            lambda: train.shuffled_batches(self._batch_rows, config.shuffle_window_rows, seed),
            len(train.features),
        )
        steps = math.ceil(train.rows / self._batch_rows)
        sums, rate = [], 0.0
        for step, (features, classes) in enumerate(batches, epoch * steps):
            rate = learning_rate(config, step, config.epochs * steps)
            self.optimizer.learning_rate = rate
            *found, is_finite = self._train_step(features, classes).numpy()
            if not is_finite:
                where = f"epoch {epoch + 1}, step {step - epoch * steps + 1} of {steps}"
                raise self._diverged(where, float(found[0]), features.numpy())
            sums.append(found)
            progress.advance(int(classes.shape[0]), f"epoch {epoch + 1}/{config.epochs}")
        loss, accuracy = _means(sums, train.rows)
        # A second moment that overflowed stops its weight for good, and nothing above shows it.
        if broken := _find_broken(self.optimizer.variables):
            raise self._diverged(f"epoch {epoch + 1}", loss, features.numpy(), broken)
        return Epoch(
            epoch=epoch,
            loss=loss,
            accuracy=accuracy,
            validation_loss=math.nan,
            validation_accuracy=math.nan,
            learning_rate=rate,
            seconds=time.monotonic() - started,
        )

    def validate(self, line: Epoch) -> Epoch:
        """``line`` with the loss and accuracy of the validation split under the current weights."""
        started = time.monotonic()
        batches = as_dataset(self._validation.read_batches, len(self._validation.features))
        sums = [self._score_step(*batch).numpy() for batch in batches]
        loss, accuracy = _means(sums, self._validation.rows)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of the validation rows became {loss}", where=f"epoch {line.epoch + 1}", hint=_HINT
            )
        seconds = round(line.seconds + time.monotonic() - started, 3)
        return msgspec.structs.replace(
            line, validation_loss=loss, validation_accuracy=accuracy, seconds=seconds
        )

    def _diverged(
        self, where: str, loss: float, features: np.ndarray[Any, Any], broken: str | None = None
    ) -> TrainingError:
        """What is not finite, and the largest input of the batch in which that was seen."""
        broken = broken or _find_broken(self._network.trainable_weights)
        is_loss = not math.isfinite(loss)
        what = f"the loss became {loss}" if is_loss else f"the weights {broken} are not finite"
        known = np.nan_to_num(np.abs(features), nan=0.0, posinf=math.inf)  # NaN stands for NULL
        largest = known.max(axis=0)  # (rows, features) → (features,)
        largest[[size is not None for size in self._train.category_sizes]] = -1.0  # a code is not large
        index = int(np.argmax(largest))
        return TrainingError(
            f"{what}; the largest input is {self._train.features[index]} = {largest[index]:.3g}",
            where=where,
            hint=_HINT,
        )

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside the block the network has the weights to keep: averaged, if the optimiser keeps any
        averages, and filled in where no training row has a category's code.
        """
        variables = self._network.trainable_variables
        latest = [variable.numpy() for variable in variables]
        self.optimizer.finalize_variable_values(variables)
        fill_unseen(self._network)
        yield
        for variable, value in zip(variables, latest, strict=True):
            variable.assign(value)


def _find_broken(variables: Iterable[keras.Variable]) -> str | None:
    """The first variable with a value that is not finite."""
    return next((v.path for v in variables if not np.isfinite(v.numpy()).all()), None)


def _means(sums: list[Any], rows: int) -> tuple[float, float]:
    loss, correct = np.sum(np.asarray(sums, np.float64), axis=0) / rows
    return float(loss), float(correct)


def _losses(logits: tf.Tensor, classes: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Cross-entropy of each row in nats; (rows, classes), (rows,) → (rows,)."""
    count = logits.shape[-1]
    targets = tf.one_hot(classes, count) * (1.0 - smoothing) + smoothing / count
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _sums(losses: tf.Tensor, logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    correct = tf.argmax(logits, axis=1, output_type=tf.int32) == classes
    return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(tf.cast(correct, tf.float32))])


def _compile_train_step(network: keras.Model, optimizer: keras.Optimizer, config: TrainingSection) -> Step:
    def step(features: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = network(features, training=True)
            losses = _losses(logits, classes, config.label_smoothing)
            loss = tf.reduce_mean(losses)
        variables = [variable.value for variable in network.trainable_variables]
        optimizer.apply(prepare_gradients(tape.gradient(loss, variables), config.clip_norm))
        # A fused kernel (oneDNN's product with ReLU) may turn NaN into 0, and the loss is finite again; the
        # weights show it. Reading them costs one addition a weight where the step costs some for every row.
        kept = [tf.reduce_all(tf.math.is_finite(variable)) for variable in variables]
        is_finite = tf.reduce_all(tf.stack([tf.math.is_finite(loss), *kept]))
        sums = _sums(losses, logits, classes)
        return tf.concat([sums, [tf.cast(is_finite, sums.dtype)]], axis=0)

    return _compile(step, network)


def _compile_score_step(network: keras.Model) -> Step:
    def step(features: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        logits = network(features, training=False)
        return _sums(_losses(logits, classes, 0.0), logits, classes)

    return _compile(step, network)


def _compile(step: Step, network: keras.Model) -> Step:
    features = tf.TensorSpec((None, network.input.shape[1]), tf.float32)
    compiled: Step = tf.function(step, input_signature=(features, tf.TensorSpec((None,), tf.int32)))
    return compiled


def learning_rate(config: TrainingSection, step: int, steps: int) -> float:
    """The rate of 0-based ``step`` of ``steps``: linear warm-up, then constant or a cosine down to 0.

    Source: Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5 without restarts; warm-up as in
    Goyal et al. 2017, section 2.2.
    """
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(steps - warmup, 1)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
