"""The kernels of the engine, written in Python for Numba; ``loading`` makes C functions of them.

``recurrence`` has the whole forward pass, ``microkernel`` a step of a tile, ``entries`` what is called from outside,
``training`` the passes of training.

In: NumPy, Numba, LLVM's types. Out: functions to compile. Nothing here imports anything of the engine.
"""
