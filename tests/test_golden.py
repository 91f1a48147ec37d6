"""numlstm and its reference against what torch 2.13.0 computed (golden/); and the script that wrote it down."""

import ast
import dataclasses
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from golden import make_golden
from needs import need

import numlstm
from numlstm import reference

pytestmark = pytest.mark.cpu_level

CASES = make_golden.load()
KINDS = sorted({(case.name.partition("/")[0], case.dtype.name) for case in CASES})


def of_kind(kind, dtype):
    return [case for case in CASES if case.name.partition("/")[0] == kind and case.dtype == dtype]


def named(case, made):
    output = {"output": made[0]} if case.module == "LSTM" else {}
    h, c = made[1] if case.module == "LSTM" else made
    return {name: array.astype(case.dtype) for name, array in (output | {"h_n": h, "c_n": c}).items()}


def judged(case, parameters=None):
    """What the reference gives, rounded."""
    parameters = case.parameters if parameters is None else parameters
    if case.module == "LSTMCell":
        return named(case, reference.cell(parameters, case.inputs["input"], case.hx, flush=case.dtype))
    flags = {"batch_first": case.options.get("batch_first", False), "flush": case.dtype}
    return named(case, reference.lstm(parameters, case.inputs["input"], case.hx, **flags))


def ours(case, parameters=None):
    """What numlstm gives."""
    net = getattr(numlstm, case.module)(**{**case.options, "dtype": case.dtype})
    assert list(net.state_dict()) == list(case.parameters)
    net.load_state_dict(case.parameters if parameters is None else parameters)
    made = net.eval()(case.inputs["input"], case.hx)
    arrays = (made[0], *made[1]) if case.module == "LSTM" else made
    assert {array.dtype for array in arrays} == {case.dtype}
    return named(case, made)


def test_every_combination_is_there():
    both = (False, True)
    flags = ("bias", "batch_first", "bidirectional", "proj_size", "num_layers", "dtype")
    want = set(itertools.product(both, both, both, (0, 2), (1, 2, 3), ("float32", "float64"), both, both))
    found = {
        (*(case.options[flag] for flag in flags), case.inputs["input"].ndim == 2, case.hx is not None)
        for case in CASES
        if case.name.startswith("flags/")
    }
    assert found == want
    cells = {
        (case.options["bias"], case.options["dtype"], case.inputs["input"].ndim == 1, case.hx is not None)
        for case in CASES
        if case.module == "LSTMCell"
    }
    assert cells == set(itertools.product(both, ("float32", "float64"), both, both))
    assert {case.options["hidden_size"] for case in CASES} >= {1, 3, 13, 37}
    assert list(itertools.product(("cell", "extremes", "flags", "sizes"), ("float32", "float64"))) == KINDS
    extremes = [value for case in CASES if "extremes/" in case.name for value in case.results.values()]
    assert sum(bool(np.isnan(value).any()) for value in extremes) > 20
    assert sum(bool(np.isinf(value).any()) for value in extremes) > 10
    assert sum(case.relative for case in CASES) == 18


@pytest.mark.parametrize("kind, dtype", KINDS)
def test_reference_gives_what_torch_gave(kind, dtype):
    cases = of_kind(kind, dtype)
    assert cases
    assert not [line for case in cases for line in make_golden.differences(case, judged(case))]


@pytest.mark.parametrize("kind, dtype", KINDS)
def test_numlstm_gives_what_torch_gave(kind, dtype):
    cases = of_kind(kind, dtype)
    assert cases
    assert not [line for case in cases for line in make_golden.differences(case, ours(case))]


