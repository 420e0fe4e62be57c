"""Attacks on the service: how long honest clients wait meanwhile, and what an attack costs the service."""
