"""Threads that share a call: the same bits for every partition and number of threads, and no call that hangs.

Every way is forced at small sizes, and the kernels' counters prove that workers took part. Limits on time are
limits against a hang.
"""

import ctypes
import gc
import os
import signal
import threading
import time
import types
import weakref
from math import inf

import numpy as np
import pytest
from callers import at_once
from commands import child
from judge import equal, same_bits
from samples import data, make

import numlstm
from numlstm.base.config import Config
from numlstm.kernels import recurrence, work_queue
from numlstm.kernels.instructions import bump_counter, load_slot
from numlstm.kernels.loading import build, linker, registry
from numlstm.kernels.loading.entry_points import ENTRIES, callable_kernel
from numlstm.kernels.plan_layout import Header, Partition, Share
from numlstm.kernels.plan_rules import python_rules
from numlstm.runtime import cores, planner, schedule, threads, workers
from numlstm.runtime.call import Call
from numlstm.runtime.executor import Executor
from numlstm.runtime.schedule import Overrides
from numlstm.runtime.workspace import KEEP_BYTES, Workspace

pytestmark = pytest.mark.cpu_level

FOR_EVER = 120.0  # seconds
WAYS = {
    "rows": Overrides(Partition.ROWS),
    "rows, one a chunk": Overrides(Partition.ROWS, chunk_rows=1),
    "rows, three a chunk": Overrides(Partition.ROWS, chunk_rows=3),
    "directions": Overrides(Partition.DIRECTIONS),
    "wavefront": Overrides(Partition.WAVEFRONT),
    "wavefront, chunks of 2": Overrides(Partition.WAVEFRONT, chunk_steps=2),
    "wavefront, one chunk": Overrides(Partition.WAVEFRONT, chunk_steps=1000),
    "blocks": Overrides(Partition.BLOCKS),
    "blocks, seven chunks": Overrides(Partition.BLOCKS, num_chunks=7),
}
OTHERS = ({}, {"hoist": True}, {"hoist": True, "hoist_steps": 2}, {"group": 3}, {"mr": 2}, {"mr": 1})


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """The number of threads is put back; calls use workers that have just been started, however brief they are."""
    monkeypatch.setattr(planner, "START_WORTH", 0.0)
    before = numlstm.get_num_threads()
    yield
    numlstm.set_num_threads(before)


class Gathered:
    """Workers that a call waits for before it begins, so that all of them are there."""

    def __init__(self, monkeypatch):
        run, start = Executor._run_worker, workers.Team.start

        def gathering(*arguments):
            self.barrier.wait(FOR_EVER)
            run(*arguments)

        def starting(team, tasks, *rest):
            self.barrier = threading.Barrier(len(tasks) + 1)
            start(team, tasks, *rest)
            self.barrier.wait(FOR_EVER)
            self.team = team

        monkeypatch.setattr(Executor, "_run_worker", gathering)
        monkeypatch.setattr(workers.Team, "start", starting)

    def __call__(self, lstm, x, hx, count, **settings):
        """Results, and the counters of all threads together: of the call alone, for the plans are new."""
        numlstm.set_num_threads(count)
        self.team = None
        with planner.override(**settings):
            lstm._model.executor.idle.clear()
            results = lstm(x, hx)
            if self.team is not None:
                self.team.join()
            counts = sum(w.slots[: Header.LENGTH] for w in lstm._model.executor.idle)
        return results, counts


@pytest.fixture
def gathered(monkeypatch):
    return Gathered(monkeypatch)


FLAGS = (
    {"num_layers": 3},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 4, "proj_size": 21},
    {"num_layers": 1, "bidirectional": True, "proj_size": 2, "bias": False},
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_threads_gives_the_same_bits(gathered, way, flags, dtype):
    lstm = make(dtype=dtype, **flags)
    for batch, other in ((7, {}), (1, {"hoist": True, "hoist_steps": 2}), *((7, other) for other in OTHERS[1:])):
        x, hx = data(lstm, batch=batch)
        want, alone = gathered(lstm, x, hx, 1, **other)
        assert alone[Header.WORK_ITEMS] == 0
        for count in (2, 3, 8):
            got, counts = gathered(lstm, x, hx, count, schedule=WAYS[way], **other)
            assert equal(got, want), (count, batch, other)
            chosen = schedule.choose(lstm._config, len(x), batch, x.itemsize, count, WAYS[way])
            assert (counts[Header.WORK_ITEMS] > 0) == (chosen is not None)
            if way.startswith("wavefront") and chosen:
                assert counts[Header.WAVEFRONT] == counts[Header.WORK_ITEMS] >= lstm.num_layers
            if way.startswith("blocks"):
                assert counts[Header.PHASES] >= chosen.num_threads * len(x) * lstm.num_layers
                assert counts[Header.WORK_ITEMS] * chosen.num_threads == counts[Header.PHASES] * chosen.num_chunks


