"""HDF5 as data: what h5py writes is read as h5py reads it; damaged and hostile files raise an error, and soon."""

import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import need

import numlstm
from numlstm.formats.keras import hdf5

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras"
FILES = sorted(path.name for path in FIXTURES.glob("*.h5"))
NUMBERS = np.random.default_rng(0).normal(0, 100, (37, 53)).astype(np.float32)


def written(make, **flags):
    """The bytes of a file that h5py writes."""
    h5py = need("h5py")
    into = io.BytesIO()
    with h5py.File(into, "w", **flags) as file:
        make(file)
    return into.getvalue()


def read(data):
    return hdf5.read(io.BytesIO(data), len(data))


# Against h5py


@pytest.mark.parametrize("names", [["ö"], ["é", "a b", "層", "z"]])
def test_a_group_with_names_beyond_ascii(names):
    """The library lists its members in the header of the group."""
    data = written(lambda f: [f.create_group("w").create_dataset(f"{n}/{n}", data=[1.5]) for n in names[:1]])
    assert list(read(data).tensors) == [f"w/{names[0]}/{names[0]}"]

    def make(file):
        group = file.create_group("w")
        for number, name in enumerate(names):
            group.create_group(name).create_dataset("x", data=np.float32(number))

    got = {path: float(tensor.read()) for path, tensor in read(written(make)).tensors.items()}
    assert got == {f"w/{name}/x": number for number, name in enumerate(names)}


def test_a_large_group_with_names_beyond_ascii_is_refused_with_the_way_out():
    many = written(lambda f: [f.create_group(f"w/é{number}") for number in range(9)])
    with pytest.raises(ValueError, match=r"(?s)more than 8 members, which is not read.*rename these layers"):
        read(many)


@pytest.mark.parametrize("name", FILES)
def test_everything_that_h5py_reads(name):
    h5py = need("h5py")
    data = (FIXTURES / name).read_bytes()
    got = read(data)
    seen = {"": 0}

    def compare(path, thing):
        for key, value in thing.attrs.items():
            if isinstance(value, str | bytes):
                assert got.attributes[path][key] == (value if isinstance(value, str) else value.decode())
            elif value.dtype == object or value.dtype.kind == "S":
                texts = [text if isinstance(text, str) else text.decode() for text in value]
                assert got.attributes[path][key] == texts
        if isinstance(thing, h5py.Dataset):
            tensor = got.tensors[path]
            assert (tensor.shape, tensor.dtype) == (thing.shape, thing.dtype.name)
            assert np.array_equal(tensor.read(), thing[()])
            seen[path] = 1
        else:
            seen[path] = 0

    with h5py.File(io.BytesIO(data)) as file:
        compare("", file)
        file.visititems(compare)
    assert set(seen) == set(got.attributes)
    assert sum(seen.values()) == len(got.tensors) > 1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (10, 10)},
        {"chunks": (10, 53), "compression": "gzip"},
        {"chunks": (7, 11), "compression": "gzip", "shuffle": True},
        {"chunks": (30, 50), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
        {"chunks": (1, 1)},
    ],
    ids=str,
)
def test_layouts(how):
    data = written(lambda file: file.create_dataset("a", data=NUMBERS, **how))
    assert np.array_equal(read(data).tensors["a"].read(), NUMBERS)


@pytest.mark.parametrize(
    "dtype", ["f2", "<f4", ">f4", "<f8", ">f8", "i1", ">i2", "i4", "<i8", "u1", ">u2", "u4", "u8", "?"]
)
def test_number_types(dtype):
    array = np.abs(NUMBERS).astype(dtype)
    tensor = read(written(lambda file: file.create_dataset("a", data=array))).tensors["a"]
    assert np.array_equal(tensor.read(), array)
    assert tensor.dtype == tensor.read().dtype.name == array.dtype.name
    assert tensor.read().dtype.isnative


def test_bfloat16_as_keras_writes_it():
    bfloat16 = np.dtype(need("ml_dtypes").bfloat16)
    array = NUMBERS.astype(bfloat16)

    def make(file):
        file.create_dataset("a", data=array).attrs["dtype"] = "bfloat16"

    tensor = read(written(make)).tensors["a"]
    assert tensor.dtype == "bfloat16" and np.array_equal(tensor.read(), array.astype(np.float32))


def test_what_is_no_tensor_is_left_out():
    def make(file):
        file.create_dataset("complex", data=np.zeros(3, np.complex64))
        file.create_dataset("text", data=["a", "b"])
        file.create_dataset("scalar", data=np.float32(2))
        file.create_dataset("empty", data=np.zeros((0, 4), np.float32))
        file.attrs["number"] = 3
        file.attrs["long"] = "ä" * 300_000

    got = read(written(make))
    assert {name: tensor.read().tolist() for name, tensor in got.tensors.items()} == {"scalar": 2.0, "empty": []}
    assert got.attributes[""] == {"long": "ä" * 300_000}


