"""Streams in real time and among threads: one user at a time, no torn state, no allocation in a step."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from judge import equal, same_bits
from needs import leave_out, need

import numlstm
from numlstm import module
from numlstm.bench.costs import memory
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import StreamSlots
from numlstm.runtime import executor, fast_call, object_layout, planner, workspace
from numlstm.runtime.call import Call
from numlstm.runtime.executor import Executor
from numlstm.sequences import stream as streams
from numlstm.sequences.stream import Stream

pytestmark = pytest.mark.cpu_level

IN_USE = "the stream is in use by another thread, and nothing was done"


def model(seed=0, **flags):
    return numlstm.LSTM(3, 20, 2, proj_size=6, seed=seed, **flags).eval()


def actions(lstm, stream):
    """All that one can do with a stream of two rows, by name."""
    x, states, snapshot = np.ones((4, 2, 3), np.float32), stream.state, stream.snapshot()
    snapshot["h"] += 1
    snapshot["c"] -= 1
    return {
        "step": stream.step,
        "call with a step": lambda: stream(x[0]),
        "call with a step that is converted": lambda: stream(x[0].tolist()),
        "call with a chunk": lambda: stream(x),
        "call with a chunk that is converted": lambda: stream(x.astype(np.float64)),
        "state": lambda: stream.state,
        "state =": lambda: setattr(stream, "state", (states[0] + 1, states[1] + 1)),
        "reset": stream.reset,
        "reset of a row": lambda: stream.reset(1),
        "snapshot": stream.snapshot,
        "restore": lambda: stream.restore(snapshot),
        "fork": stream.fork,
        "refresh": stream.refresh,
    }


def test_a_stream_in_use_refuses_everything_and_stays_what_it_was(way):
    lstm = model()
    stream = lstm.stream(2)
    tried = actions(lstm, stream)
    stream(np.ones((3, 2, 3), np.float32))
    before, panels = stream.state, stream._panels
    lstm.weight_ih_l0 = np.zeros((80, 3))
    stream.output[:] = 7
    gc.collect()  # what other tests have left would go in between
    references = sys.getrefcount(np.dtype(np.float32))
    stream._record[StreamSlots.BUSY] = 1  # another thread is in it
    for name, act in tried.items():
        with pytest.raises(RuntimeError, match=IN_USE):
            act()
        assert stream._record[StreamSlots.BUSY] == 1, name
    assert numlstm.step_function()(stream.address) == 1
    assert (stream.output == 7).all()
    stream._record[StreamSlots.BUSY] = 0
    assert abs(sys.getrefcount(np.dtype(np.float32)) - references) < 3
    assert equal(stream.state, before) and stream._panels is panels
    for act in tried.values():  # now that it is free, all of them work
        act()
        assert stream._record[StreamSlots.BUSY] == 0


# ------------------------------------------------------------ two threads


def test_a_chunk_keeps_a_stream_to_itself(monkeypatch):
    """While one thread is in the midst of a chunk, another is refused; with the flag taken away its step is lost."""
    lstm = model()
    x = np.random.default_rng(0).standard_normal((6, 2, 3))  # to be converted, which the executor does
    inside, go_on = threading.Event(), threading.Event()
    forward = Executor.run

    def slow(*arguments):
        forward(*arguments)
        inside.set()
        assert go_on.wait(60)

    monkeypatch.setattr(Executor, "run", slow)

    def one_order(flag):
        inside.clear(), go_on.clear()
        stream, orders = lstm.stream(2), lstm.stream(2)
        stream.input[:] = 1
        steps_done = 0
        thread = threading.Thread(target=stream, args=(x,))
        thread.start()
        try:
            assert inside.wait(60)
            if not flag:
                stream._record[StreamSlots.BUSY] = 0
            try:
                stream.step()
                steps_done += 1
            except RuntimeError:
                pass
        finally:
            go_on.set()
            thread.join()
        go_on.set()
        step = np.ones((1, 2, 3), np.float32)
        wanted = []
        for order in ([x, *[step] * steps_done], [*[step] * steps_done, x]):
            orders.reset()
            for piece in order:
                orders(piece)
            wanted.append(orders.state)
        return any(equal(stream.state, want) for want in wanted), steps_done

    assert one_order(flag=True) == (True, 0)
    assert one_order(flag=False) == (False, 1)


def test_a_step_keeps_a_stream_to_itself():
    """The same for a step in machine code that lets the GIL go: two at once are neither of the two in some order."""
    lstm = numlstm.LSTM(64, 1024, seed=0).eval()
    rows = 96
    step = np.random.default_rng(0).standard_normal((1, rows, 64)).astype(np.float32)
    once, states = lstm(step)[1], lstm(step, lstm(step)[1])[1]

    def tried(flag):
        stream = lstm.stream(rows)
        assert stream._record[StreamSlots.HELD_STEPS] == 0 and stream._record[StreamSlots.SAVE_THREAD]
        stream.input[:] = step[0]
        thread = threading.Thread(target=stream.step)
        thread.start()
        while stream._record[StreamSlots.BUSY] == 0 and thread.is_alive():
            pass
        met = thread.is_alive()
        if met and not flag:
            stream._record[StreamSlots.BUSY] = 0
        try:
            stream.step()
            done = 2
        except RuntimeError:
            done = 1
        thread.join()
        return met, done, stream.state

    def until(flag, seen):
        """Try until two threads were in a step together often enough: one of them may sleep just then."""
        deadline, found = time.monotonic() + 120, []
        while len(found) < seen and time.monotonic() < deadline:
            met, done, state = tried(flag)
            right = equal(state, once if done == 1 else states)
            if flag:
                assert right
            if met and (done == 1 if flag else done == 2 and not right):
                found.append(done)
        return found

    assert until(flag=True, seen=3) == [1, 1, 1]
    assert until(flag=False, seen=1) == [2], "with the flag taken away nothing was torn"


def test_many_threads_on_one_stream(way):
    """Who is not refused has run a step: the state is that after so many of them."""
    lstm = model()
    stream = lstm.stream(2)
    stream.input[:] = 0.5
    step, chunk = numlstm.step_function(), np.full((3, 2, 3), 0.5, np.float32)
    calls = [
        (1, stream.step),
        (1, lambda: stream(chunk[0])),
        (3, lambda: stream(chunk)),
        (1, lambda: step(stream.address) and streams_busy()),
    ]

    def streams_busy():
        raise RuntimeError(IN_USE)

    def work(n):
        done = refused = 0
        steps, call = calls[n % len(calls)]
        ready.wait()
        for _ in range(300):
            try:
                call()
                done += steps
            except RuntimeError as error:
                assert IN_USE in str(error)
                refused += 1
        return done, refused

    ready = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(work, range(8)))
    done = sum(count for count, _ in counts)
    assert stream._record[StreamSlots.BUSY] == 0
    _, want = lstm(np.full((done, 2, 3), 0.5, np.float32))
    assert done > 0 and equal(stream.state, want)
    assert not equal(stream.state, lstm(np.full((1, 2, 3), 0.5, np.float32))[1])


def test_eight_threads_with_a_stream_each_while_the_weights_change(way):
    """Every stream has the bits of its own weights, and after a refresh those of some weights that there were."""
    lstm = model()
    x = np.random.default_rng(0).standard_normal((40, 2, 3)).astype(np.float32)
    kinds = [dict(model(seed).state_dict()) for seed in range(4)]
    lstm.load_state_dict(kinds[0])
    twins = [model(seed) for seed in range(4)]
    wanted = [[twin(x, state) for state in (None, twins[0](x)[1])] for twin in twins]
    over = threading.Event()

    def replace():
        n = 0
        while not over.is_set():
            lstm.load_state_dict(kinds[n % 4])
            n += 1
        return n

    def run(n):
        seen = set()
        for _ in range(20):
            stream = fixed[n].fork()
            output = np.concatenate([stream(x[:5]), stream(x[5:6]), *[stream(step)[None] for step in x[6:]]])
            assert same_bits(output, wanted[0][0][0])
            stream.refresh()
            output = np.concatenate([*[stream(step)[None] for step in x[:20]], stream(x[20:])])
            matches = [k for k in range(4) if same_bits(output, wanted[k][1][0])]
            assert len(matches) == 1 and equal(stream.state, wanted[matches[0]][1][1])
            seen.update(matches)
        return seen

    fixed = [lstm.stream(2) for _ in range(8)]
    with ThreadPoolExecutor(9) as pool:
        replacing = pool.submit(replace)
        try:
            seen = set().union(*pool.map(run, range(8)))
        finally:
            over.set()
        assert replacing.result() > 1
    assert len(seen) > 1


def test_steps_wait_for_no_lock_of_the_package():
    lstm = model()
    stream = lstm.stream()
    stream.step()
    held, release = threading.Event(), threading.Event()

    def hold():
        with module.changing, registry._lock:
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(60)
        changing = threading.Thread(target=setattr, args=(lstm, "weight_ih_l0", np.zeros((80, 3))))
        changing.start()  # this one waits
        for _ in range(100):
            stream.step()
            stream(np.ones(3, np.float32))
        assert changing.is_alive() and not release.is_set()
    finally:
        release.set()
        thread.join()
        changing.join()


# ------------------------------------------------------------ interruptions


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line of sequences/stream.py, of the executor or of a planted fault that is
    reached."""

    def __init__(self, at):
        self.at, self.count = at, 0
        lines = Path(streams.__file__).read_text("utf-8").splitlines()
        # Between the end of the work and this call Python looks for no signal; the trace would see one there.
        self.free = {n for n, line in enumerate(lines, 1) if line.strip() == "exchange(flag, own, 0)"}
        assert len(self.free) == 1

    def __call__(self, frame, event, argument):
        name = frame.f_code.co_filename
        watched = streams.__file__, executor.__file__, workspace.__file__
        if name not in watched and not frame.f_code.co_name.startswith("planted"):
            return None
        if event == "line" and not (name == streams.__file__ and frame.f_lineno in self.free):
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)


