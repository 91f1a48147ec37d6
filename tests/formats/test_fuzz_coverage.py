"""A search by coverage from a kept corpus (tests/support/fuzz_coverage.py, libFuzzer by way of atheris), bounded by
runs.

The corpus in tests/fixtures/corpus holds, for each format, what has reached something of its own in a search of hours.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need, need_files

pytestmark = pytest.mark.fuzz
SEARCH = Path(__file__).parents[1] / "support" / "fuzz_coverage.py"
CORPUS = Path(__file__).parents[1] / "fixtures" / "corpus"
RUNS = {  # of each form: ten seconds or so
    "safetensors": 10_000,
    "npz": 5_000,
    "torch-zip": 4_000,
    "torchscript": 1_000,
    "torch-legacy": 8_000,
    "onnx": 2_000,
    "keras": 2_000,
    "keras2-h5": 4_000,
    "zip": 5_000,
    "series": 5_000,
    "json": 4_000,
}


def search(form, folder, runs, seed=None, **environment):
    """Search from a copy of the corpus, or one seed; its exit code, and what libFuzzer said."""
    need_files("atheris")
    if form == "onnx":
        need("onnx")
    corpus = folder / "corpus"
    if seed is None:
        shutil.copytree(CORPUS / form, corpus)
    else:
        corpus.mkdir()
        (corpus / "seed").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, SEARCH, form, corpus, f"-runs={runs}", "-seed=1", "-timeout=120"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=os.environ | environment,
    )
    return done.returncode, done.stderr + done.stdout


@pytest.mark.parametrize("form", RUNS)
def test_no_mutant_bred_by_coverage_does_harm(form, tmp_path, capsys):
    code, said = search(form, tmp_path, RUNS[form])
    assert code == 0, f"{[path.name for path in tmp_path.iterdir()]} of {form}:\n{said[-3000:]}"
    covered = [int(count) for count in re.findall(r"cov: (\d+)", said)]
    with capsys.disabled():
        print(f"\n{form}: {RUNS[form]} mutants, {covered[-1]} edges covered")
    assert covered[-1] > 50  # the readers are watched


def test_the_search_breeds_a_planted_fault(tmp_path):
    """One behind several steps, each of which reaches something new."""
    code, said = search("series", tmp_path, 200_000, b"1,2\n", FUZZ_PLANT="1")
    assert code != 0 and "RuntimeError: planted" in said
    assert any(path.name.startswith("crash-") for path in tmp_path.iterdir())


def test_the_corpus_is_small():
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.name for path in CORPUS.iterdir()} == set(RUNS)
    assert len(sizes) < 500 and sum(sizes) < 500_000