def test_wide_groups_and_long_lists():
    """More names than a node of a tree holds, and more texts than an attribute."""

    def make(file):
        for number in range(3000):
            file.create_group(f"g{number}")
        file["a"] = NUMBERS

    got = read(written(make))
    assert len(got.attributes) == 3002 and np.array_equal(got.tensors["a"].read(), NUMBERS)


# What is refused


def external(file):
    file.create_dataset("a", shape=(10,), dtype="u1", external=[("/etc/passwd", 0, 10)])


def virtual(file):
    h5py = need("h5py")
    layout = h5py.VirtualLayout(shape=(10,), dtype="u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", shape=(10,))
    file.create_virtual_dataset("a", layout)


def in_itself(file):
    group = file.create_group("a")
    group["again"] = group


def up(file):
    file.create_group("a")["up"] = file


def twice(file):
    file["a"] = NUMBERS
    file["b"] = file["a"]


def deep(file):
    for _ in range(200):
        file = file.create_group("g")


def named_type(file):
    file["type"] = np.dtype("f4")
    file.create_dataset("a", data=np.zeros(3, "f4"), dtype=file["type"])


def many_bombs(file):
    for number in range(200):
        file.create_dataset(str(number), data=np.zeros(250_000, "f4"), compression="gzip", chunks=(250_000,))


def patched(data, old, new, count=1):
    assert data.count(old) >= count
    return data.replace(old, new)


def valid():
    return written(lambda file: [file.create_dataset(f"group/{name}", data=NUMBERS) for name in "abc"])


def name_without_end():
    data = written(lambda file: file.create_group("n" * 800).create_group("x"))
    at = data.index(b"n" * 800)
    return data[: at + 800] + b"n" * (len(data) - at - 800)


def circle():
    """A node of a tree whose child is itself."""
    data = bytearray(valid())
    for at in range(0, len(data) - 4, 8):
        if data[at : at + 5] == b"TREE\0":
            data[at + 5] = 1
            struct.pack_into("<Q", data, at + 32, at)
    return bytes(data)


def text_bomb():
    """An attribute of 4,000 texts, all of them one text of half a megabyte."""
    data = written(lambda file: file.attrs.__setitem__("layer_names", ["x" * 500_000] + ["y"] * 3999))
    at = data.index(struct.pack("<I", 500_000))
    return data[:at] + data[at : at + 16] * 4000 + data[at + 64_000 :]


def over_each_other():
    data = written(lambda file: [file.create_dataset(name, data=np.full(500, 7.0)) for name in "ab"])
    numbers = np.full(500, 7.0).tobytes()
    first = data.index(numbers)
    second = data.index(numbers, first + len(numbers))
    return patched(data, struct.pack("<QQ", second, 4000), struct.pack("<QQ", first + 8, 4000))


def states(old, new):
    """A file of one dataset of shape (37, 53), with other numbers somewhere."""
    return lambda: patched(written(lambda file: file.create_dataset("a", data=NUMBERS)), old, new)


