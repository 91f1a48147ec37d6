"""``device="cuda"`` as far as it can be known without a GPU; what needs one is in ``test_cuda_gpu.py``.

The simulator and the compilers are set up when Numba is imported, so each runs in a process of its own.
"""

import ast
import json
import re
from pathlib import Path

import commands
import pytest
from click.testing import CliRunner
from needs import need_files

import numlstm
from numlstm import cli
from numlstm.cuda import planner, presence

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "cuda.md"
CAPABILITIES = [(5, 0), (7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]


def child(*arguments, limit, **environment):
    """What a fresh process prints, whatever it warns of."""
    root = TESTS.parent
    return commands.child("-W", "ignore", *arguments, timeout=limit, cwd=root, path=[root, TESTS], **environment)


# ---------------------------------------------------------------- in the simulator


@pytest.mark.cuda_sim
def test_the_suite_in_the_simulator():
    said = child("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cuda/cuda_simulated.py",
                 limit=900, NUMBA_ENABLE_CUDASIM="1")  # fmt: skip
    tests = ast.parse((TESTS / "cuda" / "cuda_simulated.py").read_text("utf-8"))
    at_least = sum(getattr(node, "name", "").startswith("test_") for node in tests.body)
    assert int(re.search(r"(\d+) passed", said)[1]) >= at_least > 20, said


@pytest.mark.cuda_sim
def test_no_barrier_and_no_guard_is_idle():
    said = child("tests/cuda/cuda_mutants.py", limit=900, NUMBA_ENABLE_CUDASIM="1")
    counts = ast.literal_eval(said.splitlines()[0])
    kernels = [
        (TESTS.parent / "numlstm" / "cuda" / "kernels" / f"{name}.py").read_text("utf-8")
        for name in ("padding", "projection", "recurrence", "step")
    ]
    barriers = sum(text.count("cuda.syncthreads()") for text in kernels)
    assert counts["barrier"] == barriers == 7 and counts["guard"] >= 20 and counts["limit"] >= 7
    assert "survived" not in said, said


# ---------------------------------------------------------------- what the compilers say


@pytest.mark.cuda_sim
def test_the_compilers_leave_nothing_to_be_desired():
    need_files("numba_cuda")
    printed = child("-m", "numlstm.cuda.gate", limit=1800, NUMBA_ENABLE_CUDASIM="0").splitlines()
    rows = [line for line in printed if line.startswith("|")]
    assert len(rows) > 20
    kept = [
        line
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith(("| kernel |", *(f"| {name} | float" for name in NAMES)))
    ]
    if versions_of_the_page():
        assert [line for line in rows if not line.startswith("|---")] == kept
    else:  # another compiler has other registers; the kernels and what they take of threads and memory are the same
        assert [line.split("|")[1:6] for line in rows if not line.startswith("|---")] == [
            line.split("|")[1:6] for line in kept
        ]


NAMES = ("project", "project_hidden", "flush_copy", "pack", "unpack", "arrange", "stream", "step", "register")


def versions_of_the_page():
    """Whether the compilers here are those that the page's table is of."""
    from importlib.metadata import version

    text = PAGE.read_text("utf-8")
    named = re.search(r"numba-cuda (\S+) and nvidia-cuda-nvcc-cu12 ([\d.]+\d)", text)
    return named[1] == version("numba-cuda") and named[2] == version("nvidia-cuda-nvcc-cu12")


@pytest.mark.cuda_sim
def test_planted_faults_are_found_by_the_gate():
    need_files("numba_cuda")
    said = json.loads(child("tests/cuda/cuda_planted.py", limit=600, NUMBA_ENABLE_CUDASIM="0").splitlines()[-1])
    for fault, finding in {
        "in_float64": "times float64 in a float32 kernel",
        "approximate": "not exact: ",
        "contracted": "operations that may be contracted",
        "in_local_memory": "bytes of local memory",
    }.items():
        assert any(finding in sentence for sentence in said[fault]), said
    assert any("shared" in sentence for sentence in said["too_much_shared"] + said["figures"])
    assert any("more than a multiprocessor has" in sentence for sentence in said["figures"])
    assert any("spilled" in sentence for sentence in said["figures"])


# ---------------------------------------------------------------- the planner


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_size_has_a_plan(capability):
    seen = set()
    for itemsize in (4, 8):
        for units in range(1, 2049):
            for projected in (False, True):
                for batch, processors in ((1, 40), (3, 132), (257, 16), (4096, 132)):
                    plan = planner.plan(units, projected, itemsize, batch, capability, processors)
                    seen.add(plan.kernel)
                    assert 1 <= plan.threads <= planner.MOST_THREADS <= 1024
                    assert 0 <= plan.shared + plan.static <= planner.SHARED
                    assert plan.rows in planner.TILES[itemsize]
                    rows = -(-batch // plan.rows)
                    if plan.kernel == "register":
                        assert plan.threads == 4 * units and plan.blocks == batch and not projected
                    elif plan.kernel == "stream":
                        assert plan.shared == 2 * units * plan.rows * itemsize and plan.blocks == rows and not projected
                        assert plan.threads % planner.WARP == 0
                    else:
                        assert plan.kernel == "step" and plan.blocks * plan.threads >= rows * units
    assert seen == {"register", "stream", "step"}


def test_what_the_planner_prefers():
    assert planner.plan(64, False, 4, 8, (8, 0), 108).kernel == "register"
    assert planner.plan(65, False, 4, 8, (8, 0), 108).kernel == "stream"
    assert planner.plan(1024, False, 4, 1, (8, 0), 108).kernel == "step"
    assert planner.plan(64, True, 4, 8, (8, 0), 108).kernel == "step"
    assert planner.plan(128, False, 4, 400, (8, 0), 108).rows == 4
    assert planner.plan(5000, False, 8, 3, (8, 0), 108).kernel == "step"
    with pytest.raises(RuntimeError, match=r"compute capability 3\.5"):
        planner.plan(4, False, 4, 1, (3, 5), 10)


# ---------------------------------------------------------------- without a GPU


MISSING = {
    "extra": (
        {"_extra": lambda: None},
        r"needs the package numba-cuda.*pip install 'numba-cuda\[cu12\]>=0\.30,<0\.31'",
    ),
    "driver": (
        {"_extra": lambda: "numba-cuda 0.30.4", "_driver": lambda: (None, None)},
        r"Found no NVIDIA driver on your system\..*sudo ubuntu-drivers install",
    ),
    "device": (
        {
            "_extra": lambda: "numba-cuda 0.30.4",
            "_driver": lambda: ("CUDA 12.9", object()),
            "_device": lambda library: (None, "its status is 100"),
        },
        r"No CUDA GPUs are available.*status is 100.*CUDA_VISIBLE_DEVICES is '3'.*unset CUDA_VISIBLE_DEVICES",
    ),
}


@pytest.mark.parametrize("what", MISSING)
def test_one_error_says_which_is_missing(what, monkeypatch):
    stand_ins, says = MISSING[what]
    for name, function in stand_ins.items():
        monkeypatch.setattr(presence, name, function)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    net = numlstm.LSTM(2, 3, seed=0)
    before = net.weight_ih_l0
    for call in (
        lambda: numlstm.LSTM(2, 3, device="cuda"),
        net.cuda,
        lambda: net.to("cuda:0", "float64"),
        lambda: net.to(0),
    ):
        with pytest.raises(RuntimeError, match="(?s)" + says):
            call()
    assert net.device == "cpu" and net.dtype == "float32" and (net.weight_ih_l0 == before).all()
    told = CliRunner().invoke(cli.main, ["info"]).output
    assert re.search(says, told), told
    (line,) = (line for line in told.splitlines() if line.startswith("CUDA"))
    assert line.startswith("CUDA             none: ")


def test_a_library_that_is_no_driver_is_none(monkeypatch):
    monkeypatch.setattr(presence, "DRIVERS", ("no-such-driver.so",))
    assert presence._driver() == (None, None)


CPU_ALONE = """
import sys, numlstm
numlstm.LSTM(2, 3)([[0.0, 1.0]])
try:
    numlstm.LSTM(2, 3, device="cuda")
except RuntimeError as error:
    assert str(error).partition(chr(10))[0]
print(sorted(name for name in sys.modules if name.startswith(("numba", "numlstm.cuda.", "llvmlite", "cuda."))))
"""


def test_nothing_of_cuda_is_imported_on_the_cpu(monkeypatch):
    """Nor by the error that says what is missing."""
    if presence.look().missing is None:
        pytest.skip("there is a GPU, so that no error is raised")
    loaded = child("-c", CPU_ALONE.replace("numlstm.LSTM(2, 3)([[0.0, 1.0]])", "numlstm.LSTM(2, 3)"), limit=120)
    assert ast.literal_eval(loaded) == ["numlstm.cuda.presence"]
    shown = "print(sorted(n for n in sys.modules if 'cuda' in n))"
    first = CPU_ALONE.partition("try:")[0] + shown
    bare = child("-c", f"import sys; {shown}", limit=120)  # what the extra's own .pth files import at every start
    assert child("-c", first, limit=120) == bare
