"""Write a static library: an archive as ``ar`` and ``ranlib`` make it, in GNU's format or that of BSD and macOS.

``ar(5)`` describes both: sixty bytes of text before each member, and the symbols for the linker as the first member.
There are no dates and no owners, so that the same objects make the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

MAGIC = b"!<arch>\n"


def archive(objects: Mapping[str, tuple[bytes, Sequence[str]]], bsd: bool) -> bytes:
    """The archive of these objects.

    Parameters
    ----------
    objects : mapping of str to (bytes, sequence of str)
        By name, of at most 15 characters: the object, and the symbols that it exports.
    bsd : bool
        Whether the archive is for macOS.

    Returns
    -------
    bytes
    """
    symbols = [(symbol, name) for name, (_, defined) in objects.items() for symbol in defined]
    if bsd:
        symbols.sort()
    table = _table(symbols, dict.fromkeys(objects, 0), bsd)
    places, at = {}, len(MAGIC) + len(table)
    members = []
    for name, (code, _) in objects.items():
        places[name] = at
        members.append(_member(f"{name}/" if not bsd else name, code, bsd))
        at += len(members[-1])
    return b"".join([MAGIC, _table(symbols, places, bsd), *members])


def _table(symbols: Sequence[tuple[str, str]], places: Mapping[str, int], bsd: bool) -> bytes:
    """The member that lists symbols and where their members begin."""
    names = b"".join(symbol.encode() + b"\0" for symbol, _ in symbols)
    if not bsd:
        offsets = [places[member] for _, member in symbols]
        return _member("/", struct.pack(f">{len(symbols) + 1}I", len(symbols), *offsets) + names, bsd)
    entries, at = [], 0
    for symbol, member in symbols:
        entries += [at, places[member]]
        at += len(symbol) + 1
    names += b"\0" * (-len(names) % 8)
    content = struct.pack(f"<I{len(entries)}II", 4 * len(entries), *entries, len(names)) + names
    return _member("__.SYMDEF SORTED", content, bsd)


def _member(name: str, content: bytes, bsd: bool) -> bytes:
    """A member with its header. On macOS the name precedes the content, which begins at a multiple of eight."""
    before = b""
    if bsd:
        before = name.encode().ljust(20, b"\0")  # 60 + 20 bytes
        name = f"#1/{len(before)}"
        content += b"\0" * (-len(content) % 8)
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(before) + len(content):<10}`\n".encode()
    padding = b"\n" * (len(content) % 2)
    return header + before + content + padding
