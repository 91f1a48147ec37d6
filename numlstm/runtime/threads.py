"""How many threads a call may use, and the workers that sleep until a call has something for them.

Python threads that call kernels without the GIL. A call asks for workers, gets those that are free, and
never waits for one: work is claimed (``kernels/work_queue.py``), so one that comes late, or never, is not missed.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any
from weakref import ref

try:
    from _queue import SimpleQueue  # queue's own, without the rest of that module
except ImportError:
    from queue import SimpleQueue

from numlstm.base.fork_locks import fork_safe
from numlstm.base.log import log
from numlstm.kernels.plan_layout import Header, Partition

Work = Callable[[], None]
Run = Callable[[int], None]
MOST = 1024  # threads that may be asked for
ONE_A_CORE, OF_OPENMP = "one for each core", "OMP_NUM_THREADS and cores"


# How many ---------------------------------------------------------------------------------------------------------


def set_num_threads(num: int) -> None:
    """Set how many threads a call may use, in the whole process.

    A call uses more than one only where it has work for them: from about 200 microseconds on. Results are the same bits
    with any number.

    Parameters
    ----------
    num : int
        1 to 1024. 1 lets calls run on the threads that make them, alone.

    Raises
    ------
    TypeError
        `num` is no whole number; with PyTorch's text.
    RuntimeError
        It is below 1; with PyTorch's text.
    ValueError
        It is above 1024.

    Examples
    --------
    >>> import numlstm
    >>> before = numlstm.get_num_threads()
    >>> numlstm.set_num_threads(2)
    >>> numlstm.get_num_threads()
    2
    >>> numlstm.set_num_threads(before)
    """
    global _limit, _source
    _limit, _source = _checked(num), "set by set_num_threads"


def get_num_threads() -> int:
    """How many threads a call may use.

    Unless `set_num_threads` was called: what ``NUMLSTM_NUM_THREADS`` says, which may be more than there are cores; else
    as many as there are cores that this process may use (CPU affinity, and the quota of its control group), and no
    more than ``OMP_NUM_THREADS`` says, if it is a number.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        ``NUMLSTM_NUM_THREADS`` is no number from 1 to 1024.
    """
    global _limit, _source
    if _limit is None:
        _limit, _source = _asked_for() or (usable_cores(), ONE_A_CORE)
    return _limit


def suggest(num: int, of: str) -> None:
    """Set how many threads a call may use, unless the user has said it: by `set_num_threads` or NUMLSTM_NUM_THREADS.

    ``of`` is what `source` says then.
    """
    global _limit, _source
    if _source in ("", ONE_A_CORE, OF_OPENMP) and not os.environ.get("NUMLSTM_NUM_THREADS"):
        _limit, _source = _checked(num), of


def source() -> str:
    """Where the number of threads is from, for people."""
    return _source


class num_threads:
    """A context in which calls may use so many threads, in the whole process.

    Afterwards the number is the one before, also if `set_num_threads` was called meanwhile.

    Parameters
    ----------
    num : int
        As for `set_num_threads`.

    Examples
    --------
    >>> import numlstm
    >>> with numlstm.num_threads(1):
    ...     numlstm.get_num_threads()
    1
    """

    def __init__(self, num: int) -> None:
        self.num = _checked(num)
        self.before: list[int] = []

    def __enter__(self) -> None:
        self.before.append(get_num_threads())
        set_num_threads(self.num)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        set_num_threads(self.before.pop())


_limit: int | None = None
_source = ""


def _checked(num: int) -> int:
    if isinstance(num, bool) or not hasattr(num, "__index__"):
        raise TypeError(f"set_num_threads expects an int, but got {type(num).__name__}")
    count = num.__index__()
    if count < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, not {count}")
    if count > MOST:
        raise ValueError(f"{count} threads are asked for; numlstm uses {MOST} at most")
    return count


def _asked_for() -> tuple[int, str] | None:
    """What the environment asks for, and where."""
    if own := os.environ.get("NUMLSTM_NUM_THREADS"):
        try:
            return _checked(int(own)), "set by NUMLSTM_NUM_THREADS"
        except (ValueError, RuntimeError):
            raise ValueError(
                f"NUMLSTM_NUM_THREADS is {own!r}; it must be a whole number from 1 to {MOST}. "
                "Unset it to let numlstm choose."
            ) from None
    of_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number for each level of nesting
    with suppress(ValueError):  # digits that int does not take, or more of them than it takes
        if of_openmp.isdigit() and int(of_openmp) > 0:
            return min(int(of_openmp), usable_cores()), OF_OPENMP
    return None


def usable_cores() -> int:
    """Cores that this process may use: CPU affinity, and the quota of its control group, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, MOST, quota())))


