"""What a file describes takes memory and time in proportion to the file: attacks of each kind, and files of large use.

Memory is counted by tracemalloc, which NumPy tells of its arrays; work by lines and calls (tests/support/work.py).
"""

import collections
import gc
import io
import json
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from needs import need
from work import assert_linear

import numlstm
from numlstm.formats import budget, npz, safetensors, state_dict
from numlstm.formats.torch import tree, unpickle

MB = 1 << 20
HEAD = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\nq\x00"
STORAGE = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
GIVEN = STORAGE + b"K\x00K\x01\x85K\x01\x85\x89}tq\x01"
AXES = b"](" + b"K\x00" * 64 + b"e"
SUBCLASS = (
    b"ctorch._tensor\n_rebuild_from_type_v2\nq\x05(" + REBUILD + b"N" + STORAGE + b"K\x00" + 2 * AXES + b"ttq\x06"
)
MODULE = b"ctorch.nn.modules.rnn\nLSTM\nq\x02"


def pickled(body):
    return b"\x80\x02" + body + b"."


def legacy(body):
    """The format from before 1.6, with one storage of one number."""
    return HEAD + pickled(body) + pickle.dumps(["0"], 2) + struct.pack("<qf", 1, 1.0)


def zipped(body, method=zipfile.ZIP_STORED):
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", method) as archive:
        archive.writestr("a/data.pkl", pickled(body))
        archive.writestr("a/data/0", struct.pack("<f", 1.0))
    return into.getvalue()


def header(text):
    return struct.pack("<Q", len(text)) + text.encode()


def entries(count, shape="[0]"):
    each = ",".join(f'"{n:x}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}' for n in range(count))
    return header("{" + each + "}")


def arrays(count, method=zipfile.ZIP_STORED, shape=(0,)):
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<f4", "fortran_order": False, "shape": shape})
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", method) as archive:
        for n in range(count):
            archive.writestr(f"{n:x}.npy", data.getvalue())
    return into.getvalue()


def rows(unit, before=b"", tail=b"l"):
    """A list of what one piece of pickle makes, over and over."""
    return lambda n: before + b"(" + unit * n + tail


