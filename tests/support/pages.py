"""Reads counters off the page of `/metrics`."""

from __future__ import annotations


def read_counter(page: str, name: str, **labels: str) -> float:
    """The sum of all series of ``name`` that have these labels."""
    lines = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    chosen = [line for line in lines if all(f'{key}="{value}"' in line for key, value in labels.items())]
    return sum(float(line.rpartition(" ")[2]) for line in chosen)
