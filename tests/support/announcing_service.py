"""Announces itself as a service does, serves nothing, and ends with its input; it starts in a blink.

``python -m tests.support.announcing_service serve --model tiny@1 …`` stands in the place of ``inference``
where only the order of starting and waiting is looked at.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Say that the version that was asked for is ready, and wait until nobody wants it any more."""
    model, _, version = sys.argv[sys.argv.index("--model") + 1].partition("@")
    said = {"event": "listening", "host": "127.0.0.1", "port": 9, "model": model, "version": int(version)}
    print(json.dumps(said), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
