"""The learning rate of every step as a pure function: nothing of it needs to be saved or resumed."""

from __future__ import annotations

import math

from timberline.training.config import TrainingSection


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
