"""Worker threads that sleep until a call has a task for them.

They are Python threads that call kernels without the GIL. A call takes the workers that are free and never waits for
one: work items are claimed (``kernels/work_queue.py``), so a worker that comes late, or never, is not missed.
"""

from __future__ import annotations

import atexit
import ctypes
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
from numlstm.kernels.plan_layout import Header, Partition, Share
from numlstm.runtime.cores import current_core
from numlstm.runtime.threads import get_num_threads, limited_by_cores

Work = Callable[[], None]
Run = Callable[[int], None]
SPINS = 2000  # looks at the epoch before a worker sleeps, some 100 us: calls in a row find it awake

_epoch = ctypes.c_int64(0)  # kernels add to it, without the GIL, when a call that has workers begins
EPOCH = ctypes.addressof(_epoch)


class Worker:
    """A thread that sleeps until it is given a task."""

    def __init__(self) -> None:
        self.team: ref[Team] | None = None  # the team it is in, or was in last
        self.tasks: SimpleQueue[Work | None] = SimpleQueue()
        self.run: Run | None = None  # the kernel to spin-wait in
        self.slots = (ctypes.c_int64 * Header.LENGTH)()
        self.slots[Header.PARTITION], self.slots[Header.EPOCH] = Partition.SPIN, EPOCH
        self.slots[Header.CHUNK_STEPS] = SPINS
        self.thread = threading.Thread(target=self._work, name="numlstm worker", daemon=True)
        self.cores: set[int] = set()  # its mask, if another program has set it; empty: the caller's
        self.masks: list[set[int]] = []  # the mask that we set, after the one before while we are setting it
        self.avoided = -1  # the caller's core at that time
        self.within: set[int] = set()  # the caller's mask at that time

    def set_affinity(self, core: int, within: set[int]) -> None:
        """Pin the worker to the caller's affinity mask ``within`` minus ``core``, on which the caller runs.

        Some systems wake a thread on the core of the one that wakes it, where it then waits for the very call that it
        is to help with. If the mask was changed externally since we last set it, the external mask wins.
        """
        if core == self.avoided and within == self.within:
            return
        self.avoided = -1  # a signal's exception may interrupt what follows: then the next call does it again
        try:
            now = os.sched_getaffinity(self.thread.native_id or 0)
            if self.masks and now not in self.masks:
                self.cores = now
            usable = (self.cores & within) or self.cores or within
            mask = (usable - {core}) or usable
            self.masks = [now, mask]
            if mask != now:
                os.sched_setaffinity(self.thread.native_id or 0, mask)
            self.masks = [mask]
        except OSError as error:  # the system forbids it, or the thread has ended
            log().debug("numlstm: a worker cannot be kept off core %d: %s", core, error)
        self.avoided, self.within = core, within

    @property
    def taken(self) -> bool:
        """Whether a call has it; an interrupted call has not."""
        team = None if self.team is None else self.team()
        return team is not None and team.inside

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            try:
                task()
            except BaseException:  # the caller does the work all the same; go on with the next task
                log().exception("numlstm: a worker failed")
            finally:
                task = None  # it holds arrays of the caller
            self._spin_wait()

    def _spin_wait(self) -> None:
        """Look for a while whether another call begins, before sleeping in the system."""
        self.slots[Header.NUM_CHUNKS] = _epoch.value
        if self.run is not None and self.tasks.empty():
            self.run(ctypes.addressof(self.slots))


class WorkerPool:
    """The workers of this process, and the teams of the calls in progress.

    Free and busy workers are not counted but looked up: a call may be interrupted anywhere, and leaves nothing that
    must be put right.
    """

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.teams: set[ref[Team]] = set()
        self.refusal: RuntimeError | None = None  # why no further thread was started, until it is logged
        self.closed = False  # whether Python is about to end

    @property
    def calling(self) -> list[Team]:
        """Teams of calls. A snapshot, since a signal handler may make a call while it is iterated over."""
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
        """Start a worker. None if the system refuses a thread, or Python ends: a thread started then may never run."""
        if self.closed:
            return None
        worker = None
        try:
            worker = Worker()
            worker.thread.start()
            self.workers.append(worker)
        except BaseException as error:
            if worker is not None:  # the thread may have started before the interruption
                worker.tasks.put(None)
                with suppress(ValueError):
                    self.workers.remove(worker)
            if not isinstance(error, RuntimeError):
                raise
            self.refusal = error  # of a limit, or since Python is about to end
            return None
        return worker


class Task:
    """A task that a worker starts or finds cancelled; a cancelled one holds no arrays."""

    def __init__(self, work: Work) -> None:
        self.work = [work]
        self.running = threading.Lock()

    def __call__(self) -> None:
        with self.running:
            try:
                work = self.work.pop()
            except IndexError:
                return
            work()

    def cancel(self) -> bool:
        """Let no worker start it from now on; True if none has, and nobody cancelled it before."""
        try:
            self.work.pop()
        except IndexError:
            return False
        return True

    def join(self) -> None:
        """Cancel it, and wait for the worker that has started it."""
        self.cancel()
        with self.running:
            pass


class Team:
    """The workers of one call: as many as are free, perhaps none.

    All threads that compute are counted. A call gets only so many workers that the count stays within the limit. If
    more threads make calls than the limit allows, workers leave the calls that they are in.

    Parameters
    ----------
    wanted : int
        Workers besides the calling thread.
    """

    def __init__(self, wanted: int) -> None:
        self.inside = True  # until the call is over; then its workers are free
        self.workers: list[Worker] = []
        self.fresh = False  # whether some of them have just been started
        self.tasks: list[Task] = []
        self.record: Any = None  # of ``Share`` slots
        # the calling thread's mask: it may have shrunk since the number of threads was chosen
        self.cores: set[int] = set() if current_core is None else os.sched_getaffinity(0)
        limit, pool = get_num_threads(), _pool
        if self.cores and limited_by_cores():
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

    def start(self, tasks: list[Work], record: Any, run: Run | None = None) -> None:
        """Give each worker a task. They share ``record`` (``Share``), and spin-wait in ``run`` afterwards."""
        self.record = record
        core = -1 if current_core is None else current_core()
        for worker, work in zip(self.workers, tasks, strict=True):
            task = Task(work)
            self.tasks.append(task)  # before the worker has it: an exception may come in between
            worker.run = run
            if self.cores:
                worker.set_affinity(core, self.cores)
            worker.tasks.put(task)

    def dismiss(self) -> None:
        """Let each worker leave when it has finished the work item that it holds."""
        if self.record is not None:
            self.record[Share.LEAVE] = 1

    def join(self) -> None:
        """Wait until no worker is in the call, and let none start."""
        for task in self.tasks:
            task.join()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the call; its workers are free.

        A worker may still be on its way out: its next task waits until it has seen that no work is left to claim. The
        task of one that slept through the call is cancelled. If an exception ends the call, a signal's say, the
        workers are waited for: the caller owns again what they write to.
        """
        try:
            for task in self.tasks:
                task.cancel()
            if kind is not None:
                self.dismiss()
                self.join()
        finally:
            self.inside = False


# reentrant: a signal handler, or the end of a Team, may come while this very thread holds it
_lock = fork_safe(threading.RLock())
_pool = WorkerPool()


def _forget() -> None:
    """In a forked child: threads are not inherited."""
    global _pool
    _pool = WorkerPool()


def _end() -> None:
    """Let all workers end; those in a call of another thread leave it. Later calls have none."""
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