PICKLES = {  # what each makes many of, of the size n
    "empty lists": rows(b"]"),
    "empty lists, remembered": rows(b"]\x94"),
    "empty dicts": rows(b"}"),
    "dicts of one item": rows(b"}NNs"),
    "dicts of one list": rows(b"(N]d"),
    "lists of one item": rows(b"]Na"),
    "marks": lambda n: b"(" * n + b"l",
    "tuples of one": rows(b"N\x85"),
    "sets": rows(b"(N\x91"),
    "integers": rows(b"J\xff\xff\xff\x00"),
    "small integers": rows(b"M\xff\xff"),
    "long integers": rows(b"\x8a\x08" + b"\x7f" * 8),
    "text": rows(b"\x8c\x01a"),
    "wide text": rows(b"\x8c\x20" + b"a" * 28 + "\U0001f600".encode()),
    "names": rows(b"h\x00h\x00\x93", b"\x8c\xff" + b"a" * 255 + b"q\x00"),
    "far memo": lambda n: b"(" + b"".join(b"Nr" + struct.pack("<I", 3 * k + 7) for k in range(n)) + b"l",
    "records": rows(b"h\x02)R", MODULE),
    "records with items": rows(b"h\x02)RNa", MODULE),
    "records with keys": rows(b"h\x02)RNNs", MODULE),
    "keys that are no keys": lambda n: b"G" + b"\x00" * 8 + b"q\x00}(" + b"h\x00h\x00" * n + b"u",
    "ordered dicts": rows(b"h\x00)R", b"ccollections\nOrderedDict\nq\x00"),
    "tensors": rows(b"h\x00h\x01R", REBUILD + GIVEN),
    "tensors of a subclass": rows(b"h\x05h\x06R", SUBCLASS),
    "one tensor, many names": rows(b"h\x03", REBUILD + GIVEN + b"Rq\x03"),
    "one tensor in many dicts": rows(b"}\x8c\x01ah\x03s", REBUILD + GIVEN + b"Rq\x03"),
    "one list in many places": rows(b"h\x03", b"]q\x03"),
    "parameters of nothing": rows(b"}\x8c\x0cweight_ih_l0h\x03s", MODULE + b")Rq\x03"),
    "one long name in many places": rows(
        b"}h\x03h\x04s", REBUILD + GIVEN + b"Rq\x04X\x00\x20\x00\x00" + b"n" * 8192 + b"q\x03"
    ),
    "lists in lists": lambda n: b"]q\x03" + b"](h\x03h\x03e" * n,
    "modules in one dict": rows(b"h\x02)R}\x8c\x0b_parametersh\x05sb", MODULE + b"}q\x05"),
}
HEADERS = {
    "tensors": entries,
    "axes": lambda n: entries(1, "[" + ",".join(["0"] * n) + "]"),
    "metadata": lambda n: header('{"__metadata__":{' + ",".join(f'"{k:x}":""' for k in range(n)) + "}}"),
    "objects": lambda n: header('{"a":[' + ",".join(["{}"] * n) + "]}"),
    "lists": lambda n: header('{"a":[' + ",".join(["[]"] * n) + "]}"),
    "numbers": lambda n: header('{"a":[' + ",".join(["1.5"] * n) + "]}"),
    "names": lambda n: header("{" + ",".join(f'"{k:x}":0' for k in range(n)) + "}"),
}
ARCHIVES = {
    "empty arrays": arrays,
    "empty arrays, compressed": lambda n: arrays(n, zipfile.ZIP_DEFLATED),
    "axes": lambda n: arrays(n, zipfile.ZIP_DEFLATED, (0,) * 60),
}
KINDS = {
    **{f"zip, {kind}": (lambda n, make=make: zipped(make(n))) for kind, make in PICKLES.items()},
    **{f"legacy, {kind}": (lambda n, make=make: legacy(make(n))) for kind, make in PICKLES.items()},
    **{f"safetensors, {kind}": make for kind, make in HEADERS.items()},
    **{f"npz, {kind}": make for kind, make in ARCHIVES.items()},
}


# the two formats of pickles share all but how they begin
FORMS = [pytest.param(kind, marks=pytest.mark.slow) if kind.startswith("legacy") else kind for kind in KINDS]


def read(path):
    """Whatever becomes of it."""
    for reader in (numlstm.load_tensors, numlstm.load):
        try:
            reader(path)
        except ValueError as error:
            assert str(error)


def peak(path):
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        read(path)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def sized(kind, nbytes):
    """A file of a kind of about that many bytes."""
    make = KINDS[kind]
    small, large = len(make(64)), len(make(128))
    return make(max(128, int(nbytes / max(1, (large - small) / 64))))


