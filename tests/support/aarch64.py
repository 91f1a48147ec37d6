"""Python for aarch64, which qemu runs on this machine, in a folder of the checkout. Nothing of it is installed here."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from embedded import tool
from needs import leave_out

FOLDER = Path(__file__).parents[2] / ".aarch64"  # kept between runs; 200 MB
APT = """
Dir::State "{0}/state";
Dir::State::status "{0}/status";
Dir::Cache "{0}/cache";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "0";
Debug::NoLocking "1";
"""
DEBIAN = ["python3", "libstdc++6"]
PYPI = ["numpy", "safetensors", "click", "pytest", "pytest-xdist", "hypothesis"]


def done(*command: object, **environment: str) -> str:
    """What a program printed; it must succeed."""
    line = [str(part) for part in command]
    ran = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, f"{' '.join(line)}\n{ran.stdout[-4000:]}\n{ran.stderr[-2000:]}"
    return ran.stdout


def python() -> Path:
    """A command that runs Python for aarch64, with NumPy, safetensors, click and pytest; made once."""
    qemu, command = tool("qemu-aarch64", "qemu-aarch64-static"), FOLDER / "python"
    if command.exists():
        return command
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        leave_out("needs apt-get, for Debian's Python for arm64")
    shutil.rmtree(FOLDER, ignore_errors=True)
    root, site = FOLDER / "root", FOLDER / "site"
    _debian(root)
    (interpreter,) = (path for path in (root / "usr/bin").glob("python3.*") if path.name.count(".") == 1)
    wheels = ["--only-binary", ":all:", "--python-version", interpreter.name.removeprefix("python")]
    for platform in ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64"):
        wheels += ["--platform", platform]
    done(sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", site, *wheels, *PYPI)
    # the kernel does not start programs of another CPU: subprocesses of Python's begin with this command too
    (site / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(command)!r}\n")
    draft = FOLDER / "draft"
    draft.write_text(
        f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" PYTHONHOME={root}/usr exec {qemu} -L {root} {interpreter} "$@"\n'
    )
    draft.chmod(draft.stat().st_mode | stat.S_IXUSR)
    return draft.rename(command)  # last: whatever was interrupted is made again


def _debian(root: Path) -> None:
    """Unpack Debian's packages for arm64, which apt fetches as on a machine of its own that has none yet."""
    apt = FOLDER / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    config = apt / "apt.conf"
    config.write_text(APT.format(apt))
    done("apt-get", "update", "-qq", APT_CONFIG=str(config))
    done("apt-get", "install", "-qq", "-y", "--download-only", *DEBIAN, APT_CONFIG=str(config))
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        done("dpkg-deb", "-x", package, root)
    shutil.rmtree(apt)
