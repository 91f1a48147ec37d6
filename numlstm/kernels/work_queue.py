"""How threads claim the chunks of a call, and how they wait.

They share a record of int64 counters, each on a cache line of its own (``Share``): chunks done, whether workers are to
leave, chunks claimed in each range, and the progress of each layer.

A call consists of phases of ``NUM_CHUNKS`` chunks. A thread claims chunks of a phase until none is left, waits at the
barrier, and goes on to the next phase. A thread that arrives late passes through the finished phases; one that never
arrives is not missed. The chunks of a phase are divided into ``RANGES``, and each thread starts with its own range, so
that it reads the same weights at every step, from its own cache. A thread waits only for threads that are inside a
kernel, since they have claimed a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils, types

from .compiler import Kernel, inline, named
from .instructions import INT64, bump_counter, instruction, load_slot
from .plan_layout import LINE_SLOTS, Header, Share

ForChunks = Callable[[Kernel], Kernel]
SPINS = 400  # looks at a counter, each after a pause: at most about 20 us; then the core is yielded


@instruction(types.int64, types.int64)
def seen(builder, address):
    """Load a shared counter (acquire): all writes before it was set to this value are visible."""
    return builder.load_atomic(builder.inttoptr(address, INT64.as_pointer()), "acquire", 8)


@instruction(types.void, types.int64, types.int64)
def publish(builder, address, value):
    """Store a counter that only this thread sets (release): its earlier writes are visible with the value."""
    builder.store_atomic(value, builder.inttoptr(address, INT64.as_pointer()), "release", 8)


@instruction(types.void, types.int64)
def count_up(builder, address):
    """Add 1 to a counter that all threads add to (acquire and release)."""
    builder.atomic_rmw("add", builder.inttoptr(address, INT64.as_pointer()), INT64(1), "acq_rel")


@instruction(types.int64, types.int64, types.int64, types.int64)
def exchange(builder, address, expected, new):
    """Set a counter to ``new`` if it is ``expected``; the value before."""
    pointer = builder.inttoptr(address, INT64.as_pointer())
    return builder.extract_value(builder.cmpxchg(pointer, expected, new, "acq_rel", "acquire"), 0)


@instruction(types.void, types.int64)
def call_at(builder, address):
    """Call a C function without arguments, and ignore its result."""
    function = ir.FunctionType(ir.IntType(32), []).as_pointer()
    builder.call(builder.inttoptr(address, function), [])


def pausing(pause):
    """The CPU's pause instruction, for loops that wait: the name of an LLVM intrinsic, and its arguments."""

    @instruction(types.void, types.int64)
    def relax(builder, _):
        name, *arguments = pause
        narrow = ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [narrow] * len(arguments))
        function = cgutils.get_or_insert_function(builder.module, signature, name)
        builder.call(function, [narrow(argument) for argument in arguments])

    return relax


@inline
def shared(plan, slot):
    """Address of a slot of the shared record."""
    return load_slot(plan, Header.SHARE) + 8 * slot


@inline
def leaves(plan):
    """Whether this thread is a worker that has been told to leave. The caller never leaves."""
    return load_slot(plan, Header.THREAD_INDEX) > 0 and seen(shared(plan, Share.LEAVE)) != 0


@named("claim")
def claim(plan, phase):
    """Claim a chunk of this phase: its number, or -1 if none is left."""
    num_chunks, ranges, thread_index = (
        load_slot(plan, Header.NUM_CHUNKS),
        load_slot(plan, Header.RANGES),
        load_slot(plan, Header.THREAD_INDEX),
    )
    if seen(shared(plan, Share.DONE)) >= (phase + 1) * num_chunks or leaves(plan):
        return -1
    for n in range(ranges):
        r = (thread_index + n) % ranges
        first = num_chunks * r // ranges
        size = num_chunks * (r + 1) // ranges - first
        counter = shared(plan, Share.NEXT_CHUNK + LINE_SLOTS * r)
        claimed = seen(counter)
        while claimed < (phase + 1) * size:
            before = exchange(counter, claimed, claimed + 1)
            if before == claimed:
                bump_counter(plan, Header.WORK_ITEMS)
                if n > 0:
                    bump_counter(plan, Header.STEALS)
                return first + claimed - phase * size
            claimed = before
    return -1


def waiting(pause):
    """``wait(plan, counter, least, may_leave)`` and ``spin_wait(plan)`` for a kind of CPU."""
    relax = pausing(pause)

    @named("wait")
    def wait(plan, counter, least, may_leave):
        """Wait until a counter is at least ``least``. A worker that holds no chunk may leave instead."""
        spins = 0
        while seen(counter) < least:
            if may_leave and leaves(plan):
                return
            relax(spins)
            spins += 1
            if spins > SPINS and load_slot(plan, Header.YIELD) != 0:
                bump_counter(plan, Header.YIELDS)
                call_at(load_slot(plan, Header.YIELD))

    @named("spin_wait")
    def spin_wait(plan):
        """Until another call begins, or the worker has looked often enough and is to sleep."""
        for look in range(load_slot(plan, Header.CHUNK_STEPS)):
            if seen(load_slot(plan, Header.EPOCH)) != load_slot(plan, Header.NUM_CHUNKS):
                return
            relax(look)

    return wait, spin_wait


def for_chunks(wait: Kernel) -> ForChunks:
    """Make ``loop(plan, phase, *given) -> next phase`` of ``body(plan, chunk, *given)``.

    The body runs for every chunk of the phase that this thread can claim; then the loop waits for those of the others.
    """

    def over(body: Kernel) -> Kernel:
        @inline
        def loop(plan, phase, *given):
            chunk = claim(plan, phase)
            while chunk >= 0:
                body(plan, chunk, *given)
                count_up(shared(plan, Share.DONE))
                chunk = claim(plan, phase)
            bump_counter(plan, Header.PHASES)
            wait(plan, shared(plan, Share.DONE), (phase + 1) * load_slot(plan, Header.NUM_CHUNKS), True)
            return phase + 1

        return loop

    return over


def parallel_for(for_chunks: ForChunks) -> ForChunks:
    """Make ``loop(plan, phase, count, *given) -> next phase`` of ``body(plan, begin, end, *given)``.

    The body runs for parts of range(count), a chunk each. A barrier follows.
    """

    def over(body: Kernel) -> Kernel:
        @inline
        def of_chunk(plan, chunk, count, *given):
            num_chunks = load_slot(plan, Header.NUM_CHUNKS)
            body(plan, chunk * count // num_chunks, (chunk + 1) * count // num_chunks, *given)

        return for_chunks(of_chunk)

    return over


def serial_for(body: Kernel) -> Kernel:
    """``parallel_for`` of a thread that shares nothing: a phase is one part, and the next phase the same."""

    @inline
    def loop(plan, phase, count, *given):
        body(plan, 0, count, *given)
        return phase

    return loop