def test_every_way_is_taken(gathered):
    """What the test above forces is there: several threads claim, and one claims from another's range."""
    deep, both = make(num_layers=3), make(num_layers=2, bidirectional=True)
    for name, forced in WAYS.items():
        lstm = both if forced.partition == Partition.DIRECTIONS else deep
        x, hx = data(lstm)
        _, counts = gathered(lstm, x, hx, 2, schedule=forced)
        team_plan = next(iter(lstm._model.executor.plans.values()), None)
        assert counts[Header.WORK_ITEMS] > 0, name
        assert team_plan is None  # forgotten with the settings
    x, hx = data(deep, steps=200)
    stolen = 0
    for _ in range(50):
        _, counts = gathered(deep, x, hx, 2, schedule=Overrides(Partition.BLOCKS, num_chunks=8))
        stolen += counts[Header.STEALS]
    assert stolen > 0


def long_enough():
    """A call that has use for threads, and its results by one."""
    lstm = numlstm.LSTM(16, 128, num_layers=2, seed=0).eval()
    x, hx = data(lstm, steps=60, batch=32)
    numlstm.set_num_threads(1)
    return lstm, x, hx, lstm(x, hx)


def test_a_brief_call_does_not_wait_for_workers_that_it_starts(monkeypatch):
    """The next one finds them; a long one, whose work is worth it, waits."""
    started = []
    start = workers.Team.start
    monkeypatch.setattr(workers.Team, "start", lambda team, *rest: started.append(team) or start(team, *rest))
    for worth, calls in ((1e9, [0, 1, 2]), (0.0, [1, 2, 3])):
        lstm, x, hx, want = long_enough()
        monkeypatch.setattr(planner, "START_WORTH", worth)
        monkeypatch.setattr(workers, "_pool", workers.WorkerPool())
        numlstm.set_num_threads(2)
        started.clear()
        for count in calls:
            assert equal(lstm(x, hx), want)
            assert len(started) == count and len(workers._pool.workers) == 1 and workers._pool.busy == 0


def test_long_calls_use_workers_and_short_ones_do_not(monkeypatch):
    lstm, x, hx, want = long_enough()
    started = []
    start = workers.Team.start

    def counting(team, tasks, *rest):
        started.append(len(tasks))
        start(team, tasks, *rest)

    monkeypatch.setattr(workers.Team, "start", counting)
    numlstm.set_num_threads(2)
    assert equal(lstm(x, hx), want) and started == [1]
    assert equal(lstm(x, hx), want) and started == [1, 1]
    lstm(x[:1, :1])
    assert started == [1, 1]
    numlstm.set_num_threads(1)
    assert equal(lstm(x, hx), want) and started == [1, 1]


def test_a_small_foreign_input_is_shared_too(monkeypatch):
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(2)
    with planner.override(schedule=Overrides(Partition.ROWS)):
        assert equal(lstm(x.astype(np.float64), hx), lstm(x, hx))
        assert equal(lstm(np.asfortranarray(x), hx), want)


def test_a_worker_that_never_wakes_is_not_missed(monkeypatch):
    """The caller does all of it. Later the worker comes, and finds nothing to do."""
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(3)
    asleep, results = [], []

    class Sleeper:
        team = None
        set_affinity = staticmethod(lambda core, within: None)

        class tasks:
            put = staticmethod(asleep.append)

    with monkeypatch.context() as patch:
        patch.setattr(workers.WorkerPool, "another", lambda pool: Sleeper())
        patch.setattr(workers, "_pool", workers.WorkerPool())
        for way in (Partition.ROWS, Partition.WAVEFRONT, Partition.BLOCKS):
            with planner.override(schedule=Overrides(way)):
                results.append(lstm(x, hx))
    assert len(asleep) == 2 + 1 + 2  # a wavefront of two layers has two threads
    assert all(equal(found, want) for found in results)
    for output, (h_n, c_n) in results:
        for array in (output, h_n, c_n):
            array.fill(7)
    for task in asleep:
        task()
    assert all((array == 7).all() for output, states in results for array in (output, *states))


def test_a_worker_that_comes_in_the_middle_takes_part(monkeypatch):
    lstm, x, hx, _ = long_enough()
    x, hx = data(lstm, steps=2000, batch=8)
    want = lstm(x, hx)
    run = Executor._run_worker

    def later(*arguments):
        time.sleep(0.005)
        run(*arguments)

    monkeypatch.setattr(Executor, "_run_worker", later)
    numlstm.set_num_threads(2)
    for way in (Partition.ROWS, Partition.WAVEFRONT, Partition.BLOCKS):
        with planner.override(schedule=Overrides(way)):
            assert equal(lstm(x, hx), want), way


