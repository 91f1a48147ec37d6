"""Fast calls, for shapes that were seen before: made where they should be, and never with a wrong array.

The kernel reads the array objects themselves, so whatever could mislead it is tried here; every case must give
what the executor gives, or its error.
"""

import ctypes
import gc
import math
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
from callers import switching
from judge import counted, equal, same_bits

import numlstm
from numlstm.kernels.plan_layout import Fastcall
from numlstm.runtime import fast_call, object_layout, schedule
from numlstm.runtime.executor import FAST_CALL_BYTES

pytestmark = pytest.mark.cpu_level


@pytest.fixture(params=["with the GIL", "without the GIL"])
def taken(monkeypatch, request):
    """Count the calls that fast calls served (True) and declined (False), for both kinds of them."""
    counted = []
    if request.param == "without the GIL":
        monkeypatch.setattr(fast_call, "GIL_WORK", -1)
    make = fast_call.make

    def counting(*arguments):
        if (run := make(*arguments)) is None:
            return None

        def counted_run(*arrays):
            results = run(*arrays)
            counted.append(results is not None)
            return results

        return counted_run

    monkeypatch.setattr(fast_call, "make", counting)
    return counted


def by_executor(lstm, x, hx=None):
    """The same call through arrays that the caller gives, which is never a fast call."""
    output, (h_n, c_n) = lstm(x, hx)
    out = tuple(np.full_like(a, 7) for a in (output, h_n, c_n))
    return lstm.forward(x, hx, out=out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 5), (1, 1, 5), (3, 1, 5)])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_states", [False, True])
def test_the_second_call_is_fast(taken, dtype, shape, batch_first, with_states):
    lstm = numlstm.LSTM(5, 6, 2, batch_first=batch_first, bidirectional=True, proj_size=2, dtype=dtype, seed=0).eval()
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    _, (h, c) = lstm(x)
    states = (rng.standard_normal(h.shape).astype(dtype), rng.standard_normal(c.shape).astype(dtype))
    hx = states if with_states else None
    want = by_executor(lstm, x, hx)
    taken.clear()
    assert equal(lstm(x, hx), want) and taken == [True]


def test_arrays_of_another_kind_go_to_the_executor(taken):
    lstm = numlstm.LSTM(5, 6, seed=0).eval()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    _, (h, c) = lstm(x)

    class Mine(np.ndarray):
        pass

    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    others = {
        "float64": x.astype(np.float64),
        "big-endian": x.astype(">f4"),
        "Fortran": np.asfortranarray(x),
        "reversed": x[::-1],
        "strided": np.repeat(x, 2, axis=2)[:, :, ::2],
        "zero strides": np.broadcast_to(x[:1, :1, :1], x.shape),
        "unaligned": unaligned,
    }
    for name, other in others.items():
        want = by_executor(lstm, other, (h, c))
        taken.clear()
        assert equal(lstm(other, (h, c)), want) and taken == [False], name
        state = np.broadcast_to(h[:, :1], h.shape), c.astype(np.float64)
        want = by_executor(lstm, x, state)
        taken.clear()
        assert equal(lstm(x, state), want) and taken == [False], name
    taken.clear()
    assert equal(lstm(x.view(Mine), (h, c)), lstm(x, (h, c))) and taken == [True]  # a subclass does not even try
    assert equal(lstm(x, (h.view(Mine), c)), lstm(x, (h, c))) and taken == [True, False, True]


