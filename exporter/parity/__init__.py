"""Whether a graph answers as the trained network does: rows, bounds, golden rows."""