@pytest.fixture(autouse=True)
def imported(tmp_path):
    """What is imported at the first file is not the file's."""
    for name in ("m.npz", "m.safetensors"):
        numlstm.LSTM(2, 2).save(tmp_path / name)
        read(tmp_path / name)
    (tmp_path / "m.pt").write_bytes(zipped(PICKLES["tensors"](2)))
    read(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes(legacy(PICKLES["tensors"](2)))
    read(tmp_path / "m.pt")


@pytest.mark.parametrize("kind", FORMS)
def test_memory_is_what_the_size_of_the_file_justifies(kind, tmp_path, monkeypatch):
    """With less to begin with, so that a small file shows what a large one would do."""
    monkeypatch.setattr(budget, "ALWAYS", budget.MARGIN + MB // 4)
    data = sized(kind, 20_000)
    (tmp_path / "m").write_bytes(data)
    taken = peak(tmp_path / "m")
    assert taken <= 20 * len(data) + MB // 2, f"{taken / len(data):.1f} times {len(data)} bytes"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip, empty lists", "zip, marks", "zip, dicts of one item", "npz, empty arrays"])
def test_memory_of_a_tiny_file_that_unpacks_to_much(kind, tmp_path):
    """What compresses well: a kilobyte that is a megabyte of opcodes."""
    name = kind.partition(", ")[2]
    data = zipped(PICKLES[name](1_000_000 // 4), zipfile.ZIP_DEFLATED) if name in PICKLES else KINDS[kind](2000)
    (tmp_path / "m").write_bytes(data)
    assert peak(tmp_path / "m") <= 20 * len(data) + 32 * MB


def test_headers_that_deflate_are_not_all_parsed(tmp_path):
    """Python's own parser reads them, in time that only their length unpacked tells."""
    head = {"descr": [(f"f{n}", "<f4") for n in range(500)], "fortran_order": False, "shape": (0,)}
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, head)
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(100):
            archive.writestr(f"{n}.npy", array.getvalue())
    with pytest.raises(ValueError, match=r"the headers of its arrays are longer than its \d+ bytes justify"):
        numlstm.list_lstms(tmp_path / "m.npz")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip, empty lists", "zip, dicts of one item", "legacy, tensors"])
def test_without_the_limit_it_would_take_more(kind, tmp_path, monkeypatch):
    """The measure sees it, and the limit is what refuses it."""
    monkeypatch.setattr(budget, "ALWAYS", 1 << 40)
    data = sized(kind, 30_000)
    (tmp_path / "m").write_bytes(data)
    assert peak(tmp_path / "m") > 20 * len(data) + MB // 2


# ---------------------------------------------------------------- work


FEW = 50


def many_cells(n):
    """A state dict of n LSTMs."""
    shapes = {"weight_ih": (8, 3), "weight_hh": (8, 2), "bias_ih": (8,), "bias_hh": (8,)}
    return {f"c{k}.{name}": np.zeros(shape, "f4") for k in range(n) for name, shape in shapes.items()}


def layers(n):
    return dict(numlstm.LSTM(2, 2, num_layers=n).state_dict())


STATES = {"many LSTMs": (many_cells, 20), "many layers": (layers, 20)}


@pytest.mark.parametrize("kind", FORMS)
def test_work_is_linear_in_the_size_of_the_file(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "ALWAYS", 1 << 40)  # not refused, but read to the end
    monkeypatch.setattr(safetensors, "JSON", 0)

    def reading(n):
        (tmp_path / "m").write_bytes(KINDS[kind](n))
        return lambda: read(tmp_path / "m")

    assert_linear(reading, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("kind", STATES)
def test_work_of_loading_is_linear_in_the_tensors(kind, suffix, tmp_path):
    make, first = STATES[kind]

    def reading(n):
        state, path = make(n), tmp_path / f"m{suffix}"
        if suffix == ".npz":
            np.savez(path, **state)
        elif suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(state, path)
        else:
            torch = need("torch")
            torch.save({name: torch.from_numpy(array.copy()) for name, array in state.items()}, path)
        return lambda: read(path)

    assert_linear(reading, first)


@pytest.mark.parametrize("where", ["unpickle", "walk", "find", "header", "archive"])
def test_squared_work_is_noticed(where, tmp_path, monkeypatch):
    """Planted: a look at everything before it, for each thing that is read."""
    seen = []

    def squared(*_):
        seen.append(None)
        for _ in seen:
            pass

    def also(module, name):
        real = getattr(module, name)

        def both(*arguments, **named):
            squared()
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, both)

    kind = {"header": "safetensors, tensors", "archive": "npz, empty arrays"}.get(where, "zip, tensors")
    also(
        *{
            "unpickle": (unpickle, "_reduced"),
            "walk": (tree, "_tensor"),
            "find": (tree, "_repeats"),
            "header": (safetensors, "_is_size"),
            "archive": (npz, "header"),
        }[where]
    )

    def reading(n):
        seen.clear()
        (tmp_path / "m").write_bytes(KINDS[kind](n))
        return lambda: read(tmp_path / "m")

    monkeypatch.setattr(budget, "ALWAYS", 1 << 40)
    with pytest.raises(AssertionError, match="in proportion"):
        assert_linear(reading, FEW)


# ---------------------------------------------------------------- large use


@pytest.mark.slow
@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_of_ten_thousand_small_tensors_loads(zip_format, protocol, tmp_path):
    torch = need("torch")
    state = collections.OrderedDict((f"model.layers.{k}.norm.weight", torch.zeros(4)) for k in range(10_000))
    state |= torch.nn.LSTM(3, 2).state_dict(prefix="model.lstm.")
    whole = {"state_dict": state, "epoch": 3, "vocabulary": {f"word{k}": k for k in range(20_000)}}
    torch.save(whole, tmp_path / "m.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zip_format)
    assert numlstm.load(tmp_path / "m.pt").hidden_size == 2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_of_many_small_lstms_loads(suffix, tmp_path):
    state = many_cells(2000)
    if suffix == ".npz":
        np.savez(tmp_path / "m.npz", **state)
    else:
        from safetensors.numpy import save_file

        save_file(state, tmp_path / "m.safetensors")
    assert len(numlstm.list_lstms(tmp_path / f"m{suffix}")) == 2000
    assert numlstm.load(tmp_path / f"m{suffix}", "c1999").input_size == 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_file_of_mere_weights_leaves_room(dtype, tmp_path, monkeypatch):
    """Of any number type, with nothing to begin with."""
    torch = need("torch")
    monkeypatch.setattr(budget, "ALWAYS", budget.MARGIN)
    state = {name: array.to(getattr(torch, dtype)) for name, array in torch.nn.LSTM(64, 64).state_dict().items()}
    torch.save(state, tmp_path / "m.pt")
    assert numlstm.load(tmp_path / "m.pt").hidden_size == 64


def test_too_many_lstms_are_refused_before_they_are_made(tmp_path):
    tensors = {f"c{k}.weight_ih": None for k in range(state_dict.MOST + 1)}
    with pytest.raises(ValueError, match="more than 4096 LSTMs"):
        state_dict.find(tensors)


# ---------------------------------------------------------------- the header of safetensors, against the library


def damaged(text, rng):
    """A header with a small damage."""
    text = bytearray(text)
    for _ in range(rng.integers(1, 3)):
        at = int(rng.integers(len(text)))
        kind = rng.integers(4)
        if kind == 0:
            text[at] = int(rng.choice(list(b'0123456789{}[]",:-.eFI')))
        elif kind == 1:
            del text[at : at + int(rng.integers(1, 3))]
        elif kind == 2:
            text[at:at] = text[at : at + int(rng.integers(1, 12))]
        else:
            digits = [k for k, byte in enumerate(text) if 48 <= byte < 58]
            at = int(rng.choice(digits))
            text[at : at + 1] = [b"-1", b"0", b"1.0", b"1e1", b"99999999999999999999", b"01", b" 2"][rng.integers(7)]
    return bytes(text)


def test_what_the_library_refuses_is_refused(tmp_path):
    """And what is taken has the names, shapes and numbers that the library gives."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as of_library
    from safetensors.numpy import save

    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(array.shape).astype("f4") for name, array in many_cells(1).items()}
    whole = save(state | {"flag": np.array([True])}, {"a": "b"})
    length = int.from_bytes(whole[:8], "little")
    taken = 0
    for _ in range(600):
        text = damaged(whole[8 : 8 + length], rng)
        data = struct.pack("<Q", len(text)) + text + whole[8 + length :]
        (tmp_path / "m").write_bytes(data)
        try:
            theirs = of_library(data)
        except (SafetensorError, KeyError):
            theirs = None  # KeyError: a number type that NumPy lacks
        try:
            ours = numlstm.load_tensors(tmp_path / "m")
        except ValueError:
            ours = None
        if theirs is None:
            assert ours is None or json.loads(text), text
            assert ours is None or len(ours) < 5, text
        elif ours is not None:
            taken += 1
            assert ours.keys() == theirs.keys()
            assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    assert taken > 20
