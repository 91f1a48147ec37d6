"""Which sources decide a kernel's machine code, and a short name of what they say now."""

from __future__ import annotations

import os
import zlib

from .levels import Level

COMPILERS = {"build", "levels"}  # what else is in loading/ has no part in what the code is
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # that of the kernels


def listed(folder: str) -> list[str]:
    """The names in a folder of this package, which may stand in a zip archive that Python imports from."""
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
    """The content of a file of this package, which may stand in such an archive."""
    content: bytes = __loader__.get_data(path)
    return content


def deciding(folder: str = FOLDER, ending: str = ".py") -> list[str]:
    """The files that decide the machine code, in the order of their names; none where Python has only bytecode."""
    kernels = [name for name in listed(folder) if name.endswith(ending) and name != f"__init__{ending}"]
    if not kernels:
        return []
    loading = listed(os.path.join(folder, "loading"))
    return sorted(kernels + [f"loading/{name}" for name in loading if name.removesuffix(ending) in COMPILERS])


def name(level: Level, folder: str = FOLDER) -> str | None:
    """A name of the sources' content and of a level: other sources have another. None where there are no sources.

    A checksum, not a cryptographic hash, whose library alone would cost a start 3 ms and 4 MB: it is to tell an edited
    kernel, and whoever could forge one could edit the kernels as well.
    """
    names = deciding(folder)
    if not names:
        return None
    sum, length = zlib.crc32(repr(level).encode()), 0
    for file in names:
        content = read(os.path.join(folder, file))
        sum = zlib.crc32(content, zlib.crc32(file.encode(), sum))
        length += len(content)
    return f"{sum:08x}{length:06x}"