def quota(root: str | os.PathLike[str] = "/sys/fs/cgroup", own: str | os.PathLike[str] = "/proc/self/cgroup") -> float:
    """Cores' worth of time that the control groups allow (Linux: Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``).

    Parameters
    ----------
    root : path
        Where control groups are mounted.
    own : path
        File that names those of this process.

    Returns
    -------
    float
        Infinity where nothing limits it.
    """
    least = math.inf
    groups = [line.split(":", 2) for line in _text(own).splitlines()]
    for _, kinds, path in (group for group in groups if len(group) == 3):
        if kinds == "":  # version 2: every group above limits it too; in a container the path is often not visible
            names = [name for name in path.split("/") if name]
            for depth in range(len(names) + 1):
                said = _words(os.path.join(root, *names[:depth], "cpu.max"))
                least = min(least, _part(*said) if len(said) == 2 else math.inf)
        elif "cpu" in kinds.split(","):  # version 1
            for folder in (os.path.join(root, "cpu", path.lstrip("/")), os.path.join(root, "cpu")):
                said = _words(f"{folder}/cpu.cfs_quota_us") + _words(f"{folder}/cpu.cfs_period_us")
                least = min(least, _part(*said) if len(said) == 2 else math.inf)
    return least


def _text(path: str | os.PathLike[str]) -> str:
    try:
        with open(path) as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def _words(path: str) -> list[str]:
    return _text(path).split()


def _part(allowed: str, period: str) -> float:
    """Cores' worth of a quota; ``max`` and -1 are none."""
    if not allowed.isdigit() or not period.isdigit() or int(period) == 0:
        return math.inf
    return int(allowed) / int(period)


def _yield_address() -> int:
    """Address of the system's function that offers the core to others; 0 where there is none."""
    try:
        windows = getattr(ctypes, "windll", None)
        function = windows.kernel32.SwitchToThread if windows else ctypes.CDLL(None).sched_yield
        return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
    except (OSError, AttributeError):
        return 0


YIELD = _yield_address()


