"""Keep the chatter of native libraries off the terminal, without losing it when something fails."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what the block writes to file descriptor 2; show it if the block raises.

    TensorFlow logs lines before its log level can be set, straight to the descriptor, so
    neither `TF_CPP_MIN_LOG_LEVEL` nor Python's `logging` reaches them.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def silence_tensorflow() -> None:
    """Ask TensorFlow and Keras to log errors only; before the first import of either."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
