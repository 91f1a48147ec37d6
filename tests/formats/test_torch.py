"""PyTorch's files without PyTorch: what torch 2.13 wrote and computed, and malicious files."""

import io
import json
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from judge import UNIT, same_bits
from needs import need

import numlstm
from numlstm.formats import budget, zips
from numlstm.formats.torch import archive as torch_zip
from numlstm.formats.torch import tree, unpickle

FOLDER = Path(__file__).parents[1] / "fixtures" / "torch"
NAMES = {"checkpoint.pt": "model.lstm", "ema.pt": "model/lstm", "cell.pt": "decoder"}
REPARAMETRIZED = {
    "pruned.pt": "torch.nn.utils.prune's orig, mask: 0.weight_hh_l0, 0.weight_ih_l1_reverse, 0.bias_ih_l0",
    "weight_drop.pt": "raw weights, from before dropout: rnns.0.module.weight_hh_l0",
    "weight_norm.pt": "computed from weight_norm's v, g",
    "weight_norm_old.pt": "computed from weight_norm's v, g",
    "spectral_norm.pt": "computed from spectral_norm's orig, u, v",
    "spectral_norm_old.pt": "computed from spectral_norm's orig, u, v",
}
NET = {"weight_ih_l0": (8, 3), "weight_hh_l0": (8, 2)}
# files that say batch_first and dropout themselves
WITH_FLAGS = ("module.pt", "module_legacy.pt", "scripted.pt", "traced.pt", "frozen.pt", "exported.pt2")
QUANTISED = ("quantized", "quantized_per_channel", "quantized_module", "quantized_scripted", "quantized_frozen")


@pytest.fixture(scope="module")
def outputs():
    with np.load(FOLDER / "outputs.npz") as file:
        return dict(file)


def fixtures():
    with np.load(FOLDER / "outputs.npz") as file:
        return sorted({name.rpartition("/")[0] for name in file.files})


@pytest.mark.parametrize("name", fixtures())
def test_it_computes_what_torch_computed(name, outputs):
    net = numlstm.load(FOLDER / name, NAMES.get(name))
    given = {key.rpartition("/")[2]: value for key, value in outputs.items() if key.startswith(f"{name}/")}
    hx = given["h_0"], given["c_0"]
    assert not net.training
    if isinstance(net, numlstm.LSTMCell):
        made = dict(zip(("h_n", "c_n"), net(given["input"], hx), strict=True))
    else:
        if net.num_layers == 2 and not net.proj_size and name not in REPARAMETRIZED:
            assert net.batch_first is (name in WITH_FLAGS) and net.dropout == (0.25 if name in WITH_FLAGS else 0)
            net.batch_first = True  # what a state dict does not say
        output, (h_n, c_n) = net(given["input"], hx)
        made = {"output": output, "h_n": h_n, "c_n": c_n}
    for key, value in made.items():
        assert value.shape == given[key].shape and value.dtype == given[key].dtype
        assert np.abs(value - given[key]).max() <= 8 * UNIT[value.dtype]


def test_every_file_of_the_tagger_has_the_same_bits():
    names = ("state_dict.pt", "legacy.pt", "module.pt", "module_legacy.pt", "scripted.pt", "traced.pt")
    first = numlstm.load(FOLDER / names[0])
    for name in names:
        assert [f.name for f in numlstm.list_lstms(FOLDER / name)] == ["lstm"]
        net = numlstm.load(FOLDER / name)
        assert all(same_bits(a, b) for a, b in zip(first.parameters(), net.parameters(), strict=True))
        tensors = numlstm.load_tensors(FOLDER / name)
        assert tensors["embedding.weight"].shape == (5, 3) and tensors["head.bias"].shape == (2,)
    assert same_bits(numlstm.load(FOLDER / "checkpoint.pt").weight_ih_l1, first.weight_ih_l1)
    half = numlstm.load(FOLDER / "ema.pt", "ema/lstm")
    assert same_bits(half.weight_ih_l1 * 2, first.weight_ih_l1)


def test_a_checkpoint_gives_everything_else_as_well():
    tensors = numlstm.load_tensors(FOLDER / "checkpoint.pt")
    assert tensors["model.head.weight"].shape == (2, 8)
    assert any(name.endswith("exp_avg") for name in tensors)  # the optimizer's state, and no LSTM of it
    assert len(numlstm.list_lstms(FOLDER / "checkpoint.pt")) == 1


def test_a_gru_is_named():
    with pytest.raises(ValueError, match=r"weight_hh_l0 of shape \(12, 4\) belongs to a GRU"):
        numlstm.load(FOLDER / "gru.pt")


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_weights_are_what_torch_dequantises(name):
    """To the bit; the int8 kernels, which round the input too, are near."""
    with np.load(FOLDER / "quantized.npz") as file:
        kind = "_per_channel" if "per_channel" in name else ""
        want = {key.removeprefix(kind): file[key] for key in file.files if not kind or key.startswith((kind, "input"))}
    with pytest.warns(UserWarning, match="its weights are quantised and become float32 again") as warned:
        net = numlstm.load(FOLDER / f"{name}.pt")
    assert len(warned) == 1 and net.bidirectional and net.num_layers == 2
    assert all(same_bits(array, want[key]) for key, array in net.state_dict().items())
    net.batch_first = True
    assert np.abs(net(want["input"])[0] - want["output"]).max() < 5e-2
    if name in ("quantized_module", "quantized_scripted"):
        assert numlstm.load_tensors(FOLDER / f"{name}.pt")["head.weight"].shape == (2, 8)


@pytest.mark.parametrize("name", ["quantized_cell", "quantized_cell_state"])
def test_a_quantised_cell_has_the_bias_that_its_kernel_adds(name):
    """Beside it, the module has one from before it was given its weights."""
    with np.load(FOLDER / "quantized.npz") as file, pytest.warns(UserWarning, match="quantised"):
        cell = numlstm.load(FOLDER / f"{name}.pt")
        assert np.abs(cell(file["input"][0])[0] - file["cell"]).max() < 5e-2


