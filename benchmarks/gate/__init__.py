"""The release gate: settings, the machine's calibration, one comparison, its verdict kept."""
