"""From raw observations and held-out predictions to lines of a verdict."""