def faults(name, way_of_making):
    """What is wrong after an interruption at any line of an action, and how many lines there were."""
    found, at = [], 0
    while True:
        at += 1
        lstm, stream = way_of_making()
        act = actions(lstm, stream)[name]
        before, panels = stream.state, stream._panels
        twin = stream.fork()
        actions(lstm, twin)[name]()
        after, new_panels = twin.state, twin._panels
        with Interrupt(at) as interrupt:
            try:
                act()
                interrupted = False
            except KeyboardInterrupt:
                interrupted = True
        if stream._record[StreamSlots.BUSY] != 0:
            found.append(f"line {at}: in use for ever")
            stream._record[StreamSlots.BUSY] = 0
        state = stream.state
        if not equal(state, after) and not (interrupted and equal(state, before)):
            found.append(f"line {at}: torn")
        kept = [panels, new_panels]
        slot = stream._record[StreamSlots.LENGTH + streams.Header.PANELS]
        if slot != object_layout.address(stream._panels.data) or not any(stream._panels is p for p in kept):
            held = stream._record.keepalive
            if not any(slot == object_layout.address(p.data) for p in (held if isinstance(held, tuple) else (held,))):
                found.append(f"line {at}: panels that nobody holds")
        stream.step()
        if not interrupted:
            return found, interrupt.count


