"""Memory of a long-lived process: what is loaded is never walked again, freed blocks are kept."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import gc, resource
import numpy as np
from timberline.inference.server.memory import settle_memory

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


_TRIMMED = """
import asyncio, ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from timberline.inference.server.memory import Trimmer, settle_memory

def resident():
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024

def fill():
    blocks = [b"x" * (1 << 20) for _ in range(30)]
    return bytes(1000)  # above them, so that they are not at the heap's end

class Refused:
    def __init__(self):
        self.body, self.itself = bytearray(b"x" * (16 << 20)), self

async def main():
    settle_memory()
    before = resident()
    Refused()  # a circle, of which no reference tells that it is garbage
    with ThreadPoolExecutor(3) as pool:
        kept = [pool.submit(fill).result() for _ in range(6)]
        grown = resident() - before
        Trimmer(pool, quiet_s=0.01).note()
        loop = asyncio.get_running_loop()
        until = loop.time() + 60
        while resident() - before > (6 << 20) and loop.time() < until:
            await asyncio.sleep(0.01)
    print(grown, resident() - before)

asyncio.run(main())
"""


def test_memory_of_large_requests_is_given_back_when_it_is_quiet() -> None:
    """What threads have freed stayed with their heaps for ever, some 16 MiB each; a refused body stayed until
    requests enough had come for a collection."""
    done = subprocess.run([sys.executable, "-c", _TRIMMED], capture_output=True, text=True, check=True)
    grown, kept = map(int, done.stdout.split())
    assert kept <= 6 << 20, f"{grown} bytes before"
