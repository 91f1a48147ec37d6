"""vjp on several threads: the bits of one, for every partition and flag."""

import copy
import itertools

import numpy as np
import pytest
from judge import equal

import numlstm
from numlstm.autodiff import passes, teams
from numlstm.kernels.plan_layout import Header, Partition
from numlstm.kernels.training.backward_layout import Back
from numlstm.runtime import planner
from numlstm.runtime.schedule import Overrides

pytestmark = pytest.mark.cpu_level


@pytest.fixture(autouse=True)
def threads():
    """The number of threads is what it was."""
    before = numlstm.get_num_threads()
    yield
    numlstm.set_num_threads(before)


@pytest.fixture
def worked(monkeypatch):
    """Chunks that workers have claimed, by the partition."""
    claimed = dict.fromkeys(Partition, 0)
    real = teams._run_worker

    def counted(kernel, slots, held):
        real(kernel, slots, held)
        claimed[Partition(slots[Header.PARTITION])] += slots[Header.WORK_ITEMS]

    monkeypatch.setattr(teams, "_run_worker", counted)
    return claimed


def passes_of(lstm, num, partition, steps, batch, lengths=None, num_chunks=0):
    """All results of both passes on so many threads."""
    numlstm.set_num_threads(num)
    random, lstm = np.random.default_rng(0), copy.deepcopy(lstm)
    x = random.standard_normal((steps, batch, lstm.input_size)).astype(lstm.dtype)
    with planner.override(schedule=Overrides(partition=partition, num_chunks=num_chunks)):
        (output, (h_n, c_n)), backward = lstm.vjp(x, lengths=lengths)
        d_output = random.standard_normal(output.shape).astype(lstm.dtype)
        grads = backward(d_output, (h_n, c_n))
    return [output, h_n, c_n, grads.input, *grads.parameters.values()]


CASES = [
    (hidden, proj, layers, directions, kind)
    for hidden, proj in [(13, 0), (37, 5), (70, 0)]
    for layers, directions in [(1, 1), (3, 1), (2, 2)]
    for kind in ["plain", "lengths", "dropout"]
    if kind != "dropout" or layers > 1
]


@pytest.mark.parametrize(("hidden", "proj", "layers", "directions", "kind"), CASES)
def test_any_number_of_threads_gives_the_same_bits(hidden, proj, layers, directions, kind):
    flags = {"bidirectional": directions == 2, "proj_size": proj, "dropout": 0.3 * (kind == "dropout")}
    lstm = numlstm.LSTM(5, hidden, layers, seed=1, dtype="float64" if hidden == 13 else "float32", **flags).train()
    lengths = np.random.default_rng(1).integers(1, 24, 7) if kind == "lengths" else None
    want = passes_of(lstm, 1, None, 23, 7, lengths)
    shared = (2, Partition.ROWS), (3, Partition.BLOCKS), (4, Partition.WAVEFRONT), (2, Partition.DIRECTIONS)
    for num, partition in shared:
        assert equal(passes_of(lstm, num, partition, 23, 7, lengths), want), (num, partition)


@pytest.mark.parametrize("partition", [Partition.ROWS, Partition.BLOCKS])
def test_steps_longer_than_a_run_and_many_chunks(partition):
    lstm = numlstm.LSTM(5, 16, seed=1)
    for steps, batch in [(3, 150), (150, 3)]:
        want = passes_of(lstm, 1, None, steps, batch)
        for num, chunks in itertools.product((2, 3), (0, 7)):
            assert equal(passes_of(lstm, num, partition, steps, batch, num_chunks=chunks), want)


@pytest.mark.parametrize("partition", [Partition.ROWS, Partition.BLOCKS])
def test_workers_take_part(partition, worked):
    lstm = numlstm.LSTM(64, 128, 2, seed=1)
    want = passes_of(lstm, 1, None, 60, 12)
    for _ in range(50):
        assert equal(passes_of(lstm, 2, partition, 60, 12), want)
        if worked[partition]:
            break
    assert worked[partition]


def test_chunks_that_run_twice_are_noticed(monkeypatch):
    """Sums that are added to a second time are other sums."""
    lstm = numlstm.LSTM(5, 16, seed=1)
    want, real = passes_of(lstm, 1, None, 40, 6), passes.run_alone

    def twice(kernel, slots):
        real(kernel, slots)
        slots[Back.CLEAR] = 0
        real(kernel, slots)

    monkeypatch.setattr(passes, "run_alone", twice)
    assert not equal(passes_of(lstm, 1, None, 40, 6), want)


def test_what_is_short_runs_alone():
    small, forecast, voice = (numlstm.LSTM(*sizes)._config for sizes in [(6, 4), (8, 64, 2), (40, 256, 3)])
    assert teams.schedule_back(small, 5, 1, 4, 4) is None
    assert teams.schedule_back(forecast, 168, 64, 4, 1) is None
    assert teams.schedule_back(forecast, 168, 64, 4, 4).partition == Partition.ROWS
    assert teams.schedule_back(voice, 160, 8, 4, 4).partition == Partition.BLOCKS
