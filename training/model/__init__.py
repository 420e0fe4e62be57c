"""The network: layers, scaling, the training loop, calibration, what is saved."""
