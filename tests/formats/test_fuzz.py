"""A file is data: thousands of damaged ones of each format, and the process is alive after each.

Every mutant either loads or is a ValueError or OSError, within a bounded address space (256 MB above the imports; the
files are some kilobytes) and before an alarm. tests/support/fuzz.py makes them and says how.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz import READERS
from needs import need
from safetensors.numpy import save_file

import numlstm

pytestmark = pytest.mark.fuzz

COUNT = 2000  # mutants of each format, at least
FUZZ = Path(__file__).parents[1] / "support" / "fuzz.py"
FIXTURES = Path(__file__).parents[1] / "fixtures"
SOURCES = {
    "npz-flax": "names/flax.npz",
    "npz-haiku": "names/haiku.npz",
    "npz-mlx": "names/mlx.npz",
    "torch-zip": "torch/checkpoint.pt",
    "torchscript": "torch/scripted.pt",
    "torch-module": "torch/module.pt",
    "torch-legacy": "torch/legacy.pt",
    "torch-arrays": "torch/arrays.pt",
    "torch-pickle": "torch/state.pkl",
    "torch-quantised": "torch/quantized_module.pt",
    "torch-quantised-state": "torch/quantized.pt",
    "torch-quantised-script": "torch/quantized_frozen.pt",
    "torch-policy": "torch/policy.zip",
    "torch-paddle": "names/paddle.pdparams",
    "torch-frozen": "torch/frozen.pt",
    "torch-export": "torch/exported.pt2",
    "json-state": "json/guitarml.json",
    "json-layers": "json/rtneural.json",
    "json-weights": "json/amp.nam",
    "onnx": "onnx/torch_script_tagger.onnx",
    "onnx-reversed": "onnx/torch_script_backwards.onnx",
    "onnx-options": "cells/all.onnx",
    "keras": "keras/keras3_stack.keras",
    "keras2-h5": "keras/keras2_stack.h5",
    "keras2-peepholes": "keras/keras2_peepholes_alone.keras",
}


def valid(form, folder):
    """A valid file of that format."""
    net = numlstm.LSTM(3, 2, num_layers=2, bidirectional=True, seed=0)
    if form in ("safetensors", "npz"):
        net.save(folder / f"valid.{form}")
        return folder / f"valid.{form}"
    if form == "safetensors-int8":
        net.quantize_weights("int8").save(folder / "valid.safetensors")
        return folder / "valid.safetensors"
    if form == "torch-pickle-0":
        (folder / "valid.pkl").write_bytes(pickle.dumps(numlstm.load_tensors(FIXTURES / "torch/arrays.pkl"), 0))
        return folder / "valid.pkl"
    if form == "npz-norms":
        tensors = numlstm.load_tensors(FIXTURES / "torch/weight_norm.pt")
        np.savez(folder / "valid.npz", **tensors)
        return folder / "valid.npz"
    if form == "shards":
        files = {name: f"{name[:6]}.safetensors" for name in net.state_dict()}
        for file in set(files.values()):
            save_file({name: net.state_dict()[name] for name in files if files[name] == file}, folder / file)
        (folder / "valid.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
        return folder / "valid.json"
    if form == "onnx-quantised":
        dynamic = need("onnxruntime.quantization").quantize_dynamic
        dynamic(FIXTURES / "onnx/torch_script_plain.onnx", folder / "valid.onnx")
        return folder / "valid.onnx"
    if form.startswith("onnx"):
        need("onnx")
    return FIXTURES / SOURCES[form]


def fuzzed(form, folder, count, plant="", first=0):
    done = subprocess.run(
        [sys.executable, FUZZ, form, valid(form, folder), folder, str(first), str(count), *filter(None, [plant])],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("form", READERS)
def test_no_mutant_does_harm(form, tmp_path, capsys):
    code, lines, stderr = fuzzed(form, tmp_path, COUNT)
    assert code == 0, f"mutant {lines[-1:]} of {form} ended the child with {code}:\n{stderr[-3000:]}"
    counts = json.loads(lines[-1])
    share = counts["reached"] / counts["mutants"]
    with capsys.disabled():
        print(
            f"\n{form}: {counts['mutants']} mutants, {share:.0%} reached the parser, {counts['loaded']} loaded, "
            f"{counts['refused']} refused; the slowest took {counts['slowest'] * 1e3:.0f} ms"
        )
    assert counts["mutants"] >= COUNT
    assert share >= 0.5
    assert counts["loaded"] > 0 and counts["refused"] > COUNT // 20  # they are neither all broken nor all harmless


@pytest.mark.parametrize(
    "plant, code, says",
    [("allocate", 1, "MemoryError"), ("crash", -11, ""), ("hang", -14, ""), ("trip", 1, "ends the process")],
)
def test_the_child_notices_a_planted_fault(plant, code, says, tmp_path):
    got, lines, stderr = fuzzed("npz", tmp_path, 60, plant)
    assert got == code and says in stderr
    assert lines[-1].isdigit() and int(lines[-1]) < 60  # it names the mutant


def test_mutants_are_made_from_their_number_alone(tmp_path):
    from fuzz import mutant

    for form in ("safetensors", "npz"):
        data = valid(form, tmp_path).read_bytes()
        made = [mutant(form, data, number) for number in range(50)]
        assert made == [mutant(form, data, number) for number in range(50)]
        assert len(set(made)) > 40 and np.mean([one != data for one in made]) > 0.9
