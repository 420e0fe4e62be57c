"""From a finished run to a published version: features and network as one ONNX graph, proven equal.

The feature compiler, from the outside in: `operators` (the graph of a features.sql), `lowering`
(columns, sums, three-valued logic), `formulas` (functions of numbers), `scalars` (the values a row
needs, each once), `batching` (which of them share a node) and `emit` (nodes and tensors).
"""
