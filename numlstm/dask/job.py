"""``numlstm run`` over Parquet files: a job that workers share, and that can be resumed.

A part is computed again if it is missing or damaged, or if an input has changed that it depends on: with `whole` one
file, otherwise all files, because rows are shuffled.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import dask
import dask.dataframe as dd
from dask.diagnostics import ProgressBar

from numlstm import files
from numlstm.base import atomic
from numlstm.base.log import watched
from numlstm.base.wording import counted
from numlstm.dask import inputs, parts
from numlstm.dask.frames import Per, forward_frame, frame_piece, per_of
from numlstm.dask.inputs import Input, Wanted
from numlstm.dask.model import check_model, sent
from numlstm.models.loading import whole_model
from numlstm.runtime.cores import usable_cores

MANIFEST = "_job.json"  # readers of a folder of Parquet files skip names that begin with _
CHECKSUM = "sha256"  # of the manifest's other entries
SHOWN = 5  # most files that a message names
TIMEOUT = 30  # seconds to wait for the scheduler

T = TypeVar("T")
Compute = Callable[[list[Any]], list[Any]]  # tasks to their results
Json = dict[str, Any]
Cut = tuple[Input, range]  # a file and its row groups
Target = tuple[str, str]  # a part's path and its source


def run(  # noqa: PLR0913 (the options of a job)
    model: Path,
    pattern: str,
    out: Path,
    *,
    scheduler: str,
    group: str,
    order: str,
    features: Sequence[str] | None = None,
    per: Per | None = None,
    whole: bool = False,
    name: str | None = None,
    hidden: bool = False,
    echo: Callable[[str], None] = print,
) -> None:
    """Run the model or the LSTM of a file over the sequences in Parquet files, and write Parquet files.

    Parameters
    ----------
    model : path
        As for `numlstm.load_model`, or of weights alone for `numlstm.load`.
    pattern : str
        A file, a folder of ``.parquet`` files, or a pattern with ``*``. Workers read the same paths.
    out : path
        A folder for ``part-00000.parquet`` and so on, written by the workers, each whole or not at all. Intact parts
        of the same job are kept.
    scheduler : str
        The address of a Dask scheduler, or "local": one thread a core in this process, without a port.
    group, order, features, per, whole, name, echo
        As for `forward_frame`; `name` as for `numlstm.load`; a function that prints a line.
    hidden : bool
        Of a whole model run the LSTM alone, as with a `name`.

    Raises
    ------
    OSError, RuntimeError
        A file cannot be read or written, no scheduler answers, another run is at work in `out`, or a task fails.
    ValueError
        There is no input, or a damaged one (named with its row group); or `out` holds parts of another job. Also as
        `forward_frame` raises it.
    """
    paths = _inputs(pattern, out)
    described = None if hidden or name is not None else whole_model(model)
    lstm = files.as_lstm(files.load(model, name)) if described is None else described
    check_model(lstm)
    per = per_of(lstm, per)
    wanted = inputs.wanted(lstm, paths[0], group, order, features)
    arranged: Json = {"group": group, "order": order, "per": per}
    job = _facts(model, name, arranged, features, whole) | ({"hidden": True} if hidden else {})
    _check_manifest(out, job)
    with _computing(scheduler) as compute:
        given = compute([dask.delayed(inputs.inspected)(path, wanted) for path in paths])
        _check_readable(given)
        cut = [(one, range(len(one.groups))) for one in given] if whole else list(inputs.pieces(given))
        sources = _sources(job, wanted, given, whole, len(cut))
        atomic.folder(out)
        with _locked(out):
            found = _found(out, compute)
            _prepare(out, job, given, sources, found, echo)
            missing = [n for n, source in enumerate(sources) if found.get(n) != source]
            targets = [(str(out.absolute() / parts.name(n)), sources[n]) for n in missing]
            make = _whole_tasks if whole else _shuffled_tasks
            if missing:
                compute(make(lstm, cut, wanted, arranged, missing, targets))
    echo(f"{out}: {counted(len(sources), 'part')}, a row for each {per}")


def _facts(model: Path, name: str | None, arranged: Json, features: Sequence[str] | None, whole: bool) -> Json:
    """What tells a job from another one, besides its input."""
    return {
        "numlstm": version("numlstm"),
        "model": hashlib.sha256(model.read_bytes()).hexdigest(),
        "name": name,
        **arranged,
        "features": None if features is None else list(features),
        "whole": whole,
    }


def _inputs(pattern: str, out: Path) -> list[str]:
    """Absolute paths of the files that match a pattern."""
    shown = pattern
    if Path(pattern).is_dir():
        pattern = str(Path(glob.escape(pattern)) / "*.parquet")
    found = sorted(str(Path(path).absolute()) for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
    if not found:
        raise ValueError(f"{shown}: there is no such file\nINPUT is a Parquet file, a folder of them, or a pattern.")
    if any(Path(path).resolve().parent == out.resolve() for path in found):
        raise ValueError(f"{shown} takes in files of {out}, where the results go: name another folder or pattern")
    return found


def _check_readable(given: list[Input]) -> None:
    broken = [f"{one.path}: {one.fault}" for one in given if one.fault]
    if broken:
        more = f"\n{counted(len(broken) - SHOWN, 'more file')} cannot be read." if len(broken) > SHOWN else ""
        raise ValueError("\n".join(broken[:SHOWN]) + more)


def _sources(job: Json, wanted: Wanted, given: list[Input], whole: bool, many: int) -> list[str]:
    """For each part a digest of the job and the inputs that it depends on."""
    known = [[one.size, one.sha256] for one in given]
    job = job | {"keys": [str(field) for field in wanted.keys], "features": wanted.features}
    # which rows meet in a shuffled part depends on Dask and pandas
    everything = _digest([known, many, version("dask"), version("pandas")])
    return [_digest([job, known[n] if whole else [everything, n]]) for n in range(many)]


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _found(out: Path, compute: Compute) -> dict[int, str | None]:
    """Numbers of existing parts, and the source of each: None if damaged."""
    there = {int(match[1]): path for path in out.iterdir() if (match := parts.NAME.fullmatch(path.name))}
    sources = compute([dask.delayed(parts.source)(str(path.absolute())) for path in there.values()])
    return dict(zip(there, sources, strict=True))


def _prepare(
    out: Path,
    job: Json,
    given: list[Input],
    sources: list[str],
    found: dict[int, str | None],
    echo: Callable[[str], None],
) -> None:
    """Write this job's manifest and remove parts that are not its own; or raise, and change nothing."""
    manifest = out / MANIFEST
    before = _read_manifest(out) if manifest.exists() else None
    wrong = {n: source for n, source in found.items() if n >= len(sources) or source != sources[n]}
    left = [path for path in out.iterdir() if _is_left(path.name)]
    if before is not None:
        _check_same(out, before, job)
        _check_shared(out, before["input"], given)
    elif manifest.exists() and found:
        raise ValueError(
            f"{manifest} is damaged, so that nothing shows whose parts these are: name another folder\n"
            "Or remove this file: the job goes on if all parts are its own."
        )
    elif wrong or len(left) + len(found) + manifest.exists() < len(list(out.iterdir())):
        raise ValueError(f"{out} is not empty, and no job began there: name another folder")
    if good := len(found) - len(wrong):
        echo(f"{out}: {good} of {counted(len(sources), 'part')} {'is' if good == 1 else 'are'} there already")
    for why, some in (
        ("damaged", [n for n, source in wrong.items() if source is None]),
        ("of an input that has changed", [n for n, source in wrong.items() if source is not None]),
    ):
        if some:
            names = ", ".join(parts.name(n) for n in sorted(some)[:SHOWN]) + (", ..." if len(some) > SHOWN else "")
            echo(f"{out}: {why}, and computed again: {names}")
    for path in (*left, *(out / parts.name(n) for n in wrong)):
        path.unlink()  # before new parts are written, so that the folder never mixes inputs
    note = job | {"input": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in given]}
    if before != note:
        with atomic.replacing(manifest) as file:
            file.write(json.dumps(note | {CHECKSUM: _digest(note)}, indent=1).encode())
    atomic.sync_folder(out)


