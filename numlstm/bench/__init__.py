"""Measurements: numlstm, the baselines and the limits of the machine, in interleaved runs.

- `grid`, `sweep`, `scaling`: the workloads.
- `engines`: numlstm and the baselines, each in its fastest setting. `hardware/`: the machine and its limits.
- `measure`: rounds and turns. `worker`: the process that engines run in.
- `results`: raw samples and the figures computed from them. `table`, `picture`: how they are shown.
- `training`: forward and backward passes. `streaming`: single steps of a stream. `startup`: cold processes. `costs/`:
  what a call costs beyond its kernel.

In: workloads and names of engines. Out: reports. An engine is imported when it is measured.
"""
