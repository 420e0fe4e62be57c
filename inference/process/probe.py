"""Ask a running service on this machine whether it is ready; a container's health check."""

from __future__ import annotations

import contextlib
import http.client

_TIMEOUT_S = 2.0


def ask_readiness(port: int) -> bool:
    """Whether ``GET /v2/health/ready`` on loopback answers 200 within two seconds.

    Loopback, whatever address the service listens on: a health check asks its own container.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
