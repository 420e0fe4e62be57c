"""A verdict for people and machines."""
