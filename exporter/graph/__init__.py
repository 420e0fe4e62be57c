"""ONNX graphs: from Keras, joined, folded, quantised, run, and what they cost."""
