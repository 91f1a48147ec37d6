"""What object files and archives say of themselves: format, CPU, symbols defined for others, symbols that are missing.

Read here by the published layouts (ELF gABI, ``mach-o/loader.h`` and ``nlist.h``, PE/COFF, ``ar(5)``), since binutils
knows not all of them.
"""

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    kind: str
    defined: frozenset
    undefined: frozenset


def _text(table, at):
    return table[at : table.index(b"\0", at)].decode()


def _elf(code):
    machine = {62: "x86-64", 183: "aarch64"}[struct.unpack_from("<H", code, 18)[0]]
    start, size, count = struct.unpack_from("<Q", code, 40)[0], *struct.unpack_from("<HH", code, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, start + n * size) for n in range(count)]
    defined, undefined = set(), set()
    for section in (s for s in sections if s[1] == 2):  # SHT_SYMTAB
        names = code[sections[section[6]][4] :][: sections[section[6]][5]]
        for at in range(section[4] + 24, section[4] + section[5], 24):
            name, info, _, where = struct.unpack_from("<IBBH", code, at)
            if info >> 4 != 0:  # not local
                (defined if where else undefined).add(_text(names, name))
    return Facts(f"ELF {machine}", frozenset(defined), frozenset(undefined))


def _mach_o(code):
    machine = {0x01000007: "x86-64", 0x0100000C: "aarch64"}[struct.unpack_from("<I", code, 4)[0]]
    at, defined, undefined = 32, set(), set()
    for _ in range(struct.unpack_from("<I", code, 16)[0]):
        command, size = struct.unpack_from("<II", code, at)
        if command == 2:  # LC_SYMTAB
            symbols, count, strings, length = struct.unpack_from("<IIII", code, at + 8)
            names = code[strings : strings + length]
            for n in range(count):
                name, kind = struct.unpack_from("<IB", code, symbols + 16 * n)
                if kind & 1 and not kind & 0xE0:  # external, not for the debugger
                    (defined if kind & 0xE else undefined).add(_text(names, name))
        at += size
    return Facts(f"Mach-O {machine}", frozenset(defined), frozenset(undefined))


def _coff(code):
    machine = {0x8664: "x86-64"}[struct.unpack_from("<H", code, 0)[0]]
    symbols, count = struct.unpack_from("<II", code, 8)
    names, n, defined, undefined = code[symbols + 18 * count :], 0, set(), set()
    while n < count:
        raw, section, _, kind, more = struct.unpack_from("<8s4xhHBB", code, symbols + 18 * n)
        if kind == 2:  # external
            name = _text(names, struct.unpack("<I", raw[4:])[0]) if raw[:4] == bytes(4) else raw.rstrip(b"\0").decode()
            (defined if section else undefined).add(name)
        n += 1 + more
    return Facts(f"COFF {machine}", frozenset(defined), frozenset(undefined))


def facts(code):
    """Of an object file."""
    if code[:4] == b"\x7fELF":
        return _elf(code)
    if code[:4] == b"\xcf\xfa\xed\xfe":
        return _mach_o(code)
    return _coff(code)


def members(archive):
    """Name and content of every member of an archive, and for each symbol of its table which member that is."""
    assert archive[:8] == b"!<arch>\n"
    at, found, places, table, bsd = 8, {}, {}, b"", False
    while at < len(archive):
        header = archive[at : at + 60]
        assert header[58:] == b"`\n"
        name, size = header[:16].decode().rstrip(), int(header[48:58])
        content = archive[at + 60 : at + 60 + size]
        if name.startswith("#1/"):
            bsd = True
            length = int(name[3:])
            name, content = content[:length].rstrip(b"\0").decode(), content[length:]
            assert (at + 60 + length) % 8 == 0, "objects of macOS begin at a multiple of eight"
        if name in ("/", "__.SYMDEF SORTED"):
            table = content
        else:
            found[name.rstrip("/")] = content
            places[at] = name.rstrip("/")
        at += 60 + size + size % 2
    if bsd:
        count = struct.unpack_from("<I", table)[0] // 8
        names = table[8 + 8 * count :]
        pairs = [struct.unpack_from("<II", table, 4 + 8 * n) for n in range(count)]
        symbols = [(_text(names, name), places[where]) for name, where in pairs]
        assert symbols == sorted(symbols)
    else:
        count = struct.unpack_from(">I", table)[0]
        names = table[4 + 4 * count :].split(b"\0")
        symbols = [(names[n].decode(), places[struct.unpack_from(">I", table, 4 + 4 * n)[0]]) for n in range(count)]
    return found, symbols
