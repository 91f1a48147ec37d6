"""The machine: what it is, what it can do at most, and how it is measured."""
