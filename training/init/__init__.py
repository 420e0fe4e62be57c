"""``timberline init``: from a file to a model folder, proposed from a look at the whole table."""