def ready_stream():
    lstm = model()
    stream = lstm.stream(2)
    stream(np.random.default_rng(0).standard_normal((3, 2, 3)))
    lstm.weight_ih_l0 = np.full((80, 3), 0.1)
    return lstm, stream


CHANGING = ["call with a step that is converted", "call with a chunk that is converted", "state", "state =", "reset"]
CHANGING += ["reset of a row", "snapshot", "restore", "fork", "refresh", "call with a step"]


@pytest.mark.parametrize("name", CHANGING)
def test_an_interruption_at_any_line_leaves_a_whole_stream(name):
    found, lines = faults(name, ready_stream)
    assert found == []
    assert lines >= (1 if name == "call with a step" else 4), "no line was interrupted"


def planted_careless(self, work):
    """The flag is taken before it is sure to be given back."""
    exchange = registry.kernel(self.dtype.name).exchange
    if exchange(self.address, 0, 5) != 0:
        raise RuntimeError(IN_USE)
    held = True
    try:
        return work()
    finally:
        exchange(self.address, 5 if held else 6, 0)


def planted_in_two_parts(self, h, c):
    def planted_change():
        self._h[...] = h
        self._c[...] = c

    self._exclusive(planted_change)


@pytest.mark.parametrize(
    ("name", "attribute", "fault", "says"),
    [
        ("reset", "_exclusive", planted_careless, "in use for ever"),
        ("call with a chunk that is converted", "_exclusive", planted_careless, "in use for ever"),
        ("state =", "_set", planted_in_two_parts, "torn"),
        ("restore", "_set", planted_in_two_parts, "torn"),
    ],
)
def test_the_interruptions_notice_a_planted_fault(monkeypatch, name, attribute, fault, says):
    monkeypatch.setattr(Stream, attribute, fault)
    found, _ = faults(name, ready_stream)
    assert any(says in line for line in found), found