def test_no_system_thread_is_no_error(monkeypatch):
    lstm, x, hx, want = long_enough()

    def refuse():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(workers, "_pool", workers.WorkerPool())
    monkeypatch.setattr(workers, "Worker", refuse)
    numlstm.set_num_threads(4)
    assert equal(lstm(x, hx), want)
    assert workers._pool.busy == 0


def test_workers_are_never_more_than_the_limit_leaves(monkeypatch):
    """A second caller gets none, and lets the first one's workers leave."""
    monkeypatch.setattr(workers, "_pool", workers.WorkerPool())
    numlstm.set_num_threads(2)
    record = [0] * (Share.LEAVE + 1)
    with workers.Team(1) as first:
        assert len(first.workers) == 1 and workers._pool.busy == 2
        first.start([lambda: None], record)
        with workers.Team(1) as second:
            assert second.workers == [] and record[Share.LEAVE] == 1
            assert workers._pool.busy == 3
    assert workers._pool.busy == 0
    with workers.Team(5) as again:
        assert again.workers == first.workers
    with numlstm.num_threads(4), workers.Team(5) as more:
        assert len(more.workers) == 3 and workers._pool.busy == 4
        with numlstm.num_threads(8), workers.Team(2) as besides:
            assert len(besides.workers) == 2 and not set(besides.workers) & set(more.workers)
    first.join()


def test_eight_callers_at_once():
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(2)
    wrong = []

    def call():
        for _ in range(20):
            if not equal(lstm(x, hx), want):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(FOR_EVER)
        assert not caller.is_alive()
    assert wrong == [] and workers._pool.busy == 0


ON_ONE_CORE = """
import os, sys, threading
os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
import numlstm
assert numlstm.get_num_threads() == 1, numlstm.get_num_threads()
from numlstm.runtime import planner
from numlstm.kernels.plan_layout import Partition
from numlstm.runtime.schedule import Overrides
from judge import equal
from samples import data
lstm = numlstm.LSTM(16, 64, num_layers=2, seed=0).eval()
x, hx = data(lstm, steps=60, batch=8)
want = lstm(x, hx)
numlstm.set_num_threads(8)
ended = []
def call(way):
    for _ in range(5):
        assert equal(lstm(x, hx), want)
    ended.append(1)
for way in (Partition.ROWS, Partition.WAVEFRONT, Partition.BLOCKS):
    with planner.override(schedule=Overrides(way)):
        callers = [threading.Thread(target=call, args=(way,)) for _ in range(8)]
        for caller in callers: caller.start()
        for caller in callers: caller.join()
        assert equal(lstm(x, hx), want)
print(len(ended))
"""


needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")


@needs_affinity
def test_eight_callers_on_one_core():
    """Spinning threads let each other run: eight callers of eight threads each end, on a single core."""
    assert child("-c", ON_ONE_CORE) == "24"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
def test_a_caller_interrupted_by_a_signal():
    """Wherever the exception comes, memory is sound, nothing is lost, and the next call is right and shared."""
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(2)
    assert equal(lstm(x, hx), want)
    out = tuple(np.empty_like(array) for array in (want[0], *want[1]))
    interrupted = 0

    class Interrupted(Exception):
        pass

    def handler(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for n in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (n % 40 + 1))
                lstm.forward(x, hx, out=out)
                time.sleep(0.01)  # the signal is on its way
            except Interrupted:
                interrupted += 1
                for array in out:
                    array.fill(0)
                time.sleep(0.0005)
                assert not any(array.any() for array in out), "a worker writes to arrays that are the caller's again"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 100
    assert workers._pool.busy == 0
    assert equal(lstm(x, hx), want)
    with workers.Team(1) as team:
        assert len(team.workers) == 1


