"""Applications that PyInstaller makes: the kernels of a wheel come along, and Numba does not."""

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from needs import leave_out, need, need_files
from shipping import NUMBERS, RUN, computed

import numlstm
from numlstm.export import targets
from numlstm.wheels import libraries

pytestmark = [pytest.mark.slow, pytest.mark.system]
ROOT = Path(__file__).parents[2]
LENT = (
    "numpy",
    "safetensors",
    "click",
    "packaging",
    "setuptools",
    "altgraph",
    "pyinstaller",
    "pyinstaller-hooks-contrib",
)
MOST_BYTES = 100e6


def run(*command, cwd, **environment):
    """The command's output; no checkout on Python's path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment that has PyInstaller and the wheel of numlstm, and no Numba."""
    need_files("PyInstaller")
    need("hatchling")
    if sys.platform != "linux" or libraries.linker(targets.find("host")) is None:
        leave_out("kernels are shipped for Linux, and linked by a linker")
    folder = tmp_path_factory.mktemp("pyinstaller")
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    for name in LENT:
        files = importlib.metadata.files(name)
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(importlib.metadata.distribution(name).locate_file(top))
    python = folder / "env" / "bin" / "python"
    dist = Path(os.environ.get("NUMLSTM_DIST") or folder)  # CI's wheel, or one for this test
    if dist == folder:
        options = ("--no-build-isolation", "--no-deps", "-w", folder)
        run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=ROOT, NUMLSTM_BUILD_LEVELS="native")
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return python


def said(python, folder, *options):
    """What an application in one file says when it is started with no environment at all."""
    code = RUN.replace("HIDDEN", "()").replace("NUMBERS", repr(NUMBERS))
    (folder / "app.py").write_text(code)
    run(
        python,
        "-m",
        "PyInstaller",
        "--onefile",
        "-y",
        *options,
        "app.py",
        cwd=folder,
        PYINSTALLER_CONFIG_DIR=str(folder),
    )
    app = folder / "dist" / "app"
    done = subprocess.run([app], env={}, cwd=folder / "dist", capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"bytes": app.stat().st_size}


@pytest.mark.parametrize(
    "options",
    [(), ("--collect-data", "numlstm", "--collect-binaries", "numlstm")],
    ids=["default", "collect"],
)
def test_an_application_has_the_kernels_of_the_wheel(python, tmp_path, options):
    app = said(python, tmp_path, *options)
    assert app["error"] is None and app["told"] == []
    assert all(origin.startswith("shipped: ") for origin in app["origins"].values())
    assert app["bits"] == computed(Path(numlstm.__file__).parent)["bits"]
    assert app["bytes"] < MOST_BYTES


def test_without_the_hook_it_would_have_none(python, tmp_path):
    """The fault that the hook is there for."""
    (entries,) = python.parents[1].glob("lib/python*/site-packages/numlstm-*.dist-info/entry_points.txt")
    hidden = entries.rename(entries.with_suffix(".hidden"))
    try:
        assert "numlstm has no float32 kernels for this CPU" in said(python, tmp_path)["error"]
    finally:
        hidden.rename(entries)
