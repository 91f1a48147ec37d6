"""Everything public: names, type hints, pickles, copies, and the view of type checkers."""

import copy
import dataclasses
import importlib
import inspect
import pickle
import subprocess
import sys
import tomllib
import typing
from pathlib import Path
from types import MethodType, ModuleType
from unittest import mock

import numpy as np
import pytest
from needs import need

import numlstm
from numlstm import reference
from numlstm.base import requirements
from numlstm.formats import Found, Tensor
from numlstm.module import IncompatibleKeys
from numlstm.tracing.trace import CellTrace

ROOT = Path(__file__).parents[1]
X = np.ones((5, 2, 3), np.float32)


def make(kind=numlstm.LSTM, **flags):
    return kind(3, 4, seed=0, **flags).eval()


# ---------------------------------------------------------------- names


def test_dir_shows_the_public_names():
    shown = [name for name in dir(numlstm) if not (name.startswith("__") and name.endswith("__"))]
    assert shown == sorted(numlstm.__all__)
    assert {"__version__", "__doc__", "__all__", "__file__"} <= set(dir(numlstm))
    assert all(hasattr(numlstm, name) for name in dir(numlstm))


def test_deprecated_names_are_aliases():
    assert numlstm.find is numlstm.list_lstms and numlstm.tensors is numlstm.load_tensors