def test_a_quantised_state_dict_that_leaves_its_directions_open_is_refused(tmp_path):
    torch = need("torch")
    for flags, known in (({"bidirectional": True}, False), ({"num_layers": 2}, False), ({"num_layers": 3}, True)):
        net = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.LSTM(4, 4, **flags)))
        torch.save(net.state_dict(), tmp_path / "m.pt")
        if known:
            with pytest.warns(UserWarning, match="quantised"):
                assert numlstm.load(tmp_path / "m.pt").num_layers == 3
        else:
            with pytest.raises(ValueError, match=r"0 may have two layers or two directions, .* save the module itself"):
                numlstm.load(tmp_path / "m.pt")
        torch.save(net, tmp_path / "m.pt")
        with pytest.warns(UserWarning, match="quantised"):
            assert numlstm.load(tmp_path / "m.pt").bidirectional is flags.get("bidirectional", False)


# ---------------------------------------------------------------- pickles by hand


def archive(data, method=zipfile.ZIP_STORED, **entries):
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", method) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            file.writestr(f"archive/{name.replace('data__', 'data/')}", content)
    return into.getvalue()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(shape, strides, offset=0, count=16, kind="FloatStorage", key="0", call="_rebuild_tensor_v2"):
    """A pickled tensor, as PyTorch writes it."""
    identity = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + integer(count) + b"tQ"
    numbers = [b"(" + b"".join(map(integer, axes)) + b"t" for axes in (shape, strides)]
    return f"ctorch._utils\n{call}\n".encode() + b"(" + identity + integer(offset) + b"".join(numbers) + b"\x89}tR"


def state(*pairs):
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in pairs) + b"u."


def write(path, data, numbers=16):
    path.write_bytes(archive(data, data__0=np.arange(numbers, dtype="<f4").tobytes()))
    return path


def test_views_strides_and_offsets(tmp_path):
    path = write(tmp_path / "m.pt", state(("a", tensor((2, 3), (1, 2), 4)), ("b", tensor((0, 3), (3, 1), 15))))
    got = numlstm.load_tensors(path)
    assert got["a"].tolist() == [[4, 6, 8], [5, 7, 9]] and got["b"].shape == (0, 3)


@pytest.mark.parametrize(
    "given, says",
    [
        (tensor((4, 4), (4, 1), 1), r"shape \(4, 4\) reaches to number 16 of a storage of 16"),
        (tensor((2**40,), (0,)), r"shape \(1099511627776,\) that repeats the 16 numbers of its storage"),
        (tensor((2**40, 2**40), (0, 0)), "that repeats the 16 numbers"),
        (tensor((-1,), (1,)), r"a tensor of shape \(-1,\)"),
        (tensor((2,), (-1,), 3), r"strides \(-1,\)"),
        (tensor((2,), (1,), -1), "a tensor of shape"),
        (tensor((2, 2), (1,)), "2 axes and 1 stride"),
        (tensor((2,), (1,), count=2**50), r"its storage '0' holds 64 bytes, not"),
        (tensor((2,), (1,), count=-1), "is no storage of PyTorch"),
        (tensor((2,), (1,), key="1"), r"its storage '1' is missing: there is no entry 'archive/data/1'"),
        (tensor((2,), (1,), key="../data.pkl"), "is missing"),
    ],
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(given, says, tmp_path):
    path = write(tmp_path / "m.pt", state(("weight_ih_l0", given)))
    with pytest.raises(ValueError, match=says):
        numlstm.load_tensors(path)
        numlstm.load(path)


DEEP = 200_000
HOSTILE = {
    "memo bomb": (FOLDER / "memo_bomb_zip.pt").read_bytes(),
    "memo bomb, bare": (FOLDER / "memo_bomb.pt").read_bytes(),
    "os.system": (FOLDER / "os_system.pt").read_bytes(),
    "os.system, bare": (FOLDER / "os_system_bare.pt").read_bytes(),
    "own types": (FOLDER / "own_type.pt").read_bytes(),
    "legacy, then os.system": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + (FOLDER / "os_system_bare.pt").read_bytes(),
    "bytearray of 2**60": archive(b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"."),
    "bytes of 2**62": archive(b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"."),
    "text of 2**31": archive(b"\x80\x02X" + struct.pack("<I", 2**31) + b"."),
    "frame of 2**60": archive(b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N"),
    "integer of 2**31 bytes": archive(b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"."),
    "integer of 60,000 digits": archive(b"L" + b"9" * 60_000 + b"L\n."),
    "a line without end": archive(b"c" + b"a" * 200_000),
    "deep tuple as a key": archive(b"\x80\x02}N" + b"\x85" * DEEP + b"Ns."),
    "deep tuple in a set": archive(b"\x80\x04\x8f(N" + b"\x85" * DEEP + b"\x90."),
    "deep lists": archive(b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b"."),
    "deep dicts": archive(
        b"\x80\x02" + b"".join(b"}" + text("k") for _ in range(50_000)) + b"N" + b"s" * 50_000 + b"."
    ),
    "a list in itself": archive(b"\x80\x02]q\x00h\x00a."),
    # each list holds the one before it twice: 2**40 ways down to the first
    "doubling lists": archive(b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (k, k, k) for k in range(40)) + b"."),
    "a stack that is empty": archive(b"\x80\x020000."),
    "no mark": archive(b"\x80\x02Nt."),
    "an opcode that is none": archive(b"\x80\x02\xff."),
    "no end": archive(b"\x80\x02N"),
    "nothing": archive(b""),
    "state for a number": archive(b"\x80\x02K\x01}b."),
    "append to a number": archive(b"\x80\x02K\x01Na."),
    "an item for a list": archive(b"\x80\x02]NNs."),
    "extension": archive(b"\x80\x02\x82\x01)R."),
    "instance": archive(b"(S'touch HARM'\nios\nsystem\n."),
    "object": archive(b"\x80\x02(cos\nsystem\nS'touch HARM'\no."),
    "getattr": archive(b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\nX\x04\x00\x00\x00nametR."),
    "rebuild without arguments": archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."),
    "rebuild with itself": archive(
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nN)NtR."
    ),
    "two pickles": archive(b"\x80\x02N.")[:-22],
    "many empty lists": archive(b"\x80\x02" + b"]0" * 500_000 + b"N."),
}

SHARED = b"Nq\x01" + b"h\x01h\x01\x86q\x01" * 28  # a tuple of a tuple twice, and so on: 2**28 ways down
PARAMETERS = (
    b"}(" + text("weight_ih_l0") + tensor((8, 1), (1, 1)) + text("weight_hh_l0") + tensor((8, 2), (2, 1)) + b"u"
)
HOSTILE |= {
    "a long key over many dicts": archive(
        b"\x80\x02}" + text("k" * 50_000) + b"](" + (b"}" + text("a") + b"Ns") * 20_000 + b"es."
    ),
    "a flag that takes long to show": archive(
        b"\x80\x02ctorch.nn.modules.rnn\nLSTM\n)\x81}("
        + text("_parameters")
        + PARAMETERS
        + text("mode")
        + text("LSTM")
        + text("batch_first")
        + b"cno\nthing\n("
        + SHARED
        + b"tR"
        + b"ub.",
        data__0=bytes(64),
    ),
    "many arguments": archive(
        b"\x80\x02ctorch._utils\n_rebuild_parameter\nq\x00("
        + b"N" * 50_000
        + b"tq\x010"
        + b"h\x00h\x01R0" * 5_000
        + b"."
    ),
    "a list copied often": archive(
        b"\x80\x02ccollections\ndeque\nq\x00(" + b"N" * 50_000 + b"lq\x01" + b"h\x00h\x01\x85R" * 20_000 + b"."
    ),
    "a dict made often": archive(
        b"\x80\x02ccollections\nOrderedDict\nq\x00]("
        + b"K\x01N\x86" * 20_000
        + b"eq\x01"
        + b"h\x00h\x01\x85R" * 20_000
        + b"."
    ),
    "keys that hash alike": archive(
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(40_000))
        + b"u."
    ),
    "a call a byte or three": archive(b"\x80\x02cno\nthing\nq\x00" + b"h\x00)R" * 1_000_000 + b"."),
}


