"""Limits on the memory and the steps that reading a file takes; both are linear in the file's size.

Readers charge what they are about to allocate before they allocate it. Beyond the limit a ValueError ends the reading.
"""

from __future__ import annotations

TIMES = 20  # bytes of memory for each byte of the file, as README promises
ALWAYS = 32 << 20  # bytes of memory for any file, besides
HELD = 4  # of TIMES: for the file itself, its numbers and their copy in an LSTM
MARGIN = 8 << 20  # of ALWAYS: for the allocator's overhead
STEPS = 200_000  # of a search, for any file; each takes a microsecond or two
PER_BYTE = 3  # steps for each byte of the file, besides
PACKED = "Trained weights do not compress like that. If it is yours, save it without compression."
SHOWN = 100  # characters of a name in a message; many messages may repeat one name


class Budget:
    """The limits for one file.

    Parameters
    ----------
    size : int
        Bytes of the file, with those of files beside it that hold its numbers.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = (TIMES - HELD) * size + ALWAYS - MARGIN
        self.steps = STEPS + PER_BYTE * size

    def grow(self, size: int) -> None:
        """Add the size of one more file that belongs to it."""
        self.memory += (TIMES - HELD) * size
        self.steps += PER_BYTE * size
        self.size += size

    def hold(self, nbytes: int, what: str, advice: str = "No model is that dense.") -> None:
        """Charge bytes of memory for `what`; ValueError beyond the limit."""
        self.memory -= nbytes
        if self.memory < 0:
            raise ValueError(
                f"{what} would take more memory than {TIMES} times its {self.size} bytes and {ALWAYS >> 20} MB, "
                f"which is the limit\n{advice}"
            )

    def step(self, count: int = 1, what: str = "its parts refer to each other more often") -> None:
        """Charge steps of a search; ValueError beyond the limit."""
        self.steps -= count
        if self.steps < 0:
            raise ValueError(f"{what} than its {self.size} bytes justify; no model does that")


def shown(name: str) -> str:
    """A name for a message; a long one is cut in the middle.

    Examples
    --------
    >>> shown("encoder"), len(shown("encoder" * 1000))
    ('encoder', 100)
    """
    return name if len(name) <= SHOWN else f"{name[: SHOWN - 31]}…{name[-30:]}"
