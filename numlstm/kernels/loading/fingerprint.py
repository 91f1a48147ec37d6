"""The sources that a kernel's machine code depends on, and a short name for their present content."""

from __future__ import annotations

import os
import zlib
from typing import Any

from .levels import Level

__loader__: Any  # that of this module
COMPILERS = {"build", "levels"}  # the rest of loading/ has no influence on the code
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # that of the kernels

TRAINING = "-training"  # ends the name of a kernel whose sources are in training/ too


def listed(folder: str) -> list[str]:
    """The names in a folder of this package, also in a zip archive that Python imports from."""
    try:
        return os.listdir(folder)
    except NotADirectoryError:
        archive = getattr(__loader__, "archive", None)
        if archive is None:
            raise
        from zipfile import ZipFile

        with ZipFile(archive) as file:
            paths = [os.path.join(archive, name) for name in file.namelist()]
        return [os.path.basename(path) for path in paths if os.path.dirname(path) == folder]


def read(path: str) -> bytes:
    """The content of a file of this package, also in such an archive."""
    content: bytes = __loader__.get_data(path)
    return content


def of_training(name: str) -> bool:
    """Whether a kernel of this name is that of training: "float32-training", not "float32"."""
    return name.endswith(TRAINING)


def deciding(folder: str = FOLDER, ending: str = ".py", *, training: bool = False) -> list[str]:
    """The files that the machine code depends on, by name; none where there is only bytecode."""
    initial = f"__init__{ending}"
    kernels = [name for name in listed(folder) if name.endswith(ending) and name != initial]
    if not kernels:
        return []
    compilers = [name for name in listed(os.path.join(folder, "loading")) if name.removesuffix(ending) in COMPILERS]
    kernels += [f"loading/{name}" for name in compilers]
    for below in ("entries", "int8", "training") if training else ("entries", "int8"):
        kernels += [f"{below}/{n}" for n in listed(os.path.join(folder, below)) if n.endswith(ending) and n != initial]
    return sorted(kernels)


def name(level: Level, folder: str = FOLDER, *, training: bool = False) -> str | None:
    """A name for the content of the sources and a level; None where there are no sources.

    A checksum is enough to notice an edited kernel. A cryptographic hash would add 3 ms and 4 MB to a start, and
    whoever could forge the name could edit the kernels as well.
    """
    names = deciding(folder, training=training)
    if not names:
        return None
    sum, length = zlib.crc32(repr(level).encode()), 0
    for file in names:
        content = read(os.path.join(folder, file))
        sum = zlib.crc32(content, zlib.crc32(file.encode(), sum))
        length += len(content)
    return f"{sum:08x}{length:06x}"
