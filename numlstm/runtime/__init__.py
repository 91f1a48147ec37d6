"""From checked arrays to a kernel: packed weights, a plan for the sizes, workspace, threads.

In: arrays whose shapes and dtypes are right. Out: filled results. Knows kernels; knows no file and no public class.

`call` is one pass by names, `executor` runs it: `planner` makes its plan, `schedule` splits it between threads,
`workspace` has its buffers, `conversion` reads other dtypes. `fast_call` is the shortcut of small calls. `threads`,
`cores` and `workers`: how many threads, on which cores, and the threads themselves. `packed_weights` packs parameters
into panels; `head` packs and runs the layers behind an LSTM. `object_layout`: where Python's objects keep what kernels
read.
"""