def within(seconds, call):
    """Whether a call ends, in a thread of its own."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def test_a_call_interrupted_before_a_worker_has_its_task_ends(monkeypatch):
    """Such a worker is not waited for."""
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(3)

    class Interrupting:
        team = None
        set_affinity = staticmethod(lambda core, within: None)

        class tasks:
            @staticmethod
            def put(task):
                raise KeyboardInterrupt

    raised = []

    def call():
        try:
            lstm(x, hx)
        except BaseException as error:
            raised.append(type(error))

    with monkeypatch.context() as patch:
        patch.setattr(workers.WorkerPool, "another", lambda pool: Interrupting())
        patch.setattr(workers, "_pool", workers.WorkerPool())
        assert within(FOR_EVER, call)
    assert raised == [KeyboardInterrupt]
    assert equal(lstm(x, hx), want)


def test_what_a_worker_slept_through_is_let_go(monkeypatch):
    """However many calls it sleeps through, it holds no arrays of theirs, nor workspaces."""
    lstm, x, hx, _ = long_enough()
    numlstm.set_num_threads(2)
    asleep = []

    class Sleeper:
        team = None
        set_affinity = staticmethod(lambda core, within: None)

        class tasks:
            put = staticmethod(asleep.append)

    monkeypatch.setattr(workers.WorkerPool, "another", lambda pool: Sleeper())
    monkeypatch.setattr(workers, "_pool", workers.WorkerPool())
    for _ in range(3):
        mine = x.copy()
        held = weakref.ref(mine)
        lstm(mine, hx)
        del mine
        assert held() is None
    assert len(asleep) == 3 and len(lstm._model.executor.idle) == 2


def test_a_worker_that_is_interrupted_as_it_begins_ends(monkeypatch):
    """Else nobody would know of it."""
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(2)
    monkeypatch.setattr(workers, "_pool", workers.WorkerPool())
    start, begun = threading.Thread.start, []

    def interrupted(thread):
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lstm(x, hx)
    begun[0].join(10)
    assert not begun[0].is_alive() and workers._pool.workers == []
    assert equal(lstm(x, hx), want) and len(workers._pool.workers) == 1


@pytest.mark.parametrize(
    ("way", "count", "hidden"), [(None, 1, 65536), (Partition.ROWS, 64, 16384), (Partition.WAVEFRONT, 3, 16384)]
)
def test_what_all_threads_take_is_bounded(way, count, hidden):
    """Whatever the hidden size: gates and h before W_hr, of all of them."""
    batch, size = 64 * 100, 4
    panels = types.SimpleNamespace(
        config=Config(1, hidden, 3, proj_size=1),
        dtype=np.dtype("f4"),
        lanes=16,
        rules=python_rules(16, size),
        layout=lambda n: types.SimpleNamespace(panel=0, bias=0, hr_panel=0),
    )
    key = (2, batch, 1), (batch * size, size, size), (batch * size, size, size)
    alone = planner.make_plan(panels, *key)
    members, plans = 1, [alone]
    if way is not None:
        with planner.override(schedule=Overrides(way)):
            team_plan = planner.make_team_plan(panels, key, count)
        members, plans = team_plan.schedule.num_threads, [team_plan.caller, team_plan.worker]
    assert members == count
    for made in plans:
        assert (made.hidden + made.gates) * size * members <= 10 << 20


def test_a_call_in_the_midst_of_another_s_count_of_threads(monkeypatch):
    """By a signal handler, say, while the calls under way are walked through."""
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(2)
    inner = []

    class Nosy:
        def __get__(self, team, _):
            if not inner:
                inner.append(None)
                inner.append(lstm(x, hx))
            return vars(team).get("inside", True)

        def __set__(self, team, value):
            vars(team)["inside"] = value

    monkeypatch.setattr(workers, "_pool", workers.WorkerPool())
    monkeypatch.setattr(workers.Team, "inside", Nosy(), raising=False)
    assert equal(lstm(x, hx), want)
    assert equal(inner[1], want)


def test_at_the_end_workers_leave_the_call_that_they_are_in(monkeypatch):
    monkeypatch.setattr(workers, "_pool", workers.WorkerPool())
    numlstm.set_num_threads(2)
    told = threading.Event()

    class Record:
        def __setitem__(self, slot, value):
            told.set()

    left = []
    with workers.Team(1) as team:
        (worker,) = team.workers
        team.start([lambda: left.append(told.wait(FOR_EVER))], Record())
        while not worker.tasks.empty():
            time.sleep(0.001)
        workers._end()
        assert told.is_set()
        worker.thread.join(FOR_EVER)
    assert left in ([True], [])  # called off, if it was not begun yet


def test_a_call_while_python_ends_has_no_workers():
    """A thread that is started there may never begin, and whoever starts it then waits for ever."""
    said = child(
        "-c",
        """
import numlstm, numpy as np
from numlstm.runtime import planner
planner.START_WORTH = 0.0
numlstm.set_num_threads(2)
lstm, x = numlstm.LSTM(8, 64, num_layers=2, seed=0).eval(), np.ones((100, 32, 8), "f4")
want = lstm(x)[0].tobytes()
class Last:
    def __del__(self):
        print(lstm(x)[0].tobytes() == want, flush=True)