def signalled(enough):
    """How often real signals, at random moments, have stopped a chunk that is converted piece by piece; what broke."""
    if not hasattr(signal, "setitimer"):
        leave_out("needs signal.setitimer")
    lstm = numlstm.LSTM(8, 64, 2, seed=0).eval()
    stream = lstm.stream(4)
    x = np.random.default_rng(0).standard_normal((60, 4, 8))
    rng, stopped, finished, found = np.random.default_rng(0), 0, 0, []

    def stop(*_):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        with planner.override(convert_bytes=600):
            lstm.stream(4)(x)
            begin = time.perf_counter()
            lstm.stream(4)(x)
            usual = time.perf_counter() - begin
            deadline = time.monotonic() + 120
            while not enough(stopped, finished, found) and time.monotonic() < deadline:
                before = stream.state
                want = lstm(x, before)[1]
                done = False
                try:
                    signal.setitimer(signal.ITIMER_REAL, max(1e-6, rng.random() * usual * 1.5))
                    stream(x)
                    done = True
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                if stream._record[StreamSlots.BUSY] != 0:
                    found.append("in use for ever")
                    stream._record[StreamSlots.BUSY] = 0
                after = stream.state
                if not equal(after, want) and (done or not equal(after, before)):
                    found.append("torn")
                finished, stopped = finished + done, stopped + (not done)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return stopped, finished, found


def planted_call_before(self, work):
    """Python looks for signals after ``id``, and then the flag is not put back."""
    exchange, mark = self._exchange, object()
    try:
        if exchange(self.address, 0, id(mark)) != 0:
            raise RuntimeError(IN_USE)
        return work()
    finally:
        exchange(self.address, id(mark), 0)


def planted_in_place(self, input):
    """The pass writes to the state itself."""
    x = np.asarray(input)
    output = np.empty((*x.shape[:2], self.output.shape[1]), self.dtype)
    self._exclusive(lambda: self._executor.run(Call(self._panels, x, self._h, self._c, output, self._h, self._c)))
    return output


