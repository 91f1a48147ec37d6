"""numlstm.dask: the bits of one call with any chunks, on threads and on the workers of a real cluster."""

import os
import pickle
import re
import signal
import time

import numpy as np
import pytest
from needs import need

import numlstm

need("dask")
need("distributed")
import dask  # noqa: E402
import dask.array as da  # noqa: E402
from distributed import Client, LocalCluster  # noqa: E402

import numlstm.dask  # noqa: E402
from numlstm.dask import model  # noqa: E402
from numlstm.runtime import threads  # noqa: E402

RNG = np.random.default_rng(0)


def same(left, right):
    """Whether two arrays are the same bits."""
    left, right = np.asarray(left), np.asarray(right)
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


def inputs(lstm, steps=11, batch=9):
    shape = (batch, steps, lstm.input_size) if lstm.batch_first else (steps, batch, lstm.input_size)
    return RNG.standard_normal(shape).astype(lstm.dtype)


def states(lstm, batch=9):
    cells = lstm.num_layers * (1 + lstm.bidirectional)
    return tuple(
        RNG.standard_normal((cells, batch, size)).astype(lstm.dtype)
        for size in (lstm.proj_size or lstm.hidden_size, lstm.hidden_size)
    )


FLAGS = [
    {},
    {"num_layers": 3, "batch_first": True},
    {"proj_size": 3, "num_layers": 2, "dtype": "float64"},
    {"bidirectional": True, "num_layers": 2},
    {"bidirectional": True, "batch_first": True, "proj_size": 2},
]


@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_chunks_give_the_bits_of_one_call(flags, with_states):
    lstm = numlstm.LSTM(5, 7, seed=1, **flags).eval()
    x = inputs(lstm)
    hx = states(lstm) if with_states else None
    output, (h_n, c_n) = lstm(x, hx)
    steps, rows = (11 if lstm.bidirectional else 4), 2
    chunks = (rows, steps, 5) if lstm.batch_first else (steps, rows, 5)
    lazy, (lazy_h, lazy_c) = numlstm.dask.forward(lstm, da.from_array(x, chunks=chunks), hx)
    assert lazy.chunks == da.from_array(output, chunks=(*chunks[:2], -1)).chunks
    for array, known in ((lazy, output), (lazy_h, h_n), (lazy_c, c_n)):
        assert array.dtype == known.dtype
        assert array.shape == known.shape
        assert same(array.compute(scheduler="threads"), known)


def test_states_may_be_lazy_and_cut_elsewhere_and_an_input_of_another_dtype():
    lstm = numlstm.LSTM(5, 7, num_layers=2, seed=1).eval()
    x, hx = RNG.integers(-9, 9, (11, 9, 5)), states(lstm)
    lazy_hx = tuple(da.from_array(state, chunks=(1, 4, 3)) for state in hx)
    lazy, (_, lazy_c) = numlstm.dask.forward(lstm, da.from_array(x, chunks=(3, 2, 5)), list(lazy_hx))
    output, (_, c_n) = lstm(x, hx)
    assert same(lazy.compute(), output)
    assert same(lazy_c.compute(), c_n)


def test_unbatched_sequences():
    lstm = numlstm.LSTM(5, 7, num_layers=2, batch_first=True, seed=1).eval()
    x = inputs(lstm)[0]
    hx = tuple(state[:, 0] for state in states(lstm))
    lazy, (lazy_h, lazy_c) = numlstm.dask.forward(lstm, da.from_array(x, chunks=(4, 5)), hx)
    output, (h_n, c_n) = lstm(x, hx)
    assert same(lazy.compute(), output)
    assert same(lazy_h.compute(), h_n)
    assert same(lazy_c.compute(), c_n)


def test_only_what_is_asked_for_is_computed():
    lstm = numlstm.LSTM(2, 3, seed=0).eval()
    ran = []

    def piece(block, block_info=None):
        if block_info:
            ran.append(block_info[0]["chunk-location"])
        return block

    x = da.ones((6, 8, 2), chunks=(2, 4, 2), dtype=np.float32).map_blocks(piece, dtype=np.float32)
    lazy, _ = numlstm.dask.forward(lstm, x)
    assert ran == []
    lazy[:4, :4].compute(scheduler="sync")
    assert sorted(ran) == [(0, 0, 0), (1, 0, 0)]


def test_the_parameters_are_those_at_the_time_of_the_call():
    lstm = numlstm.LSTM(5, 7, seed=1).eval()
    x = inputs(lstm)
    known, _ = lstm(x)
    lazy, _ = numlstm.dask.forward(lstm, da.from_array(x, chunks=(4, 3, 5)))
    lstm.reset_parameters()
    again, _ = numlstm.dask.forward(lstm, da.from_array(x, chunks=(4, 3, 5)))
    assert same(lazy.compute(), known)
    assert same(again.compute(), lstm(x)[0])
    assert not same(again.compute(), known)