last = Last()
""",
    )
    assert said == "True"


def test_a_workspace_that_another_thread_takes_meanwhile():
    lstm, x, hx, want = long_enough()
    kept = lstm._model.executor

    class Taken(Workspace):
        """Gone, all of them, as soon as one is looked at."""

        @property
        def plan(self):
            kept.idle.clear()

        @plan.setter
        def plan(self, value):
            pass

    for count in (1, 2, 3):
        kept.idle[:] = [Taken(kept.kernel, kept.dtype) for _ in range(count)]
        assert equal(lstm(x, hx), want)


def test_callers_in_turn_of_many_shapes_leave_no_more_workspaces_than_callers():
    lstm = numlstm.LSTM(16, 64, 2, seed=0).eval()
    inputs = [np.ones((steps, batch, 16), np.float32) for steps, batch in ((20, 3), (30, 8), (40, 2), (60, 16))]
    numlstm.set_num_threads(1)
    outputs = [lstm(x)[0] for x in inputs]
    wrong = []

    def call(n):
        try:
            for k in range(n, n + 1000):
                if not same_bits(lstm(inputs[k % 4])[0], outputs[k % 4]):
                    wrong.append(k)
        except Exception as error:
            wrong.append(error)

    at_once(call, 8)
    assert wrong == [] and len(lstm._model.executor.idle) <= 8


def test_two_shapes_in_turn_take_one_sequence_between_layers(monkeypatch):
    """The caller's workspace of the last call is given up before another is made larger."""
    lstm = numlstm.LSTM(16, 64, num_layers=2, seed=0).eval()
    numlstm.set_num_threads(2)
    inputs = [np.zeros((steps, 64, 16), np.float32) for steps in (1500, 1400)]
    with planner.override(schedule=Overrides(Partition.ROWS)):
        for x in inputs:
            lstm(x)
        idle = lstm._model.executor.idle
        idle.insert(0, idle.pop(max(range(len(idle)), key=lambda n: idle[n].buffers["below"].size)))
        small = Workspace(lstm._model.executor.kernel, lstm.dtype)
        small.plan = object()  # of another shape, and the last that was given back
        idle.append(small)
        adopt, found = Workspace.adopt, []

        def adopting(workspace, plan):
            found.append(max((other.buffers["below"].nbytes for other in idle if other.buffers), default=0))
            adopt(workspace, plan)

        monkeypatch.setattr(Workspace, "adopt", adopting)
        output, _ = lstm(inputs[0])
    assert output.nbytes > KEEP_BYTES
    assert found and max(found) < KEEP_BYTES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_makes_workers_of_its_own():
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(2)
    assert equal(lstm(x, hx), want)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            right = all(equal(lstm(x, hx), want) for _ in range(3))
            os.write(writing, b"right" if right and len(workers._pool.workers) == 1 else b"wrong")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"right"
    os.waitpid(pid, 0)
    assert equal(lstm(x, hx), want)


def test_a_process_ends_at_once_and_sleeping_workers_take_no_time():
    said = child(
        "-c",
        "import time\n"
        "import numlstm\nfrom judge import equal\nfrom runtime.test_threads import long_enough\n"
        "lstm, x, hx, want = long_enough()\n"
        "numlstm.set_num_threads(2)\n"
        "assert equal(lstm(x, hx), want)\n"
        "begin = time.process_time(); time.sleep(0.5); print(time.process_time() - begin)\n",
    )
    assert float(said) < 0.1


def test_one_thread_starts_none():
    said = child(
        "-c",
        "import threading\n"
        "import numlstm\nfrom runtime.test_threads import long_enough\n"
        "long_enough(); import numpy as np; numlstm.set_num_threads(8)\n"
        "numlstm.LSTM(3, 4)(np.zeros((2, 1, 3)))\n"
        "print(threading.active_count())\n",
    )
    assert said == "1"


def test_a_worker_spins_until_the_next_call_and_not_for_ever():
    """It looks at the epoch so many times; a call with workers ends that at once, and one without does not."""
    worker = workers.Worker()
    try:
        run, slots = registry.kernel("float32").forward, worker.slots
        slots[Header.NUM_CHUNKS] = workers._epoch.value
        run(ctypes.addressof(slots))  # the epoch stays, and it ends all the same
        slots[Header.CHUNK_STEPS] = 1 << 60
        ended = threading.Event()
        spinning = threading.Thread(target=lambda: (run(ctypes.addressof(slots)), ended.set()), daemon=True)
        spinning.start()
        lstm, x, hx, _ = long_enough()
        assert not ended.wait(0.05)
        numlstm.set_num_threads(2)
        lstm(x, hx)
        assert ended.wait(FOR_EVER)
    finally:
        worker.tasks.put(None)


# How many -----------------------------------------------------------------------------------------------------------


def default(**environment):
    unset = {"NUMLSTM_NUM_THREADS": "", "OMP_NUM_THREADS": ""}
    return child("-c", "import numlstm\nprint(numlstm.get_num_threads())", **{**unset, **environment})


def test_the_number_of_threads_is_the_environment_s():
    usable = cores.usable_cores()
    assert default() == str(usable)
    assert default(NUMLSTM_NUM_THREADS="5") == "5"
    assert default(OMP_NUM_THREADS="1") == default(OMP_NUM_THREADS="1,4") == "1"
    assert default(OMP_NUM_THREADS="1000") == str(usable)  # no more than there are cores
    for no_number in ("many", "²", "9" * 5000):  # of digits that are none of int's, and of more than it takes
        assert default(OMP_NUM_THREADS=no_number) == str(usable)
    assert default(OMP_NUM_THREADS="1", NUMLSTM_NUM_THREADS="3") == "3"


