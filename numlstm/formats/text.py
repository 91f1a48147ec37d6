"""Numbers in decimal notation, and JSON.

Numbers are read as strictly as other programs read them. Python's int() and float() also accept ``1_0``, digits of
other scripts and surrounding spaces; another reader of the same file would see a different number there, or none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from numlstm.formats.budget import Budget, shown

WHOLE = re.compile(r"[+-]?[0-9]{1,200}")  # no format has a longer integer

MARKS = {"{": 130, "[": 90, ":": 160, ",": 42, '"': 32}  # bytes of memory for the values that each opens or separates


def parsed_json(text: str, budget: Budget, what: str) -> Any:
    """Parse JSON, once its memory was charged by the marks that open and separate its values.

    Raises
    ------
    ValueError
        It is no JSON, has a key twice, or takes more memory than the size justifies; `what` is the text in words.
    """
    for mark, cost in MARKS.items():
        budget.hold(text.count(mark) * cost, what)
    budget.hold((1 if text.isascii() else 4) * len(text), what)
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError(f"{what} is nested deeper than any model") from None
    except ValueError as error:
        raise ValueError(f"{what} is no sound JSON: {error}") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON with these pairs; ValueError for a key that it has twice, of which readers take either.

    Examples
    --------
    >>> unique([("a", 1), ("b", 2)])
    {'a': 1, 'b': 2}
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the key {shown(twice)!r} twice")
    return found


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