def _is_left(name: str) -> bool:
    """Whether this is a temporary file of a job that was killed."""
    return atomic.is_temporary(name, MANIFEST) or re.match(r"\.part-\d{5,}\.parquet\..*\.part", name) is not None


def _read_manifest(out: Path) -> Json | None:
    """The manifest in a folder, or None if it is damaged."""
    try:
        note: Json = json.loads((out / MANIFEST).read_bytes())
        if note.pop(CHECKSUM) == _digest(note):
            return note
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _check_manifest(out: Path, job: Json) -> None:
    """Raise before long work if the folder has another job's manifest; of a damaged one, `_prepare` decides."""
    if (out / MANIFEST).exists():
        _check_same(out, _read_manifest(out) or job, job)


def _check_same(out: Path, before: Json, job: Json) -> None:
    changed = sorted(key for key in job.keys() | before.keys() - {"input"} if before.get(key) != job.get(key))
    if changed:
        raise _another(out, changed)


def _check_shared(out: Path, before: list[Json], given: list[Input]) -> None:
    """Raise if no file has the same path or content as before: this is another input, not a corrected or larger one."""
    known = {one[key] for one in before for key in ("path", "sha256")}
    if known.isdisjoint([fact for one in given for fact in (one.path, one.sha256)]):
        raise _another(out, ["input"])


