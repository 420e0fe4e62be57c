"""From a finished run to a published version: features and network as one ONNX graph, proven equal."""
