"""The machine code of the engine: kernels written in Python, and how they become C functions.

Nothing here is imported by ``import numlstm``; ``store`` is the one door.
"""
