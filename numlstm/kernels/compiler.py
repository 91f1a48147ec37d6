"""Numba's front end for kernels: Python is typed and lowered to LLVM's IR, and there it stops.

Optimisation and machine code are ``build``'s, which makes them for the level asked for. Numba's own
would be for the machine that builds, once for each small function, and through settings that the user's
functions share: a compiler of our own leaves those alone, and has less to do.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any

from numba.core import codegen, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUContext
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target
from numba.extending import typeof_impl

from .plan_layout import Slots

# One policy for all kernels. Nothing is called from Python, so no wrappers; fastmath would lose NaN and bits.
POLICY = {
    "nopython": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

STANDALONE = "loop_"  # what the names of functions begin with that are never inlined


class Library(codegen.CPUCodeLibrary):
    """Functions as IR, and the libraries of those they call: linked once, when a kernel is whole.

    Numba's own links each with all below it as soon as it is compiled, which takes a third of the time of a build.
    """

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:  # llvmlite before 0.48 adds such an attribute to IR alone, not to a module
            if STANDALONE in function.name and not function.is_declaration:
                function.attributes.add("noinline")
        super().add_ir_module(ir_module)

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout

    def finalize(self):
        self._raise_if_finalized()
        self._finalized = True

    def linked(self):
        """One module of this library and of all below it."""
        libraries = {self: None}
        waiting = [self]
        while waiting:
            below = [library for library in waiting.pop()._linking_libraries if library not in libraries]
            libraries.update(dict.fromkeys(below))
            waiting += below
        whole, *others = [library._final_module for library in libraries]
        for module in others:
            whole.link_in(module, preserve=True)
        return whole


class Codegen(codegen.AOTCPUCodegen):
    """Makes such libraries."""

    _library_class = Library  # type: ignore[assignment]  # one for ahead-of-time code; this one replaces it


class Context(CPUContext):
    """Lowers for this kind of CPU, to IR alone."""

    @global_compiler_lock
    def init(self):
        self.is32bit = False
        self._internal_codegen = Codegen("numlstm")

    def get_executable(self, library, description, environment):
        """A stand-in: Numba knows functions by the built-in one that Python would call, and here nothing calls."""
        return [].append  # built in, and another object for every function


class Target(CPUTarget):
    """Shares Numba's typing, and lowers by ``Context``."""

    @property
    def target_context(self):
        return _contexts[0] if _contexts else _first_context()

    @property
    def typing_context(self):
        return cpu_target.typing_context


@typeof_impl.register(Slots)
@cache
def _type_of_slots(slots, _):
    numbers = {name: number for name, number in vars(slots).items() if type(number) is int}
    return types.IntEnumClass(IntEnum(slots.__name__, numbers), types.intp)


_contexts: list[Context] = []


def _first_context():
    with global_compiler_lock:
        if not _contexts:
            _contexts.append(Context(cpu_target.typing_context, "cpu"))
        return _contexts[0]


class Kernel(CPUDispatcher):
    """A Python function that is compiled as a part of a kernel."""

    targetdescr = Target("cpu")

    def get_call_template(self, args, kws):
        """Literals are numbers like others: Numba would make a function of its own for each of them."""
        return super().get_call_template([types.unliteral(kind) for kind in args], kws)


def inline(function: Callable[..., Any]) -> Kernel:
    """Decorator: a function that disappears into those that call it."""
    return Kernel(function, targetoptions={**POLICY, "forceinline": True})


def standalone(function: Callable[..., Any]) -> Kernel:
    """Decorator: a function that stays one, if its name begins with ``STANDALONE``."""
    # said aloud: Numba inherits the option from a caller that is inlined
    return Kernel(function, targetoptions={**POLICY, "forceinline": False})


def named(name: str) -> Callable[[Callable[..., Any]], Kernel]:
    """A decorator for a kernel of its own symbol: ``name`` is found again in the machine code, never inlined away."""

    def decorate(function: Callable[..., Any]) -> Kernel:
        function.__name__ = function.__qualname__ = STANDALONE + name
        return standalone(function)

    return decorate
