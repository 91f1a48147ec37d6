"""Measuring: numlstm beside its peers and beside the limits of the machine, in one interleaved run.

- `grid`: what is measured. `peers`: with whom, in which setting. `limits`: what the machine can do.
- `worker`: the process that engines run in. `measure`: rounds and turns.
- `results`: raw samples and the figures that follow from them. `table`: those as text. `picture`: drawn.
- `sweep`: random configurations. `scaling`: sizes that double.
- `streaming`: steps of a stream, one by one.
- `memory`: what a call costs beyond its results. `overhead`: beyond its kernel. `load`: loading model files.
- `packed`: sequences of several lengths, beside as many steps of one length.

Nothing heavy is imported before it is measured.
"""
