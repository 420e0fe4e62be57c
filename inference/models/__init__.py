"""The versions being served: loaded, proven, followed, split, run."""