def test_info_says_how_many_and_why(monkeypatch):
    from click.testing import CliRunner

    from numlstm.cli import main

    def line():
        result = CliRunner().invoke(main, ["info"])
        return next((line for line in result.output.splitlines() if line.startswith("threads")), result.output)

    numlstm.set_num_threads(3)
    assert line().split(maxsplit=1)[1] == "3 at most for a call, set by set_num_threads"
    for name, value, says in (
        ("OMP_NUM_THREADS", "1", "1 at most for a call, OMP_NUM_THREADS and cores"),
        ("NUMLSTM_NUM_THREADS", "7", "7 at most for a call, set by NUMLSTM_NUM_THREADS"),
        ("NUMLSTM_NUM_THREADS", "x", "NUMLSTM_NUM_THREADS is 'x'"),
    ):
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(threads, "_limit", None)
        assert says in line()
    monkeypatch.undo()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "2000"])
def test_a_wrong_environment_is_said(monkeypatch, value):
    monkeypatch.setenv("NUMLSTM_NUM_THREADS", value)
    monkeypatch.setattr(threads, "_limit", None)
    with pytest.raises(ValueError, match=f"NUMLSTM_NUM_THREADS is '{value}'; it must be a whole number from 1 to 1024"):
        numlstm.get_num_threads()
    monkeypatch.undo()


def test_set_num_threads_refuses_what_is_no_number_of_threads():
    before = numlstm.get_num_threads()
    for wrong, error, says in (
        (0, RuntimeError, "expects a positive integer"),
        (-3, RuntimeError, "expects a positive integer"),
        (1.0, TypeError, "expects an int, but got float"),
        ("2", TypeError, "expects an int, but got str"),
        (True, TypeError, "expects an int, but got bool"),
        (None, TypeError, "expects an int, but got NoneType"),
        (1025, ValueError, "1025 threads are asked for; numlstm uses 1024 at most"),
    ):
        for ask in (numlstm.set_num_threads, numlstm.num_threads):
            with pytest.raises(error, match=says):
                ask(wrong)
    assert numlstm.get_num_threads() == before
    numlstm.set_num_threads(np.int64(3))
    assert numlstm.get_num_threads() == 3


def test_the_context_nests_and_restores():
    numlstm.set_num_threads(5)
    three = numlstm.num_threads(3)
    with three:
        with numlstm.num_threads(1), three:
            assert numlstm.get_num_threads() == 3
        assert numlstm.get_num_threads() == 3
    with pytest.raises(KeyError), numlstm.num_threads(2):
        raise KeyError
    assert numlstm.get_num_threads() == 5


@needs_affinity
def test_affinity_is_respected():
    assert child("-c", "import os\nos.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})\n"
                 "import numlstm\nprint(numlstm.get_num_threads())",
                 NUMLSTM_NUM_THREADS="", OMP_NUM_THREADS="") == "1"  # fmt: skip


@needs_affinity
def test_a_worker_keeps_off_the_caller_s_core_and_within_its_own(monkeypatch):
    """Nor does it undo what others say about its cores."""
    masks, given = [], [{2, 3, 5}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(given[0]))

    def steer(thread, cores):
        masks.append(set(cores))
        given[0] = set(cores)

    monkeypatch.setattr(os, "sched_setaffinity", steer)
    worker, within = workers.Worker(), {2, 3, 5}  # its thread is not started
    worker.set_affinity(-1, within)
    assert masks == []
    worker.set_affinity(3, within)
    worker.set_affinity(3, within)
    assert masks == [{2, 5}]
    worker.set_affinity(2, within)
    assert masks == [{2, 5}, {3, 5}]
    worker.set_affinity(7, within)
    assert masks[2:] == [{2, 3, 5}]
    given[0] = {2}  # somebody else's doing
    worker.set_affinity(2, within)
    assert masks[3:] == [] and worker.masks == [{2}]
    given[0] = {2, 4}
    worker.set_affinity(4, within)
    assert masks[3:] == [{2}]

    def refuse(thread, cores):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    for core in (2, 3, 2, 3, 2):
        worker.set_affinity(core, within)
    assert worker.avoided == 2 and len(worker.masks) <= 2