SHAPE, SIZE = struct.pack("<QQ", 37, 53), struct.pack("<Q", NUMBERS.nbytes)
HOSTILE = {
    "soft link": (lambda: written(lambda f: f.__setitem__("a", need("h5py").SoftLink("/b"))), "is a soft link"),
    "link to itself": (lambda: written(lambda f: f.__setitem__("a", need("h5py").SoftLink("/a"))), "is a soft link"),
    "external link": (
        lambda: written(lambda f: f.__setitem__("a", need("h5py").ExternalLink("/etc/passwd", "/b"))),
        "'a' in the root is an external link",
    ),
    "numbers in another file": (lambda: written(external), "no other file is opened"),
    "virtual": (lambda: written(virtual), "is virtual"),
    "group in itself": (lambda: written(in_itself), "has two names, or contains itself"),
    "root in a group": (lambda: written(up), "has two names, or contains itself"),
    "two names": (lambda: written(twice), "overlap"),
    "200 groups deep": (lambda: written(deep), "more than 64 others"),
    "named type": (lambda: written(named_type), "stored elsewhere"),
    "latest": (lambda: written(lambda f: f.create_group("a"), libver="latest"), "superblock version 3.*Save it again"),
    "1.8": (lambda: written(lambda f: f.create_group("a"), libver="v108"), "superblock version 2"),
    "tracked order": (lambda: written(lambda f: f.create_group("a", track_order=True)), "header of a at byte"),
    "lzf": (
        lambda: written(lambda f: f.create_dataset("a", data=NUMBERS, compression="lzf")),
        "filter 32000.*no plugin",
    ),
    "terabytes, chunked": (
        lambda: written(lambda f: f.create_dataset("a", (10**6, 10**6), "f4", compression="gzip")),
        "unpacked would take more memory than 20 times",
    ),
    "terabytes, never written": (
        lambda: written(lambda f: f.create_dataset("a", (10**6, 10**6), "f4")),
        "never written",
    ),
    "bomb": (
        lambda: written(lambda f: f.create_dataset("a", data=np.zeros((4000, 4000), "f4"), compression="gzip")),
        "do not compress like that",
    ),
    "many small bombs": (lambda: written(many_bombs), "do not compress like that"),
    "long name": (lambda: written(lambda f: f.create_group("n" * 2000)), "does not end within"),
    "name without end": (name_without_end, "."),
    "circle": (circle, "node of kind 0 and level|each other more often"),
    "text bomb": (text_bomb, "each other more often"),
    "over each other": (over_each_other, "overlap"),
    "shape beyond the size": (states(SHAPE, struct.pack("<QQ", 37, 2**62)), "states 7844"),
    "size beyond the file": (states(SIZE, struct.pack("<Q", 2**63)), "takes 7844 bytes; it states"),
    "huge shape": (states(SHAPE, struct.pack("<QQ", 2**63, 2**63)), "."),
    "empty root": (lambda: valid()[:64] + b"\xff" * 8 + valid()[72:], "is placed at byte"),
    "signature alone": (lambda: hdf5.SIGNATURE + bytes(5), "superblock"),
    "cut short": (lambda: valid()[:-1], "cut short"),
    "zeros": (lambda: valid()[:96] + bytes(len(valid()) - 96), "."),
}

CHILD = """
import json, resource, signal, sys, time
from pathlib import Path
import numlstm
import numlstm.formats.keras.reader
size = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20),) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    signal.setitimer(signal.ITIMER_PROF, 5)
    begin = time.process_time()
    try:
        numlstm.load_tensors(path)
        said = ["", ""]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    print(json.dumps([path.name, *said, time.process_time() - begin]), flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a child with little memory says of each hostile file, and how long it took."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, (make, _) in enumerate(HOSTILE.values()):
        (folder / f"{number:03}").write_bytes(make())
    (folder / "valid").write_bytes(valid())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip([*HOSTILE, "valid"], lines, strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_clear_error_and_soon(name, told):
    path, kind, said, seconds = told[name]
    assert kind == "ValueError", (kind, said)
    assert f"{path}: " in said
    assert seconds < 5  # of work, after which the child would have been stopped
    assert re.search(f"(?s){HOSTILE[name][1]}", said), said
    assert len(said) < 2500


def test_a_valid_file_passes_under_the_same_limits(told):
    assert told["valid"][1:3] == ["", ""]


def test_chunks_that_miss_or_are_damaged():
    whole = written(lambda file: file.create_dataset("a", data=NUMBERS, chunks=(10, 53)))
    at = whole.index(struct.pack("<IIQ", 10 * 53 * 4, 0, 10))
    for change, says in (
        ((at + 8, 10, 11), "has no place in it"),
        ((at + 8, 10, 0), "has no place in it"),
        ((at, 10 * 53 * 4, 8), "has no place in it"),
    ):
        data = bytearray(whole)
        where, old, new = change
        assert int.from_bytes(data[where : where + 2], "little") == old
        data[where : where + 2] = new.to_bytes(2, "little")
        with pytest.raises(ValueError, match=says):
            read(bytes(data))
    packed = written(lambda file: file.create_dataset("a", data=NUMBERS, chunks=(37, 53), compression="gzip"))
    at = packed.index(b"\x78\x5e") if b"\x78\x5e" in packed else packed.index(b"\x78\x9c")
    tensor = read(packed[:at] + b"\xff\xff" + packed[at + 2 :]).tensors["a"]
    with pytest.raises(ValueError, match="a chunk of 'a' is damaged"):
        tensor.read()


@pytest.mark.parametrize("name", FILES[:1])
def test_cut_anywhere(name, tmp_path):
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / "cut.h5"
    for length in range(0, len(data), 997):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError):
            numlstm.load_tensors(path)


def test_the_budget_ends_what_refers_to_itself(monkeypatch):
    data = valid()
    read(data)
    monkeypatch.setattr(hdf5, "REREADS", 0)
    monkeypatch.setattr(hdf5, "SMALL", 500)
    with pytest.raises(ValueError, match="each other more often"):
        read(data)
