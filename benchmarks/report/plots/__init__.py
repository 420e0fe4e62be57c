"""The plots of a gate's page; each module draws one figure from a record, or None where it has no data."""
