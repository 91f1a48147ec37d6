"""The Parquet files that a job reads. Each is looked at before the job begins; an error in one names it.

An input is known by its size and checksum, so that a job which goes on sees what has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from numlstm.dask.frames import chosen_columns
from numlstm.lstm import LSTM

PIECE = 256 << 20  # bytes of a file that are read at a time where rows are shuffled, if its row groups allow


@dataclass(frozen=True)
class Input:
    """A file, as it was looked at.

    Attributes
    ----------
    path : str
    size : int
        In bytes.
    sha256 : str
    modified : int
        When, in nanoseconds: whether it is still the same file when it is read.
    groups : tuple of int
        Bytes of each row group.
    fault : str
        Why it cannot be read; empty if it can.
    """

    path: str
    size: int
    sha256: str
    modified: int
    groups: tuple[int, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is read of every file: the keys, of the types that they have in the first one, and the features.

    Attributes
    ----------
    keys : pyarrow.Schema
        The columns of sequence and step.
    features : tuple of str
    dtype : str
        Of the LSTM.
    """

    keys: pa.Schema
    features: tuple[str, ...]
    dtype: str

    @property
    def names(self) -> list[str]:
        """All columns."""
        return [*self.keys.names, *self.features]

    def empty(self) -> pd.DataFrame:
        """What `read` gives for no rows."""
        fields = [*self.keys, *(pa.field(name, pa.from_numpy_dtype(np.dtype(self.dtype))) for name in self.features)]
        frame: pd.DataFrame = pa.schema(fields).empty_table().to_pandas(ignore_metadata=True)
        return frame


def wanted(lstm: LSTM, path: str, group: str, order: str, features: Sequence[str] | None) -> Wanted:
    """What is read of every file, by the columns of the first one.

    An index that pandas has written is a feature only if it is named as one.

    Raises
    ------
    ValueError, TypeError
        It is no sound Parquet file; and as for `forward_frame`.
    """
    with open(path, "rb") as file, _naming(path):
        schema = pq.read_schema(file)
        index = (schema.pandas_metadata or {}).get("index_columns", [])
    dtypes = schema.empty_table().to_pandas(ignore_metadata=True).dtypes
    named = [group, order, *(features or ())]
    dtypes = dtypes[[name in named or name not in index for name in dtypes.index]]
    chosen = chosen_columns(lstm, dtypes, group, order, features)
    return Wanted(pa.schema([schema.field(name) for name in (group, order)]), tuple(chosen), lstm.dtype.name)


def looked_at(path: str, wanted: Wanted) -> Input:
    """Look at a file, on a worker: all of its bytes for the checksum, and whether it has the columns."""
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        known = (path, facts.st_size, hashlib.file_digest(file, "sha256").hexdigest(), facts.st_mtime_ns)
        try:
            file.seek(0)
            metadata = pq.read_metadata(file)
            _check_columns(metadata.schema.to_arrow_schema(), wanted)
        except (pa.ArrowException, OSError, ValueError) as error:
            return Input(*known, fault=str(error))
    return Input(*known, groups=tuple(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)))


def pieces(given: Sequence[Input]) -> Iterator[tuple[Input, range]]:
    """Runs of row groups, in the order of files, of no more than `PIECE` bytes unless a single one has more."""
    for one in given:
        begin, total = 0, 0
        for n, size in enumerate(one.groups):
            if n > begin and total + size > PIECE:
                yield one, range(begin, n)
                begin, total = n, 0
            total += size
        yield one, range(begin, len(one.groups))


def read(given: Input, groups: Sequence[int], wanted: Wanted) -> pd.DataFrame:
    """The wanted columns of some row groups, on a worker: features in the LSTM's dtype.

    Raises
    ------
    ValueError
        A row group cannot be read, lacks a key, or holds keys that are not of the first file's type; or the file has
        changed since it was looked at. The message begins with the path, and the row group where there is one.
    """
    frames = [wanted.empty()]
    with open(given.path, "rb") as file:
        facts = os.fstat(file.fileno())
        with _naming(given.path):
            if (facts.st_size, facts.st_mtime_ns) != (given.size, given.modified):
                raise ValueError("it was changed while the job ran; run the same command again")
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
        for n in groups:
            with _naming(f"{given.path}, row group {n}"):
                frames.append(_frame(parquet.read_row_group(n, wanted.names, use_threads=False), wanted))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def _frame(table: pa.Table, wanted: Wanted) -> pd.DataFrame:
    table = table.select(wanted.names)
    for at, field in enumerate(wanted.keys):
        if table.schema.field(at).type != field.type:
            table = table.set_column(at, field, table.column(at).cast(field.type))
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    for name in wanted.keys.names:
        if lacking := int(frame[name].isna().sum()):
            raise ValueError(f"the column {name!r} lacks a value in {lacking} row{'s' if lacking > 1 else ''}")
    with np.errstate(over="ignore"):  # as in a call, where a number beyond the dtype's range is infinity
        return frame.astype(dict.fromkeys(wanted.features, wanted.dtype))


def _check_columns(found: pa.Schema, wanted: Wanted) -> None:
    for name in wanted.names:
        if (count := found.names.count(name)) != 1:
            fact = f"there is no column {name!r}" if not count else f"there are {count} columns {name!r}"
            raise ValueError(f"{fact}; there are {', '.join(map(repr, found.names))}")
    for name in wanted.features:
        kind = found.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise ValueError(f"the column {name!r} must hold real numbers, not {kind}")


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Let errors of what a file holds begin with the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of pyarrow and pandas, whatever they raise for what is damaged
        raise ValueError(f"{where}: {error}") from error
