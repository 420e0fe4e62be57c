"""A run's answers on the test split: scores, baselines, plots."""
