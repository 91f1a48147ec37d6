"""Every barrier and every guard of the CUDA kernels removed in turn, in Numba's simulator: each has to be noticed.

A limit may be one of work: then more multiply-adds are noticed. Run by ``test_cuda.py`` in a process of its own. Prints
how many of each there were, and those that nothing noticed.
"""

import ast
import itertools
import sys
from pathlib import Path
from unittest.mock import patch

from cuda_cases import SMALLEST, differs, on_both

from numlstm.cuda.kernels import padding, projection, recurrence, registry, step

# (module, factory of a kernel, the cases that are to notice)
FACTORIES = [
    (projection, "project_kernel", ["project"]),
    (recurrence, "stream_kernel", ["stream", "stream, lengths"]),
    (recurrence, "register_kernel", ["register", "register of few units", "register, lengths"]),
    (step, "step_kernel", ["step"]),
    (step, "flush_copy_kernel", ["step"]),
    (padding, "padding_kernel", ["step, lengths"]),
    (padding, "arrange_kernel", ["step, lengths"]),
]
TRIES = 5  # a race need not show at once


def is_barrier(node):
    return isinstance(node, ast.Expr) and ast.unparse(node.value) == "cuda.syncthreads()"


def places(tree):
    """Every barrier, comparison in the test of an ``if``, and limiting ``min``, as (kind, node)."""
    found = []
    for node in ast.walk(tree):
        if is_barrier(node):
            found.append(("barrier", node))
        elif isinstance(node, ast.If):
            found += [("guard", part) for part in ast.walk(node.test) if isinstance(part, ast.Compare)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "min":
            found.append(("limit", node))
    return found


class Removal(ast.NodeTransformer):
    """Takes out one node: a barrier for nothing, a comparison for True, ``min(a, limit)`` for a."""

    def __init__(self, wanted):
        self.wanted = wanted

    def visit(self, node):
        if node is not self.wanted:
            return self.generic_visit(node)
        if is_barrier(node):
            return ast.Pass()
        return ast.Constant(True) if isinstance(node, ast.Compare) else node.args[0]


def mutants(module, name):
    """(description, factory) of every mutant of a kernel."""
    source = Path(module.__file__).read_text()
    for index in range(len(places(factory_in(source, name)))):
        tree = factory_in(source, name)
        kind, node = places(tree)[index]
        what = f"{name}:{node.lineno} {kind} {ast.unparse(node)}"
        changed = ast.fix_missing_locations(ast.Module([Removal(node).visit(tree)], []))
        namespace = dict(vars(module))
        # the simulator swaps the globals of the function that runs, so that it has its own
        exec(compile(changed, module.__file__, "exec"), namespace)
        yield kind, what, namespace[name]


def factory_in(source, name):
    return next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)


def noticed(cases):
    return any(differs(SMALLEST[case]) for case in cases)


def work(cases):
    """Multiply-adds of all of them."""
    lane, count = registry.lane("float32"), itertools.count()
    fma = lane.fma
    with patch.object(lane, "fma", lambda a, b, c: (next(count), fma(a, b, c))[1]):
        registry.made.cache_clear()
        for case in cases:
            on_both(SMALLEST[case], "float32")
    registry.made.cache_clear()
    return next(count)


def main():
    """Try them all."""
    counts, survived = {}, []
    for module, name, cases in FACTORIES:
        if noticed(cases):
            sys.exit(f"{cases} are wrong without a mutation")
        least = work(cases)
        for kind, what, factory in mutants(module, name):
            counts[kind] = counts.get(kind, 0) + 1
            with patch.object(registry, name, factory):
                registry.made.cache_clear()
                if not any(noticed(cases) for _ in range(TRIES)) and work(cases) == least:
                    survived.append(what)
            registry.made.cache_clear()
        if noticed(cases):
            sys.exit(f"{cases} are wrong after the mutations")
    print(counts)
    for what in survived:
        print("survived:", what)


if __name__ == "__main__":
    main()
