"""What runs on the device: kernels for ``numba.cuda``, and the registry that compiles and launches them.

In: functions of flat arrays and sizes. Out: launches. Nothing here allocates or knows an LSTM's configuration.
"""