@needs_affinity
@pytest.mark.parametrize("done", [False, True])
def test_what_interrupts_the_steering_of_a_worker_changes_nothing_for_long(monkeypatch, done):
    """A signal handler's exception: the next call steers it anew, and takes no mask from here for somebody else's."""
    given = [{2, 3}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(given[0]))

    def steer(thread, cores):
        if interrupting and done:
            given[0] = set(cores)
        if interrupting:
            raise KeyboardInterrupt
        given[0] = set(cores)

    monkeypatch.setattr(os, "sched_setaffinity", steer)
    worker, interrupting = workers.Worker(), False
    worker.set_affinity(3, {2, 3})
    assert given[0] == {2}
    interrupting = True
    with pytest.raises(KeyboardInterrupt):
        worker.set_affinity(2, {2, 3})
    interrupting = False
    worker.set_affinity(3, {2, 3})
    assert given[0] == {2} and not worker.cores
    worker.set_affinity(2, {2, 3})
    assert given[0] == {3} and not worker.cores


@needs_affinity
def test_a_worker_stays_within_the_cores_of_the_thread_that_calls(monkeypatch):
    """Also where all threads were given just the cores that the worker has been steered to."""
    given = [{2, 3}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(given[0]))
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: given.insert(0, set(cores)))
    worker = workers.Worker()
    worker.set_affinity(3, {2, 3})
    assert given[0] == {2}
    worker.set_affinity(2, {2})  # `taskset -a`, say
    assert given[0] == {2}
    worker.set_affinity(3, {3})  # the caller alone has been moved
    assert given[0] == {3}
    worker.set_affinity(3, {2, 3, 4})
    assert given[0] == {2, 4}


@needs_affinity
@pytest.mark.skipif(cores.current_core is None or cores.usable_cores() < 2, reason="needs two cores that can be told")
@pytest.mark.parametrize("asked", ["", "2"])
def test_cores_that_become_fewer_are_respected(asked):
    """By the workers that there are; and unless so many threads were asked for, a caller of one core has none."""
    said = child(
        "-c",
        """
import os, numlstm, numpy as np
from numlstm.runtime import workers
lstm = numlstm.LSTM(16, 128, num_layers=2, seed=0).eval()
x = np.ones((400, 32, 16), "f4")
lstm(x)
ids = [worker.thread.native_id for worker in workers._pool.workers]
counts, apart = [], []
for core in os.sched_getaffinity(0):
    os.sched_setaffinity(0, {core})
    lstm(x)
    with workers.Team(1) as team:
        counts.append(len(team.workers))
    apart += [worker for worker in ids if os.sched_getaffinity(worker) != {core}]
print(len(ids) > 0, set(counts), bool(apart))
""",
        NUMLSTM_NUM_THREADS=asked,
        OMP_NUM_THREADS="",
    )
    assert said == ("True {1} False" if asked else "True {0} True")


@needs_affinity
@pytest.mark.skipif(cores.current_core is None or cores.usable_cores() < 2, reason="needs two cores that can be told")
def test_a_call_s_worker_is_on_another_core():
    lstm, x, hx, want = long_enough()
    numlstm.set_num_threads(2)
    for _ in range(3):
        assert equal(lstm(x, hx), want)
    mine = os.sched_getaffinity(0)
    pinned = [worker for worker in workers._pool.workers if worker.avoided >= 0]
    assert pinned
    for worker in pinned:
        assert os.sched_getaffinity(worker.thread.native_id) == (mine - {worker.avoided} or mine)


@pytest.mark.parametrize(
    ("groups", "files", "allowed"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, inf),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, inf),
        ("0::/a\n", {"a/cpu.max": "5 0"}, inf),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, inf),
        ("4:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.0),
        ("broken", {}, inf),
        (None, {}, inf),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, groups, files, allowed):
    own = tmp_path / "own"
    if groups is not None:
        own.write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.quota(tmp_path, own) == allowed


# What is chosen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2, 3, 8, 64])
def test_every_split_covers_its_rows_and_steps(limit):
    rng = np.random.default_rng(limit)
    ways = set()
    for _ in range(400):
        hidden = int(2 ** rng.uniform(0, 10))
        config = Config(
            int(2 ** rng.uniform(0, 8)), hidden, int(rng.integers(1, 5)), bidirectional=bool(rng.integers(2))
        )
        steps, rows = int(2 ** rng.uniform(0, 10)), int(2 ** rng.uniform(0, 9))
        chosen = schedule.choose(config, steps, rows, 4, limit)
        if chosen is None:
            continue
        ways.add(chosen.partition)
        assert 2 <= chosen.num_threads <= limit and 1 <= chosen.ranges <= max(chosen.num_threads, chosen.num_chunks)
        if chosen.partition == Partition.ROWS:
            assert chosen.num_chunks * chosen.chunk_rows >= rows > (chosen.num_chunks - 1) * chosen.chunk_rows
        if chosen.partition == Partition.WAVEFRONT:
            chunks = chosen.num_chunks // config.num_layers
            assert chunks * chosen.chunk_steps >= steps > (chunks - 1) * chosen.chunk_steps
    assert len(ways) >= 3


