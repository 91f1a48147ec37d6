"""From checked arrays to a kernel: packed weights, a plan for the sizes, workspace, threads.

In: arrays whose shapes and dtypes are right. Out: filled results. Knows kernels; knows no file and no public class.
"""
