"""From a source to a trained, evaluated run: fetch, ETL, train, evaluate.

`training.features` is the one module that the exporter may import; it stays free of TensorFlow.
"""