@pytest.mark.parametrize("run", [judged, ours])
def test_a_swap_of_two_gates_is_seen_in_every_case(run):
    """Planted: the blocks of f and g change places in one weight (those of i and f are alike to a tiny signal)."""
    for case in CASES[:: len(CASES) // 60]:
        name = "weight_ih" if case.module == "LSTMCell" else "weight_ih_l0"
        i, f, g, o = np.split(case.parameters[name], 4)
        swapped = case.parameters | {name: np.concatenate([i, g, f, o])}
        assert make_golden.differences(case, run(case, swapped)), case.name


@pytest.mark.parametrize("kind, dtype", KINDS)
def test_every_single_result_is_compared(kind, dtype):
    """Planted: one value is moved by two bounds, or becomes NaN, or NaN becomes a number."""
    for case in of_kind(kind, dtype):
        assert not make_golden.differences(case, case.results)
        for name, value in case.results.items():
            bound = np.broadcast_to(case.bound(value), value.shape)
            finite = np.isfinite(value)
            for at in zip(*(axis[:2] for axis in np.nonzero(finite)), strict=True):
                step = max(2 * bound[at], 4 * np.spacing(abs(value[at])))
                for planted in (value[at] + step, value[at] - step, np.nan, np.inf):
                    changed = np.array(value)
                    changed[at] = planted
                    assert len(make_golden.differences(case, {**case.results, name: changed})) == 1
            for at in zip(*(axis[:2] for axis in np.nonzero(~finite)), strict=True):
                changed = np.array(value)
                changed[at] = 0.5
                assert len(make_golden.differences(case, {**case.results, name: changed})) == 1
            for changed in (value[..., :-1], value.astype(np.longdouble)):
                assert len(make_golden.differences(case, {**case.results, name: changed})) == 1
            assert len(make_golden.differences(case, {k: v for k, v in case.results.items() if k != name})) == 1


def planted(case, what):
    """A copy of the case with one thing changed."""
    case = dataclasses.replace(case)
    if what == "result":
        name = next(iter(case.results))
        value = np.array(case.results[name])
        value.flat[-1] += 3 * case.bound(value).max()
        case.results = {**case.results, name: value}
    elif what in ("parameters", "inputs"):
        arrays = dict(getattr(case, what))
        name = next(iter(arrays))
        arrays[name] = np.nextafter(arrays[name], np.inf, dtype=arrays[name].dtype)
        setattr(case, what, arrays)
    elif what == "options":
        case.options = {**case.options, "bias": not case.options.get("bias", True)}
    elif what == "name":
        case.name += "!"
    return case


@pytest.mark.parametrize("what", ["result", "parameters", "inputs", "options", "name"])
def test_the_comparison_sees_each_kind_of_change(what):
    said = make_golden.compare([planted(CASES[0], what), *CASES[1:]], CASES)
    assert said
    assert all(line.startswith(CASES[0].name) for line in said)
    assert not make_golden.compare(CASES, CASES)


def test_the_file_holds_what_was_saved(tmp_path):
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    for path in paths:
        make_golden.save(CASES, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    again = make_golden.load(paths[0])
    assert not make_golden.compare(CASES, again)
    assert all(not array.flags.writeable for case in again for array in case.parameters.values())
    assert make_golden.FILE.stat().st_size < 500_000


@pytest.mark.parametrize("arguments", [[], ["--check"]])
@pytest.mark.parametrize("version", [None, "2.12.1", "2.13.1+cpu", "2.13"])
def test_another_torch_is_refused(version, arguments, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None if version is None else SimpleNamespace(__version__=version))
    assert make_golden.main([*arguments, "--file", str(tmp_path / "new.npz")]) == 2
    assert "pip install torch==2.13.0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_generator_knows_nothing_of_numlstm():
    tree = ast.parse(Path(make_golden.__file__).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert {"numpy", "torch"} < names
    assert not [name for name in names if name.startswith(("numlstm", "judge", "needs"))]


@pytest.mark.slow
def test_check_regenerates_and_says_what_differs(tmp_path, capsys):
    """With torch: the committed file is what this torch computes, and a planted change of it is found."""
    need("torch")
    assert make_golden.main(["--check"]) == 0
    assert f"{len(CASES)} cases agree" in capsys.readouterr().out
    at = len(CASES) // 2
    for what in ("result", "parameters"):
        make_golden.save([*CASES[:at], planted(CASES[at], what), *CASES[at + 1 :]], tmp_path / "changed.npz")
        assert make_golden.main(["--check", "--file", str(tmp_path / "changed.npz")]) == 1
        assert capsys.readouterr().out.startswith(f"{CASES[at].name}: ")