def test_read_only_arrays_are_read(taken):
    lstm = numlstm.LSTM(5, 6, seed=0).eval()
    x = np.ones((2, 1, 5), np.float32)
    _, (h, c) = lstm(x)
    for array in (x, h, c):
        array.flags.writeable = False
    taken.clear()
    before = x.copy(), h.copy(), c.copy()
    lstm(x, (h, c))
    assert taken == [True]
    assert all(same_bits(a, b) for a, b in zip((x, h, c), before, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda h, c: (h,),
        lambda h, c: (h, c, c),
        lambda h, c: (h, None),
        lambda h, c: (None, c),
        lambda h, c: (h[:, :1], c),
        lambda h, c: (h, c[0]),
        lambda h, c: (h, c[:, :, :3]),
        lambda h, c: (h, c.astype(complex)),
        lambda h, c: (h, "c"),
        lambda h, c: h,
        lambda h, c: 3,
    ],
)
def test_wrong_states_are_refused_as_by_the_executor(taken, wrong):
    lstm = numlstm.LSTM(5, 6, seed=0).eval()
    x = np.ones((2, 4, 5), np.float32)
    _, (h, c) = lstm(x)
    hx = wrong(h, c)
    with pytest.raises(Exception) as short:
        lstm(x, hx)
    assert True not in taken
    fresh = numlstm.LSTM(5, 6, seed=0).eval()
    with pytest.raises(type(short.value)) as long:
        fresh(x, hx)
    assert str(short.value) == str(long.value)


