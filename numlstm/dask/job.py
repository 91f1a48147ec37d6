"""``numlstm run`` over Parquet files: a job that Dask's workers share, and that goes on where it was stopped."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
from distributed import Client, LocalCluster, progress

from numlstm import atomic, files
from numlstm.dask.frames import Per, forward_frame
from numlstm.log import watched

MANIFEST = "_job.json"  # readers of a folder of Parquet files pass over a name that begins so


def run(
    model: Path,
    pattern: str,
    out: Path,
    *,
    scheduler: str,
    group: str,
    order: str,
    features: Sequence[str] | None = None,
    per: Per = "sequence",
    whole: bool = False,
    name: str | None = None,
    echo: Callable[[str], None] = print,
) -> None:
    """Run the LSTM of a model file over the sequences in Parquet files, and write Parquet files.

    Parameters
    ----------
    model : path
        As for `numlstm.load`.
    pattern : str
        The input: a file, a folder of ``.parquet`` files, or a pattern with ``*``. Workers read them by these paths.
    out : path
        A folder for ``part-00000.parquet`` and so on, written by the workers. Each file appears whole or not at all.
        If it holds parts of the same job, these are not computed again.
    scheduler : str
        The address of a Dask scheduler, or "local" for workers on this machine, as many as suit its cores.
    group, order, features, per, whole
        As for `forward_frame`.
    name : str, optional
        Which LSTM, where the model file holds several.
    echo : callable
        What a line of text is given to.

    Raises
    ------
    OSError
        A file cannot be read or written, or no scheduler answers.
    RuntimeError
        A part cannot be computed for another reason.
    ValueError
        There is no input; or `out` holds parts of another job. And what `forward_frame` raises.
    """
    inputs = _inputs(pattern)
    lstm = files.as_lstm(files.load(model, name))
    frame = dd.read_parquet(inputs)
    results = forward_frame(lstm, frame, group=group, order=order, features=features, per=per, whole=whole)
    atomic.folder(out)
    _same_job(
        out / MANIFEST,
        {
            "numlstm": version("numlstm"),
            "model": hashlib.sha256(model.read_bytes()).hexdigest(),
            "name": name,
            "input": [[path, os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in inputs],
            "group": group,
            "order": order,
            "features": None if features is None else list(features),
            "per": per,
            "whole": whole,
        },
    )
    parts = [out.absolute() / f"part-{n:05}.parquet" for n in range(results.npartitions)]
    missing = [n for n, path in enumerate(parts) if not path.exists()]
    if len(missing) < len(parts):
        echo(f"{out}: {len(parts) - len(missing)} of {len(parts)} parts are there already")
    if missing:
        pieces = results.to_delayed()
        writing = [dask.delayed(write)(pieces[n], str(parts[n])) for n in missing]
        with _client(scheduler) as client:
            futures = client.compute(writing)
            if watched():
                progress(futures, notebook=False)
            for n, future in zip(missing, futures, strict=True):
                try:
                    future.result()
                except (OSError, RuntimeError, TypeError, ValueError):
                    raise
                except Exception as error:  # of Dask or pandas: a file that lacks a column of the first one, say
                    raise RuntimeError(f"{parts[n].name}: {type(error).__name__}: {error}") from error
    rows = "sequence" if per == "sequence" else "step"
    echo(f"{out}: {len(parts)} parts, a row for each {rows}")


def write(piece: Any, path: str) -> None:
    """Write a part, on a worker."""
    content = io.BytesIO()
    piece.to_parquet(content, index=False)
    with atomic.replacing(path) as file:
        file.write(content.getbuffer())


def _inputs(pattern: str) -> list[str]:
    """The files that a pattern stands for, by absolute paths."""
    if Path(pattern).is_dir():
        pattern = str(Path(glob.escape(pattern)) / "*.parquet")
    found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
    if not found:
        raise ValueError(f"{pattern}: there is no such file\nINPUT is a Parquet file, a folder of them, or a pattern.")
    return [str(Path(path).absolute()) for path in found]


def _same_job(manifest: Path, job: dict[str, Any]) -> None:
    """Leave a note of the job in its folder, or hold it against the one that is there."""
    if not manifest.exists():
        if any(manifest.parent.iterdir()):
            raise ValueError(f"{manifest.parent} is not empty, and no job began there: name another folder")
        with atomic.replacing(manifest) as file:
            file.write(json.dumps(job, indent=1).encode())
        return
    try:
        before = json.loads(manifest.read_bytes())
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise ValueError(f"{manifest} is damaged, so that nothing says whose parts these are: name another folder")
    changed = sorted(key for key in before.keys() | job.keys() if before.get(key) != job.get(key))
    if changed:
        raise ValueError(
            f"{manifest.parent} holds parts of another job, with another {', '.join(changed)}\n"
            "Name another folder, or remove this one to begin again."
        )


def _client(scheduler: str) -> Client:
    """A connection that takes its workers with it when it is closed, if they are its own."""
    if scheduler != "local":
        return Client(scheduler, timeout=30)
    # a worker's own account of a failure, a traceback, stays out: the failure itself comes back, and is one line
    return Client(LocalCluster(dashboard_address=None, silence_logs=logging.CRITICAL))
