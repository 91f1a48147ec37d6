"""The machine: its description, its limits, and the kernels that measure them."""
