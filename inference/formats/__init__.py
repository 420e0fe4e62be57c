"""Bytes to rows and answers to bytes: JSON, CSV, float32, and the Open Inference Protocol's tensors."""
