"""Numbers written out in a file, in the digits that every program writes and reads.

Python's int() and float() take more: ``1_0``, the digits of other scripts, spaces around. Another reader of the same
file would see another number there, or none.
"""

from __future__ import annotations

import re

WHOLE = re.compile(r"[+-]?[0-9]{1,200}")  # of any integer that a format has


def whole(text: str) -> int:
    """The integer that a text is.

    Raises
    ------
    ValueError
        It is none.

    Examples
    --------
    >>> whole("-12")
    -12
    >>> whole("1_0")
    Traceback (most recent call last):
    ...
    ValueError: '1_0' is no whole number
    """
    if WHOLE.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text)


def decimal(text: str) -> float:
    """The number that a text is, as float() takes it but for underscores and digits of other scripts.

    Raises
    ------
    ValueError
        It is none.

    Examples
    --------
    >>> decimal(" 1.5e3")
    1500.0
    """
    if "_" in text or not text.isascii():
        raise ValueError(f"{text[:40]!r} is no number")
    return float(text)