def again(names, start=b"\x80\x02", **options):
    """A dict of names that all stand for one tensor."""
    first = text("first") + tensor(**options) + b"q\x07"
    return start + b"}(" + first + b"".join(text(name) + b"h\x07" for name in names) + b"u"


PAIRS = b"ccollections\nOrderedDict\nq\x02](" + b"K\x01N\x86" * 20_000 + b"eq\x03"
THING = b"\x80\x02cno\nthing\nq\x00"
TIED = {"strides": (181, 1), "count": 724 * 181}
ROWS = {"shape": (4, 1), "strides": (1, 1)}
WIDE = b"}(" + b"".join(text(str(k)) + b"N" for k in range(30_000)) + b"u"
HOSTILE |= {
    # 472 bytes that ask for panels of 2 TiB
    "storages that are not there": archive(
        state(
            ("weight_ih_l0", tensor((2**20, 2**18), (2**18, 1), count=2**38)),
            ("weight_hh_l0", tensor((2**20, 2**18), (2**18, 1), count=2**38, key="1")),
        )
    ),
    "layers of one weight": archive(
        again([f"weight_{kind}_l{k}" for k in range(250) for kind in ("ih", "hh")], shape=(724, 181), **TIED) + b".",
        data__0=bytes(4 * 724 * 181),
    ),
    "bfloat16 seen often": archive(
        again(map(str, range(4000)), shape=(60_000,), strides=(1,), count=60_000, kind="BFloat16Storage") + b".",
        data__0=bytes(120_000),
    ),
    "two storages in turn": archive(
        state(*[(str(k), tensor((1,), (1,), count=1 << 20, key=str(k % 2))) for k in range(1000)]),
        data__0=bytes(4 << 20),
        data__1=bytes(4 << 20),
    ),
    "many layers": archive(
        again([f"weight_{kind}_l{k}" for k in range(6000) for kind in ("ih", "hh")], **ROWS) + b".", data__0=bytes(64)
    ),
    "many LSTMs": archive(again([f"{k}.weight_ih" for k in range(100_000)], **ROWS) + b".", data__0=bytes(64)),
    "many dicts with an LSTM each": archive(
        THING + tensor(**ROWS) + b"q\x07](" + (b"}(" + text("weight_ih") + b"h\x07u") * 50_000 + b"e.",
        data__0=bytes(64),
    ),
    "a text encoded many times": b"\x80\x02c_codecs\nencode\nq\x00"
    + text("a" * 60_000)
    + b"q\x01"
    + text("latin1")
    + b"q\x02]("
    + b"h\x00h\x01h\x02\x86R" * 20_000
    + b"e.",
    "quantised many times": archive(
        THING
        + b")R}("
        + text("weight_ih_l0")
        + tensor((8, 2), (2, 1))
        + b"q\x07"
        + b"".join(text(f"{k}._packed_params._packed_params") + b"h\x07h\x07\x86" for k in range(60_000))
        + b"u.",
        data__0=bytes(64),
    ),
    "a long name before many": archive(
        THING
        + b")\x81}("
        + text("_parameters")
        + b"}"
        + text("_modules")
        + b"}"
        + text("p" * 1_000_000)
        + b"h\x00)\x81}"
        + text("_parameters")
        + again(map(str, range(50_000)), b"", **ROWS)
        + b"sbsub.",
        data__0=bytes(64),
    ),
    "appends to what is no list": archive(THING + b")R" + b"Na" * 900_000 + b"."),
    "a dict made often, of a subclass": archive(
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00"
        + PAIRS
        + b"h\x03\x85q\x04"
        + b"h\x00(h\x02Nh\x04NtR0" * 20_000
        + b"."
    ),
    "a dict made often, as an object": archive(b"\x80\x02" + PAIRS + b"(h\x02h\x03o0" * 20_000 + b"."),
    "names joined": archive(b"\x80\x04" + text("m" * 1_000_000) + b"q\x00" + b"h\x00h\x00\x93" * 1000 + b"."),
    "a state that many have": archive(THING + WIDE + b"q\x01](" + b"h\x00)Rh\x01b" * 100_000 + b"e."),
    "parameters that many have": archive(
        THING + WIDE + b"q\x01](" + (b"h\x00)R}" + text("_parameters") + b"h\x01sb") * 60_000 + b"e."
    ),
    "a long text of many classes": archive(
        b"\x80\x02c__torch__\nA\nq\x00](" + b"h\x00)\x81}b" * 5000 + b"e.",
        zipfile.ZIP_DEFLATED,
        **{"code/__torch__.py": b"class A(Module):\n" + b"  xxxxxxxxx : Tensor\n" * 40_000},
    ),
}
CHILD = """
import os, resource, signal, sys, time
import numlstm
os.chdir(sys.argv[1])
plant = sys.argv[2] if len(sys.argv) > 2 else ""
from numlstm.formats.torch import legacy as torch_legacy, archive as torch_zip, unpickle
if plant:  # Python's own machine, which does as it is told
    import pickle
    unpickle.Machine.load = lambda self: pickle.loads(self.source.file.read())
numlstm.load_tensors
size = next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if "VmSize" in l)
resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20),) * 2)
for name in sorted(os.listdir(".")):
    signal.setitimer(signal.ITIMER_PROF, 10)  # of work, which a busy machine does not make more
    try:
        numlstm.load(name)
        said = "loaded"
    except (ValueError, OSError) as error:
        said = "refused"
    try:
        numlstm.load_tensors(name)
    except (ValueError, OSError) as error:
        pass
    print(name, said, flush=True)
print("alive", os.path.exists("HARM"))
"""


