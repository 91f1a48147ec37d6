"""Benchmarks for airspeed velocity, a thin layer over ``numlstm.bench``.

``asv run --quick --python=same`` runs each once in the current environment; ``asv continuous A B`` builds and compares
two commits. With NUMLSTM_BENCH_QUICK=1 the heavy workloads have fewer steps; do not compare such figures with others.
"""
