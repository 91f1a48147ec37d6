"""What wheels ship besides Python: the kernels as shared libraries, for any system from any other.

In: targets, and kernels from ``kernels/loading``. Out: files for ``hatch_build.py``.
"""
