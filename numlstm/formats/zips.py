"""Zip archives as data: sizes are checked before anything is unpacked.

An archive can claim sizes that it does not have, unpack to a thousand times its size (deflate reaches 1,032 to 1), hold
two entries of one name, or entries that overlap. The standard library checks this late or not at all.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

from numlstm.formats.budget import PACKED

RATIO = 32  # limit of the unpacked size over the file's; trained weights compress by a tenth
ALWAYS = 1 << 20  # bytes that any archive may unpack to
ENTRIES = 100_000
LOCAL_HEADER = 30  # bytes, without the name
PIECE = 1 << 20
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)  # raised by zipfile


def open_zip(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """Open an archive and check its directory.

    Parameters
    ----------
    file : binary file
    size : int
        The file's size in bytes.

    Raises
    ------
    ValueError
        It is damaged, or no program would write a model like that.
    """
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it begins as a zip archive, but is damaged or cut short: {error}") from None
    entries = archive.infolist()
    if len(entries) > ENTRIES:
        raise ValueError(f"it is a zip archive of {len(entries)} entries; a model has at most {ENTRIES}")
    names = set()
    for entry in entries:
        if entry.filename in names:
            raise ValueError(f"it is a zip archive with two entries named {entry.filename!r}")
        names.add(entry.filename)
        if entry.flag_bits & 1:
            raise ValueError(f"its entry {entry.filename!r} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its entry {entry.filename!r} is compressed by method {entry.compress_type}, not deflate")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise ValueError(f"its entry {entry.filename!r} is stored, but its two sizes differ")
    _apart(entries, size)
    whole = sum(entry.file_size for entry in entries)
    if whole > max(ALWAYS, RATIO * size):
        raise ValueError(
            f"it would unpack to {whole} bytes, {whole / size:.0f} times its {size}; {RATIO} times is the limit\n"
            f"{PACKED}"
        )
    return archive


def _apart(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise ValueError if two entries overlap or one ends beyond the file."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise ValueError(f"its entry {entry.filename!r} overlaps the one before it")
        end = entry.header_offset + LOCAL_HEADER + entry.compress_size
        if end > size:
            raise ValueError(f"its entry {entry.filename!r} ends beyond the end of the file")


def entry_bytes(archive: zipfile.ZipFile, name: str) -> bytearray:
    """Unpack one entry and check its checksum; never more bytes than the directory states."""
    try:
        entry = archive.getinfo(name)
        data = bytearray(entry.file_size)  # bounded by `open_zip`
        end = 0
        with archive.open(entry) as file:
            while piece := file.read(PIECE):  # at once, the library would hold the entry twice
                data[end : end + len(piece)] = piece
                end += len(piece)
    except KeyError:
        raise ValueError(f"it has no entry {name!r}") from None
    except DAMAGED as error:
        raise ValueError(f"its entry {name!r} is damaged: {error}") from None
    if end != entry.file_size:
        raise ValueError(f"its entry {name!r} holds {end} bytes, not the {entry.file_size} that it states")
    return data
