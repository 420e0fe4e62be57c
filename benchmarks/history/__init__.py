"""What became of every version: read from the registry, chained, and searched for changes."""
