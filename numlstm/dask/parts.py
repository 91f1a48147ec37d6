"""The parts of a job's output: Parquet files that record their source and their own checksum.

Both are in the file's key-value metadata, which Parquet readers ignore. The checksum covers the whole file, with zeros
in its own place: a part that was cut or changed does not count as done, and no second file must be kept in step.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from numlstm.base import atomic

SOURCE, CHECKSUM = b"numlstm.source", b"numlstm.sha256"  # keys of the metadata
BLANK = b"0" * 64
TRAILER = 8  # bytes at the end of a Parquet file: the footer's size, and a magic number
BLOCK = 1 << 20
NAME = re.compile(r"part-(\d{5,})\.parquet")


def name(number: int) -> str:
    """The file name of a part."""
    return f"part-{number:05}.parquet"


def write(piece: pd.DataFrame, path: str, source: str) -> None:
    """Write a part, on a worker.

    Parameters
    ----------
    piece : pandas.DataFrame
    path : str
        Written whole or not at all.
    source : str
        A digest of the job and its input.
    """
    table = pa.Table.from_pandas(piece, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), SOURCE: source.encode(), CHECKSUM: BLANK}
    content = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), content)
    view = content.getbuffer()
    begin = _footer_begin(bytes(view[-TRAILER:]), len(view))
    at = begin + _place(bytes(view[begin:]), BLANK)
    view[at : at + len(BLANK)] = hashlib.sha256(view).hexdigest().encode()
    with atomic.replacing(path) as file:
        file.write(view)


def source(path: str) -> str | None:
    """The source of a part, or None if the file is not as `write` wrote it.

    Raises
    ------
    OSError
        It cannot be read.
    """
    with open(path, "rb") as file:
        try:
            metadata = pq.read_metadata(file).metadata or {}
            digest = metadata[CHECKSUM]
            if _digest(file, digest) == digest:
                return str(metadata[SOURCE], "utf-8")
        except (pa.ArrowException, OSError, ValueError, KeyError):  # damaged content
            pass
    return None


def _footer_begin(trailer: bytes, size: int) -> int:
    return size - TRAILER - int.from_bytes(trailer[:4], "little")


def _place(footer: bytes, digest: bytes) -> int:
    """The checksum's position in a footer."""
    return footer.index(digest, footer.rindex(CHECKSUM))


def _digest(file: BinaryIO, digest: bytes) -> bytes:
    """The checksum of a part whose footer holds `digest`."""
    size = file.seek(0, io.SEEK_END)
    file.seek(size - TRAILER)
    begin = _footer_begin(file.read(TRAILER), size)
    file.seek(0)
    computed, left = hashlib.sha256(), begin
    while block := file.read(min(left, BLOCK)):
        computed.update(block)
        left -= len(block)
    footer = bytearray(file.read())
    at = _place(bytes(footer), digest)
    footer[at : at + len(BLANK)] = BLANK
    computed.update(footer)
    return computed.hexdigest().encode()
