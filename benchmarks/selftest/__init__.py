"""Does the gate keep its promises on this machine? Calibration, injected regressions, observed rates."""