def test_code_lives_as_long_as_a_worker_may_spin_in_it():
    """A worker keeps the last kernel that it ran, and nothing else of it."""

    class Code:
        """What owns the memory of machine code."""

    loaded = registry.kernel("float32")
    there = {name: ctypes.cast(loaded.forward, ctypes.c_void_p).value for name in ENTRIES}
    code = Code()
    gone = weakref.ref(code)
    kernel = callable_kernel(there, registry.level(), "planted", 0.0, code)
    worker = workers.Worker()
    worker.run = kernel.forward
    del kernel, code
    gc.collect()
    assert gone() is not None
    worker.run = None
    gc.collect()
    assert gone() is None


# The guards prove themselves ----------------------------------------------------------------------------------------


def planted(monkeypatch, module, name, value):
    """Put a kernel with a fault in how it shares work in place of the float32 one."""
    monkeypatch.setattr(module, name, value)
    kernel = linker.link(build.object_code("float32", registry.level()), registry.level(), "planted", 0.0)
    monkeypatch.setitem(registry._loaded, "float32", kernel)


class Phantom:
    """A worker's kernel in a call whose first chunk another thread holds and never ends.

    It must do what else there is, wait, offer its core meanwhile, and leave when it is told to.
    """

    def __init__(self, monkeypatch, way):
        self.offered = []

        @ctypes.CFUNCTYPE(ctypes.c_int)
        def offer():
            self.offered.append(1)
            return 0

        monkeypatch.setattr(planner, "YIELD", ctypes.cast(offer, ctypes.c_void_p).value)
        lstm = make(num_layers=2, bidirectional=way == Partition.DIRECTIONS)
        self.x, (h_0, c_0) = data(lstm, steps=4)
        with planner.override(schedule=Overrides(way)):
            output, (h_n, c_n) = lstm(self.x, (h_0, c_0))
            panels, kept = lstm._panels, lstm._model.executor
            key = next(iter(kept.plans))
            team_plan = planner.make_team_plan(panels, key, 2)
        self.record = (ctypes.c_int64 * team_plan.record)()
        self.record[work_queue.Share.NEXT_CHUNK] = 1
        leader, worker = kept.lease(team_plan.caller), kept.lease(team_plan.worker)
        leader.words[Header.SHARE] = ctypes.addressof(self.record)
        self.held = Call(panels, self.x, h_0, c_0, output, h_n, c_n), leader, self.record
        worker.bind(self.held[0])
        worker.follow(leader, 1, way)
        self.thread = threading.Thread(target=worker.run, daemon=True)
        self.thread.start()

    def waits(self):
        """Whether it is still there after a while; then it is sent away."""
        deadline = time.monotonic() + FOR_EVER
        while self.thread.is_alive() and not self.offered and time.monotonic() < deadline:
            time.sleep(0.001)
        self.thread.join(0.05)
        waited = self.thread.is_alive()
        self.record[work_queue.Share.LEAVE] = 1
        self.thread.join(FOR_EVER)
        assert not self.thread.is_alive()
        return waited


@pytest.mark.parametrize("way", [Partition.ROWS, Partition.DIRECTIONS, Partition.BLOCKS], ids=lambda way: way.name)
def test_what_another_thread_holds_is_waited_for(monkeypatch, way):
    phantom = Phantom(monkeypatch, way)
    assert phantom.waits() and phantom.offered


@pytest.mark.slow
def test_a_planted_phase_that_nobody_waits_for_is_noticed(monkeypatch):
    waiting = work_queue.waiting

    def hasty(pause):
        @work_queue.named("wait")
        def wait(plan, counter, least, may_leave):
            pass

        return wait, waiting(pause)[1]

    planted(monkeypatch, recurrence, "waiting", hasty)
    for way in (Partition.ROWS, Partition.BLOCKS):
        phantom = Phantom(monkeypatch, way)
        assert not phantom.waits() and not phantom.offered


@pytest.mark.slow
def test_every_chunk_is_claimed_once(gathered, monkeypatch):
    """And a planted claim that two threads can get is noticed: then there are more claims than chunks."""

    def claims(lstm):
        x, hx = data(lstm, steps=1, batch=300)
        _, counts = gathered(lstm, x, hx, 3, schedule=Overrides(Partition.ROWS, chunk_rows=1))
        return counts[Header.WORK_ITEMS]

    assert claims(make(hidden=1)) == 300

    @work_queue.named("claim")
    def claim(plan, phase):
        """Every chunk is claimed twice."""
        counter = work_queue.shared(plan, work_queue.Share.LEAVE + 1)
        taken = work_queue.seen(counter)
        if taken >= 2 * load_slot(plan, Header.NUM_CHUNKS):
            return -1
        work_queue.publish(counter, taken + 1)
        bump_counter(plan, Header.WORK_ITEMS)
        return taken // 2

    planted(monkeypatch, work_queue, "claim", claim)
    assert claims(make(hidden=1)) > 300
