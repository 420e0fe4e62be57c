"""Benchmarks for the developers of this project; no release needs them, and no wheel has them."""