def test_new_weights_dtype_and_flags_are_seen_at_once(taken):
    lstm = numlstm.LSTM(5, 6, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((3, 3, 5)).astype(np.float32)
    lstm(x), lstm(x)
    lstm.weight_ih_l0 = np.zeros((24, 5))
    assert equal(lstm(x), by_executor(lstm, x))
    lstm.batch_first = True
    assert lstm(x)[0].shape == (3, 3, 6) and equal(lstm(x), by_executor(lstm, x))
    twin = lstm.double()
    output, _ = twin(x)
    assert output.dtype == np.float64 and equal(twin(x), by_executor(twin, x))
    lstm.float().dropout = 0.5
    assert not equal(lstm(x), lstm(x))  # in train mode each call draws its own mask
    assert equal(lstm.eval()(x), by_executor(lstm, x))


class Switch:
    """An input that changes a flag of the LSTM while it is being read."""

    def __init__(self, lstm, x):
        self.lstm, self.x = lstm, x

    def __array__(self, dtype=None, copy=None):
        self.lstm.batch_first = not self.lstm.batch_first
        return self.x


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_flag_changed_during_a_call_leaves_no_wrong_fast_call_behind(dtype):
    lstm = numlstm.LSTM(3, 4, seed=0).eval()
    x = np.ones((2, 5, 3), np.float32)
    want = {False: lstm(x), True: numlstm.LSTM(3, 4, seed=0, batch_first=True).eval()(x)}
    lstm = numlstm.LSTM(3, 4, seed=0).eval()
    for _ in range(4):
        before = lstm.batch_first
        assert equal(lstm(Switch(lstm, x.astype(dtype))), want[before])
        assert lstm.batch_first != before
        assert equal(lstm(x), want[lstm.batch_first]) and equal(lstm(x), want[lstm.batch_first])


def test_forward_may_come_from_another_base_class():
    class Mixin:
        def forward(self, input, hx=None):
            return "mixed in"

    class Mixed(Mixin, numlstm.LSTM):
        pass

    class Deeper(Mixed):
        pass

    assert Mixed(3, 4)(None) == Deeper(3, 4)(None) == "mixed in"
    with pytest.raises(AttributeError, match="Define forward in a subclass"):
        numlstm.LSTM(3, 4).forward = print


@pytest.mark.parametrize("kind", [numlstm.LSTM, numlstm.LSTMCell])
def test_a_call_of_microseconds_looks_up_one_attribute(kind):
    """One of a class with ``__getattr__`` costs several percent of it, and so does a cell for a closure."""

    class Watched(kind):
        def __getattribute__(self, name):
            names.append(name)
            return super().__getattribute__(name)

    class Planted(Watched):
        def forward(self, input):
            return self._panels.dtype, super().forward(input)

    names = []
    x = np.ones((2, 1, 3) if kind is numlstm.LSTM else (1, 3), np.float32)
    watched, planted = Watched(3, 4), Planted(3, 4)
    for module in (watched, planted):
        module(x), module(x)
    names.clear()
    watched(x)
    assert names == ["_model"] and not kind.forward.__code__.co_cellvars
    names.clear()
    planted(x)
    assert len(names) > 1


def test_a_cell_too_is_called_through_the_forward_of_its_subclass():
    class Twice(numlstm.LSTMCell):
        def forward(self, input, hx=None):
            return super().forward(input, super().forward(input, hx))

    class Deeper(Twice):
        pass

    class Own(numlstm.LSTMCell):
        def __call__(self, input):
            return "its own"

    plain, x = numlstm.LSTMCell(3, 4, seed=0), np.ones((2, 3), np.float32)
    want = plain(x, plain(x))
    for cell in (Twice(3, 4, seed=0), Deeper(3, 4, seed=0)):
        for _ in range(3):
            assert all(same_bits(a, b) for a, b in zip(cell(x), want, strict=True))
    assert Own(3, 4)(x) == "its own"
    with pytest.raises(AttributeError, match="Define forward in a subclass"):
        plain.forward = print


def test_a_subclass_may_override_forward():
    class Doubled(numlstm.LSTM):
        def forward(self, input, hx=None, **rest):
            output, states = super().forward(input, hx, **rest)
            return 2 * output, states

    x = np.ones((2, 1, 3), np.float32)
    mine, plain = Doubled(3, 4, seed=0), numlstm.LSTM(3, 4, seed=0)
    for _ in range(3):
        assert same_bits(mine(x)[0], 2 * plain(x)[0])


def test_without_readable_objects_everything_works(monkeypatch, taken):
    """On a Python that keeps objects otherwise, the executor serves alone."""
    monkeypatch.setattr(object_layout, "readable", False)
    monkeypatch.setattr(object_layout, "functions", None)
    lstm = numlstm.LSTM(5, 6, 2, bidirectional=True, seed=0).eval()
    x = np.ones((3, 2, 5), np.float32)
    results = [lstm(x), lstm(x, lstm(x)[1]), lstm(x)]
    monkeypatch.undo()
    again = numlstm.LSTM(5, 6, 2, bidirectional=True, seed=0).eval()
    assert taken == [] and equal(results[0], again(x)) and equal(results[1], again(x, again(x)[1]))


def test_the_layout_of_objects_is_checked(monkeypatch):
    """The probe that decides whether objects are readable fails for each wrong offset."""
    assert object_layout.readable and object_layout._as_expected()
    for name, wrong in (
        ("ITEMS", object_layout.ITEMS + 8),
        ("TYPE", object_layout.TYPE - 8),
        ("DATA", object_layout.NDIM),
        ("NDIM", object_layout.DATA),
        ("DTYPE", object_layout.DTYPE - 8),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(object_layout, name, wrong)
            assert not object_layout._as_expected(), name
    with monkeypatch.context() as patch:
        patch.setattr(object_layout, "SIZES", object_layout.STRIDES)
        patch.setattr(object_layout, "STRIDES", object_layout.SIZES)
        assert not object_layout._as_expected()


class Reshape:
    """A state that gives an array another shape while it is being read."""

    def __init__(self, array, shape, state):
        self.array, self.shape, self.state = array, shape, state

    def __array__(self, dtype=None, copy=None):
        self.array.shape = self.shape
        return self.state


def test_an_array_reshaped_during_a_call_does_not_mislead_it():
    lstm = numlstm.LSTM(3, 4, seed=0).eval()
    x = np.ones((20, 1, 3), np.float32)
    zeros = np.zeros((1, 1, 4), np.float32)
    want = lstm(x)
    assert equal(lstm(x.copy(), (Reshape(x, (1, 20, 3), zeros), zeros)), want)
    assert lstm(x)[1][0].shape == (1, 20, 4)  # x now is one step of twenty rows
    assert lstm(np.ones((1, 20, 3), np.float32))[1][0].shape == (1, 20, 4)
    x.shape = (20, 1, 3)
    assert equal(lstm(x, (Reshape(x, (1, 20, 3), zeros), zeros)), want)
    cell = numlstm.LSTMCell(3, 4, seed=0)
    x = np.ones((6, 3), np.float32)
    zeros = np.zeros((6, 4), np.float32)
    assert cell(x, (Reshape(x, (3, 6), zeros), zeros))[0].shape == (6, 4)


def test_a_subclass_that_lies_is_not_believed():
    class Liar(np.ndarray):
        shape = property(lambda self: (2000, 2, 4))

    lstm = numlstm.LSTM(3, 4, seed=0)
    zeros = [np.zeros((1, 2, 4), np.float32) for _ in range(3)]
    with pytest.raises(ValueError, match=r"output in out must have shape \(2000, 2, 4\), not \(1, 2, 4\)"):
        lstm.forward(np.ones((2000, 2, 3), np.float32), out=(zeros[0].view(Liar), *zeros[1:]))
    assert not any(array.any() for array in zeros)


def test_a_map_of_a_file_may_be_written(tmp_path):
    lstm = numlstm.LSTM(3, 4, seed=0)
    x = np.ones((5, 2, 3), np.float32)
    want = lstm(x)
    output = np.memmap(tmp_path / "output", np.float32, "w+", shape=(5, 2, 4))
    states = np.empty((1, 2, 4), np.float32), np.empty((1, 2, 4), np.float32)
    given = lstm.forward(x, out=(output, *states))
    assert given[0] is output and given[1][0] is states[0] and given[1][1] is states[1]
    assert equal((np.array(output), states), want)


def test_none_as_a_state_is_refused_however_often(taken):
    lstm = numlstm.LSTM(3, 4, seed=0)
    x = np.ones((5, 2, 3), np.float32)
    for _ in range(3):
        with pytest.raises(TypeError):
            lstm(x, (None, None))
        lstm(x)


def fast_call_of(lstm, x):
    """The fast call for this shape, once there is one."""
    lstm(x), lstm(x)
    return lstm._model.executor.dispatch_table[lstm.batch_first][x.shape]


def test_only_short_calls_hold_the_gil():
    """A longer one drops it while the kernel runs; one that threads may share goes through the executor."""

    def holds(lstm, *shape):
        return fast_call_of(lstm, np.ones(shape, np.float32)).__self__[Fastcall.SAVE_THREAD] == 0

    assert holds(numlstm.LSTM(6, 4, 2), 5, 1, 6) and holds(numlstm.LSTM(128, 128), 1, 1, 128)
    assert not holds(numlstm.LSTM(128, 256), 1, 1, 128) and not holds(numlstm.LSTM(1, 1), 1000, 1, 1)
    assert fast_call_of(numlstm.LSTM(8, 64, 2), np.ones((24, 64, 8), np.float32)) is None


def test_a_fast_call_keeps_little_memory():
    """Each keeps its buffers to itself; one that needs much goes through the executor, which has one for all."""
    lstm = numlstm.LSTM(8, 2, 2)
    assert fast_call_of(lstm, np.ones((20, 1, 8), np.float32)).__self__.nbytes < FAST_CALL_BYTES
    with mock.patch.object(schedule, "WORTH", math.inf):  # not because threads may share it
        assert fast_call_of(lstm, np.ones((2 * FAST_CALL_BYTES, 1, 8), np.float32)) is None


def twice_at_once(lstm, patient):
    """Results of two calls by two threads, the second while the first is in the kernel; and what they should be.

    With ``patient`` false, the mark that keeps them apart is taken away.
    """
    first, second = np.random.default_rng(0).standard_normal((2, 3000, 1, 8)).astype(np.float32)
    run, data = fast_call_of(lstm, first), lstm._panels.data
    busy, results = run.__self__, []
    want = lstm.forward(first, out=tuple(np.empty_like(a) for a in [run(first, None, data)[0], *lstm(first)[1]]))
    thread = threading.Thread(target=lambda: results.append(lstm(first)))
    thread.start()
    while busy[Fastcall.BUSY] == 0 and thread.is_alive():
        pass
    overlapped = thread.is_alive()
    if not patient:
        busy[Fastcall.BUSY] = 0
    inner = run(second, None, data)
    thread.join()
    return overlapped and inner, results[0], want


@pytest.mark.parametrize("patient", [True, False])
def test_a_call_in_another_thread_s_fast_call_is_declined(monkeypatch, patient):
    """And without the mark, both write to one plan."""
    monkeypatch.setattr(schedule, "WORTH", math.inf)  # so that no threads share it
    lstm = numlstm.LSTM(8, 8, 3, seed=0)
    right, declined = [], 0
    for _ in range(50):
        inner, got, want = twice_at_once(lstm, patient)
        right.append(equal(got, want))
        declined += inner is None
    assert all(right) is patient and (declined > 0) is patient
    x = np.ones((3000, 1, 8), np.float32)
    run = fast_call_of(lstm, x)
    want = lstm(x)
    run.__self__[Fastcall.BUSY] = 1
    assert run(x, None, lstm._panels.data) is None and equal(lstm(x), want)


def test_without_the_functions_of_python_the_executor_serves(monkeypatch):
    """On a Python without a GIL, or one that keeps objects otherwise."""
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.ones((5, 1, 6), np.float32)
    want = lstm(x), lstm(x, lstm(x)[1])
    with monkeypatch.context() as patch:
        patch.setattr(object_layout, "functions", None)
        lstm = numlstm.LSTM(6, 4, 2, seed=0)
        assert fast_call_of(lstm, x) is None
        assert equal(lstm(x), want[0]) and equal(lstm(x, lstm(x)[1]), want[1])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("NUMPY_ABI", 0x3000000), ("ARRAY_TYPE", 3), ("SELF_DATA", 24), ("readable", False), ("HEAD", None)],
)
def test_functions_of_another_numpy_are_not_called(monkeypatch, name, wrong):
    assert object_layout.functions == object_layout._functions()
    if name == "HEAD":
        monkeypatch.setattr(sys, "version", f"{sys.version} experimental free-threading build")
    else:
        monkeypatch.setattr(object_layout, name, wrong)
    with pytest.raises(NotImplementedError):
        object_layout._functions()


