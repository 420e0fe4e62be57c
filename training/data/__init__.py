"""From a source to prepared splits: fetch, ingest, check, split, measure."""
