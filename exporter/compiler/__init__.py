"""`features.sql` as ONNX operators, from the outside in.

`compile` (the graph of a features.sql: columns, sums, three-valued logic), `choices` (CASE), `formulas`
(functions of numbers), `scalars` (the values a row needs, each once) and `emit` (which of them share a node,
nodes and tensors).
"""
