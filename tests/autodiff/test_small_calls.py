"""Small calls of ``vjp``, which machine code runs once a shape was seen: the bits of the other path, and its errors."""

import gc
import sys
import threading

import numpy as np
import pytest
from callers import switching
from judge import counted, equal
from samples import data

import numlstm
from numlstm.autodiff import small_calls
from numlstm.autodiff.small_calls import SmallTape
from numlstm.autodiff.stateless import Passes
from numlstm.runtime import planner
from numlstm.runtime.schedule import Overrides

pytestmark = pytest.mark.cpu_level


def is_small(backward):
    """Whether a built-in function ran the pass, and is to run the one back."""
    return type(backward._tape) is SmallTape


def passes(lstm, x, hx, d_output, d_hx, input_grad=True):
    """All arrays that both passes give, whether the call was a small one, and the pass back."""
    result, backward = lstm.vjp(x, hx)
    input, hx, parameters = backward(d_output, d_hx, input_grad=input_grad)
    assert list(parameters) == list(lstm.state_dict())
    arrays = [result[0], *result[1], *([input] if input_grad else []), *(hx or ()), *parameters.values()]
    assert (input is None) != input_grad
    return arrays, is_small(backward), backward


def by_passes(lstm, *arguments):
    """The same without a small call."""
    model, lstm._model.executor.training = lstm._model, None
    arrays, small, _ = passes(lstm, *arguments)
    model.executor.training = None
    assert not small
    return arrays


def seen(lstm, x):
    """Let small calls of that shape begin."""
    lstm.vjp(x)


CASES = [
    (dtype, layers, bidirectional, proj_size, bias, unbatched)
    for dtype in ("float32", "float64")
    for layers, bidirectional, proj_size, bias, unbatched in [
        (1, False, 0, True, False),
        (2, True, 0, True, False),
        (2, True, 3, False, False),
        (2, False, 2, True, True),
    ]
]


@pytest.mark.parametrize(("dtype", "layers", "bidirectional", "proj_size", "bias", "unbatched"), CASES)
def test_small_calls_have_the_bits_of_others(dtype, layers, bidirectional, proj_size, bias, unbatched):
    lstm = numlstm.LSTM(5, 7, layers, bias, bidirectional=bidirectional, proj_size=proj_size, dtype=dtype, seed=0)
    x, hx = data(lstm, 4, 1 if unbatched else 3)
    hx[0][0, 0, 0], hx[1][0, 0, 1] = 1e-30, 1e-320  # flushed on the way in
    if unbatched:
        x, hx = x[:, 0], (hx[0][:, 0], hx[1][:, 0])
    (output, states), _ = lstm.vjp(x)
    random = np.random.default_rng(1)
    d_output = random.standard_normal(output.shape).astype(dtype)
    d_hx = tuple(random.standard_normal(state.shape).astype(dtype) for state in states)
    for given in (None, hx):
        for by_output, by_states in ((d_output, d_hx), (d_output, None), (None, d_hx), (None, None)):
            for input_grad in (True, False):
                want = by_passes(lstm, x, given, by_output, by_states, input_grad)
                seen(lstm, x)
                got, small, backward = passes(lstm, x, given, by_output, by_states, input_grad)
                assert small and equal(got, want)
                again = backward(by_output, by_states, input_grad=input_grad)  # with the weights it has transposed
                assert equal(list(again.parameters.values()), want[-len(again.parameters) :])


