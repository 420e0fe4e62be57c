"""Keep native libraries quiet: their chatter off the terminal, their usage reports off the network."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

# ONNX Runtime's official wheels report usage to their maker: a device number in the user's cache folder
# at load, packets some ten seconds later. Only a variable that is set before the library loads stops
# both (measured with 1.31, which knows the first; later releases know the second). To be written into
# os.environ above each import of onnxruntime, or of tf2onnx, which imports it.
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what the block writes to file descriptor 2; show it if the block fails.

    TensorFlow logs lines before its log level can be set, straight to the descriptor, so
    neither `TF_CPP_MIN_LOG_LEVEL` nor Python's `logging` reaches them.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # an interrupt needs no explanation
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
