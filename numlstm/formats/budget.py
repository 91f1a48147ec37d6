"""What reading a file may take, in memory and in steps, so that both are linear in its size.

Whatever is made of a file is charged before it is made. A reader that asks for more than its share stops with a
ValueError, however the file brought it there.
"""

from __future__ import annotations

TIMES = 20  # bytes of memory a byte of the file; the promise in README
ALWAYS = 32 << 20  # and this much for any file
HELD = 4  # of these times, for the file itself, its numbers and the copy that becomes an LSTM
MARGIN = 8 << 20  # and of this much, for what an allocator loses
STEPS = 200_000  # of a search, for any file; one takes a microsecond or two
PER_BYTE = 3  # steps
SHOWN = 100  # letters of a name in a message: many messages may repeat one name


class Budget:
    """The share of one file.

    Parameters
    ----------
    size : int
        Bytes of the file, and of those beside it that hold its numbers.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = (TIMES - HELD) * size + ALWAYS - MARGIN
        self.steps = STEPS + PER_BYTE * size

    def grow(self, size: int) -> None:
        """Count the bytes of one more file."""
        self.memory += (TIMES - HELD) * size
        self.steps += PER_BYTE * size
        self.size += size

    def hold(self, nbytes: int, what: str, advice: str = "No model is that dense.") -> None:
        """Charge memory that `what` takes; ValueError where the file does not justify it."""
        self.memory -= nbytes
        if self.memory < 0:
            raise ValueError(
                f"{what} would take more memory than {TIMES} times its {self.size} bytes and {ALWAYS >> 20} MB, "
                f"which is the limit\n{advice}"
            )

    def step(self, count: int = 1, what: str = "its parts refer to each other more often") -> None:
        """Charge steps of a search; ValueError where the file does not justify them."""
        self.steps -= count
        if self.steps < 0:
            raise ValueError(f"{what} than its {self.size} bytes justify; no model does that")


def shown(name: str) -> str:
    """A name for a message, cut in the middle where it is long.

    Examples
    --------
    >>> shown("encoder"), len(shown("encoder" * 1000))
    ('encoder', 100)
    """
    return name if len(name) <= SHOWN else f"{name[: SHOWN - 31]}…{name[-30:]}"