def _current_core() -> Callable[[], int] | None:
    """What tells the core that the calling thread is on; None where cores cannot be told, or threads not be steered."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        core: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
        return core if core() in os.sched_getaffinity(0) else None
    except (OSError, AttributeError):
        return None


_core = _current_core()
_epoch = ctypes.c_int64(0)  # counts calls that workers are in: kernels add to it when they begin, without the GIL
EPOCH = ctypes.addressof(_epoch)
LOOKS = 2000  # at the bell before a worker sleeps, some 100 us: calls in a row find it awake


# Workers ----------------------------------------------------------------------------------------------------------


class Worker:
    """A thread that sleeps until it is given a task."""

    def __init__(self) -> None:
        self.team: ref[Team] | None = None  # that it belongs to, or belonged to last
        self.tasks: SimpleQueue[Work | None] = SimpleQueue()
        self.run: Run | None = None  # a kernel, to rest in
        self.slots = (ctypes.c_int64 * Header.LENGTH)()
        self.slots[Header.PARTITION], self.slots[Header.EPOCH] = Partition.SPIN, EPOCH
        self.slots[Header.CHUNK_STEPS] = LOOKS
        self.thread = threading.Thread(target=self._work, name="numlstm worker", daemon=True)
        self.cores: set[int] = set()  # that others have given it; empty: those of whoever calls
        self.steered: list[set[int]] = []  # those that it is to use, after those that it had where that is not sure yet
        self.off = -1  # the core that it keeps off
        self.within: set[int] = set()  # those that the thread which calls may use

    def set_affinity(self, core: int, within: set[int]) -> None:
        """Stay off the core of the thread that calls, if there is another one of those that this thread may use.

        Some systems wake a thread on the core of the one that wakes it, where it then waits for the very call
        that it is to help with. What the caller may not use is none of the worker's either: its cores may have become
        fewer, and a worker's be just those that it was steered to. What others say about its cores meanwhile holds.
        """
        if core == self.off and within == self.within:
            return
        self.off = -1  # an exception may come in between, a signal handler's say
        try:
            now = os.sched_getaffinity(self.thread.native_id or 0)
            if self.steered and now not in self.steered:
                self.cores = now
            usable = (self.cores & within) or self.cores or within
            steered = (usable - {core}) or usable
            self.steered = [now, steered]
            if steered != now:
                os.sched_setaffinity(self.thread.native_id or 0, steered)
            self.steered = [steered]
        except OSError as error:  # it is not allowed here, or the thread has ended
            log().debug("numlstm: a worker cannot be kept off core %d: %s", core, error)
        self.off, self.within = core, within

    @property
    def taken(self) -> bool:
        """Whether a call has it; one that was interrupted before it was over has not."""
        team = None if self.team is None else self.team()
        return team is not None and team.inside

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            try:
                task()
            except BaseException:  # the caller does its work, and the next task is another
                log().exception("numlstm: a worker failed")
            finally:
                task = None  # its arrays are the caller's
            self._rest()

    def _rest(self) -> None:
        """Look for a while whether another call begins, before the system is asked to sleep."""
        self.slots[Header.NUM_CHUNKS] = _epoch.value
        if self.run is not None and self.tasks.empty():
            self.run(ctypes.addressof(self.slots))


class WorkerPool:
    """The workers of this process, and the calls that could use some.

    Who is free and who is busy is not counted but looked up, since a call may be interrupted anywhere, and must
    leave nothing behind that has to be put right.
    """

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.teams: set[ref[Team]] = set()
        self.refusal: RuntimeError | None = None  # why there is no further thread, until the log has it
        self.closed = False  # whether Python is about to end

    @property
    def calling(self) -> list[Team]:
        """Crews of calls. A snapshot, for a signal handler may call in the midst of a walk over them."""
        return [team for known in list(self.teams) if (team := known()) is not None]

    @property
    def free(self) -> list[Worker]:
        """Workers in no call."""
        return [worker for worker in self.workers if not worker.taken]

    @property
    def busy(self) -> int:
        """Threads that compute, or are about to."""
        return sum(team.inside for team in self.calling) + len(self.workers) - len(self.free)

    def another(self) -> Worker | None:
        """A new worker; None where the system gives no thread, and where Python ends: one may never begin there."""
        if self.closed:
            return None
        worker = None
        try:
            worker = Worker()
            worker.thread.start()
            self.workers.append(worker)
        except BaseException as error:
            if worker is not None:  # interrupted, it may have begun; nobody would know of it
                worker.tasks.put(None)
                with suppress(ValueError):
                    self.workers.remove(worker)
            if not isinstance(error, RuntimeError):
                raise
            self.refusal = error  # of a limit, or since Python is about to end
            return None
        return worker


class Task:
    """A task for a worker, who either begins it or finds it called off; then it holds nothing any more."""

    def __init__(self, task: Work) -> None:
        self.tasks = [task]
        self.under_way = threading.Lock()

    def __call__(self) -> None:
        with self.under_way:
            try:
                task = self.tasks.pop()
            except IndexError:
                return
            task()

    def call_off(self) -> bool:
        """Let nobody begin it from here on. Whether nobody has, and nobody called it off before."""
        try:
            self.tasks.pop()
        except IndexError:
            return False
        return True

    def join(self) -> None:
        """Wait until who has begun it is done, or nobody will begin it."""
        self.call_off()
        with self.under_way:
            pass

    def abandon(self) -> None:
        """In a forked child: nobody is at it any more."""
        self.call_off()
        self.under_way = threading.Lock()


class Team:
    """The workers that one call has: as many as are free, perhaps none.

    All threads that compute are counted. A call gets no more workers than leave the count within
    the limit; and where more threads call than the limit allows, workers leave the calls that they are in.

    Parameters
    ----------
    wanted : int
        Workers besides the thread that calls.
    """

    def __init__(self, wanted: int) -> None:
        self.inside = True  # until the call is over; then its workers are free
        self.workers: list[Worker] = []
        self.fresh = False  # whether some of them have just been started
        self.assigned: list[Task] = []
        self.record: Any = None  # the shared record of the call, and where it says that workers are to leave
        self.leave = 0
        self.abandoned = False  # whether this is a child that was forked amid the call
        # of the thread that calls: they may have become fewer since the number of threads was settled
        self.cores: set[int] = set() if _core is None else os.sched_getaffinity(0)
        limit, pool = get_num_threads(), _pool
        if self.cores and _source in (ONE_A_CORE, OF_OPENMP):
            wanted = min(wanted, len(self.cores) - 1)
        with _lock:
            pool.teams.add(ref(self, pool.teams.discard))
            free, busy = pool.free, pool.busy
            if busy > limit:
                for team in pool.calling:
                    team.dismiss()
            for _ in range(min(wanted, limit - busy)):
                self.fresh = self.fresh or not free
                worker = free.pop() if free else pool.another()
                if worker is None:
                    break
                worker.team = ref(self)
                self.workers.append(worker)
            refusal, pool.refusal = pool.refusal, None
        if refusal is not None:
            log().info("numlstm: no further thread can be started: %s", refusal)

    def start(self, tasks: list[Work], record: Any, leave: int, run: Run | None = None) -> None:
        """Give each worker a task. They are to leave when ``record[leave]`` is not 0, and may rest in ``run``."""
        self.leave, self.record = leave, record
        core = -1 if _core is None else _core()
        for worker, task in zip(self.workers, tasks, strict=True):
            item = Task(task)
            self.assigned.append(item)  # before a worker has it: an exception may come in between
            worker.run = run
            if self.cores:
                worker.set_affinity(core, self.cores)
            worker.tasks.put(item)

    def dismiss(self) -> None:
        """Let the workers leave as soon as each has finished the ticket that it holds."""
        if self.record is not None:
            self.record[self.leave] = 1

    def join(self) -> None:
        """Wait until no worker is in the call any more, and none will be."""
        for item in self.assigned:
            item.join()

    def abandon(self) -> None:
        """In a forked child, where the workers are no more: what they were at is open again, and nobody is waited for.

        It is the thread that calls which has forked, in a signal's handler, say, and it may go on with the call.
        """
        self.abandoned = True
        for item in self.assigned:
            item.abandon()
        if self.record is not None:
            ctypes.memset(self.record, 0, ctypes.sizeof(self.record))

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """The call is over, and its workers are free.

        One may still be on its way out of the call: its next task waits until it has found that there is nothing
        left to claim. For one that has slept through it, the task is called off. If the call ends by an exception,
        a signal's say, they are waited for: what they write to is the caller's again.
        """
        try:
            for item in self.assigned:
                item.call_off()
            if kind is not None:
                self.dismiss()
                self.join()
        finally:
            self.inside = False


# reentrant: a signal handler, or the end of a Team, may come while this very thread holds it
_lock = fork_safe(threading.RLock())
_pool = WorkerPool()


def _forget() -> None:
    """In a forked child: threads are not inherited. Crews of calls that were under way have nobody left."""
    global _pool
    for team in _pool.calling:
        team.abandon()
    _pool = WorkerPool()


def _end() -> None:
    """Let all workers end; those in a call of a thread that still runs leave it. Later calls have none."""
    with _lock:
        _pool.closed = True
        workers, _pool.workers = _pool.workers, []
        for team in _pool.calling:
            team.dismiss()
    for worker in workers:
        worker.tasks.put(None)
    deadline = time.monotonic() + 1
    for worker in workers:
        worker.thread.join(max(0.0, deadline - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_end)
