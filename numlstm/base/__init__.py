"""The foundation of all other folders: sizes and flags, validation, atomic files, locks, the log, the terminal.

In: code that knows nothing of kernels or model files. Out: nothing; base imports only NumPy and the standard library.
"""
