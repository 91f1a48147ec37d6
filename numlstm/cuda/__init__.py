"""``device="cuda"``: Numba's CUDA kernels, in the order of operations of ``docs/arithmetic.md``.

In: flat arrays, with sizes, offsets and strides counted in numbers. Out: the bits of the CPU. Imported on first use.
"""
