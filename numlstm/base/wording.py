"""Values and counts as messages show them."""

import reprlib


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    Examples
    --------
    >>> counted(1, "part"), counted(2, "part"), counted(0, "axis", "axes")
    ('1 part', '2 parts', '0 axes')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def shown(value: object) -> str:
    """The repr of a value on one line, shortened."""
    return " ".join(reprlib.repr(value).split())
