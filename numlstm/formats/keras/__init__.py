"""Keras' files: ``.keras`` archives and HDF5, of Keras 2 and 3."""
