"""From a finished run to a published version: one ONNX graph of features and network, compared with both."""
