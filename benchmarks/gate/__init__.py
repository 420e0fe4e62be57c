"""The release gate: the machine's calibration, one comparison, its verdict kept."""
