"""Zip archives as data: sizes are checked before anything is unpacked.

An archive may claim sizes that it does not hold, unpack to a thousand times its size (deflate reaches 1,032 to 1), hold
two entries of one name, or entries that lie over one another; the standard library looks at these when an
entry is read, or not at all.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

RATIO = 32  # how much larger than the file everything in it may be; trained weights compress by a tenth
ALWAYS = 1 << 20  # bytes that any archive may unpack to
ENTRIES = 100_000
LOCAL_HEADER = 30  # bytes at least
PIECE = 1 << 20
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)  # as zipfile raises


def open_zip(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """The archive, once its directory is found to be sane.

    Parameters
    ----------
    file : binary file
    size : int
        The file's size in bytes.

    Raises
    ------
    ValueError
        It is no archive that one would make of a model.
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
            raise ValueError(f"its entry {entry.filename!r} states two sizes for the same bytes")
    _apart(entries, size)
    whole = sum(entry.file_size for entry in entries)
    if whole > max(ALWAYS, RATIO * size):
        raise ValueError(
            f"it would unpack to {whole} bytes, {whole / size:.0f} times its own {size}; {RATIO} times is the limit\n"
            "Trained weights do not compress like that. If it is yours, save it without compression."
        )
    return archive


def _apart(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise where the bytes of two entries lie over one another or beyond the end of the file."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise ValueError(f"its entry {entry.filename!r} lies over the one before it")
        end = entry.header_offset + LOCAL_HEADER + entry.compress_size
        if end > size:
            raise ValueError(f"its entry {entry.filename!r} ends beyond the end of the file")


def entry_bytes(archive: zipfile.ZipFile, name: str) -> bytearray:
    """One entry, unpacked, with its checksum checked; never more bytes than its directory states."""
    try:
        entry = archive.getinfo(name)
        data = bytearray(entry.file_size)  # bounded by `open_zip`
        end = 0
        with archive.open(entry) as file:
            while piece := file.read(PIECE):  # in pieces, or the library would hold the entry twice
                data[end : end + len(piece)] = piece
                end += len(piece)
    except KeyError:
        raise ValueError(f"it has no entry {name!r}") from None
    except DAMAGED as error:
        raise ValueError(f"its entry {name!r} is damaged: {error}") from None
    if end != entry.file_size:
        raise ValueError(f"its entry {name!r} holds {end} bytes, not the {entry.file_size} that it states")
    return data
