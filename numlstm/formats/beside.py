"""Files beside a model that it refers to: in its folder, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from numlstm.base import opening


def size_below(folder: Path, location: str, said: str) -> int:
    """The size of a file, which must be below the folder; `said` begins the message of a ValueError."""
    parts = location.replace("\\", "/").split("/")
    path = folder / location
    if not parts[0] or ".." in parts or ":" in parts[0] or "\0" in location:
        raise ValueError(f"{said}, which is no path below the model's folder; no other file is opened")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{said}, a link out of the model's folder; put the file itself there")
    try:
        with opening.regular(path, "a file of numbers") as file:
            return opening.size(file)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{said}, which cannot be read ({reason}); it belongs beside the model") from None
