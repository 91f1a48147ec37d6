"""The path of ``device="cuda"``: Numba's CUDA kernels in the order of operations of ``docs/arithmetic.md``.

Imported only when asked for. Kernels take flat arrays of numbers and sizes, offsets and strides counted in numbers.
"""
