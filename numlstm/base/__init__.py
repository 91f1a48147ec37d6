"""What every other folder rests on: sizes and flags, argument checks, atomic files, locks, the log, the terminal.

In: what knows neither a kernel nor a model file. Out: nothing; base imports NumPy and the standard library alone.
"""
