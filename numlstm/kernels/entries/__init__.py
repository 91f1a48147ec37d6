"""The entries of a kernel's object that Python, C and Numba call; behind each is the forward kernel.

In: addresses of objects, arrays and plans. Out: new arrays, or a sign that the executor must run the call.
"""
