"""The Parquet files that a job reads. All are inspected before the job begins; errors name the file.

An input is identified by its size and checksum, so that a resumed job notices changes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from numlstm.dask.frames import check_keys, chosen_columns, missing_column
from numlstm.lstm import LSTM
from numlstm.models.batches import Batches

PIECE = 256 << 20  # bytes read at a time for a shuffle; a row group that is larger is read whole


@dataclass(frozen=True)
class Input:
    """A file, as it was inspected.

    Attributes
    ----------
    path : str
    size : int
        In bytes.
    sha256 : str
    modified : int
        Time in nanoseconds, by which a later change is noticed.
    groups : tuple of int
        Bytes of each row group.
    fault : str
        Why it cannot be read, or empty.
    """

    path: str
    size: int
    sha256: str
    modified: int
    groups: tuple[int, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class Wanted:
    """The columns to read from every file: the keys, with their types in the first file, and the features.

    Attributes
    ----------
    keys : pyarrow.Schema
        The columns of sequence and step.
    features : tuple of str
    dtype : str
        Of the LSTM or the model.
    """

    keys: pa.Schema
    features: tuple[str, ...]
    dtype: str

    @property
    def names(self) -> list[str]:
        """All columns."""
        return [*self.keys.names, *self.features]

    def empty(self) -> pd.DataFrame:
        """The result of `read` for no rows."""
        fields = [*self.keys, *(pa.field(name, pa.from_numpy_dtype(np.dtype(self.dtype))) for name in self.features)]
        frame: pd.DataFrame = pa.schema(fields).empty_table().to_pandas(ignore_metadata=True)
        return frame


def wanted(lstm: Any, path: str, group: str, order: str, features: Sequence[str] | None) -> Wanted:
    """The columns to read from every file, by the schema of the first one.

    An index that pandas has written is a feature only if it is named as one.

    Raises
    ------
    ValueError, TypeError
        It is not a valid Parquet file; and as for `forward_frame`.
    """
    with open(path, "rb") as file, _naming(path):
        schema = pq.read_schema(file)
        index = (schema.pandas_metadata or {}).get("index_columns", [])
    dtypes = schema.empty_table().to_pandas(ignore_metadata=True).dtypes
    named = [group, order, *(features or ())]
    dtypes = dtypes[[name in named or name not in index for name in dtypes.index]]
    chosen = chosen_columns(lstm, dtypes, group, order, features)
    dtype = lstm.dtype if isinstance(lstm, LSTM) else Batches(lstm).dtype
    return Wanted(pa.schema([schema.field(name) for name in (group, order)]), tuple(chosen), dtype.name)


def inspected(path: str, wanted: Wanted) -> Input:
    """Inspect a file, on a worker: read all bytes for the checksum, and check the columns."""
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
    """Runs of row groups, in the order of files, of at most `PIECE` bytes each or a single row group."""
    for one in given:
        begin, total = 0, 0
        for n, size in enumerate(one.groups):
            if n > begin and total + size > PIECE:
                yield one, range(begin, n)
                begin, total = n, 0
            total += size
        yield one, range(begin, len(one.groups))


def read(given: Input, groups: Sequence[int], wanted: Wanted) -> pd.DataFrame:
    """Read columns of some row groups, on a worker: features in the LSTM's dtype.

    Raises
    ------
    ValueError
        A row group cannot be read, lacks a key, or has keys of another type than the first file; or the file has
        changed since it was inspected. The message begins with the path and the row group.
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
    check_keys(frame, wanted.keys.names)
    with np.errstate(over="ignore"):  # as in a call, numbers beyond the dtype's range become infinite
        return frame.astype(dict.fromkeys(wanted.features, wanted.dtype))


def _check_columns(found: pa.Schema, wanted: Wanted) -> None:
    for name in wanted.names:
        count = found.names.count(name)
        if count == 0:
            raise missing_column(name, found.names)
        if count > 1:
            raise ValueError(f"there are {count} columns {name!r}")
    for name in wanted.features:
        kind = found.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise ValueError(f"the column {name!r} must hold real numbers, not {kind}")


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Let errors in a file's content begin with its path."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # pyarrow and pandas raise many types for damaged files
        raise ValueError(f"{where}: {error}") from error
