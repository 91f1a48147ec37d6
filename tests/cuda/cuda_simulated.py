"""The CUDA path in Numba's simulator, run by ``test_cuda.py`` in a process of its own: NUMBA_ENABLE_CUDASIM=1."""

import copy
import dis
import pickle
import sys
import threading
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from cuda_cases import BOTH, SMALLEST, Case, differs, forced, on_both, stepped, streamed
from judge import UNIT, error, exact, flat, flip_one_bit, need_longdouble, same_bits
from needs import need
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from samples import data

import numlstm
from numlstm.cuda import device, layers, lstm_stream, planner, runner, streams
from numlstm.cuda.kernels import registry
from numlstm.cuda.kernels.exact import fused

DTYPES = ("float32", "float64")
CASES = [
    *SMALLEST.values(),
    Case("register", {"input_size": 3, "hidden_size": 1}, 1, 1),
    Case("register", {"input_size": 5, "hidden_size": 7, "bias": False, **BOTH}, 3, 2),
    Case("register", {"input_size": 17, "hidden_size": 32}, 2, 1),
    *(Case("stream", {"input_size": 3, "hidden_size": 5, **BOTH}, 3, 3, streamed(rows)) for rows in (1, 4)),
    Case("stream", {"input_size": 1, "hidden_size": 35, "bias": False}, 2, 1, streamed(1)),
    Case("stream", {"input_size": 33, "hidden_size": 1, "num_layers": 3}, 1, 2, streamed(2)),
    Case("step", {"input_size": 4, "hidden_size": 6, **BOTH}, 2, 3, stepped(1)),
    Case("step", {"input_size": 4, "hidden_size": 5, "proj_size": 3, **BOTH}, 2, 2),
    Case("step", {"input_size": 2, "hidden_size": 130}, 1, 1, stepped(4)),
    Case("register", {"input_size": 2, "hidden_size": 4, "bias": False}, 3, 3, {}, (3, 3, 1), True),
    Case("stream", {"input_size": 2, "hidden_size": 3, **BOTH}, 3, 4, streamed(4), (3, 2, 2, 2)),
    Case("stream", {"input_size": 2, "hidden_size": 3}, 5, 1, streamed(1), (3,), True),
]


def same(got, want):
    return all(same_bits(np.asarray(a), np.asarray(b)) for a, b in zip(got, want, strict=True))


def host(result):
    return [array.copy_to_host() for array in flat(result)]


@pytest.fixture
def net():
    return numlstm.LSTM(3, 4, seed=0).eval()


@pytest.fixture
def few_threads():
    """Blocks of few threads, where what is around the kernels is tried: the simulator starts one of Python for each."""
    with patch.multiple(planner, ACROSS=4, DOWN=2, THREADS=8, WARP=8):
        registry.made.cache_clear()
        yield
    registry.made.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_are_those_of_the_cpu(case, dtype):
    want, got, launches = on_both(case, dtype)
    assert same(got, want)
    net = numlstm.LSTM(**case.sizes)
    cells = net.num_layers * (2 if net.bidirectional else 1)
    steps = max(case.lengths) if case.lengths else case.steps
    assert launches[case.kernel] == cells * (steps if case.kernel == "step" else 1), launches
    of_lengths = {"arrange", "pack", "unpack"} if case.there else {"arrange"} if case.lengths else set()
    assert set(launches) <= {"flush_copy", "project", "project_hidden", case.kernel} | of_lengths, launches
    assert launches["project_hidden"] == (cells * steps if net.proj_size else 0)
    assert launches["pack"] == launches["unpack"] == case.there and launches["arrange"] == (4 if case.lengths else 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_agrees(dtype):
    for case in (CASES[0], CASES[2], CASES[5]):
        net = numlstm.LSTM(**case.sizes, dtype=dtype, seed=1).eval()
        x, hx = data(net, case.steps, case.batch)
        with forced(case.forced):
            got = net.to("cuda")(x, hx)
        assert error(got, exact(net, x, hx)) < 4 * UNIT[net.dtype]


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["register, lengths", "stream, lengths", "step, lengths", "project, lengths"])
def test_the_reference_agrees_on_lengths(name, dtype):
    """Each sequence of the batch is what the reference makes of it alone, and then zeros."""
    need_longdouble()
    case = SMALLEST[name]
    lengths = case.lengths
    net = numlstm.LSTM(**case.sizes, dtype=dtype, seed=1).eval()
    x, (h, c) = data(net, case.steps, case.batch)
    sequences = [x[:length, row].copy() for row, length in enumerate(lengths)]
    wants = [exact(net, part, (h[:, row], c[:, row])) for row, part in enumerate(sequences)]
    packed = numlstm.pack_sequence(sequences, enforce_sorted=False)
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan
    with forced(case.forced):
        output, states = net.to("cuda")(x, (h, c), lengths=lengths)
        of_packed, packed_states = net(packed, (h, c))
    by_itself = numlstm.unpack_sequence(of_packed)
    for row, (length, want) in enumerate(zip(lengths, wants, strict=True)):
        for got, (h_n, c_n) in ((output[:length, row], states), (by_itself[row], packed_states)):
            assert error((got, (h_n[:, row], c_n[:, row])), want) < 4 * UNIT[net.dtype]
        assert not output[length:, row].any()
        other = wants[row - 1]
        assert not error((output[:1, row], (states[0][:, row], states[1][:, row])),
                         (other[0][:1], other[1])) < 4 * UNIT[net.dtype], "sequences do not differ"  # fmt: skip


def test_a_planted_bit_is_seen(net):
    x, hx = data(net, 2, 2)
    want = flat(net(x, hx))
    assert same(want, want) and not same([flip_one_bit(want[0]), *want[1:]], want)


