"""The wheel: it ships kernels that run without Numba, from a checkout and from the sdist alike."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from needs import leave_out, need
from shipping import NUMBERS, RUN, computed

import numlstm
from numlstm.export import targets
from numlstm.kernels.loading import fingerprint, prebuilt, registry
from numlstm.wheels import libraries

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


def run(*command, cwd, **environment):
    """The command's output; no checkout on Python's path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout + done.stderr


def wheel(source, folder, **environment):
    """Build the wheel of a source tree as pip does; its path, and what was said."""
    need("hatchling")
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", folder, "."]
    said = run(*command, cwd=source, **environment)
    (path,) = folder.glob("*.whl")
    return path, said


@pytest.fixture(scope="module", autouse=True)
def linux():
    if sys.platform != "linux" or registry.level().name not in libraries.SHIPPED["x86_64"]:
        leave_out("only wheels for Linux on x86-64 with AVX2 and FMA ship kernels")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel of this checkout."""
    return wheel(ROOT, tmp_path_factory.mktemp("wheel"))[0]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the sdist of this checkout and the wheel that is made of it: CI's, or one for these tests."""
    if made := os.environ.get("NUMLSTM_DIST"):
        return Path(made)
    folder = tmp_path_factory.mktemp("dist")
    need("hatchling")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    wheel(extracted(folder, tmp_path_factory.mktemp("source")), folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(dist, tmp_path_factory):
    """That sdist, unpacked."""
    return extracted(dist, tmp_path_factory.mktemp("sdist"))


def extracted(dist, folder):
    """The root of the sdist in that folder."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz")


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_holds_the_kernels_of_both_levels_and_says_what_it_is_for(built):
    assert built.name.endswith("-py3-none-manylinux_2_17_x86_64.musllinux_1_1_x86_64.whl")
    held = contents(built)
    shipped = {name: content for name, content in held.items() if name.startswith("numlstm/kernels/shipped/")}
    wanted = {
        (number, level.of(number), fingerprint.name(level.of(number), training=fingerprint.of_training(number)))
        for number in libraries.NUMBERS
        for level in libraries.wanted(targets.find("host"))
    }
    in_order = sorted(wanted, key=lambda parts: prebuilt.file_name(*parts, ""))
    assert set(shipped) == {
        f"numlstm/kernels/shipped/{prebuilt.file_name(*parts, prebuilt.checksum(content))}"
        for parts, content in zip(in_order, (shipped[name] for name in sorted(shipped)), strict=True)
    }
    (tags,) = (held[name].decode() for name in held if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: false" in tags
    assert re.findall("Tag: (.*)", tags) == ["py3-none-manylinux_2_17_x86_64", "py3-none-musllinux_1_1_x86_64"]


def test_it_runs_without_numba_and_gives_the_bits_of_this_checkout(built, tmp_path):
    """In an environment of its own: NumPy, safetensors and click are lent to it, and Numba is not there."""
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    for name in ("numpy", "safetensors", "click"):
        files = importlib.metadata.files(name)
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(importlib.metadata.distribution(name).locate_file(top))
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built, cwd=tmp_path)
    code = RUN.replace("HIDDEN", "()").replace("NUMBERS", repr(NUMBERS))
    said = json.loads(run(python, "-c", code, cwd=tmp_path, NUMLSTM_CACHE_DIR=str(tmp_path / "cache")))
    assert Path(said["where"]).is_relative_to(site)
    assert {number: origin.split(":")[0] for number, origin in said["origins"].items()} == dict.fromkeys(
        NUMBERS, "shipped"
    )
    assert said["error"] is None and said["told"] == []
    assert said["bits"] == computed(Path(numlstm.__file__).parent)["bits"]
    lower = json.loads(run(python, "-c", code, cwd=tmp_path, NUMLSTM_CPU="x86-64-v3"))
    assert all("x86-64-v3" in origin for origin in lower["origins"].values())
    assert lower["bits"] == said["bits"]
    missing = run(python, "-c", "import importlib.util as u; print(u.find_spec('numba'))", cwd=tmp_path)
    assert missing.strip() == "None"
    assert "float32 kernels  shipped: " in run(python, "-m", "numlstm", "info", cwd=tmp_path)


def test_the_sdist_is_whole(unpacked):
    """All that git follows; without git, what tests, docs and benchmarks need."""
    if (ROOT / ".git").exists():
        names = run("git", "ls-files", "-z", "--cached", cwd=ROOT).split("\0")
        names = [name for name in names if name and (ROOT / name).exists()]
    else:
        names = ["hatch_build.py", "README.md", "SECURITY.md", "tests/wheels/test_wheel.py", "benchmarks/forward.py"]
    assert [name for name in names if not (unpacked / name).exists()] == []
    assert not list(unpacked.rglob("*.so"))


def test_the_sdist_builds_the_same_wheel(built, dist):
    """To the byte, kernels included."""
    (again,) = dist.glob("*.whl")
    assert again.name == built.name
    one, other = contents(built), contents(again)
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name] != other[name]] == []


def test_without_a_linker_it_is_pure_and_says_so(unpacked, tmp_path):
    """Nothing on the path but Python itself, and no ziglang, which is a linker too."""
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text('import sys\nsys.modules["ziglang"] = None\n')
    path, said = wheel(unpacked, tmp_path, PATH=str(hiding), PYTHONPATH=str(hiding))
    assert path.name.endswith("-py3-none-any.whl")
    assert "there is no linker" in said
    assert not [name for name in contents(path) if "shipped/" in name]


def test_what_a_build_requires_is_said_by_the_hook():
    """Numba as the package itself requires it, and ziglang only where the system has no linker."""
    need("hatchling")
    code = "from hatchling.build import get_requires_for_build_wheel as wheel; print(wheel())"
    (numba,) = [line for line in importlib.metadata.requires("numlstm") if line.startswith("numba>")]
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == repr([numba])
    assert run(sys.executable, "-c", code, cwd=ROOT, PATH="").strip() == repr([numba, "ziglang>=0.13"])
