"""The main loops as the machine sees them: no stack access, enough multiply-adds a load.

Reads the assembly of the very module that is cached and loaded, for every level that is built
by default on x86-64; LLVM emits them on any machine.
"""

import re
from functools import cache

import pytest

from numlstm.kernels.loading.build import assembly, shapes_of
from numlstm.kernels.loading.levels import LEVELS
from numlstm.kernels.plan_layout import FASTCALL, STREAM_ENTRY
from numlstm.kernels.simd import SideBySide
from numlstm.kernels.tile import Shapes

pytestmark = pytest.mark.slow

LEVELS_BUILT = ("x86-64-v3", "x86-64-v4")
NUMBERS = ("float32", "float64")


@cache
def text(number, level, shapes=None):
    return assembly(number, LEVELS[level], shapes)


def main_loops(text, name, wanted="vfmadd"):
    """The instructions of the innermost loops with multiply-adds in the function of that name."""
    function = re.search(rf"^{name}:\n(.*?)^\s*\.size\s+{name},", text, re.DOTALL | re.MULTILINE)
    assert function, f"there is no function {name} in the module"
    # rbp is a general register, unless the function keeps the stack's frame in it
    stack = r"\(%r[sb]p" if re.search(r"movq\s+%rsp, %rbp", function[1]) else r"\(%rsp"
    lines = [line.split("#")[0].strip() for line in function[1].splitlines()]
    labels = {line[:-1]: n for n, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for n, line in enumerate(lines):
        jump = re.match(r"j\w+\s+(\.L\w+)$", line)
        start = labels.get(jump[1], n) if jump else n
        body = [x for x in lines[start:n] if x and not x.startswith(".")]
        backward = [x for x in body if (j := re.match(r"j\w+\s+(\.L\w+)$", x)) and start <= labels.get(j[1], -1) < n]
        if start < n and not backward and any(x.startswith(wanted) for x in body):
            loops.append([x.replace("(%rbp", "(stack") if "b" in stack else x for x in [*body, line]])
    assert loops, f"{name} has no loop with multiply-adds"
    return loops


def touches_stack(loop):
    return [x for x in loop if re.search(r"\((%rsp|stack)", x)]


def loads(loop):
    """Instructions that read memory, a multiply-add with a memory operand among them."""
    return [x for x in loop if "(" in x and not x.startswith(("lea", "prefetch"))]


def multiply_adds(loop):
    return [x for x in loop if x.startswith("vfmadd")]


def arithmetic(text, name):
    """Instructions on registers in a function: all but moves, splats, masks for a part of a register, and divisions."""
    body = re.search(rf"^{name}:\n(.*?)^\s*\.size\s+{name},", text, re.DOTALL | re.MULTILINE)[1]
    names = re.findall(r"^\s+(v\w+)", body, re.MULTILINE)
    found = [x for x in names if not re.match(r"v(mov|maskmov|broadcast|pbroadcast|zeroupper|div|pcmpgtd$)", x)]
    return len(found), sum(x.startswith("vdiv") for x in names)


def check(text, shapes, ratio=1.5):
    tallest = shapes.mr[0]
    names = [f"recur_{rows}x1" for rows in shapes.mr] + [f"project_{rows}" for rows in shapes.mr]
    names += [f"k_blocks_{rows}{kind}" for rows in shapes.mr for kind in ("", "_spread")]
    names += [f"recur_{rows}x1_half" for rows in shapes.row_pairs] + [
        f"project_{rows}_half" for rows in shapes.row_pairs
    ]
    names += [f"recur_1x{blocks}_half" for blocks in shapes.nr]
    names += [f"recur_1x{blocks}" for blocks in shapes.nr] + [f"hidden_{rows}x4" for rows in shapes.mr]
    for name in names:
        loops = main_loops(text, name)
        assert len(loops) >= (2 if name.startswith("recur") else 1), f"{name}: a chain is missing"
        for loop in loops:
            assert not touches_stack(loop), f"{name} spills: {touches_stack(loop)}"
    for name in (f"recur_{tallest}x1", f"k_blocks_{tallest}", f"project_{tallest}", f"hidden_{tallest}x4"):
        for loop in main_loops(text, name):
            found = len(multiply_adds(loop)) / len(loads(loop))
            assert found >= ratio, f"{name}: {found:.2f} multiply-adds a load"


@pytest.mark.parametrize("level", LEVELS_BUILT)
@pytest.mark.parametrize("number", [*NUMBERS, "bfloat16"])
def test_main_loops_stay_in_registers(number, level):
    # each weight of a tall tile is loaded by itself, so that half as many splats are left for a load
    check(text(number, level), shapes_of(number, LEVELS[level]), ratio=1.2 if number == "bfloat16" else 1.5)


# A function, its divisions, and its other instructions for float32. For six rows, or with rows side by side in three
# passes: the sigmoids of two rows, c of four and h of four. For a register of units that is 88, and 100 with AVX2.
EPILOGUE = {"x86-64-v3": ("epilogue_of_rows", 12, 300), "x86-64-v4": ("epilogue_6", 18, 528)}


@pytest.mark.parametrize("level", LEVELS_BUILT)
def test_the_epilogue_grows_by_no_instruction(level):
    """They take as long as 24 terms of a tile's sums, and at small sizes a good part of the time."""
    name, divisions, most = EPILOGUE[level]
    count, found = arithmetic(text("float32", level), name)
    assert found == divisions and count <= most
    longer, _ = arithmetic(text("float64", level), name)  # of a polynomial with six terms more
    assert longer > most


def side_by_side(loop, chains):
    """Whether the multiply-adds of a loop come in rounds, one for each of so many chains."""
    results = [x.split()[-1] for x in multiply_adds(loop)]
    rounds = [results[n : n + chains] for n in range(0, len(results), chains)]
    return all(len(set(results)) == chains for results in rounds)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_chains_of_several_rows_run_side_by_side(number):
    for name in ("epilogue_of_rows", "epilogue_of_blocks"):
        loops = main_loops(text(number, "x86-64-v3"), name)
        assert all(side_by_side(loop, n) for loop, n in zip(loops, (6, 4, 4), strict=True))


def test_the_check_notices_chains_one_after_the_other(monkeypatch):
    """As LLVM emits them without the fence."""
    monkeypatch.setattr(SideBySide, "fence", lambda self, builder, values: values)
    loops = main_loops(assembly("float32", LEVELS["x86-64-v3"]), "epilogue_of_rows")
    assert not any(side_by_side(loop, n) for loop, n in zip(loops, (6, 4, 4), strict=True))


def test_the_check_notices_a_tile_that_does_not_fit():
    """Four rows by four gates are all 16 registers of AVX2: LLVM must spill."""
    too_tall = Shapes(mr=(4, 1), nr=(1,), row_pairs=(1,))
    with pytest.raises(AssertionError, match="spills"):
        check(text("float32", "x86-64-v3", too_tall), too_tall)


# A product's instructions, and how many of the last a load there are in the loop of the tallest tile
INTEGERS = {"x86-64-v3": (("vpsignb", "vpmaddubsw", "vpmaddwd", "vpaddd"), 1.3), "x86-64-v4-vnni": (("vpdpbusd",), 2.3)}


@pytest.mark.parametrize("level", INTEGERS)
def test_sums_of_int8_products_stay_in_registers(level):
    names, ratio = INTEGERS[level]
    code, shapes = text("int8", level), shapes_of("int8", LEVELS[level])
    functions = [f"recur_1x{blocks}" for blocks in shapes.nr] + [f"project_{rows}" for rows in shapes.mr]
    functions += [f"recur_1x{blocks}_half" for blocks in shapes.nr] + [f"hidden_{rows}x4" for rows in shapes.mr]
    for name in functions:
        loops = main_loops(code, name, names[-2 if len(names) > 1 else 0])
        for loop in loops:
            assert not touches_stack(loop), f"{name} spills: {touches_stack(loop)}"
            counts = {each: sum(x.startswith(each) for x in loop) for each in names}
            assert len(set(counts.values())) == 1, f"{name} has other instructions: {counts}"
    (loop,) = main_loops(code, f"project_{shapes.mr[0]}", names[0])
    assert sum(x.startswith(names[0]) for x in loop) / len(loads(loop)) >= ratio


def test_the_check_notices_a_missing_function():
    with pytest.raises(AssertionError, match="no function recur_5x1"):
        check(text("float32", "x86-64-v3"), Shapes(mr=(5, 1), nr=(1,), row_pairs=(1,)))


@pytest.mark.parametrize("level", LEVELS_BUILT)
def test_the_module_needs_nothing_of_python(level):
    """No symbol of Numba, of Python or of a C library is called or referred to.

    Three functions call addresses that they are told: the entries for Python those of Python's functions, and a thread
    that waits the system's by which it offers its core to others.
    """
    code = rest = text("float32", level)
    for name in (FASTCALL, STREAM_ENTRY, "wait"):
        # Numba makes another of it for other kinds of arguments
        found = re.findall(rf"^({name}(?:\.\d+)?):\n(.*?)^\s*\.size\s+\1,", code, re.DOTALL | re.MULTILINE)
        assert found, name
        for _, body in found:
            assert re.search(r"\bcall\w*\s+\*", body), name
            rest = rest.replace(body, "")
    assert not re.search(r"\bcall\w*\s+\*", rest)
    called = set(re.findall(r"\bcall\w*\s+([^*\s]\S*)", code))
    defined = set(re.findall(r"^([\w.]+):", code, re.MULTILINE))
    assert called - defined == set(), called - defined
    assert not re.search(r"Numba|NRT_|Py[A-Z]\w+_", code)
