"""Numbers in decimal notation, read as strictly as other programs read them.

Python's int() and float() also accept ``1_0``, digits of other scripts and surrounding spaces. Another reader of the
same file would see a different number there, or none.
"""

from __future__ import annotations

import re

WHOLE = re.compile(r"[+-]?[0-9]{1,200}")  # no format has a longer integer


def whole(text: str) -> int:
    """Parse an integer.

    Raises
    ------
    ValueError
        The text is not one.

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
    """Parse a number as float() does, but without underscores and digits of other scripts.

    Raises
    ------
    ValueError
        The text is not one.

    Examples
    --------
    >>> decimal(" 1.5e3")
    1500.0
    """
    if "_" in text or not text.isascii():
        raise ValueError(f"{text[:40]!r} is no number")
    return float(text)