def test_results_are_fresh_arrays_of_their_own():
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.ones((5, 3, 6), np.float32)
    _, hx = lstm(x)
    run = fast_call_of(lstm, x)
    seen = [x, *hx]
    for _ in range(20):
        results = run(x, hx, lstm._panels.data)
        python = (np.empty(1), (np.empty(1), np.empty(1)))
        got, want = ([sys.getrefcount(one) for one in (r, r[0], r[1], *r[1])] for r in (results, python))
        assert got == want
        output, states = results
        assert type(results) is type(states) is tuple and len(results) == len(states) == 2
        for array in (output, *states):
            assert type(array) is np.ndarray and array.dtype is np.dtype(np.float32) and array.base is None
            assert array.flags.owndata and array.flags.carray
            assert not any(np.shares_memory(array, other) for other in seen)
            seen.append(array)


class Pair(tuple):
    """A tuple of another type: it might look into itself in other ways than tuples do."""


REFUSED = {
    "served": lambda x, h, c: (x, (h, c)),
    "served without states": lambda x, h, c: (x, None),
    "another shape": lambda x, h, c: (x[:1], (h, c)),
    "another tuple": lambda x, h, c: (x, Pair((h, c))),
    "a list": lambda x, h, c: (x, [h, c]),
    "three states": lambda x, h, c: (x, (h, c, c)),
    "no tuple": lambda x, h, c: (x, h),
    "None as a state": lambda x, h, c: (x, (None, c)),
    "the other state": lambda x, h, c: (x, (h, None)),
    "another dtype": lambda x, h, c: (x, (h, c.astype(np.float64))),
    "no array": lambda x, h, c: (3, (h, c)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_reference_that_is_taken_is_given_back(case):
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.ones((5, 3, 6), np.float32)
    _, (h, c) = lstm(x)
    run, data = fast_call_of(lstm, x), lstm._panels.data
    arguments = REFUSED[case](x, h, c)
    held = counted(x, h, c, arguments, arguments[1], data, np.dtype(np.float32), run, None, tuple, np.ndarray)

    def counts():
        return [sys.getrefcount(one) for one in held]

    def many():
        for _ in range(1000):
            result = run(*arguments, data)
        return result is None

    assert many() != case.startswith("served")
    before, blocks = counts(), sys.getallocatedblocks()
    many()
    after = counts()
    assert all(abs(a - b) < 100 for a, b in zip(after, before, strict=True)), (before, after)
    assert sys.getallocatedblocks() - blocks < 100


def test_the_count_of_arguments_is_checked():
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.ones((5, 3, 6), np.float32)
    run = fast_call_of(lstm, x)
    assert run() is run(x) is run(x, None) is run(x, None, lstm._panels.data, None) is None
    with pytest.raises(TypeError):
        run(x, hx=None)


@pytest.mark.parametrize("place", ["new_array", "new_tuple"])
def test_no_memory_for_the_results_is_an_error(monkeypatch, place):
    """The function that makes arrays, or tuples, is replaced by one that sets the error and gives nothing."""
    no_memory = ctypes.cast(ctypes.pythonapi.PyErr_NoMemory, ctypes.c_void_p).value
    functions = object_layout.functions._replace(**{place: no_memory})
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.ones((5, 3, 6), np.float32)
    want = lstm(x)
    with monkeypatch.context() as patch:
        patch.setattr(object_layout, "functions", functions)
        lstm = numlstm.LSTM(6, 4, 2, seed=0)
        lstm(x)
        gc.collect()
        blocks = sys.getallocatedblocks()
        for _ in range(1000):
            with pytest.raises(MemoryError):
                lstm(x)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < 500
    assert equal(numlstm.LSTM(6, 4, 2, seed=0)(x), want)


class Collected:
    """Garbage that only the collector finds; when it does, code runs in the midst of whatever it was called from."""

    def __init__(self, act):
        self.act, self.itself = act, self

    def __del__(self):
        self.act()


def in_the_midst(act, call, calls=3000):
    """Results of many calls during which the collector runs ``act`` again and again; ``act`` must have run."""
    ran = []

    def acted():
        ran.append(None)
        act()

    thresholds = gc.get_threshold()
    gc.collect()
    try:
        results = []
        for n in range(calls):  # results are kept, so that Python has no old tuples to give out again
            gc.disable()
            gc.collect(0)  # the collector counts the young objects from here on
            Collected(acted)
            gc.set_threshold(1 + n % 20)  # so that the collector runs at each of the call's objects in turn
            gc.enable()
            results.append(call())
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)
    assert ran
    return results


def test_a_call_from_the_midst_of_a_call():
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    rng = np.random.default_rng(0)
    x, other = rng.standard_normal((2, 5, 3, 6)).astype(np.float32)
    want, want_other = lstm(x), lstm(other)
    run, data = fast_call_of(lstm, x), lstm._panels.data
    inner = []
    results = in_the_midst(lambda: inner.append(run(other, None, data)), lambda: run(x, None, data))
    assert all(equal(got, want) for got in results)
    assert all(equal(got, want_other) for got in inner)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the collector waits there until the call has ended")
def test_an_array_that_changes_in_the_midst_of_a_call_is_noticed():
    """The collector runs while the results are made: what was found right before may be wrong after."""
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 3, 6)).astype(np.float32)
    want = lstm(x)
    run, data = fast_call_of(lstm, x), lstm._panels.data
    changed = [False]

    def change():
        x.shape = (90, 1, 1)
        changed[0] = True

    def call():
        x.shape = (5, 3, 6)
        changed[0] = False
        before = changed[0]
        got = run(x, None, data)
        after = changed[0]
        return before, after, got

    results = in_the_midst(change, call)
    noticed = [got is None for before, after, got in results if after and not before]
    assert noticed and all(noticed)
    assert all(equal(got, want) for before, after, got in results if not after)