def test_a_misspelt_name_of_the_module_has_a_suggestion():
    done = subprocess.run(
        [sys.executable, "-c", "import numlstm; numlstm.from_troch"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (
        done.stderr.splitlines()[-1]
        == "AttributeError: module 'numlstm' has no attribute 'from_troch'. Did you mean: 'from_torch'?"
    )


# ---------------------------------------------------------------- type hints


def public():
    """Every public function, class, method and property by its name."""
    classes = [Found, Tensor, CellTrace, IncompatibleKeys]
    for name in numlstm.__all__:
        value = getattr(numlstm, name)
        if inspect.isclass(value):
            classes.append(value)
        else:
            yield f"numlstm.{name}", value
    for name in ("lstm", "cell", "gates"):
        yield f"reference.{name}", getattr(reference, name)
    for kind in classes:
        yield kind.__name__, kind
        for base in kind.__mro__:
            if base.__module__.startswith("numlstm"):
                for name, value in vars(base).items():
                    value = getattr(value, "__func__", value)
                    for part in (value.fget, value.fset) if isinstance(value, property) else (value,):
                        if inspect.isfunction(part):
                            yield f"{kind.__name__}.{name}", part


def unresolved(parts):
    """Of named functions and classes, those whose hints, or their overloads', name what is not there."""
    for name, value in parts.items():
        for each in (value, *(typing.get_overloads(value) if inspect.isfunction(value) else ())):
            try:
                typing.get_type_hints(each)
            except NameError:
                yield name


def test_type_hints_resolve():
    parts = dict(public())
    assert len(parts) > 150
    assert {"numlstm.load", "numlstm.load_cell", "LSTM.stream", "LSTM.state_dict", "Pool.step", "Session"} <= set(parts)
    assert list(unresolved(parts)) == []

    def planted(x: "Nowhere") -> None:  # noqa: F821
        pass

    assert list(unresolved(parts | {"planted": planted})) == ["planted"]


def test_type_hints_resolve_in_dask():
    need("dask")
    dask = importlib.import_module("numlstm.dask")
    for name in dask.__all__:
        typing.get_type_hints(getattr(dask, name))
    assert {name for name in dir(dask) if name[:2] != "__"} == set(dask.__all__)


def test_hints_are_the_classes_themselves():
    hints = {name: typing.get_type_hints(getattr(numlstm.LSTM, name))["return"] for name in ("stream", "pool", "trace")}
    assert hints == {"stream": numlstm.Stream, "pool": numlstm.Pool, "trace": numlstm.Trace}
    assert typing.get_type_hints(numlstm.LSTM.trace)["input"] == np.typing.ArrayLike
    assert typing.get_type_hints(numlstm.load_cell)["return"] is numlstm.LSTMCell


# ---------------------------------------------------------------- type checkers

WRONG = """\
lstm.evall()
lstm.batch_frist = True
lstm.batch_frist
lstm.weight_ih_l0_revers
cell.weight_ih_l0
cell.trian()
stream.steep()
stream.outptu = 1
pool.opne()
session.clsoe()
trace.outptu
packed.dta
numlstm.lode("x")
numlstm.load("x").evall()
numlstm.load_cell("x").evall()
numlstm.from_torch(None).evall()
numlstm.list_lstms("x")[0].nmae
"""
RIGHT = """\
from collections.abc import Iterator

import numpy as np

import numlstm

lstm = numlstm.LSTM(3, 4)
cell = numlstm.LSTMCell(3, 4)
stream = lstm.stream()
pool = lstm.pool()
session = pool.open()
trace = lstm.trace(np.ones((5, 3)))
packed = numlstm.pack_sequence([[1, 2], [3]])
loaded: numlstm.LSTM = numlstm.load("x", batch_first=True)
taken: numlstm.LSTM = numlstm.from_torch(None)
loaded_cell: numlstm.LSTMCell = numlstm.load_cell("x")
output, (h_n, c_n) = numlstm.load("x")(np.ones((5, 3)), None)
h, c = loaded_cell([1.0, 2.0, 3.0], (np.zeros(4), np.zeros(4)))
lstm.weight_ih_l0 = [[0.0]]
array: np.ndarray = lstm.weight_ih_l3_reverse
both: np.ndarray | None = cell.bias_ih
lstm.batch_first, lstm.dropout, lstm.training = True, 0.5, False
lstm.eval().double().stream().state = (np.zeros((1, 1, 4)), np.zeros((1, 1, 4)))
version: str = numlstm.__version__


class Own(numlstm.LSTM):
    def __init__(self, label: str) -> None:
        super().__init__(3, 4)
        self.label = label


own: str = Own("a").eval().label
"""


@pytest.mark.slow
def test_a_type_checker_finds_what_is_misspelt_and_nothing_else(tmp_path):
    need("mypy")
    (tmp_path / "right.py").write_text(RIGHT.replace("np.ndarray", "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"))
    (tmp_path / "wrong.py").write_text(RIGHT + WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "right.py", "wrong.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if ": error:" in line and "[type-arg]" not in line]
    assert not [line for line in told if line.startswith("right.py")], done.stdout
    first = len(RIGHT.splitlines()) + 1
    found = [
        line for line in told if line.startswith("wrong.py") and ("attr-defined]" in line or "union-attr]" in line)
    ]
    lines = {int(line.split(":")[1]) for line in found}
    assert lines == set(range(first, first + len(WRONG.splitlines()))), done.stdout


# ---------------------------------------------------------------- pickles and copies


class Prefixed(numlstm.LSTM):
    """What PyTorch documents: a state dict of one's own."""

    def state_dict(self, **options):
        return {f"rnn.{name}": array for name, array in super().state_dict(**options).items()}

    def named_parameters(self, *args, **options):
        raise AssertionError("nothing but the caller asks for it")


def arrays(value):
    """All arrays in what is plain data, in order."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for item in value.values() for array in arrays(item)]
    if isinstance(value, tuple | list):
        return [array for item in value for array in arrays(item)]
    if isinstance(value, numlstm.LSTM | numlstm.LSTMCell):
        return list(value._parameters().values())
    if isinstance(value, numlstm.Trace | CellTrace):
        return arrays({name: dict(item) if name == "cells" else item for name, item in vars(value).items()})
    return []


def found(folder):
    path = folder / "model.safetensors"
    make().save(path)
    return numlstm.list_lstms(path)


OPTIONS = numlstm.CellOptions(f="HardSigmoid", clip=3.0, peepholes=True)
PLAIN = {
    "LSTM": lambda folder: make(num_layers=2, bidirectional=True),
    "LSTMCell": lambda folder: make(numlstm.LSTMCell),
    "LSTM without state_dict": lambda folder: make(Prefixed),
    "LSTM with options": lambda folder: make(cell_options=OPTIONS),
    "CellOptions": lambda folder: OPTIONS,
    "PackedSequence": lambda folder: numlstm.pack_sequence([[1.0, 2.0], [3.0]]),
    "packed, sorted": lambda folder: numlstm.pack_sequence([[1.0], [3.0, 2.0]], enforce_sorted=False),
    "Trace": lambda folder: make(bidirectional=True).trace(X),
    "CellTrace": lambda folder: make().trace(X)["l0"],
    "list_lstms": found,
    "IncompatibleKeys": lambda folder: make().load_state_dict({}, strict=False),
    "num_threads": lambda folder: numlstm.num_threads(1),
    "snapshot": lambda folder: make().stream().snapshot(),
}
BOUND = {
    "Stream": lambda: make().stream(),
    "Stream.step": lambda: make().stream().step,
    "Pool": lambda: make().pool(),
    "Session": lambda: make().pool().open(),
}
MADE = {"LSTM", "LSTMCell", "CellOptions", "PackedSequence", "Trace", "num_threads", *BOUND}


@pytest.mark.parametrize("name", PLAIN)
def test_it_is_pickled_and_copied(name, tmp_path):
    value = PLAIN[name](tmp_path)
    again = [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (*again, copy.deepcopy(value), copy.copy(value)):
        assert type(twin) is type(value) and (repr(twin) == repr(value) or name == "num_threads")
        for mine, theirs in zip(arrays(twin), arrays(value), strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
    for mine, theirs in zip(arrays(copy.deepcopy(value)), arrays(value), strict=True):
        assert not np.shares_memory(mine, theirs)


@pytest.mark.parametrize("name", BOUND)
def test_it_says_why_it_is_not_pickled(name):
    with pytest.raises(TypeError, match=r"cannot be (copied or )?pickled, since"):
        pickle.dumps(BOUND[name]())


def test_every_public_class_is_among_them():
    assert {name for name in numlstm.__all__ if inspect.isclass(getattr(numlstm, name))} <= MADE


def test_public_functions_are_pickled_by_name():
    for name in numlstm.__all__:
        value = getattr(numlstm, name)
        assert pickle.loads(pickle.dumps(value)) is value


def test_a_copied_trace_is_as_good(tmp_path):
    trace = make(bidirectional=True).trace(X)
    twin = pickle.loads(pickle.dumps(trace))
    assert list(twin) == list(trace) and twin.batch_first is trace.batch_first
    with pytest.raises(TypeError):
        twin.cells["l0"] = trace["l0"]
    plain = dataclasses.asdict(trace)
    np.testing.assert_array_equal(plain["cells"]["l0"].f, trace["l0"].f)
    twin.save(tmp_path / "trace.npz")
    np.testing.assert_array_equal(numlstm.Trace.load(tmp_path / "trace.npz").output, trace.output)


def test_what_is_found_leaves_its_numbers_in_the_file(tmp_path):
    (twin,) = pickle.loads(pickle.dumps(found(tmp_path)))
    assert twin.parameters["weight_ih_l0"].shape == (16, 3)
    with pytest.raises(ValueError, match="has no numbers, which stay in the file"):
        twin.parameters["weight_ih_l0"].read()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_state_dict_of_ones_own_is_for_the_caller_alone(suffix, tmp_path):
    lstm, path = make(Prefixed), tmp_path / f"model.{suffix}"
    want = make()(X)
    lstm.save(path)
    twins = (numlstm.load(path), pickle.loads(pickle.dumps(lstm)), copy.copy(lstm), copy.deepcopy(lstm))
    for twin in twins:
        np.testing.assert_array_equal(twin(X)[0], want[0])
    assert "rnn.weight_ih_l0" in lstm.state_dict() and "rnn.weight_ih_l0" in twins[1].state_dict()


# ---------------------------------------------------------------- attributes


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("batch_frist", "batch_first"),
        ("batchFirst", "batch_first"),
        ("dropuot", "dropout"),
        ("traning", "training"),
        ("num_layer", "num_layers"),
        ("weight_ih_10", "weight_ih_l0"),
        ("_sead", ""),
        ("zzz", ""),
    ],
)
@pytest.mark.parametrize("kind", [numlstm.LSTM, numlstm.LSTMCell])
def test_an_attribute_that_is_not_there_cannot_be_set(kind, name, close):
    module = make(kind)
    with pytest.raises(AttributeError, match=f"'{kind.__name__}' object has no attribute '{name}'") as caught:
        setattr(module, name, True)
    if kind is numlstm.LSTM:
        assert ("Did you mean" in str(caught.value)) is bool(close) and close in str(caught.value)
    assert name not in vars(module) and vars(module).keys() == vars(make(kind)).keys()


@pytest.mark.parametrize("made", ["made", "copied", "deep-copied", "unpickled", "loaded"])
def test_however_it_was_made(made, tmp_path):
    lstm = make()
    lstm.save(tmp_path / "m.npz")
    lstm = {
        "made": lambda: lstm,
        "copied": lambda: copy.copy(lstm),
        "deep-copied": lambda: copy.deepcopy(lstm),
        "unpickled": lambda: pickle.loads(pickle.dumps(lstm)),
        "loaded": lambda: numlstm.load(tmp_path / "m.npz"),
    }[made]()
    with pytest.raises(AttributeError, match="Did you mean batch_first"):
        lstm.batch_frist = True
    lstm.batch_first, lstm.dropout, lstm.training = True, 0.5, True
    lstm.__notes__ = ["what a tool leaves"]
    assert lstm.batch_first and lstm.training


class Labelled(numlstm.LSTM):
    def __init__(self, *args, label, **options):
        self.label = label  # before the base class has begun
        super().__init__(*args, **options)
        self.after = [1]


def test_a_subclass_has_attributes_of_its_own():
    lstm = Labelled(3, 4, label="a", seed=0)
    lstm.more = np.ones(2)
    for twin in (copy.copy(lstm), copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert (twin.label, twin.after, twin.more.tolist()) == ("a", [1], [1, 1])
        twin.label = "b"
    del lstm.more
    assert lstm.label == "a"


def test_a_method_is_replaced_by_what_can_be_called():
    lstm = make()
    for name in ("train", "eval", "to", "stream", "state_dict"):
        with pytest.raises(AttributeError, match=rf"{name} of 'LSTM' object is a method, which False cannot replace"):
            setattr(lstm, name, False)
    with mock.patch.object(lstm, "stream") as stream:
        assert lstm.stream() is stream.return_value
    assert isinstance(lstm.stream, MethodType) and isinstance(lstm.stream(), numlstm.Stream)
    with mock.patch.object(lstm, "training", True):
        assert lstm.training
    assert not lstm.training
    with mock.patch.object(numlstm.LSTM, "pool", lambda self: "patched"):
        assert lstm.pool() == "patched"


# ---------------------------------------------------------------- messages


def test_a_step_with_an_argument_names_a_stream():
    stream = make().stream()
    for call in (lambda: stream.step(3), lambda: stream.step(x=3)):
        with pytest.raises(TypeError, match=r"^Stream\.step\(\) takes no"):
            call()
    assert "_Slots" not in repr(stream.step)


def test_a_step_without_built_in_functions_takes_no_argument_either(monkeypatch):
    monkeypatch.setattr("numlstm.runtime.object_layout.functions", None)
    stream = make().stream()
    with pytest.raises(TypeError, match=r"^Stream\.step\(\) takes 0 positional arguments but 1 was given"):
        stream.step(3)
    stream.input[:] = X[0, :1]
    stream.step()
    np.testing.assert_array_equal(stream.output, make()(X[:1, :1])[0][0])


@pytest.mark.parametrize(
    ("device", "cuda"), [("mps", False), ("xpu", False), ("meta", False), ("gpu", False), ("cuda:1", True), (1, True)]
)
def test_a_device_that_is_not_there(device, cuda):
    with pytest.raises(NotImplementedError, match="device must be None, 'cpu' or 'cuda', not") as caught:
        make().to(device)
    assert ("CUDA_VISIBLE_DEVICES" in str(caught.value)) is cuda


def test_what_is_to_be_installed_is_what_pyproject_requires():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    dependencies = {line: (line,) for line in project["dependencies"]}
    for part, wanted in requirements.REQUIREMENTS.items():
        if part in extras:
            assert list(wanted) == extras[part], part
        else:
            (line,) = wanted
            assert line in dependencies and line.startswith(part), part


def test_no_message_names_a_package_that_is_on_no_index():
    """numlstm itself is installed from a checkout or a wheel at hand."""
    files = [*(ROOT / "numlstm").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    assert len(files) > 90
    for path in files:
        text = path.read_text("utf-8")
        assert "numlstm[" not in text and "install numlstm" not in text, path


def test_a_module_of_the_package_that_lacks_a_package_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name == "dask" or name.startswith(("dask.", "numlstm.dask"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r"pip install 'dask\[array,dataframe\]>=.* 'distributed>=.* 'pyarrow>="):
        importlib.import_module("numlstm.dask")
    assert isinstance(numlstm, ModuleType)