def hostile_child(folder, *plant):
    return subprocess.run(
        [sys.executable, "-c", CHILD, folder, *plant], capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_hostile_pickles_do_nothing(tmp_path):
    """One process, 256 MB, 10 s of work a file: all are refused, none is run, and the process is alive."""
    for number, data in enumerate(HOSTILE.values()):
        (tmp_path / f"{number:02}").write_bytes(data)
    done = hostile_child(tmp_path)
    lines = done.stdout.splitlines()
    said = dict(zip(HOSTILE, (line.partition(" ")[2] for line in lines), strict=False))
    assert done.returncode == 0, f"{list(HOSTILE)[len(lines)]}: {done.stderr[-2000:]}"
    assert said == dict.fromkeys(HOSTILE, "refused")
    assert lines[-1] == "alive False"


def test_the_same_child_is_harmed_where_a_pickle_is_run(tmp_path):
    (tmp_path / "00").write_bytes(HOSTILE["os.system"])
    done = hostile_child(tmp_path, "plant")
    assert done.stdout.splitlines()[-1:] == ["alive True"], done.stderr


def machine(data):
    return unpickle.Machine(unpickle.Bounded(io.BytesIO(data), len(data), budget.Budget(len(data))))


def test_the_bomb_is_as_the_issue_has_it():
    """Nine bytes whose memo index claims 4 GB: the machine keeps its memo in a dict."""
    data = (FOLDER / "memo_bomb.pt").read_bytes()
    assert len(data) == 9 and "LONG_BINPUT" in [opcode.name for opcode, _, _ in pickletools.genops(data)]
    assert machine(data).load() is None


def test_nothing_in_a_pickle_is_looked_up():
    """Every name becomes a record of itself, also one whose module does not exist."""
    data = b"\x80\x02cno.such.module\nThing\n(K\x01tR}X\x01\x00\x00\x00aK\x02sb."
    made = machine(data).load()
    assert (made.name, made.arguments, made.state) == ("no.such.module.Thing", (1,), {"a": 2})
    assert "no" not in sys.modules


def test_too_many_opcodes_are_refused(monkeypatch):
    data = b"]0" * 20 + b"N."
    assert machine(data).load() is None
    monkeypatch.setattr(budget, "ALWAYS", budget.MARGIN + 100)
    with pytest.raises(ValueError, match="what its pickle makes would take more memory than 20 times its 42 bytes"):
        machine(data).load()


def test_a_vocabulary_is_no_flood_of_opcodes(monkeypatch):
    """A word and its number take hardly more than twenty times their bytes."""
    monkeypatch.setattr(budget, "ALWAYS", budget.MARGIN + 6000)
    words = b"\x80\x02}(" + b"".join(text(f"word {k}") + b"K%c" % k for k in range(100)) + b"u."
    made = machine(words).load()
    assert len(made) == 100 and made["word 99"] == 99


def test_weights_seen_too_often_are_refused(tmp_path, monkeypatch):
    names = [f"weight_{kind}_l{k}" for k in range(20) for kind in ("ih", "hh")]
    given = again(names, shape=(724, 181), **TIED) + b"."
    (tmp_path / "m.pt").write_bytes(archive(given, data__0=bytes(4 * 724 * 181)))
    with pytest.raises(ValueError, match="the numbers of its tensors would take more memory than 20 times its 52"):
        numlstm.load(tmp_path / "m.pt")
    monkeypatch.setattr(budget, "TIMES", 120)  # the guard's own doing
    assert numlstm.load(tmp_path / "m.pt").num_layers == 20


def test_two_storages_in_turn_are_read_once_each(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        torch_zip, "entry_bytes", lambda archive, name: read.append(name) or zips.entry_bytes(archive, name)
    )
    path = tmp_path / "m.pt"
    path.write_bytes(HOSTILE["two storages in turn"])
    assert len(numlstm.load_tensors(path)) == 1000
    assert sorted(read) == ["archive/data.pkl", "archive/data/0", "archive/data/1"]


def test_the_first_format_of_all_is_named(tmp_path):
    with tarfile.open(tmp_path / "m.pt", "w") as tar:
        tar.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    with pytest.raises(
        ValueError, match=r"a tar archive, the format of the first releases of PyTorch\nIf you trust its source"
    ):
        numlstm.load(tmp_path / "m.pt")


def legacy_with_a_part(part):
    """A legacy file whose tensor a, of shape (2, 2), lies in a part of a storage of 12 numbers."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    start = b"".join(pickle.dumps(thing, 2) for thing in (0x1950A86A20F9469CFC6C, 1001, system))
    whole = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("1") + text("cpu") + b"K\x0c"
    axes = b"K\x01K\x02K\x02\x86K\x01K\x02\x86\x89ccollections\nOrderedDict\n)RtR"  # offset 1, strides (1, 2)
    a = b"ctorch._utils\n_rebuild_tensor_v2\n(" + whole + part + b"tQ" + axes
    numbers = struct.pack("<q", 12) + np.arange(12, dtype="<f4").tobytes()
    return start + b"\x80\x02}" + text("a") + a + b"s." + pickle.dumps(["1"], 2) + numbers


def test_a_part_of_a_storage(tmp_path):
    path = tmp_path / "m.pt"
    part = b"(" + text("2") + b"K\x03K\x06t"  # numbers 3 to 8
    path.write_bytes(legacy_with_a_part(part))
    assert numlstm.load_tensors(path)["a"].tolist() == [[4, 6], [5, 7]]
    torch = need("torch")
    assert torch.load(path, weights_only=False)["a"].tolist() == [[4, 6], [5, 7]]


@pytest.mark.parametrize(
    "part, says",
    [
        (b"(" + text("2") + b"K\x07K\x06t", "of 12 numbers has a part up to 13"),
        (b"(" + text("2") + b"K\x07K\x04t", r"reaches to number 4 of a storage of 4"),
        (b"(" + text("2") + integer(-1) + b"K\x04t", "has a part that is not"),
        (b"K\x01", "has a part that is not"),
    ],
)
def test_a_part_that_is_none_is_refused(part, says, tmp_path):
    (tmp_path / "m.pt").write_bytes(legacy_with_a_part(part))
    with pytest.raises(ValueError, match=says):
        numlstm.load_tensors(tmp_path / "m.pt")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("units", [4, 80])  # arrays of more than 64 KB are read from where they are
def test_pickles_of_state_dicts_and_arrays(protocol, units):
    torch = need("torch")
    lstm = rnn = torch.nn.LSTM(3, units)
    state = rnn.state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    for thing in (
        state,
        arrays,
        {"params": {name: np.asfortranarray(array) for name, array in arrays.items()}},
        {name: array.astype(">f4") for name, array in arrays.items()},
    ):
        net = numlstm.load(pickle.dumps(thing, protocol))
        for name, value in lstm.named_parameters():
            assert same_bits(net.state_dict()[name], value.detach().numpy())


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_a_state_dict_of_paddle_has_each_cell_once(prefix):
    """paddle.save pickles arrays of NumPy; the parameters of an LSTM are there by two names."""
    net = numlstm.LSTM(3, 2, num_layers=2, seed=0)
    state = {f"{prefix}{name}": value for name, value in net.state_dict().items()}
    cells = {name.replace("weight", f"{name[-1]}.cell.weight")[:-3]: value for name, value in net.state_dict().items()}
    state |= {f"{prefix}{name}": value for name, value in cells.items() if "weight" in name}
    state["StructuredToParameterName@@"] = dict.fromkeys(state, "lstm_0.w_0")
    (found,) = numlstm.list_lstms(pickle.dumps(state, 4))
    assert str(found).endswith("LSTM(3, 2, num_layers=2), float32") and not found.warning
    assert all(
        same_bits(*pair)
        for pair in zip(numlstm.load(pickle.dumps(state, 4)).parameters(), net.parameters(), strict=True)
    )


ARRAY = "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"


@pytest.mark.parametrize(
    "state, says",
    [
        ("(K\x01(K\x02K\x03tDK\x00C\x04abcdt", "holds 4 bytes, not 24"),
        ("(K\x01K\x02DK\x00C\x04abcdt", "array of NumPy of shape no numbers"),
        ("(K\x01(J\xff\xff\xff\xfftDK\x00C\x04abcdt", "array of NumPy of shape"),
        ("(K\x01(K\x01tDK\x00Nt", "weight_ih_l0 holds an array of NumPy without numbers"),
        ("(K\x01K\x02t", "array of NumPy without a shape and numbers"),
        ("K\x01", "array of NumPy without a shape and numbers"),
    ],
)
def test_an_array_that_its_bytes_do_not_hold_is_refused(tmp_path, state, says):
    dtype = "cnumpy\ndtype\n(U\x02f4K\x00K\x01tR"
    body = f"}}X\x0c\x00\x00\x00weight_ih_l0{ARRAY}{state.replace('D', dtype)}bs."
    (tmp_path / "m.pt").write_bytes(archive(b"\x80\x02" + body.encode("latin-1")))
    with pytest.raises(ValueError, match=says):
        numlstm.load(tmp_path / "m.pt")


@pytest.mark.parametrize("damage", ["use_pickle", "sizes", "missing", "config", "graph"])
def test_a_damaged_export_is_refused_or_read_without_its_graph(tmp_path, damage):
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(FOLDER / "exported.pt2") as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("weights_config.json"):
                config = json.loads(content)
                first = config["config"]["lstm.weight_ih_l0"]
                if damage == "use_pickle":
                    first["use_pickle"] = True
                elif damage == "sizes":
                    first["tensor_meta"]["sizes"][0] = {"as_int": 1 << 40}
                elif damage == "missing":
                    first["path_name"] = "other"
                elif damage == "config":
                    config["config"] = 1
                content = json.dumps(config).encode()
            if entry.filename.endswith("models/model.json") and damage == "graph":
                content = b"{}"
            new.writestr(entry.filename, content)
    if damage == "graph":
        assert numlstm.list_lstms(path)[0].batch_first is None
    else:
        says = "lstm.weight_ih_l0 holds|reaches to number|are missing|has no config|larger|repeats"
        with pytest.raises(ValueError, match=says):
            numlstm.load(path)


def test_a_plain_pickle_is_told_what_to_do(tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"weight_ih_l0": [1.0]}))
    with pytest.raises(ValueError, match=r"a Python pickle, but not one of PyTorch, and no state dict\n.*torch\.save"):
        numlstm.load(tmp_path / "m.pkl")


def test_a_legacy_file_cut_short_is_refused(tmp_path):
    data = (FOLDER / "legacy.pt").read_bytes()
    for end in (10, 100, 400, len(data) // 2, len(data) - 1):
        (tmp_path / "m.pt").write_bytes(data[:end])
        with pytest.raises(ValueError, match="cut short"):
            numlstm.load_tensors(tmp_path / "m.pt")


# ---------------------------------------------------------------- against torch itself


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["weight_norm", "spectral_norm", "prune"])
def test_an_export_with_computed_weights_keeps_its_flags(form):
    """The graph reads what it computes from the parameters, of which none need be left plain."""
    torch, prune = need("torch"), need("torch.nn.utils.prune")
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4, batch_first=True)).eval()
    for name in dict(model[0].named_parameters()):
        if form == "prune":
            prune.random_unstructured(model[0], name, 0.3)
        elif name.startswith("weight"):
            getattr(torch.nn.utils.parametrizations, form)(model[0], name)
    model.eval()
    x, into = torch.randn(2, 5, 3), io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), into)
    (found,) = numlstm.list_lstms(into.getvalue())
    assert found.batch_first is True and not any("does not say" in note for note in found.notes)
    want = model(x)[0].detach().numpy()
    assert np.abs(numlstm.load(into.getvalue())(x.numpy())[0] - want).max() < 1e-6


@pytest.mark.parametrize("sizes", [(3, 4), (16, 4)], ids=["wide", "square"])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", ["parametrizations.spectral_norm", "spectral_norm"])
def test_spectral_norm_along_either_axis(kind, dim, sizes):
    torch = need("torch")
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(*sizes)
    norm = torch.nn.utils.parametrizations.spectral_norm if "." in kind else torch.nn.utils.spectral_norm
    norm(lstm, "weight_ih_l0", dim=dim)
    lstm(torch.zeros(1, 1, sizes[0]))  # in train mode, which moves its vectors
    lstm.eval()
    x, into = torch.randn(5, 2, sizes[0]), io.BytesIO()
    torch.save(lstm.state_dict(), into)
    want = lstm(x)[0].detach().numpy()
    assert np.abs(numlstm.load(into.getvalue(), batch_first=False)(x.numpy())[0] - want).max() < 1e-6


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_against_torch_itself(seed, zipped, tmp_path):
    torch = need("torch")
    rng = np.random.default_rng(seed)
    hidden = int(rng.integers(2, 9))
    flags = {
        "num_layers": int(rng.integers(1, 4)),
        "bias": bool(rng.integers(2)),
        "batch_first": bool(rng.integers(2)),
        "bidirectional": bool(rng.integers(2)),
        "proj_size": int(rng.integers(0, hidden)),
    }
    lstm = torch.nn.LSTM(int(rng.integers(1, 9)), hidden, **flags, dtype=[torch.float32, torch.float64][seed % 2])
    model = torch.nn.ModuleDict({"rnn": lstm, "head": torch.nn.Linear(hidden, 1)}).eval()
    torch.save(model, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    net = numlstm.load(tmp_path / "m.pt")
    assert repr(net) == repr(lstm)
    for (name, got), (wanted, value) in zip(net.named_parameters(), lstm.named_parameters(), strict=True):
        assert name == wanted and same_bits(got, value.detach().numpy())


def strided(rng, torch):
    """A random view, of whatever strides torch can make."""
    dtype = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int16, torch.bool)[rng.integers(6)]
    view = torch.arange(int(rng.integers(1, 9)) * 60).to(dtype).view(-1, 3, 4, 5)
    for _ in range(rng.integers(5)):
        axis = int(rng.integers(view.ndim))
        match rng.integers(4):
            case 0:
                view = view.transpose(axis, int(rng.integers(view.ndim)))
            case 1:
                start = int(rng.integers(view.shape[axis]))
                view = view.narrow(axis, start, int(rng.integers(view.shape[axis] - start + 1)))
            case 2 if view.shape[axis] > 1:
                view = view.unfold(axis, 1, int(rng.integers(1, view.shape[axis] + 1))).squeeze(-1)
            case 3:
                view = view.unsqueeze(axis).expand(*view.shape[:axis], 2, *view.shape[axis:])
        if 0 in view.shape:
            break
    return view


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_views_against_torch_itself(seed, zipped, tmp_path):
    torch = need("torch")
    rng = np.random.default_rng(seed)
    views = {str(k): strided(rng, torch) for k in range(40)}
    views |= {f"{name} turned": view.transpose(0, -1) for name, view in list(views.items())[::3]}  # storages shared
    assert sum(not view.is_contiguous() for view in views.values()) > 10
    torch.save(views, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    got = numlstm.load_tensors(tmp_path / "m.pt")
    assert set(got) == set(views)
    for name, view in views.items():
        wanted = view.float().numpy() if view.dtype == torch.bfloat16 else view.numpy()
        assert got[name].dtype == wanted.dtype and got[name].shape == wanted.shape
        assert np.array_equal(got[name], wanted)


def test_a_module_that_contradicts_its_tensors_is_refused(tmp_path):
    torch = need("torch")
    for name, value in (("num_layers", 3), ("bidirectional", 1), ("batch_first", "yes"), ("dropout", 7.0)):
        lstm = torch.nn.LSTM(3, 4)
        setattr(lstm, name, value)
        torch.save(torch.nn.Sequential(lstm), tmp_path / "m.pt")
        with pytest.raises(ValueError, match=f"its module says {name} is {value!r}"):
            numlstm.load(tmp_path / "m.pt")


def test_from_torch_names_quantised_and_scripted_modules():
    torch = need("torch")
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4)).eval()
    with pytest.raises(TypeError, match=r"Its module '0' is TorchScript: torch\.jit\.save the model"):
        numlstm.from_torch(torch.jit.script(model))
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM})
    with pytest.raises(TypeError, match=r"Its module '0' is quantised: torch\.save the model"):
        numlstm.from_torch(quantised)
    with pytest.raises(TypeError, match=r"It is quantised"):
        numlstm.from_torch(quantised[0])


def test_sparse_parameters_are_named(tmp_path):
    torch = need("torch")
    own = torch.nn.LSTM(3, 4).state_dict()
    own["weight_ih_l0"] = own["weight_ih_l0"].to_sparse()
    torch.save(own, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"weight_ih_l0 holds a sparse tensor"):
        numlstm.load(tmp_path / "m.pt")
    own["weight_ih_l0"] = torch.quantize_per_tensor(torch.ones(16, 3), 0.25, 3, torch.quint8)
    torch.save(own, tmp_path / "m.pt")
    with pytest.warns(UserWarning, match="quantised"):
        assert (numlstm.load(tmp_path / "m.pt").weight_ih_l0 == 1).all()


def test_data_parallel_and_shared_modules(tmp_path):
    torch = need("torch")
    lstm = torch.nn.LSTM(3, 4)
    torch.save(torch.nn.DataParallel(torch.nn.Sequential(lstm)).state_dict(), tmp_path / "m.pt")
    assert [found.name for found in numlstm.list_lstms(tmp_path / "m.pt")] == ["module.0"]
    shared = torch.nn.ModuleList([lstm, lstm])
    torch.save(shared, tmp_path / "m.pt")
    assert [found.name for found in numlstm.list_lstms(tmp_path / "m.pt")] == ["0"]
    torch.save([lstm.state_dict(), torch.nn.LSTM(5, 6).state_dict()], tmp_path / "m.pt")
    assert [(f.name, f.config.hidden_size) for f in numlstm.list_lstms(tmp_path / "m.pt")] == [("0", 4), ("1", 6)]


def test_what_an_optimizer_keeps_by_name_is_no_lstm(tmp_path):
    torch = need("torch")
    own = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 4)}).state_dict()
    twice = {name: 2 * value for name, value in own.items()}
    torch.save({"model": own, "optimizer_state": {"momentum": twice}}, tmp_path / "m.pt")
    assert [found.name for found in numlstm.list_lstms(tmp_path / "m.pt")] == ["rnn"]
    assert same_bits(numlstm.load(tmp_path / "m.pt").weight_ih_l0, own["rnn.weight_ih_l0"].numpy())
    assert "optimizer_state/momentum/rnn.weight_ih_l0" in numlstm.load_tensors(tmp_path / "m.pt")
    torch.save({"optimizer": {"momentum": twice}}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="holds no LSTM: optimizer/momentum has tensors named like an LSTM's"):
        numlstm.load(tmp_path / "m.pt")


@pytest.mark.parametrize("name, says", REPARAMETRIZED.items())
def test_parameters_in_another_form_are_noted(name, says):
    (found,) = numlstm.list_lstms(FOLDER / name)
    assert any(says in note for note in found.notes) and not found.warning and not found.problem


def test_a_stale_weight_is_never_taken_for_the_parameter(tmp_path):
    """A pickled module whose weight_norm keeps the weight of the last call, which a step of training leaves behind."""
    torch = need("torch")
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4, bias=False))
    torch.nn.utils.weight_norm(model[0], "weight_hh_l0")
    stale = model[0].weight_hh_l0.detach().clone().numpy()
    model[0].weight_hh_l0_g.data *= 2
    torch.save(model, tmp_path / "m.pt")
    assert np.abs(numlstm.load(tmp_path / "m.pt").weight_hh_l0 - 2 * stale).max() < 1e-6
    torch.nn.utils.remove_weight_norm(model[0], "weight_hh_l0")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert same_bits(numlstm.load(tmp_path / "m.pt").weight_hh_l0, model[0].weight_hh_l0.detach().numpy())


def test_classes_of_their_own_are_noted(tmp_path):
    torch = need("torch")
    model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4), "b": torch.nn.LSTMCell(3, 4)})
    torch.save(model, tmp_path / "m.pt")
    assert not [found.notes for found in numlstm.list_lstms(tmp_path / "m.pt") if found.notes]
    # a module's class is a name in the pickle
    data = (tmp_path / "m.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    pickled = entries.pop("data.pkl").replace(b"ctorch.nn.modules.rnn\nLSTM", b"cmine\nLSTM")
    (tmp_path / "m.pt").write_bytes(archive(pickled, **entries))
    notes = [note for found in numlstm.list_lstms(tmp_path / "m.pt") for note in found.notes]
    said = "its class is mine.{0}, whose forward may differ from that of torch.nn.{0}"
    assert notes == [said.format("LSTM"), said.format("LSTMCell")]
    with pytest.warns(UserWarning, match="m.pt: its class is mine.LSTMCell, whose forward may differ"):
        numlstm.load(tmp_path / "m.pt", "b")


def test_a_tensor_alone(tmp_path):
    torch = need("torch")
    torch.save(torch.arange(3.0), tmp_path / "m.pt")
    assert numlstm.load_tensors(tmp_path / "m.pt")["tensor"].tolist() == [0, 1, 2]


def test_a_tensor_without_numbers_is_named(tmp_path):
    torch = need("torch")
    torch.save(torch.nn.LSTM(3, 4, device="meta").state_dict(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"weight_ih_l0 holds a tensor without numbers \(meta\)"):
        numlstm.load(tmp_path / "m.pt")


def test_what_a_module_keeps_in_lists_and_attributes(tmp_path):
    torch = need("torch")
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4, batch_first=True))
    model.more = [torch.nn.LSTM(3, 5), torch.nn.LSTM(3, 6)]
    model.mean = torch.arange(3.0)
    torch.save(model, tmp_path / "m.pt")
    sizes = [found.config.hidden_size for found in numlstm.list_lstms(tmp_path / "m.pt")]
    assert sorted(sizes) == [4, 5, 6]
    assert numlstm.load_tensors(tmp_path / "m.pt")["mean"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("zipped", [True, False])
def test_one_odd_tensor_does_not_make_a_file_unreadable(zipped, tmp_path):
    torch = need("torch")
    state = torch.nn.LSTM(3, 4).state_dict()
    odd = {
        "float8": torch.zeros(3).to(torch.float8_e4m3fn),
        "expanded": torch.zeros(1).expand(10**6),
        "complex": torch.ones(2, dtype=torch.complex64),
        "uint16": torch.tensor([1, 2], dtype=torch.uint16),
        "sparse": torch.eye(3).to_sparse(),
        "empty": torch.zeros(0, 5),
        "negated": torch.ones(2, dtype=torch.complex64).conj().imag,
    }
    torch.save(state | odd, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    assert numlstm.load(tmp_path / "m.pt").hidden_size == 4
    tensors = numlstm.load_tensors(tmp_path / "m.pt")
    assert set(tensors) == {*state, "complex", "uint16", "empty"}
    assert tensors["uint16"].tolist() == [1, 2] and tensors["empty"].shape == (0, 5)


def test_a_parameter_that_is_negated_when_read_is_refused_not_misread(tmp_path):
    torch = need("torch")
    state = torch.nn.LSTM(3, 4).state_dict()
    weight = torch.complex(torch.zeros(16, 3), state["weight_ih_l0"]).conj().imag
    assert weight.is_neg()
    torch.save(state | {"weight_ih_l0": weight}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="weight_ih_l0 holds a tensor whose neg bit is set"):
        numlstm.load(tmp_path / "m.pt")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(protocol):
    tensors = numlstm.load_tensors(FOLDER / "arrays.pkl")
    for thing in (tensors, [1, tensors], {"epoch": 3, "model": tensors}):
        net = numlstm.load(pickle.dumps(thing, protocol))
        assert all(same_bits(value, tensors[f"lstm.{name}"]) for name, value in net.state_dict().items())


def test_arrays_that_python_2_pickled():
    """Its text is bytes: of protocol 0 in quotes, of protocol 2 with a length."""
    want = {name: np.random.default_rng(0).standard_normal(shape).astype("f4") for name, shape in NET.items()}
    for quote in (lambda data: b"S" + repr(data)[1:].encode() + b"\n", lambda data: b"U" + bytes([len(data)]) + data):
        made = b"(d"
        for name, array in want.items():
            shape = b"".join(b"I%d\n" % length for length in array.shape)
            kind = b"cnumpy\ndtype\n(" + quote(b"f4") + b"I0\nI1\ntR(I3\n" + quote(b"<") + b"NNNI-1\nI-1\nI0\ntb"
            made += (
                quote(name.encode()) + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + quote(b"b")
            )
            made += b"tR(I1\n(" + shape + b"t" + kind + b"I00\n" + quote(array.tobytes()) + b"tbs"
        net = numlstm.load(made + b".")
        assert all(same_bits(value, want[name]) for name, value in net.state_dict().items())


def test_keys_that_look_alike_keep_their_tensors(tmp_path):
    torch = need("torch")
    things = {1: torch.ones(1), "1": torch.ones(2), (1, 2): torch.ones(3), (3, 4): torch.ones(4)}
    torch.save(things, tmp_path / "m.pt")
    assert sorted(len(array) for array in numlstm.load_tensors(tmp_path / "m.pt").values()) == [1, 2, 3, 4]


def test_frozen_modules_of_several_lstms(tmp_path):
    """By the lists of constants that their calls are given, without biases, with projections, and cells."""
    torch = need("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.cell = torch.nn.LSTM(3, 4, bias=False, batch_first=True), torch.nn.LSTMCell(2, 5)
            self.b = torch.nn.LSTM(4, 4, num_layers=2, proj_size=2)

        def forward(self, x):
            return self.cell(self.b(self.a(x)[0])[0][-1])[0]

    net = Net().eval()
    torch.jit.save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "m.pt")
    found = numlstm.list_lstms(tmp_path / "m.pt")
    assert [each.sizes() for each in found] == [
        "LSTM(3, 4, bias=False, batch_first=True), float32",
        "LSTM(4, 4, num_layers=2, proj_size=2), float32",
        "LSTMCell(2, 5), float32",
    ]
    for each, own in zip(found, (net.a, net.b, net.cell), strict=True):
        loaded = numlstm.load(tmp_path / "m.pt", each.name)
        assert all((value == own.state_dict()[key].numpy()).all() for key, value in loaded.state_dict().items())


# ---------------------------------------------------------------- no view reaches beyond the numbers of its storage


def legacy(body, keys, storages):
    """A file from before 1.6 with this object, these storage keys, and what follows them."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in head) + body + pickle.dumps(keys, 2) + storages


def untyped_part(start, count):
    """A tensor of two float32 numbers over a part of 4,096 bytes of no type."""
    storage = b"(" + text("storage") + b"ctorch.storage\nUntypedStorage\n" + text("0") + text("cpu") + integer(4096)
    part = b"(" + text("part") + integer(start) + integer(count) + b"ttQ"
    axes = b"(" + integer(2) + b"t(" + integer(1) + b"t"
    return (
        b"ctorch._utils\n_rebuild_tensor_v3\n("
        + storage + part + integer(0) + axes + b"\x89}ctorch\nfloat32\n}tR"
    )  # fmt: skip


@pytest.mark.parametrize("start", [0, 8, 4088])
def test_a_part_of_a_storage_without_a_type_is_refused(start, tmp_path):
    """Its start counts bytes where a tensor's counts numbers: taken for one, it lay 12 KB beyond the end."""
    body = state(("a", untyped_part(start, 8)))
    (tmp_path / "m.pt").write_bytes(legacy(body, ["0"], struct.pack("<q", 4096) + bytes(4096)))
    with pytest.raises(ValueError, match="its storage '0' of no number type has a part"):
        numlstm.load_tensors(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "start, offset, shape, fits",
    [(0, 0, (4,), True), (0, 1, (4,), False), (1, 0, (4,), False), (0, 0, (5,), False), (9, 0, (1,), False)],
)
def test_a_view_is_held_against_what_was_read(start, offset, shape, fits):
    """Whatever a format's reader gives: the check stands where the view is made."""
    storage = unpickle.Storage("float32", "0", 16, start)
    tensor = tree._tensor(unpickle.View(storage, "float32", offset, shape, (1,)), lambda *of: np.arange(4.0))
    if fits:
        assert tensor.read().tolist() == [0, 1, 2, 3]
    else:
        with pytest.raises(ValueError, match="reaches beyond the 4 numbers of its storage"):
            tensor.read()
