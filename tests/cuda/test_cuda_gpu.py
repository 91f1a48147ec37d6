"""What only a GPU can show: ``python -m pytest -m gpu``. Skipped with the reason if there is none."""

import numpy as np
import pytest
from judge import flat, same_bits
from samples import data

import numlstm
from numlstm.cuda import presence

missing = presence.look().missing
if missing is None and presence.simulated():
    missing = "the simulator is no GPU"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(missing is not None, reason=f"needs a GPU: {(missing or '').partition(chr(10))[0]}"),
]
# every kernel and tile, sizes of every kind of tail
SIZES = [
    {"input_size": 6, "hidden_size": 4, "num_layers": 2, "bidirectional": True},
    {"input_size": 100, "hidden_size": 64, "bidirectional": True, "bias": False},
    {"input_size": 17, "hidden_size": 65, "num_layers": 3},
    {"input_size": 40, "hidden_size": 257, "num_layers": 2},
    {"input_size": 33, "hidden_size": 130, "proj_size": 50, "bidirectional": True},
    {"input_size": 16, "hidden_size": 1100},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 7, 300])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bits_are_those_of_the_cpu(sizes, batch, dtype):
    net = numlstm.LSTM(**sizes, dtype=dtype, seed=1).eval()
    x, hx = data(net, 9, batch)
    want = flat(net(x, hx))
    net.to("cuda")
    for _ in range(3):
        assert all(same_bits(a, b) for a, b in zip(flat(net(x, hx)), want, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 7, 300])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_lengths_and_packed_sequences(sizes, batch, dtype):
    from numlstm.cuda import device

    net = numlstm.LSTM(**sizes, dtype=dtype, seed=1).eval()
    x, hx = data(net, 9, batch)
    lengths = np.random.default_rng(1).integers(1, 10, batch)
    want = flat(net(x, hx, lengths=lengths))
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    want_data = net(packed, hx)[0].data
    net.to("cuda")
    there = tuple(device.upload(part) for part in (x, *hx))
    for _ in range(3):
        assert all(same_bits(a, b) for a, b in zip(flat(net(x, hx, lengths=lengths)), want, strict=True))
        output, states = net(there[0], there[1:], lengths=lengths)
        assert all(same_bits(a.copy_to_host(), b) for a, b in zip((output, *states), want, strict=True))
        of_device = net(numlstm.PackedSequence(device.upload(packed.data), *packed[1:]), there[1:])[0]
        assert of_device.is_cuda and same_bits(of_device.cpu().data, want_data)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["stream", "step"])
def test_every_tile_on_the_device(kernel, dtype, monkeypatch):
    from numlstm.cuda import planner
    from numlstm.cuda.kernels import registry

    net = numlstm.LSTM(19, 50, dtype=dtype, seed=1).eval()
    x, hx = data(net, 5, 11)
    want = flat(net(x, hx))
    net.to("cuda")
    monkeypatch.setattr(planner, "REGISTER_UNITS", {4: 0, 8: 0})
    monkeypatch.setattr(planner, "LAUNCH", 1.0 if kernel == "stream" else -1.0)
    for rows in planner.TILES[net.dtype.itemsize]:
        with monkeypatch.context() as tiles:
            tiles.setattr(planner, "TILES", {4: (rows,), 8: (rows,)})
            before = registry.launches[kernel]
            assert all(same_bits(a, b) for a, b in zip(flat(net(x, hx)), want, strict=True))
            assert registry.launches[kernel] > before


def test_registers_fit_the_device():
    from numlstm.cuda import planner
    from numlstm.cuda.kernels import registry

    numlstm.LSTM(5, 64, device="cuda")(np.zeros((2, 3, 5), np.float32))
    made = registry.made("register", "float32", 64)
    registers = max(made.get_regs_per_thread().values())
    assert registers * 256 <= planner.REGISTER_FILE
    assert max(made.get_local_mem_per_thread().values()) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_tensors_stay_on_the_device(dtype):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    net = numlstm.LSTM(5, 70, num_layers=2, dtype=dtype, seed=0).eval()
    x, hx = data(net, 6, 4)
    want = flat(net(x, hx))
    net.to("cuda")
    there = [torch.as_tensor(array, device="cuda") for array in (x, *hx)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = net(there[0], (there[1], there[2]))
        last = [part.clone() for part in flat(result)]
    stream.synchronize()
    for part, array in zip(last, want, strict=True):
        assert part.is_cuda and same_bits(part.cpu().numpy(), array)


def test_dlpack_alone():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")

    class Capsule:
        def __init__(self, tensor):
            self.tensor, self.shape = tensor, tuple(tensor.shape)

        def __dlpack__(self, stream=None):
            return self.tensor.__dlpack__(stream=stream)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    net = numlstm.LSTM(5, 7, seed=0).eval()
    x, _ = data(net, 6, 4)
    want = flat(net(x))
    got = flat(net.to("cuda")(Capsule(torch.as_tensor(x, device="cuda"))))
    assert all(same_bits(a.copy_to_host(), b) for a, b in zip(got, want, strict=True))


def test_no_memory_is_taken_in_a_steady_state():
    from numba import cuda

    net = numlstm.LSTM(5, 70, seed=0).eval()
    x, hx = data(net, 6, 4)
    want = flat(net(x, hx))
    net.to("cuda")
    x, h, c = (cuda.to_device(part) for part in (x, *hx))
    out = tuple(cuda.device_array(part.shape, part.dtype) for part in want)
    net(x, (h, c), out=out)
    free = cuda.current_context().get_memory_info()[0]
    for _ in range(100):
        net(x, (h, c), out=out)
    assert cuda.current_context().get_memory_info()[0] == free
    assert all(same_bits(a.copy_to_host(), b) for a, b in zip(out, want, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 7])
def test_streams_on_the_device(batch, dtype):
    from numlstm.cuda import device

    for sizes in ({"input_size": 17, "hidden_size": 65, "num_layers": 3}, {"input_size": 3, "hidden_size": 20},
                  {"input_size": 33, "hidden_size": 130, "proj_size": 50}):  # fmt: skip
        net = numlstm.LSTM(**sizes, dtype=dtype, seed=1).eval()
        x, hx = data(net, 9, batch)
        output, last = net(x, hx)
        stream = net.to("cuda").stream(batch)
        stream.state = hx
        pieces = [stream(x[:2]), stream(device.upload(x[2:5])).copy_to_host()]
        for step in x[5:]:
            stream.input.copy_to_device(step)
            stream.step()
            pieces.append(stream.output.copy_to_host()[None])
        assert same_bits(np.concatenate(pieces), output)
        assert all(same_bits(a, b) for a, b in zip(stream.state, last, strict=True))
        twin = stream.fork()
        assert same_bits(twin(x), stream(x))
