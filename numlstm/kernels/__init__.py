"""The kernels of the engine, written in Python for Numba; ``loading`` makes C functions of them.

In: NumPy, Numba, LLVM's types. Out: functions to compile. Nothing here imports anything of the engine.
"""
