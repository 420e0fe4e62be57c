"""The ASGI service: finds a version in the registry, verifies it, answers requests with it.

`timberline serve` runs it; other parts talk to it by HTTP only.
"""