@pytest.mark.parametrize("shape", [(3, 5), (5,)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_calls_of_a_cell_have_the_bits_of_others(dtype, shape):
    cell = numlstm.LSTMCell(5, 7, dtype=dtype, seed=0)
    random = np.random.default_rng(1)
    x = random.standard_normal(shape).astype(dtype)
    states = [random.standard_normal((*shape[:-1], 7)).astype(dtype) for _ in range(5)]
    hx, d_hx, d_output = tuple(states[:2]), tuple(states[2:4]), states[4]
    for given in (None, hx):
        for by_output, by_states in ((d_output, d_hx), (None, d_hx), (d_output, None)):
            found = []
            for small in (False, True):
                if not small:
                    cell._model.executor.training = None
                result, backward = cell.vjp(x, given)
                assert is_small(backward) == small
                got = backward(by_output, by_states)
                assert list(got.parameters) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
                found.append([*result, got.input, *(got.hx or ()), *got.parameters.values()])
            assert equal(*found)
    with pytest.raises(RuntimeError, match="inconsistent input_size"):
        cell.vjp(x[..., :3])


def small_one():
    """An LSTM whose calls of x are small, x and a gradient of the output."""
    lstm = numlstm.LSTM(5, 7, 2, seed=0)
    x, _ = data(lstm, 4, 3)
    seen(lstm, x)
    return lstm, x, np.ones((4, 3, 7), np.float32)


def test_arrays_of_other_kinds_are_taken_by_the_other_path():
    lstm, x, d_output = small_one()
    want, small, _ = passes(lstm, x, None, d_output, None)
    assert small
    for other in (np.asfortranarray(x), x.astype(np.float64), np.repeat(x, 2, axis=2)[:, :, ::2], x.tolist()):
        got, small, _ = passes(lstm, other, None, d_output, None)
        assert not small and equal(got, want)
    zeros = tuple(np.zeros((2, 3, 7)) for _ in "hc")
    got, small, _ = passes(lstm, x, zeros, d_output, None)  # float64
    assert not small and equal(got[:4], want[:4])
    for other in (d_output.tolist(), np.asfortranarray(d_output), d_output.astype(np.float64)):
        got, small, _ = passes(lstm, x, None, other, None)  # the tape of a small call serves the other path
        assert small and equal(got, want)


def test_bad_gradients_are_refused_and_change_nothing():
    lstm, x, d_output = small_one()
    _, backward = lstm.vjp(x)
    assert is_small(backward)
    want = backward(d_output).parameters
    wrong = d_output.copy()
    wrong[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"d_output holds NaN\n.*\(1, 2, 3\)"):
        backward(wrong)
    states = np.zeros((2, 3, 7), np.float32), np.full((2, 3, 7), np.nan, np.float32)
    with pytest.raises(ValueError, match="gradient of c_n holds NaN"):
        backward(d_output, states)
    with pytest.raises(ValueError, match="d_output must have the shape"):
        backward(d_output[:3])
    with pytest.raises(TypeError):
        backward("none")
    wrong[1, 2, 3] = np.inf  # no error, as from the other path
    assert not np.isfinite(backward(wrong).input).all()
    assert equal(list(backward(d_output).parameters.values()), list(want.values()))
    backward.close()
    with pytest.raises(RuntimeError, match="was closed"):
        backward(d_output)


def test_bad_inputs_are_refused():
    lstm, x, _ = small_one()
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size"):
        lstm.vjp(x, (np.zeros((2, 1, 7), np.float32), np.zeros((2, 3, 7), np.float32)))
    with pytest.raises(ValueError, match="memory must be"):
        lstm.vjp(x, memory="none")
    with pytest.raises(TypeError):
        lstm.vjp(x, 3)


def test_a_pass_back_has_what_its_call_had():
    """Whatever is done to arrays, weights and other calls since; and arrays that it gives are their owner's."""
    lstm, x, d_output = small_one()
    first, want = lstm.vjp(x)[1], lstm.vjp(x)[1](d_output)
    x *= 2
    result, second = lstm.vjp(x)
    result[0][...] = 7
    lstm.weight_ih_l0 = lstm.weight_ih_l0 + 1
    third = lstm.vjp(x)[1]
    assert is_small(first) and is_small(second) and is_small(third)
    got, others = first(d_output), (second(d_output), third(d_output))
    assert equal([got.input, *got.parameters.values()], [want.input, *want.parameters.values()])
    assert all(not equal(other.input, want.input) for other in others)
    got.parameters["bias_ih_l0"] += 1
    assert equal(got.parameters["bias_hh_l0"], want.parameters["bias_hh_l0"])
    assert all(array.flags.carray for array in got.parameters.values())


def test_what_is_no_small_call():
    lstm, x, _ = small_one()
    for other in (x[:, :, :].repeat(200, axis=0), x.repeat(60, axis=1)):
        assert not any(is_small(lstm.vjp(other)[1]) for _ in range(2))  # too much for the GIL
    lstm.batch_first = True
    assert not any(is_small(lstm.vjp(x)[1]) for _ in range(2))
    lstm.batch_first = False
    assert is_small(lstm.vjp(x)[1])
    lstm.dropout = 0.5
    assert not any(is_small(lstm.vjp(x)[1]) for _ in range(2))
    lstm.dropout = 0
    assert not is_small(lstm.vjp(x, lengths=[4, 2, 1])[1]) and not is_small(lstm.vjp(x, memory="low")[1])
    with planner.override(schedule=Overrides(num_chunks=2, partition=1)):
        assert not any(is_small(lstm.vjp(x)[1]) for _ in range(2))  # threads that tests force


def test_without_its_functions_everything_works(monkeypatch):
    lstm, x, d_output = small_one()
    want, _, _ = passes(lstm, x, None, d_output, None)
    monkeypatch.setattr(small_calls.object_layout, "functions", None)
    assert equal(by_passes(lstm, x, None, d_output, None), want)
    assert not any(is_small(lstm.vjp(x)[1]) for _ in range(2))


def test_nothing_leaks():
    lstm, x, d_output = small_one()
    d_hx = tuple(np.zeros((2, 3, 7), np.float32) for _ in "hc")
    wrong = np.full_like(d_output, np.nan)
    held = counted(x, d_output, *d_hx, None, x.dtype, True)

    def counts():
        gc.collect()
        return [sys.getrefcount(one) for one in held], len(gc.get_objects()), sys.getallocatedblocks()

    def calls():
        for given in (None, d_hx):
            _, backward = lstm.vjp(x, given)
            for by_states in (None, d_hx):
                backward(d_output, by_states, input_grad=False)
                backward(d_output, by_states)
            with pytest.raises(ValueError, match="NaN"):
                backward(wrong)
            lstm.vjp(np.asfortranarray(x), given)

    for _ in range(20):
        calls()
    before = counts()
    for _ in range(300):
        calls()
    after = counts()
    assert np.abs(np.subtract(before[0], after[0])).max() < 100 and after[1] - before[1] < 100
    assert after[2] - before[2] < 300


def test_buffers_are_kept_up_to_a_few():
    lstm, x, d_output = small_one()
    shape = lstm.vjp(x)[1]._tape.lent[0]
    held = [lstm.vjp(x)[1] for _ in range(10)]
    assert len({backward._tape.buffer.ctypes.data for backward in held}) == 10
    want = held[0](d_output).input
    assert all(equal(backward(d_output).input, want) for backward in held)
    del held
    assert len(shape) == small_calls.IDLE


def test_threads_share_a_model_and_a_pass():
    lstm, x, d_output = small_one()
    shared = lstm.vjp(x)[1]
    want = shared(d_output)
    arrays = [want.input, *want.parameters.values()]
    wrong = []

    def work():
        for _ in range(300):
            for backward in (shared, lstm.vjp(x)[1]):
                got = backward(d_output)
                if not equal([got.input, *got.parameters.values()], arrays):
                    wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_functions_of_weights_and_arrays_run_small_calls_too():
    """As PyTorch and JAX have them. What is kept may come back as a copy, or beside that of other calls."""
    lstm, x, d_output = small_one()
    run, weights = Passes(lstm._config, x.dtype), list(lstm.state_dict().values())
    panels, d_h = run.panels(weights), np.ones((2, 3, 7), np.float32)
    want = run.forward(panels, x)
    first = run.backward(panels, want[3].copy(), (d_output, d_h, None), 4, 3)
    assert not run._lent
    for _ in range(3):
        got, other = run.forward(panels, x), run.forward(panels, x * 2)
        assert equal(got[:3], want[:3]) and len(run._lent) == 2
        for kept in (got[3], got[3].copy()):
            assert equal(run.backward(panels, kept, (d_output, d_h, None), 4, 3), first)
        assert run.backward(panels, other[3], (None, None, None), 4, 3, input_grad=False)[0] is None
        del got, other, kept
        assert not run._lent and run.forward(panels, x)[3].ctypes.data != want[3].ctypes.data