def _another(out: Path, changed: list[str]) -> ValueError:
    return ValueError(
        f"{out} holds parts of another job, with another {', '.join(changed)}\n"
        "Name another folder, or remove this one to begin again."
    )


def _whole_tasks(
    lstm: Any, cut: list[Cut], wanted: Wanted, arranged: Json, missing: list[int], targets: list[Target]
) -> list[Any]:
    """Tasks that write a part for each file, whose sequences are complete."""
    shared = (wanted, sent(lstm), arranged)
    return [dask.delayed(_write_file)(*cut[n], *shared, *into) for n, into in zip(missing, targets, strict=True)]


def _write_file(given: Input, groups: range, wanted: Wanted, lstm: Any, arranged: Json, path: str, source: str) -> None:
    frame = inputs.read(given, groups, wanted)
    try:
        piece = frame_piece(frame, lstm, features=list(wanted.features), **arranged)
    except ValueError as error:
        raise ValueError(f"{given.path}: {error}") from error
    parts.write(piece, path, source)


def _shuffled_tasks(
    lstm: Any, cut: list[Cut], wanted: Wanted, arranged: Json, missing: list[int], targets: list[Target]
) -> list[Any]:
    """Tasks that write the missing parts of all rows, shuffled so that each sequence is in one part."""
    given, groups = zip(*cut, strict=True)
    frame = dd.from_map(inputs.read, given, groups, wanted=wanted, meta=wanted.empty())
    results = forward_frame(lstm, frame, features=list(wanted.features), **arranged)
    pieces = results.partitions[missing].to_delayed()
    return [dask.delayed(parts.write)(piece, *into) for piece, into in zip(pieces, targets, strict=True)]


@contextmanager
def _computing(scheduler: str) -> Iterator[Compute]:
    """A function that computes tasks. Within the context, frames are shuffled by the scheduler's own method."""
    if scheduler == "local":
        with (
            tempfile.TemporaryDirectory(prefix="numlstm-") as folder,
            ThreadPoolExecutor(usable_cores()) as pool,
            dask.config.set({"temporary_directory": folder, "dataframe.shuffle.method": "disk"}),
            ProgressBar(minimum=1, out=sys.stderr) if watched() else nullcontext(),
        ):
            yield lambda tasks: list(_with_readable_error(lambda: dask.compute(*tasks, scheduler="threads", pool=pool)))
        return
    from distributed import Client, progress

    with Client(scheduler, timeout=TIMEOUT) as client:

        def compute(tasks: list[Any]) -> list[Any]:
            futures = client.compute(tasks)
            if watched():
                progress(futures, notebook=False)
            return [_with_readable_error(future.result) for future in futures]

        yield compute


def _with_readable_error(result: Callable[[], T]) -> T:
    """A result, or its task's error as one whose message is a sentence."""
    try:
        return result()
    except (OSError, RuntimeError, TypeError, ValueError, MemoryError):
        raise
    except Exception as error:  # of Dask or pandas, such as a killed worker
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raise if another run is at work in the folder. The system releases the lock if the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RuntimeError(f"another run is at work in {folder}: wait until it has ended") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)
