"""What loading takes: at most 2.2 times a file of 100 MB, above the process's own."""

import pytest
from commands import child
from needs import leave_out, need

from numlstm.bench.costs import load
from numlstm.bench.costs.memory import sees_pages

PROMISE = 2.2  # times the file's size
# Keras' kernels are transposed; a protocol buffer is parsed whole, and held twice, before anything is read from it
OTHERS = {".h5": 2.7, ".onnx": 4.8}
MEGABYTES = 100


@pytest.fixture(scope="module", autouse=True)
def pages():
    if not sees_pages():
        leave_out("needs a system that tells the high-water mark of resident memory")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", load.SUFFIXES)
def test_a_large_file_is_held_about_twice(suffix, tmp_path):
    for package in {".pt": ["torch"], ".onnx": ["onnx"], ".h5": ["h5py"]}.get(suffix, []):
        need(package)
    small, large = tmp_path / f"small{suffix}", tmp_path / f"large{suffix}"
    load.write(small, load.VOICE)
    load.write(large, load.of_size(MEGABYTES))
    size = large.stat().st_size
    assert size > 0.98e6 * MEGABYTES
    times = load.peak_in_fresh_process(small, large) / size
    print(f"{suffix}: {times:.2f} times")
    assert times > 0.9  # the panels alone: the measure sees them
    assert times <= OTHERS.get(suffix, PROMISE)


WASTEFUL = """
import sys
from pathlib import Path
from numlstm.bench.costs import load
from numlstm.bench.costs.memory import high_water_above
small, large = map(Path, sys.argv[1:])
load.loaded(small)
print(high_water_above(lambda: (large.read_bytes(), large.read_bytes(), load.loaded(large))))
"""


def test_the_measure_sees_a_third_copy(tmp_path):
    """A loader that keeps everything twice more is found out.

    In a process of its own: memory that another test has given back to the allocator would count as held before.
    """
    small, large = tmp_path / "small.npz", tmp_path / "large.npz"
    load.write(small, load.VOICE)
    load.write(large, load.of_size(20))
    assert int(child("-c", WASTEFUL, small, large)) / large.stat().st_size > PROMISE
