"""Costs of numlstm alone: overhead of a call, memory, loading, sessions, callers, packed sequences, Dask."""
