"""Whole models in files: the embedding, the heads and the activations around the LSTMs, as the file describes them.

`loading` has a builder for each format that describes a model, and `protocol` what every model can do. A builder gets
the `Contents` that the format's reader found, with the file still open, and returns the model.

In: the contents of a file. Out: models; ValueError that names what cannot be run, and what it would take.
"""