def test_a_fma_that_rounds_twice_is_seen(monkeypatch):
    # the reason for numlstm.cuda.kernels.exact: the simulator's own fma gives other bits
    case = SMALLEST["register"]
    assert not differs(case)
    of = registry.lane("float32")
    monkeypatch.setattr(of, "fma", lambda a, b, c: a * b + c)
    registry.made.cache_clear()
    assert differs(case)
    monkeypatch.undo()
    registry.made.cache_clear()
    assert not differs(case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fma_rounds_once(dtype):
    number = np.dtype(dtype).type
    fma, rng, twice = fused(dtype), np.random.default_rng(0), 0
    bits = np.finfo(dtype).nmant
    for _ in range(2000):
        a, b = (number(v) for v in rng.standard_normal(2))
        c = number(
            -float(a) * float(b) * (1 + rng.integers(-3, 4) * 2.0**-bits) + rng.integers(2) * rng.standard_normal()
        )
        sum_ = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        got = fma(a, b, c)
        assert type(got) is number
        near = [
            abs(Fraction(float(v)) - sum_)
            for v in (got, np.nextafter(got, number(-9e9)), np.nextafter(got, number(9e9)))
        ]
        assert near[0] == min(near)
        if near.count(near[0]) > 1:  # a tie goes to the even one
            assert int(got.view(f"u{number().itemsize}")) % 2 == 0
        twice += got != a * b + c
    assert twice > 100  # the sums are such that two roundings differ


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_at_the_edges(dtype):
    """Gates that saturate, infinities, NaN and numbers below the normal ones."""
    tiny, big = np.finfo(dtype).tiny, np.finfo(dtype).max
    edges = [0.0, -0.0, tiny / 2, -tiny / 4, tiny, 1e-6, 1, -1, 19.9, -20.1, 40.5, 87, -87.1, 88.9, -708.5, 710, big,
             -big, np.inf, -np.inf, np.nan]  # fmt: skip
    values = np.array(edges).astype(dtype)
    net = numlstm.LSTM(4, 1, bias=False, dtype=dtype).eval()
    net.weight_ih_l0 = np.eye(4)
    net.weight_hh_l0 = np.full((4, 1), 0.25)
    rng = np.random.default_rng(0)
    picked = [np.concatenate([values, rng.permutation(values)]) for _ in range(5)]
    picked[0] = picked[0][::-1]
    x, c_0 = np.stack(picked[:4], axis=-1)[None], picked[4][None, :, None]
    hx = (c_0[:, ::-1], c_0)
    want = flat(net(x, hx))
    got = flat(net.to("cuda")(x, hx))
    for a, b in zip(got, want, strict=True):
        missing = np.isnan(b)
        assert (np.isnan(a) == missing).all() and missing.any() and not missing.all()
        assert same_bits(np.where(missing, 0, a), np.where(missing, 0, b))
        zero = a[~missing] == 0
        assert zero.any() and (np.abs(a[~missing][~zero]) >= tiny).all()


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("kernel", ["register", "stream", "step"])
def test_chunks_of_steps_change_nothing(kernel, monkeypatch):
    case = SMALLEST[kernel]._replace(sizes=SMALLEST[kernel].sizes | {"hidden_size": 3, "bidirectional": True})
    want, got, one = on_both(case, "float32")
    assert same(got, want)
    monkeypatch.setattr(layers, "GATES_BYTES", 2 * case.batch * 4 * 3 * 4)
    want, got, more = on_both(case, "float32")
    assert same(got, want) and more["project"] == one["project"] * -(-case.steps // 2)


def test_layouts_and_kinds_of_input(net):
    x, (h, c) = data(net, 3, 2)
    want = flat(net(x, (h, c)))
    net.to("cuda")
    assert same(flat(net(x.astype(np.float64), (h, c))), want)
    assert same(flat(net(x.tolist(), (h.tolist(), c.tolist()))), want)
    assert same(flat(net(x[::-1][::-1], (np.asfortranarray(h), c))), want)
    assert same(flat(net(x[:, 0], (h[:, 0], c[:, 0]))), [part[:, 0] for part in want])
    assert same(flat(net(x)), flat(net.to("cpu")(x))) and net.to("cuda") is net
    net.batch_first = True
    got = flat(net(x.transpose(1, 0, 2), (h, c)))
    assert same([got[0].transpose(1, 0, 2), *got[1:]], want)
    empty = net(np.zeros((0, 3, 3)))
    assert [part.shape for part in flat(empty)] == [(0, 3, 4), (1, 0, 4), (1, 0, 4)]


def test_torch_agrees():
    torch = need("torch")
    theirs = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    ours = numlstm.from_torch(theirs).to("cuda")
    x = torch.randn(3, 2, 3)
    with torch.no_grad():
        output, (h_n, c_n) = theirs(x)
    for a, b in zip(flat(ours(x)), (output, h_n, c_n), strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-6


def test_out_and_errors_of_the_host(net):
    x, hx = data(net, 2, 2)
    want = flat(net(x, hx))
    net.to("cuda")
    out = tuple(np.empty_like(part) for part in want)
    output, (h_n, c_n) = net(x, hx, out=out)
    assert output is out[0] and h_n is out[1] and c_n is out[2] and same(out, want)
    with pytest.raises(RuntimeError, match=r"input\.size\(-1\) must be equal to input_size"):
        net(np.zeros((2, 2, 5)))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size"):
        net(x, (hx[0][:, :1], hx[1]))
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not at the same device"):
        net(x, (device.upload(hx[0]), hx[1]))
    with pytest.raises(ValueError, match="output in out must have shape"):
        net(x, hx, out=(out[0][:1], *out[1:]))
    assert same(flat(net(x, hx)), want)


# ---------------------------------------------------------------- arrays on the device


class Interface:
    """An array of another library: memory and strides, and not a thing more."""

    def __init__(self, array, **more):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "strides": array.strides,
            "typestr": array.dtype.str,
            "data": (array.__array_interface__["data"][0], False),
            "version": 3,
            **more,
        }


class Capsule:
    """The same through DLPack alone. It says that it is on a CUDA device; the simulator's memory is the host's."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, stream=None):
        self.asked.append(stream)
        return self.array.__dlpack__()

    @property
    def shape(self):
        return self.array.shape


KINDS = {"numba": device.upload, "interface": Interface, "dlpack": Capsule}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_on_the_device_stay_there(net, kind):
    made = KINDS[kind]
    x, (h, c) = data(net, 3, 2)
    want = flat(net(x, (h, c)))
    net.to("cuda")
    result = net(made(x), (made(h), made(c)))
    assert all(type(part) is FakeCUDAArray for part in flat(result))
    assert same(host(result), want)
    assert [part.shape for part in flat(result)] == [part.shape for part in want]
    if kind == "numba":
        assert same(host(net(made(x), result[1])), flat(net(x, (want[1], want[2]))))
        return
    views = np.zeros((2, 6, 3), x.dtype), np.zeros((1, 4, 4), h.dtype)
    views[0][:, ::2], views[1][:, ::2] = x.transpose(1, 0, 2), h
    net.batch_first = True
    got = host(net(made(views[0][:, ::2]), (made(views[1][:, ::2]), made(c))))
    assert same([got[0].transpose(1, 0, 2), *got[1:]], want)
    backwards = np.ascontiguousarray(x[::-1])
    if kind == "interface":
        net.batch_first = False
        assert same(host(net(made(backwards[::-1]), (made(h), made(c)))), want)
    else:
        value = made(backwards)
        net.batch_first = False
        net(value)
        assert value.asked == [1]
    assert [part.shape for part in flat(net(made(x[:, 0])))] == [(3, 4), (1, 4), (1, 4)]


def test_out_on_the_device_takes_nothing_more(net, monkeypatch):
    x, (h, c) = data(net, 3, 2)
    want = flat(net(x, (h, c)))
    net.to("cuda")
    x, h, c = (device.upload(part) for part in (x, h, c))
    out = tuple(device.empty(part.shape, np.float32) for part in want)
    net(x, (h, c), out=out)
    taken = []
    empty = device.empty
    monkeypatch.setattr(device, "empty", lambda *given: taken.append(given) or empty(*given))
    monkeypatch.setattr(device, "synchronize", taken.append)
    monkeypatch.setattr(device, "upload", taken.append)
    output, (h_n, c_n) = net(x, (h, c), out=out)
    assert output is out[0] and h_n is out[1] and c_n is out[2]
    assert taken == [] and same(host((output, (h_n, c_n))), want)
    monkeypatch.undo()
    monkeypatch.setattr(device, "empty", lambda *given: taken.append(given) or empty(*given))
    net(x, (h, c))  # without out= the results are new
    assert len(taken) == 3
    output, state = net(x, (h, c), out=(out[0], h, c))  # a state may be overwritten by the next
    assert same(host((output, state)), want)


def test_out_on_the_device_shares_no_memory(net):
    x, (h, c) = data(net, 3, 2)
    net.to("cuda")
    memory = np.zeros(4096, np.float32)
    read = memory[: x.size].reshape(x.shape)
    read[...] = x
    states = h.copy(), c.copy()
    want = [part.copy() for part in flat(net(read, states))]
    before = memory.copy()

    def apart(part, at):
        return memory[at : at + part.size].reshape(part.shape)

    free = [apart(part, 1000 * (n + 1)) for n, part in enumerate(want)]

    def refused(says, out, x=read, hx=states):
        with pytest.raises(ValueError, match=says + r"\nOnly h_n may be the very array"):
            net(Interface(x), tuple(map(Interface, hx)), out=tuple(map(Interface, out)))
        assert np.array_equal(memory, before)

    refused("output in out shares memory with input", (apart(want[0], x.size - 1), *free[1:]))
    refused("h_n in out shares memory with c_n", (free[0], free[1], apart(want[2], 2000 + want[1].size - 1)))
    refused(
        "c_n in out shares memory with input",
        (*free[:2], apart(want[2], 0)),
        x=memory[: 2 * x.size : 2].reshape(x.shape),
    )
    inside = apart(h, 2500), apart(c, 3500)
    refused("output in out shares memory with h_0", (apart(want[0], 2500), *free[1:]), hx=inside)
    refused("h_n in out shares memory with h_0", (free[0], apart(want[1], 2501), free[2]), hx=inside)
    refused("c_n in out shares memory with h_0", (free[0], free[1], inside[0]), hx=inside)
    net(Interface(read), tuple(map(Interface, states)), out=tuple(map(Interface, free)))
    assert same(free, want)


def test_errors_of_arrays_on_the_device(net):
    x, hx = data(net, 3, 2)
    net.to("cuda")
    there = device.upload(x)
    with pytest.raises(TypeError, match=r"input must have dtype float32, not float64\n.*convert the LSTM"):
        net(device.upload(x.astype(np.float64)))
    with pytest.raises(TypeError, match="input must have dtype float32, not int32"):
        net(device.upload(x.astype(np.int32)))
    with pytest.raises(RuntimeError, match="not at the same device"):
        net(there, hx)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] size"):
        net(there, (device.upload(hx[0]), device.upload(hx[1][:, :1])))
    with pytest.raises(TypeError, match="no masked elements"):
        net(Interface(x, mask=there))
    with pytest.raises(TypeError, match="output in out must be on the device"):
        net(there, out=(x, x, x))
    wide = np.zeros((3, 2, 8), np.float32)
    states = [device.empty((1, 2, 4), np.float32) for _ in range(2)]
    with pytest.raises(ValueError, match="output in out must be C-contiguous"):
        net(there, out=(Interface(wide[..., ::2]), *states))
    with pytest.raises(ValueError, match="h_n in out must have shape"):
        net(there, out=(Interface(wide[..., :4].copy()), there, states[1]))


def test_the_caller_says_the_stream(net, monkeypatch):
    class Stream:
        def __cuda_stream__(self):
            return (0, 7)

    seen = []
    real = device.stream_of
    monkeypatch.setattr(device, "stream_of", lambda handle: seen.append(handle) or real(handle))
    x, _ = data(net, 2, 2)
    net.to("cuda")
    there = device.upload(x)
    net(there)
    net(Interface(x, stream=5))
    with streams.use(Stream()):
        net(there)
        net(x)
        with streams.use(9):
            net(Interface(x, stream=5))
    net(x)
    assert seen == [0, 5, 7, 7, 9, 0]
    for bad in (None, -1, "1", True):
        with pytest.raises(TypeError, match="a stream must have __cuda_stream__"), streams.use(bad):
            pass
    assert {key[2] for key in net._gpu.workspaces} <= {0, 5, 7, 9}


# ---------------------------------------------------------------- streams of steps


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "flags", [{}, {"num_layers": 2, "bias": False}, {"proj_size": 2, "batch_first": True}], ids=str
)
def test_a_stream_has_the_bits_of_one_call(flags, dtype):
    net = numlstm.LSTM(3, 4, dtype=dtype, seed=1, **flags).eval()
    x, _ = data(net, 7, 2)
    ahead = (lambda part: part.swapaxes(0, 1)) if net.batch_first else (lambda part: part)
    output, (h, c) = net(ahead(x))
    stream = net.to("cuda").stream(2)
    assert (
        stream.device == "cuda" and stream.dtype == net.dtype and repr(stream).endswith("batch_size=2, device='cuda')")
    )
    before = registry.launches.copy()
    pieces = [stream(x[0])[None], ahead(stream(ahead(x[1:3])))]
    there = stream(device.upload(np.ascontiguousarray(ahead(x[3:5]))))
    assert type(there) is FakeCUDAArray
    pieces.append(ahead(there.copy_to_host()))
    stream.input.copy_to_device(x[5])
    assert stream.step() is None
    pieces += [stream.output.copy_to_host()[None], stream(device.upload(x[6])).copy_to_host()[None]]
    assert same_bits(np.concatenate(pieces), np.ascontiguousarray(ahead(output))) and same(stream.state, (h, c))
    assert (registry.launches - before)["project"] == 5 * net.num_layers
    mine = net.to("cpu").stream(2)
    mine(ahead(x))
    assert same(mine.state, stream.state)


def test_a_stream_that_no_memory_holds(net, monkeypatch):
    net.to("cuda")
    with pytest.raises(MemoryError, match=rf"no memory for a stream of batch_size={2**62}.*\nTake fewer rows"):
        net.stream(2**62)
    for said, kind, says in (
        ("OUT_OF_MEMORY", MemoryError, r"no memory for a stream of batch_size=2: .*OUT_OF_MEMORY\nTake fewer rows"),
        ("LAUNCH_FAILED", RuntimeError, "LAUNCH_FAILED"),
    ):

        def fails(*given, said=said):
            raise RuntimeError(f"Call to cuMemAlloc results in CUDA_ERROR_{said}")

        monkeypatch.setattr(device, "upload", fails)
        with pytest.raises(kind, match=says):
            net.stream(2)


def test_a_stream_of_one_row_and_its_shapes(net):
    x, _ = data(net, 4, 1)
    want, _ = net(x)
    for made in (np.asarray, device.upload):
        stream = net.to("cuda").stream()
        pieces = [stream(made(x[0, 0])), stream(made(x[1:3, 0])), stream(made(x[3:]))]
        pieces = [piece if isinstance(piece, np.ndarray) else piece.copy_to_host() for piece in pieces]
        assert [piece.shape for piece in pieces] == [(4,), (2, 4), (1, 1, 4)]
        assert same_bits(np.concatenate([piece.reshape(-1, 4) for piece in pieces]), want[:, 0])


@pytest.mark.usefixtures("few_threads")
def test_the_state_of_a_stream(net):
    x, hx = data(net, 4, 2)
    want, last = net(x, hx)
    mine = net.stream(2)
    stream = net.to("cuda").stream(2)
    stream.state = hx
    assert same(stream.state, hx)
    stream(x[:2])
    kept, twin = stream.snapshot(), stream.fork()
    assert same_bits(stream(x[2:]), want[2:]) and same(stream.state, last)
    assert same_bits(copy.copy(twin)(x[2:]), want[2:]) and same_bits(copy.deepcopy(twin)(x[2:]), want[2:])
    stream.restore(pickle.loads(pickle.dumps(kept)))
    mine.restore(kept)  # of the CPU
    assert same_bits(stream(x[2:]), want[2:]) and same_bits(mine(x[2:]), want[2:])
    stream.restore(mine.snapshot())
    stream.reset(rows=[1])
    assert same_bits(stream.state[0][:, 0], last[0][:, 0]) and not stream.state[0][:, 1].any()
    stream.state = tuple(device.upload(state) for state in hx)
    assert same(stream.state, hx)
    stream.reset()
    assert not any(state.any() for state in stream.state)
    net.bias_hh_l0 = np.arange(16)
    old = stream(x)
    stream.reset()
    stream.refresh()
    new = net(x)[0]
    assert same_bits(stream(x), new) and not same_bits(old, new)


def test_errors_of_a_stream_leave_its_state(net, monkeypatch):
    x, hx = data(net, 3, 2)
    net.to("cuda")
    stream = net.stream(2)
    stream.state = hx
    for wrong, kind, says in (
        (x[:, :1], RuntimeError, "1 row, but the stream has 2"),
        (x[..., :2], RuntimeError, "must be equal to input_size"),
        (x[0, 0], ValueError, "2D or 3D"),
        (device.upload(x[:, :1].copy()), RuntimeError, "1 row, but the stream has 2"),
        (device.upload(x.astype(np.float64)), TypeError, "must have dtype float32"),
        (["no"], TypeError, "real numbers"),
    ):
        with pytest.raises(kind, match=says):
            stream(wrong)
    for wrong in ((hx[0],), (hx[0][:, :1], hx[1]), None):
        with pytest.raises((RuntimeError, TypeError, IndexError), match=r"hx|hidden"):
            stream.state = wrong
    with pytest.raises(IndexError, match="rows must pick from the 2 rows"):
        stream.reset(rows=[2])
    with pytest.raises(ValueError, match="lacks"):
        stream.restore({})
    launches = []
    real = layers.launch

    def failing(name, *rest):
        launches.append(name)
        if name == "register":
            raise MemoryError
        real(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(layers, "launch", failing)
        for call in (stream.step, lambda: stream(x), lambda: stream(device.upload(x))):
            with pytest.raises(MemoryError):
                call()
    assert launches.count("register") == 3 and same(stream.state, hx)
    assert same_bits(stream(x), net(x, hx)[0])
    with pytest.raises(RuntimeError, match="no address"):
        _ = stream.address
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(stream)
    with pytest.raises(ValueError, match="bidirectional LSTM cannot run as a stream"):
        numlstm.LSTM(3, 4, bidirectional=True, device="cuda").stream()
    with pytest.raises(NotImplementedError, match="pool is built for the CPU alone"):
        net.pool()
    net.double()
    with pytest.raises(RuntimeError, match="has become float64, and the stream is float32"):
        stream.refresh()


def test_two_threads_in_a_stream(net, monkeypatch):
    x, _ = data(net, 2, 1)
    stream = net.to("cuda").stream()
    inside, go_on = threading.Event(), threading.Event()
    real = layers.launch

    def slowly(*arguments):
        inside.set()
        go_on.wait(60)
        real(*arguments)

    monkeypatch.setattr(layers, "launch", slowly)
    results = []
    other = threading.Thread(target=lambda: results.append(stream(x)))
    other.start()
    assert inside.wait(60)
    for busy in (stream.step, lambda: stream(x), stream.reset, stream.fork, stream.refresh, lambda: stream.state):
        with pytest.raises(RuntimeError, match="in use by another thread"):
            busy()
    go_on.set()
    other.join(60)
    assert same_bits(results[0], net(x)[0]) and same(stream.state, net(x)[1])


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place in live.py or a planted fault where Python may look for signals.

    These are the begin of a function, there or called from there, and what follows a call of any other kind.
    """

    def __init__(self, at):
        self.at, self.count, self.latest = at, 0, {}

    def ours(self, frame):
        return frame.f_code.co_filename == lstm_stream.__file__ or frame.f_code.co_name.startswith("planted")

    def place(self):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt

    def __call__(self, frame, event, argument):
        if event == "call":
            self.latest[frame.f_back] = "call of a Python function"
            if self.ours(frame) or self.ours(frame.f_back):
                self.place()
        if not self.ours(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before = self.latest.get(frame, "")
            self.latest[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if before.startswith("CALL"):
                self.place()
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)
        self.latest.clear()


def acts(stream, x):
    """What changes a stream on CUDA or looks at it."""
    ones = [np.ones_like(state) for state in stream.state]
    return {
        "step": stream.step,
        "host": lambda: stream(x),
        "device": lambda: stream(device.upload(x)),
        "state": lambda: stream.state,
        "state =": lambda: setattr(stream, "state", ones),
        "reset": lambda: stream.reset(rows=[0]),
        "snapshot": stream.snapshot,
        "fork": stream.fork,
        "refresh": stream.refresh,
    }


def interrupted_everywhere(name):
    """What is wrong after an interruption at any place of an act, and how many places there were."""
    net, found, at = numlstm.LSTM(1, 1, seed=0).to("cuda"), [], 0
    x, hx = data(net, 1, 1)
    first, twin = net.stream(), net.stream()
    net.bias_hh_l0 = np.arange(4)
    for stream in (first, twin):
        stream.state = hx
    acts(twin, x)[name]()
    while True:
        at += 1
        stream = first.fork()
        act = acts(stream, x)[name]
        with Interrupt(at) as interrupt:
            try:
                act()
                done = True
            except KeyboardInterrupt:
                done = False
        try:
            state = stream.state
        except RuntimeError:
            found.append("in use for ever")
            return found, at
        after = same(state, twin.state)
        if not after and (done or not same(state, hx)):
            found.append("torn")
        if len({id(flat) for pair in stream._pairs for flat in pair}) != 4:
            found.append("the state is the spare one too")
        if done:
            return found, interrupt.count


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("name", ["step", "host", "device", "state", "state =", "reset", "snapshot", "fork", "refresh"])
def test_an_interruption_anywhere_leaves_a_whole_stream(name):
    found, places = interrupted_everywhere(name)
    assert found == [] and places >= 10


def planted_before(self, work):
    """The flag is taken before it is sure to be given back."""
    mark = object()
    if self._user.setdefault(0, mark) is not mark:
        raise RuntimeError
    try:
        return work()
    finally:
        self._user.clear()


def planted_late(self, work):
    """Python looks for signals after ``get``, and then the flag is not put back."""
    mark = object()
    try:
        if self._user.setdefault(0, mark) is not mark:
            raise RuntimeError
        return work()
    finally:
        if self._user.get(0) is mark:
            self._user.clear()


def planted_in_two_stores(self):
    """The pairs change places one after the other."""
    (state, spare), nothing = self._pairs, lambda: None
    self._pairs = spare, spare
    nothing()
    self._pairs = spare, state


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize(
    ("attribute", "fault", "says"),
    [
        ("_alone", planted_before, "in use for ever"),
        ("_alone", planted_late, "in use for ever"),
        ("_turn", planted_in_two_stores, "the state is the spare one too"),
    ],
)
def test_the_interruptions_notice_a_planted_fault(attribute, fault, says, monkeypatch):
    monkeypatch.setattr(lstm_stream.Stream, attribute, fault)
    assert says in interrupted_everywhere("step")[0]


@pytest.mark.usefixtures("few_threads")
def test_a_handler_in_the_midst_of_a_step_is_refused(net, monkeypatch):
    """It runs in the same thread, which holds the stream already."""
    x, _ = data(net, 1, 1)
    stream, said, real = net.to("cuda").stream(), [], layers.launch

    def handled(*arguments):
        with pytest.raises(RuntimeError, match="in use by another thread"):
            stream.reset()
        said.append(1)
        real(*arguments)

    monkeypatch.setattr(layers, "launch", handled)
    got = stream(x)
    monkeypatch.undo()
    assert said and same_bits(got, net(x)[0])
    stream.reset()


def test_a_step_takes_nothing_and_waits_for_nothing(net, monkeypatch):
    x, _ = data(net, 4, 1)
    net.to("cuda")(x)
    stream, there = net.stream(), device.upload(x[0])
    assert stream._runner.weights is net._gpu.weights  # not a copy of its own
    stream.step()
    taken = []
    for name in ("empty", "pinned", "upload", "synchronize"):
        monkeypatch.setattr(device, name, lambda *given, name=name, **more: taken.append(name))
    before = registry.launches.copy()
    for _ in range(3):
        stream.step()
    assert taken == [] and stream._runner.allocations == 1 and (registry.launches - before)["register"] == 3
    with pytest.raises(Exception, match="NoneType"):  # a call for an array on the device takes one, and is seen to
        stream(there)
    assert taken == ["empty"]


@pytest.mark.usefixtures("few_threads")
def test_a_step_takes_nothing_after_chunks_of_any_length(net, monkeypatch):
    net.to("cuda")
    stream, x = net.stream(), data(net, runner.WORKSPACES + 4, 1)[0]
    stream.step()
    taken, real = [], device.empty
    monkeypatch.setattr(device, "empty", lambda *given: taken.append(given) or real(*given))
    for steps in range(2, runner.WORKSPACES + 4):
        stream(x[:steps])
    assert len(taken) > runner.WORKSPACES, "the chunks take memory, and are seen to"
    del taken[:]
    stream.step()
    with streams.use(5):
        stream.step()
    assert taken == [] and len(stream._runner.workspaces) == runner.WORKSPACES + 1


def test_the_buffers_of_a_stream_are_zeros_before_it_is_had(net, monkeypatch):
    """Another stream of CUDA, which does not wait for the default one, may use them at once."""
    net.to("cuda")
    asked, upload, synchronize = [], device.upload, device.synchronize
    monkeypatch.setattr(device, "upload", lambda array: asked.append("upload") or upload(array))
    monkeypatch.setattr(device, "synchronize", lambda stream: asked.append(stream) or synchronize(stream))
    stream = net.stream()
    assert asked == ["upload"] * 6 + [0]
    assert not any(flat.copy_to_host().any() for flat in (*stream._pairs[0], *stream._pairs[1], *stream._flat))


# ---------------------------------------------------------------- what a user holds


def test_the_device_of_an_lstm(net):
    x, hx = data(net, 2, 2)
    want = flat(net(x, hx))
    assert net.device == "cpu" and net.to("cuda") is net and net.device == "cuda"
    assert net.cuda() is net and net.to(0).to("cuda:0").device == "cuda" and net.to("float32").device == "cuda"
    assert numlstm.LSTM(3, 4, device="cuda").device == "cuda"
    for twin in (copy.copy(net), copy.deepcopy(net)):
        assert twin.device == "cuda" and twin._gpu is not net._gpu and same(flat(twin(x, hx)), want)
    assert pickle.loads(pickle.dumps(net)).device == "cpu"  # a pickle is for any machine
    assert net.cpu() is net and net.device == "cpu" and same(flat(net(x, hx)), want)
    with pytest.raises(AttributeError, match="device of LSTM"):
        net.device = "cuda"
    double = net.double()
    want = flat(double(x, hx))
    assert same(flat(double.to("cuda")(x, hx)), want) and want[0].dtype == np.float64


def test_assigned_parameters_reach_the_device(net):
    x, hx = data(net, 2, 2)
    net.to("cuda")
    first = flat(net(x, hx))
    net.bias_hh_l0 = np.arange(16)
    second = flat(net(x, hx))
    assert not same(first, second) and same(second, flat(net.to("cpu")(x, hx)))


@pytest.mark.usefixtures("few_threads")
def test_workspaces_are_kept_and_bounded(net):
    net.to("cuda")
    x, hx = data(net, 3, 2)
    for _ in range(3):
        net(x, hx)
    assert net._gpu.allocations == 1
    for batch in range(1, runner.WORKSPACES + 3):
        net(np.zeros((1, batch, 3)))
    assert len(net._gpu.workspaces) == runner.WORKSPACES + 1  # single steps have put out none but each other
    before = net._gpu.allocations
    net(np.zeros((1, runner.WORKSPACES + 2, 3)))
    net(x, hx)
    assert net._gpu.allocations == before


@pytest.mark.usefixtures("few_threads")
def test_dropout_between_layers():
    make = lambda: numlstm.LSTM(3, 4, num_layers=3, dropout=0.5, seed=5)  # noqa: E731
    x = np.ones((2, 3, 3), np.float32)
    assert same(flat(make().to("cuda")(x)), flat(make()(x)))
    assert not same(flat(make().to("cuda")(x)), flat(make().eval()(x)))


def refusals(net, made):
    """Calls that are refused, each for another reason."""
    x, (h, c) = data(net, 2, 3)
    out = [np.empty_like(part) for part in flat(net(x))]
    packed = numlstm.pack_padded_sequence(x, [2, 1, 1])._replace
    wrong = np.zeros((2, 3, 5), x.dtype)
    state = tuple(map(made, (h, c)))
    return [
        lambda: net(made(wrong)),
        lambda: net(made(x[:, 0, 0].copy())),
        lambda: net(made(x.astype(complex))),
        lambda: net(made(x), (state[0], made(c[:, :2].copy()))),
        lambda: net(made(x), (state[0], c if made is device.upload else device.upload(c))),
        lambda: net(made(x), 5),
        lambda: net(made(x), lengths=[3, 1, 1]),
        lambda: net(made(x), lengths=[1, 1]),
        lambda: net(made(x), lengths=[2, 0, 1]),  # of the CPU alone
        lambda: net(made(x), state, out=(made(out[0]), *state[:1])),
        lambda: net(made(x), state, out=(*map(made, out[:2]), made(out[2][:1].copy()))),
        lambda: net(packed(data=made(wrong[0]))),
        lambda: net(packed(data=made(wrong.reshape(6, 5)[:4]))),
        lambda: net(packed(data=made(x.reshape(6, 3)[:4])), lengths=[2, 1, 1]),
    ]


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("made", [np.asarray, device.upload], ids=["host", "device"])
def test_what_is_refused_draws_no_dropout(made):
    net = numlstm.LSTM(3, 2, num_layers=2, dropout=0.5, seed=5).to("cuda")
    calls = refusals(net, made)
    before = net._rng.bit_generator.state
    for call in calls:
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            call()
        assert net._rng.bit_generator.state == before
    net(made(data(net, 1, 1)[0]))
    assert net._rng.bit_generator.state != before


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("lengths", [None, [1, 2]], ids=str)
@pytest.mark.parametrize("made", [np.asarray, device.upload], ids=["host", "device"])
def test_a_call_that_finds_no_room_draws_no_dropout(made, lengths, monkeypatch):
    net = numlstm.LSTM(2, 1, num_layers=4, dropout=0.5, seed=5).to("cuda")
    x, hx = made(data(net, 2, 2)[0]), tuple(map(made, data(net, 2, 2)[1]))
    room = []

    def taking(real):
        def take(*arguments):
            if not room:
                raise MemoryError
            room.pop()
            return real(*arguments)

        return take

    for name in ("empty", "pinned"):
        monkeypatch.setattr(device, name, taking(getattr(device, name)))
    before = net._rng.bit_generator.state
    for count in range(100):
        room[:] = [None] * count
        net._gpu.workspaces.clear()
        try:
            net(x, hx, lengths=lengths)
            break
        except MemoryError:
            assert net._rng.bit_generator.state == before
    assert count >= 8 and net._rng.bit_generator.state != before


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("lengths", [None, []], ids=str)
def test_an_empty_batch_leaves_the_dropout_that_it_leaves_on_the_cpu(lengths):
    nets = [numlstm.LSTM(3, 2, num_layers=2, dropout=0.5, seed=5).to(where) for where in ("cpu", "cuda")]
    for net in nets:
        net(np.zeros((2, 0, 3)), lengths=lengths)
    assert nets[0]._rng.bit_generator.state == nets[1]._rng.bit_generator.state


def test_threads_do_not_mix(net):
    x, hx = data(net, 2, 2)
    want = flat(net(x, hx))
    net.to("cuda")
    results = []
    workers = [threading.Thread(target=lambda: results.append(flat(net(x, hx)))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(results) == 3 and all(same(result, want) for result in results)


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("of", ["input", "h_0"])
def test_a_call_keeps_the_dtype_that_it_began_with(net, of):
    """Another one in the meantime, of the dtype to which the LSTM was converted, leaves it its own."""
    x, (h, c) = data(net, 2, 2)
    want, wider = flat(net(x, (h, c))), flat(copy.deepcopy(net).double()(x, (h, c)))
    net.to("cuda")
    between = []

    class Converting:
        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            between.append(flat(net.double()(x, (h, c))))
            return self.array

    got = net(Converting(x), (h, c)) if of == "input" else net(x, (Converting(h), c))
    assert same(flat(got), want) and between and all(same(other, wider) for other in between)
    assert same(flat(net(x, (h, c))), wider)


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("wider", [False, True])
def test_a_call_in_the_midst_of_another_one_of_the_same_thread(net, wider, monkeypatch):
    """As a signal handler makes it: it waits for nothing, and both have their bits."""
    x, hx = data(net, 2, 2)
    want, other = flat(net(x, hx)), flat(copy.deepcopy(net).to(dtype="float64" if wider else "float32")(x[:1]))
    net.to("cuda")
    between, launch = [], layers.launch

    def interrupted(*arguments):
        launch(*arguments)
        if not between:
            between.append(None)
            if wider:
                net.double()
            between[0] = flat(net(x[:1]))

    monkeypatch.setattr(layers, "launch", interrupted)
    results = []
    caller = threading.Thread(target=lambda: results.append(flat(net(x, hx))), daemon=True)
    caller.start()
    caller.join(60)
    assert results and same(results[0], want) and same(between[0], other)


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize(("lengths", "dtype"), [((3, 1, 4), "float32"), ((4, 2, 2), "float64")])
@pytest.mark.parametrize("flags", [{}, BOTH, {"proj_size": 2, "batch_first": True}], ids=str)
def test_packed_sequences(flags, lengths, dtype):
    """Packed in, packed out, where the data are; and the same as lengths=."""
    net = numlstm.LSTM(3, 4, dtype=dtype, seed=1, **flags).eval()
    x, hx = data(net, 5, 3)
    kept = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    want = net(kept, hx)
    net.to("cuda")
    got = net(kept, hx)
    assert type(got[0]) is numlstm.PackedSequence and not got[0].is_cuda
    assert same(flat((got[0].data, got[1])), flat((want[0].data, want[1])))
    assert all(same_bits(a, b) for a, b in zip(got[0][1:], want[0][1:], strict=True))
    there = numlstm.PackedSequence(device.upload(kept.data), *kept[1:])
    output, states = net(there, tuple(device.upload(state) for state in hx))
    assert there.is_cuda and output.is_cuda and type(output.data) is FakeCUDAArray
    assert same(flat((output.cpu().data, tuple(state.copy_to_host() for state in states))),
                flat((want[0].data, want[1])))  # fmt: skip
    output, states = net(there)
    alone = net(kept)
    assert same(flat((output.cpu().data, tuple(state.copy_to_host() for state in states))),
                flat((alone[0].data, alone[1])))  # fmt: skip
    padded, _ = net(x.swapaxes(0, 1) if net.batch_first else x, hx, lengths=lengths)
    unpacked, _ = numlstm.pad_packed_sequence(want[0], batch_first=net.batch_first, total_length=5)
    assert same_bits(padded, unpacked)


def test_work_is_for_real_steps(monkeypatch):
    """The projection has a row for each step that there is, and a step of the recurrence those that are left."""
    case = SMALLEST["step"]
    seen = []
    launch = layers.launch
    monkeypatch.setattr(layers, "launch", lambda name, *rest: seen.append((name, rest[6])) or launch(name, *rest))
    with forced(case.forced):
        net = numlstm.LSTM(2, 5).eval().to("cuda")
        net(np.zeros((5, 3, 2)), lengths=[1, 4, 2])
    assert [count for name, count in seen if name == "project"] == [7]
    assert [rows for name, rows in seen if name == "step"] == [3, 2, 1, 1]


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("kernel", ["register", "stream", "step"])
def test_chunks_of_lengths_change_nothing(kernel, monkeypatch):
    case = SMALLEST[f"{kernel}, lengths"]
    case = case._replace(sizes=case.sizes | {"hidden_size": 3, "num_layers": 1}, lengths=(2, 4, 1))
    for rows, chunks in ((1, 4), (3, 3), (4, 2)):
        monkeypatch.setattr(layers, "GATES_BYTES", rows * 4 * 3 * 4)
        want, got, launches = on_both(case, "float32")
        assert same(got, want) and launches["project"] == 2 * chunks


@pytest.mark.usefixtures("few_threads")
def test_lengths_take_nothing_new_in_the_end(net, monkeypatch):
    """Nor does a call whose lengths are those of the call before send them again."""
    x, hx = data(net, 4, 3)
    net.to("cuda")
    there = device.upload(x), tuple(device.upload(state) for state in hx)
    out = [device.empty(size, np.float32) for size in ((4, 3, 4), (1, 3, 4), (1, 3, 4))]
    net(*there, lengths=[4, 4, 4], out=out)
    taken = []
    monkeypatch.setattr(device, "empty", lambda *given: taken.append(given))
    monkeypatch.setattr(device, "synchronize", taken.append)
    monkeypatch.setattr(device, "upload", taken.append)
    for lengths in ([1, 3, 2], [2, 1, 4]):
        net(*there, lengths=lengths, out=out)
    assert taken == [] and net._gpu.allocations == 1
    space = net._gpu.workspaces[0, 0, 0]
    table = space._host_table
    net(*there, lengths=[2, 1, 4], out=out)
    assert space._host_table is table


def test_errors_of_lengths(net):
    x, _ = data(net, 4, 3)
    net.to("cuda")
    there = device.upload(x)
    for given in (x, there):
        for lengths, says in (([5, 1, 1], "5"), ([0, 1, 1], "0"), ([1, 2], "3")):
            with pytest.raises((RuntimeError, ValueError), match=says):
                net(given, lengths=lengths)
        with pytest.raises(ValueError, match="lengths is for a batch"):
            net(given[:, 0], lengths=[1])
    kept = numlstm.pack_padded_sequence(x, [4, 2, 1])
    with pytest.raises(TypeError, match="the input is packed"):
        net(kept, lengths=[4, 2, 1])
    for wrong in (
        numlstm.PackedSequence(device.upload(kept.data[1:]), *kept[1:]),
        numlstm.PackedSequence(device.upload(np.zeros((7, 5), np.float32)), *kept[1:]),
    ):
        with pytest.raises(RuntimeError, match=r"must sum to|must be equal to input_size"):
            net(wrong)
    double = numlstm.PackedSequence(device.upload(kept.data.astype(np.float64)), *kept[1:])
    with pytest.raises(TypeError, match="data must have dtype float32, not float64"):
        net(double)
    assert double.cpu().data.dtype == np.float64 and double.to("cpu").is_cuda is False and double.cuda() is double
    with pytest.raises(NotImplementedError, match="are not converted to another dtype"):
        double.float()
    assert double.cuda(0) is double.cuda("cuda:0") is double.to("cuda") is double
    with pytest.raises(NotImplementedError, match="Of several CUDA devices the first is used"):
        double.cuda(1)
    with pytest.raises(NotImplementedError, match="An LSTM on CUDA takes the sequence as it is"):
        kept.cuda()
    assert net(kept)[0].is_cuda is False and kept._replace(data=device.upload(kept.data)).is_cuda