@pytest.mark.slow
def test_signals_in_the_midst_of_chunks(monkeypatch):
    stopped, finished, found = signalled(lambda stopped, finished, found: stopped >= 60 and finished >= 10)
    assert found == [] and stopped >= 10 and finished >= 1
    for attribute, fault, says in (
        ("_exclusive", planted_call_before, "in use for ever"),
        ("__call__", planted_in_place, "torn"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Stream, attribute, fault)
            assert says in signalled(lambda stopped, finished, found, says=says: says in found)[2]


def test_a_handler_that_steps_in_the_midst_of_a_chunk_is_refused(monkeypatch):
    """It runs in the same thread, which holds the stream already."""
    lstm = model()
    stream = lstm.stream(2)
    forward, said = Executor.run, []

    def handled(*arguments):
        for act in (stream.step, lambda: stream.state, stream.reset):
            with pytest.raises(RuntimeError, match=IN_USE):
                act()
            said.append(1)
        forward(*arguments)

    monkeypatch.setattr(Executor, "run", handled)
    x = np.ones((4, 2, 3))  # to be converted, which the executor does
    got = stream(x)
    assert said == [1, 1, 1] and stream._record[StreamSlots.BUSY] == 0
    monkeypatch.undo()
    assert same_bits(got, lstm(x)[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_by_itself(monkeypatch):
    lstm = model()
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
    want = lstm(x)[0]
    stream, in_use = lstm.stream(2), lstm.stream(2)
    stream(x[:3])
    in_use._record[StreamSlots.BUSY] = 1
    child = os.fork()
    if child == 0:
        try:
            right = same_bits(stream(x[3:]), want[3:])
            try:
                in_use.step()
            except RuntimeError:
                os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same_bits(stream(x[3:]), want[3:])


# ------------------------------------------------------------ no allocation


STEPS = 1_000_000


def held_after(call, count):
    """Blocks of Python's allocator, traced bytes at the peak, and resident bytes, that many calls have added."""
    for _ in range(1000):
        call()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        resident = memory._status("VmRSS")
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        blocks = sys.getallocatedblocks()
        for _ in repeat(None, count):
            call()
        more = sys.getallocatedblocks() - blocks
        _, peak = tracemalloc.get_traced_memory()
        return more, peak - before, memory._status("VmRSS") - resident
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["step", "without the GIL", "step_function"])
def test_a_million_steps_allocate_nothing(monkeypatch, dtype, kind):
    if kind == "without the GIL":
        monkeypatch.setattr(fast_call, "GIL_WORK", -1)
    stream = numlstm.LSTM(1, 8, dtype=dtype, seed=0).stream()
    call, address = stream.step, stream.address
    if kind == "step_function":
        step = numlstm.step_function(dtype)

        def call():
            step(address)

    stream.input[:] = 1
    blocks, peak, resident = held_after(call, STEPS)
    assert abs(blocks) < 20 and peak < 2000 and resident < 200_000, (blocks, peak, resident)
    assert stream.output.any()


def test_the_count_notices_what_is_kept_and_what_passes():
    stream = numlstm.LSTM(1, 8, seed=0).stream()
    kept, x = [], np.ones(1, np.float32)
    blocks, peak, _ = held_after(lambda: kept.append(stream(x)), 3000)
    assert blocks > 2000 and peak > 2000
    _, peak, _ = held_after(lambda: stream(np.ones((3000, 1), np.float32)), 3)
    assert peak > 3000 * 4


# ------------------------------------------------------------ from compiled code


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_inside_numba(dtype):
    """The loop is compiled, and no Python runs in it; what is in use is refused there too."""
    numba = need("numba")
    lstm = numlstm.LSTM(2, 12, 2, dtype=dtype, seed=0).eval()
    stream, step = lstm.stream(), numlstm.step_function(dtype)

    @numba.njit(nogil=True)
    def run(x, y, live_input, live_output, address):
        for t in range(len(x)):
            live_input[0] = x[t]
            if step(address):
                return t
            y[t] = live_output[0]
        return len(x)

    x = np.random.default_rng(0).standard_normal((500, 2)).astype(dtype)
    y = np.zeros((500, 12), dtype)
    assert run(x, y, stream.input, stream.output, stream.address) == 500
    want, states = lstm(x[:, None])
    assert same_bits(y, want[:, 0]) and equal(stream.state, states)
    stream._record[StreamSlots.BUSY] = 1
    assert run(x, y, stream.input, stream.output, stream.address) == 0
    stream._record[StreamSlots.BUSY] = 0
    assert equal(stream.state, states)


IN_A_CACHE = """
import numba, numlstm
stream = numlstm.LSTM(1, 4, seed=0).stream()

@numba.njit(cache=True)
def run(step, address):
    return step(address)

stream.input[:] = 1
assert run(numlstm.step_function(), stream.address) == 0
print(sum(run.stats.cache_hits.values()), stream.output.tobytes().hex())
"""


@pytest.mark.slow
def test_a_function_that_numba_has_cached_takes_the_step_as_an_argument(tmp_path):
    """The second process finds it, and calls the step where that now is."""
    need("numba")
    (tmp_path / "cached.py").write_text(IN_A_CACHE)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    said = [
        subprocess.run(
            [sys.executable, tmp_path / "cached.py"], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [hits for hits, _ in said] == ["0", "1"]
    want = numlstm.LSTM(1, 4, seed=0)(np.ones((1, 1), np.float32))[0]
    assert all(output == want.tobytes().hex() for _, output in said)


def test_step_function_is_a_plain_c_function():
    lstm = model()
    stream, step = lstm.stream(), numlstm.step_function("float32")
    at = ctypes.cast(step, ctypes.c_void_p).value
    again = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(at)
    stream.input[:] = 1
    assert again(stream.address) == 0
    assert same_bits(stream.output, lstm(np.ones((1, 1, 3)))[0][0])
    assert ctypes.cast(numlstm.step_function(np.float64), ctypes.c_void_p).value != at
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        numlstm.step_function(np.int32)


def test_streams_need_no_numba():
    code = (
        "import sys, numlstm; s = numlstm.LSTM(2, 3).stream(); s([1, 2]); s.step(); numlstm.step_function()(s.address);"
        "assert 'numba' not in sys.modules; import numba; assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
