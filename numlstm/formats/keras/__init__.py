"""Files of Keras 2 and 3: ``.keras`` archives and HDF5."""