def test_a_state_that_gets_lost_between_chunks_is_noticed(monkeypatch):
    """The comparison of bits sees the fault that chunks could have."""
    lstm = numlstm.LSTM(5, 7, seed=1).eval()
    x = inputs(lstm)
    monkeypatch.setattr(model, "run", lambda lstm, x, hx: lstm(x, None))
    lazy, _ = numlstm.dask.forward(lstm, da.from_array(x, chunks=(4, 3, 5)))
    assert not same(lazy.compute(scheduler="sync"), lstm(x)[0])


def lazy(*shape, chunks, dtype=np.float32):
    return da.zeros(shape, chunks=chunks, dtype=dtype)


PLAIN, BOTH = {"input_size": 3, "hidden_size": 4}, {"input_size": 3, "hidden_size": 4, "bidirectional": True}


@pytest.mark.parametrize(
    "flags, array, hx, kind, says",
    [
        (PLAIN, np.zeros((2, 3, 3)), None, TypeError, "array is of type ndarray, not a Dask array"),
        (PLAIN, lazy(4, 2, 3, chunks=(2, 2, 2)), None, ValueError, "in chunks of (2, 1)[^$]*array.rechunk({2: -1})"),
        (PLAIN, lazy(4, 3, chunks=(2, 2)), None, ValueError, "array.rechunk({1: -1})"),
        (BOTH, lazy(4, 2, 3, chunks=(2, 2, 3)), None, ValueError, "begins at the last step[^$]*array.rechunk({0: -1})"),
        (BOTH | {"batch_first": True}, lazy(4, 2, 3, chunks=(2, 1, 3)), None, ValueError, "array.rechunk({1: -1})"),
        (
            PLAIN,
            lazy(4, 2, 5, chunks=4),
            None,
            RuntimeError,
            "input.size(-1) must be equal to input_size. Expected 3, got 5",
        ),
        (PLAIN, lazy(4, chunks=4), None, ValueError, "LSTM: Expected input to be 2D or 3D, got 1D instead"),
        (PLAIN, lazy(0, 2, 3, chunks=4), None, RuntimeError, "Expected sequence length to be larger than 0"),
        (
            PLAIN,
            lazy(4, 2, 3, chunks=4, dtype=complex),
            None,
            TypeError,
            "input must hold real numbers, not complex128",
        ),
        (
            PLAIN,
            lazy(4, 2, 3, chunks=4),
            (lazy(1, 3, 4, chunks=4),) * 2,
            RuntimeError,
            "Expected hidden[0] size (1, 2, 4)",
        ),
        (PLAIN, lazy(4, 2, 3, chunks=4), (lazy(1, 2, 4, chunks=4),), IndexError, "tuple index out of range"),
        (PLAIN, lazy(4, 2, 3, chunks=4)[da.ones(4, chunks=4) > 0], None, ValueError, "array.compute_chunk_sizes()"),
        (
            PLAIN | {"num_layers": 2, "dropout": 0.5},
            lazy(4, 2, 3, chunks=4),
            None,
            ValueError,
            "Call lstm.eval() first",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is(flags, array, hx, kind, says):
    pattern = re.escape(says).replace(re.escape("[^$]*"), "[^$]*")
    with pytest.raises(kind, match=pattern):
        numlstm.dask.forward(numlstm.LSTM(**flags), array, hx)


def test_no_lstm_is_refused():
    with pytest.raises(TypeError, match="not an LSTM"):
        numlstm.dask.forward(numlstm.LSTMCell(3, 4), lazy(4, 2, 3, chunks=4))


# A cluster --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    settings = {
        "temporary-directory": str(tmp_path_factory.mktemp("dask")),
        "distributed.worker.memory.terminate": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_two_processes_give_the_bits_of_one(cluster):
    lstm = numlstm.LSTM(5, 7, num_layers=2, seed=1).eval()
    x = inputs(lstm, 30, 40)
    output, (h_n, c_n) = lstm(x)
    lazy, (lazy_h, lazy_c) = numlstm.dask.forward(lstm, da.from_array(x, chunks=(10, 4, 5)))
    got = cluster.gather(cluster.compute([lazy, lazy_h, lazy_c]))
    assert [same(a, b) for a, b in zip(got, (output, h_n, c_n), strict=True)] == [True, True, True]


def test_workers_find_kernels_and_compile_none(cluster):
    """This process has them: they are in the cache, or came with the package. A worker says whence its own are."""
    lstm = numlstm.LSTM(5, 7, seed=1, dtype=np.float64).eval()
    x = inputs(lstm, 3, 40)
    lstm(x)
    numlstm.dask.forward(lstm, da.from_array(x, chunks=(3, 4, 5)))[0].compute()

    def origins():
        import sys

        from numlstm.kernels.loading import registry

        return [kernel.origin for kernel in registry._loaded.values()], "numlstm.kernels.compiler" in sys.modules

    said = cluster.run(origins).values()
    assert any(found for found, _ in said)
    assert {origin.split(":")[0] for found, _ in said for origin in found} <= {"cache", "shipped"}
    assert not any(compiles for _, compiles in said)


def test_weights_travel_once_to_each_worker(cluster):
    """Unpickling is counted where it happens; ten rows of chunks of three steps would give up to sixty."""

    def counted(dask_worker):
        from numlstm.lstm import LSTM

        dask_worker.arrivals = 0
        original = LSTM.__setstate__

        def count(self, state):
            dask_worker.arrivals += 1
            original(self, state)

        LSTM.__setstate__ = count

    cluster.run(counted)
    lstm = numlstm.LSTM(64, 128, seed=3).eval()
    x = inputs(lstm, 30, 40)
    lazy, _ = numlstm.dask.forward(lstm, da.from_array(x, chunks=(10, 4, 64)))
    assert same(lazy.compute(), lstm(x)[0])
    arrivals = cluster.run(lambda dask_worker: dask_worker.arrivals)
    assert max(arrivals.values()) <= 1
    assert 1 <= sum(arrivals.values()) <= 2


def test_calls_in_a_worker_share_its_cores(cluster):
    x = da.zeros((2, 4, 3), chunks=(2, 2, 3), dtype=np.float32)
    numlstm.dask.forward(numlstm.LSTM(3, 4).eval(), x)[0].compute()
    said = cluster.run(
        lambda: (
            __import__("numlstm").get_num_threads(),
            __import__("numlstm.runtime.threads").runtime.threads.source(),
        )
    )
    assert (1, "one for each thread of this Dask worker") in said.values()


def test_what_the_user_said_about_threads_stays(monkeypatch):
    monkeypatch.setattr(threads, "_limit", None)
    monkeypatch.setattr(threads, "_source", "")
    threads.suggest(5, "a test")
    assert (numlstm.get_num_threads(), threads.source()) == (5, "a test")
    numlstm.set_num_threads(3)
    threads.suggest(7, "a test")
    assert numlstm.get_num_threads() == 3
    monkeypatch.setattr(threads, "_source", "")
    monkeypatch.setenv("NUMLSTM_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "_limit", None)
    threads.suggest(7, "a test")
    assert numlstm.get_num_threads() == 2


@pytest.mark.slow
def test_a_worker_that_is_killed_half_way_takes_nothing_along(cluster, tmp_path):
    lstm = numlstm.LSTM(5, 7, seed=1).eval()
    x = inputs(lstm, 40, 24)

    def slow(block, block_info=None, folder=str(tmp_path)):
        if block_info:
            name = "-".join(map(str, (*block_info[0]["chunk-location"], os.getpid(), time.time_ns())))
            open(os.path.join(folder, name), "w").close()
            time.sleep(0.05)
        return block

    source = da.from_array(x, chunks=(10, 2, 5)).map_blocks(slow, dtype=x.dtype)
    lazy, _ = numlstm.dask.forward(lstm, source)
    result = cluster.compute(lazy)
    pids = cluster.run(os.getpid)
    victim = next(iter(pids.values()))
    deadline = time.monotonic() + 60
    while sum(f"-{victim}-" in name for name in os.listdir(tmp_path)) < 4:
        assert time.monotonic() < deadline, "the worker took up no chunk"
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    assert same(result.result(timeout=120), lstm(x)[0])
    ran = [name.rsplit("-", 2)[0] for name in os.listdir(tmp_path)]
    assert len(ran) > len(set(ran)), "nothing had to be computed again: the worker was killed too late"


def test_a_model_is_the_same_task_for_the_same_parameters():
    lstm = numlstm.LSTM(5, 7, seed=1).eval()
    again = pickle.loads(pickle.dumps(lstm))
    assert model.sent(lstm).key == model.sent(again).key
    assert model.sent(lstm).key != model.sent(numlstm.LSTM(5, 7, seed=2).eval()).key


@pytest.mark.slow
def test_memory_is_bounded_while_the_data_is_ten_times_the_limit(cluster):
    """Every worker makes its chunks itself, and lets go of what was summed."""
    import resource

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    limit = 100 << 20  # beyond what a worker has taken until now
    lstm = numlstm.LSTM(64, 4, seed=0).eval()
    numlstm.dask.forward(lstm, da.zeros((2, 4, 64), chunks=(2, 2, 64), dtype=np.float32))[0].compute()
    before = cluster.run(peak)
    x = da.ones((20, 2 * 10 * limit // (20 * 64 * 4), 64), chunks=(20, 1000, 64), dtype=np.float32)
    assert x.nbytes >= 10 * limit * len(before)
    output, _ = numlstm.dask.forward(lstm, x)
    total = output.sum(axis=1, dtype=np.float64).compute()
    one, _ = lstm(np.ones((20, 1, 64), np.float32))
    np.testing.assert_allclose(total, one[:, 0].astype(np.float64) * x.shape[1], rtol=1e-6)
    after = cluster.run(peak)
    assert all(after[worker] - before[worker] < limit for worker in before)
