"""Kernels into memory: prebuilt with the package, from the cache, or compiled here and cached.

In: whatever finds, compiles, links or caches machine code. Out, through ``registry``: C functions and their `Level`.
No kernel imports anything from here.
"""
