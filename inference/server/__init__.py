"""Processes, sockets and connections: how the service starts, listens, is watched over and ends."""
