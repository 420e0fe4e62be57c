"""Memory of a long-lived process: what is loaded is never walked again, freed blocks are kept."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import gc, resource
import numpy as np
from inference.process.memory import settle_memory

loaded = [[] for _ in range(1000)]
settle_memory()
assert gc.get_freeze_count() > 1000
np.ones(1 << 18)  # 2 MiB, as a large request's rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(1 << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_large_requests_memory_is_used_again() -> None:
    """Giving it back costs the next request a page fault for every 4 KiB of it."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    # 512 pages a round without; allow what the interpreter itself touches.
    assert int(done.stdout) < 512
