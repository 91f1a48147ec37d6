"""Kernels into memory: prebuilt with the package, from the cache, or compiled here and cached.

``registry`` is the one door. In: what finds, compiles, links or caches machine code. Out: C functions and the `Level`
that they are for. No kernel imports anything from here.
"""
