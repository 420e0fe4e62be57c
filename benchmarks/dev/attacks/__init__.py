"""Attacks on the service, each beside honest clients: what the others notice, and what it costs."""
