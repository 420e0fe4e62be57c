"""What a version costs and whether it may be released: measured, judged, reported."""
