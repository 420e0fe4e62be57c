"""What a supervisor gives to a worker that it starts: one line of JSON on the worker's standard input.

Not on its command line, which every user of the machine can read and the settings may hold tokens.
The input stays open as long as the supervisor lives; its end is how a worker learns that it does not.
"""

from __future__ import annotations

from typing import BinaryIO, Literal

import msgspec

from timberline.inference.config import ServiceConfig
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import decode_json

# Why a worker is replaced: it was stuck, a signal ended it, it ended by itself, or all are replaced.
Replaced = Literal["hung", "killed", "ended", "rolled"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Settings, and the numbers of inherited file descriptors.

    - ``worker``: the slot that this worker takes in everything shared, from 0;
    - ``slots``: how many there are: one more than workers, for a replacement beside the one it replaces;
    - ``replaces``: why this worker takes the place of another; empty at the start;
    - ``listener_fd``, ``metrics_listener_fd``: bound sockets;
    - ``balance_fd``, ``metrics_fd``, ``trials_fd``: memory of `inference.server.acceptor.Balance`, of
      `inference.metrics.shared_memory` and of `inference.models.trial.Ledger`.
    """

    config: ServiceConfig
    worker: int
    slots: int
    listener_fd: int
    metrics_listener_fd: int | None
    balance_fd: int
    metrics_fd: int
    trials_fd: int
    replaces: Replaced | Literal[""] = ""

    @property
    def fds(self) -> tuple[int, ...]:
        """What the worker must inherit."""
        shared = (self.balance_fd, self.metrics_fd, self.trials_fd)
        fds = (self.listener_fd, self.metrics_listener_fd, *shared)
        return tuple(fd for fd in fds if fd is not None)


def write_order(order: Order) -> bytes:
    """The line."""
    return msgspec.json.encode(order) + b"\n"


def read_order(source: BinaryIO) -> Order:
    """Read the line.

    Raises:
        ConfigError: it is no order; somebody else than the supervisor started this process.
    """
    try:
        return decode_json(source.readline(), Order)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"no order: {error}", where="standard input", hint="Use python -m inference serve --workers N."
        ) from None