@pytest.mark.parametrize("which", ["x", "h_0", "c_0", "h_n", "c_n"])
def test_what_is_changed_while_the_last_tuple_is_made_is_noticed(monkeypatch, which):
    """The function that makes tuples is one of Python's: the second time it knows all arrays but the output."""
    made, arrays = [], {}

    @ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_ssize_t)
    def new_tuple(count):
        if made:
            arrays["h_n"], arrays["c_n"] = made.pop()
            if "x" in arrays:
                arrays[which].shape = arrays[which].shape[::-1]
            return tuple([None] * count)
        made.append(tuple([None] * count))
        return made[0]

    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.ones((5, 3, 6), np.float32)
    want = lstm(x, lstm(x)[1])
    functions = object_layout.functions._replace(new_tuple=ctypes.cast(new_tuple, ctypes.c_void_p).value)
    monkeypatch.setattr(object_layout, "functions", functions)
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    _, hx = lstm(x)
    (run,) = lstm._model.executor.dispatch_table[False].values()
    assert equal(run(x, hx, lstm._panels.data), want)
    arrays.update(x=x, h_0=hx[0], c_0=hx[1])
    assert run(x, hx, lstm._panels.data) is None


def test_threads_share_a_fast_call():
    lstm = numlstm.LSTM(6, 4, 2, bidirectional=True, proj_size=2, seed=0)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4, 5, 3, 6)).astype(np.float32)
    wants = [lstm(x) for x in inputs]
    assert isinstance(fast_call_of(lstm, inputs[0]), types.BuiltinFunctionType)
    ready = threading.Barrier(len(inputs))

    def many(n):
        ready.wait()
        return all(equal(lstm(inputs[n]), wants[n]) for _ in range(5000))

    with switching(1e-5), ThreadPoolExecutor(len(inputs)) as pool:
        assert all(pool.map(many, range(len(inputs))))


