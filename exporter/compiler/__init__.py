"""`features.sql` as ONNX operators, from the outside in.

`compile` (the graph of a features.sql), `lowering` (columns, sums, three-valued logic), `choices` (CASE),
`formulas` (functions of numbers), `scalars` (the values a row needs, each once), `batching` (which of them
share a node) and `emit` (nodes and tensors).
"""
