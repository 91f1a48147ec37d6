"""Benchmarks for airspeed velocity, a thin skin over ``numlstm.bench``.

``asv run --quick --python=same`` runs each once in the environment at hand; ``asv continuous A B`` builds and compares
two commits. With NUMLSTM_BENCH_QUICK=1 the heavy lines have fewer steps, so that a quick pass stays
quick on a slow machine; such figures are not comparable with others.
"""
