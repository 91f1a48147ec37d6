"""ONNX models: any graph, by ONNX's own reference evaluator in NumPy, with numlstm's LSTM in the place of its own.

The evaluator (`onnx.reference`) has a function for each operator, written for clarity: a convolution takes long.
`operator` is the LSTM among them, `steps` makes functions of its nodes, and `model` runs these one after the other.
`listing` shows the nodes of a graph without running it.

In: the model that a reader has parsed, any graph. Out: a model; ValueError that names the node that cannot be run.
"""
