"""The tree of errors: a caller can catch narrowly or broadly.

    LifecycleError                .code (stable, for machines)  .where  .hint
    ├─ ConfigError
    ├─ StageError
    ├─ AfterChangeError
    ├─ RegistryError   VersionNotFoundError · AliasConflictError · PromotionRefusedError
    │  └─ DamageError  ManifestError · DigestMismatchError
    ├─ TrainingError   SourceError · DatasetError · FeatureError        (training/errors.py)
    ├─ ExportError     UnsupportedLayerError · ParityInputError         (exporter/errors.py)
    ├─ ServingError    SignatureMismatchError · NotReadyError · …       (inference/errors.py)
    └─ BenchmarkError  WorkloadError                                    (benchmarks/errors.py)

The tree is independent of HTTP: `inference/app.py` holds the only error → status table.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar


class LifecycleError(Exception):
    """Something that could not be found out or done.

    Args:
        what: what was wrong: what was expected and what was found.
        where: model@version, file, tensor, row or key it was found in; shown in front.
        hint: what to do about it; shown behind.

    ``code`` is stable and meant for machines: the name of the class in snake case without "Error", unless it
    states another. ``exit_code`` is what a command ends with: 1 the answer is no, 2 wrong use or
    configuration, 3 the environment failed.
    """

    code: ClassVar[str] = "lifecycle"
    exit_code: ClassVar[int] = 3

    def __init_subclass__(cls) -> None:
        if "code" not in vars(cls):
            cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).lower()

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        front = f"{self.where}: " if self.where else ""
        stop = "" if self.what.endswith((".", "!", "?")) else "."
        return f"{front}{self.what}{stop} {self.hint}" if self.hint else f"{front}{self.what}"


class ConfigError(LifecycleError):
    """A setting, flag or model folder is wrong; nothing was started."""

    exit_code = 2


class StageError(LifecycleError):
    """A stage's input is missing: the stage before it has not run."""

    exit_code = 2


class AfterChangeError(LifecycleError):
    """The change was made; a step after it failed.

    The change has not failed: repeating the command would change things twice.
    """


class RegistryError(LifecycleError):
    """The registry could not do what was asked."""


class DamageError(RegistryError):
    """Something in the registry is not what was written there."""

    code = "damaged"


class ManifestError(DamageError):
    """A manifest is not readable, or breaks a rule of manifests."""


class VersionNotFoundError(RegistryError):
    """No such model, version or alias."""

    exit_code = 2


class DigestMismatchError(DamageError):
    """A file's bytes are not the bytes its manifest names."""


class AliasConflictError(RegistryError):
    """The alias no longer points where the caller saw it."""


class PromotionRefusedError(RegistryError):
    """The evidence that `production` requires is missing or negative."""

    exit_code = 1


@contextlib.contextmanager
def after_change(done: str, *, where: str, hint: str = "") -> Iterator[None]:
    """Do what follows a change, so that an error in it is not taken for a failure of the change.

    Args:
        done: what has happened, to go before "but" and the error: ``version 7 is published``.
        where: as of `LifecycleError`.
        hint: likewise.

    Raises:
        AfterChangeError: something failed inside.
    """
    try:
        yield
    except (LifecycleError, OSError) as error:
        raise make_after_change(done, [error], where=where, hint=hint) from error


def make_after_change(
    done: str, errors: Sequence[Exception], *, where: str, hint: str = ""
) -> AfterChangeError:
    """One error for everything that failed after a change; arguments as of `after_change`."""
    return AfterChangeError(f"{done}, but {'; '.join(map(_describe, errors))}", where=where, hint=hint)


def _describe(error: Exception) -> str:
    """Without the hint, which may say that nothing was changed."""
    if not isinstance(error, LifecycleError):
        return str(error)
    return f"{error.where}: {error.what}" if error.where else error.what