def test_a_fast_call_outlives_its_lstm():
    lstm = numlstm.LSTM(6, 4, 2, seed=0)
    x = np.ones((5, 3, 6), np.float32)
    want = lstm(x)
    run, data = fast_call_of(lstm, x), lstm._panels.data
    del lstm
    gc.collect()
    assert equal(run(x, None, data), want)


def test_shapes_in_turn_are_each_served(taken):
    lstm = numlstm.LSTM(5, 6, seed=0)
    inputs = [np.ones(shape, np.float32) for shape in ((2, 3, 5), (4, 3, 5), (4, 5))]
    wants = [by_executor(lstm, x) for x in inputs]
    for _ in range(3):
        for x, want in zip(inputs, wants, strict=True):
            assert equal(lstm(x), want)
    taken.clear()
    for x, want in zip(inputs, wants, strict=True):
        assert equal(lstm(x), want) and equal(lstm(x), want)
    assert taken.count(True) == 6 and taken.count(False) <= 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (5,)])
@pytest.mark.parametrize("with_states", [False, True])
def test_a_cell_is_fast_too(taken, dtype, shape, with_states):
    cell = numlstm.LSTMCell(5, 6, dtype=dtype, seed=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    hx = tuple(rng.standard_normal((2, *shape[:-1], 6)).astype(dtype)) if with_states else None
    want = cell(x, hx)
    assert taken == []
    for _ in range(2):
        h, c = cell(x, hx)
        assert same_bits(h, want[0]) and same_bits(c, want[1]) and h.shape == c.shape == (*shape[:-1], 6)
    assert taken == [True, True]
    cell.bias_ih = rng.standard_normal(24)
    changed, taken[:] = cell(x, hx), []
    assert not same_bits(changed[0], want[0])
    fresh = numlstm.LSTMCell(5, 6, dtype=dtype)
    fresh.load_state_dict(cell.state_dict())
    assert same_bits(changed[0], fresh(x, hx)[0]) and taken == []


def test_a_cell_refuses_as_a_fast_call_what_the_executor_refuses(taken):
    cell = numlstm.LSTMCell(5, 6, seed=0)
    x = np.ones((3, 5), np.float32)
    h, c = cell(x)
    for hx in ((h,), (h, None), (None, c), (h[:2], c), (h, c[0]), (h, c[:, :3]), (h, c.astype(complex)), h[0], 3):
        cell(x)
        with pytest.raises(Exception) as short:
            cell(x, hx)
        with pytest.raises(type(short.value)) as long:
            numlstm.LSTMCell(5, 6, seed=0)(x, hx)
        assert str(short.value) == str(long.value)
    taken.clear()
    for other in (x.astype(np.float64), np.asfortranarray(x), x[::-1], x.astype(">f4")):
        assert same_bits(cell(other, [h, c])[0], cell(x, (h, c))[0])
    assert taken.count(True) == 4
