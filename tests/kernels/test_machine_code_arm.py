"""The main loops for aarch64 as the machine sees them: tiles of 32 registers without stack access.

LLVM emits them on any machine.
"""

import re
from functools import cache

import pytest

from numlstm.kernels.loading.build import assembly, shapes_of
from numlstm.kernels.loading.levels import LEVELS
from numlstm.kernels.tile import Shapes

pytestmark = pytest.mark.slow

ARM = LEVELS["aarch64"]
JUMP = re.compile(r"(?:b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s+(\.L\w+)$")
NEWER = r"\b(?:[su]dot|usdot|bfdot|[su]mmla|bfmmla|bfmlal[bt]|fmlal2?)\b|\.8h,.*\bfml"  # not in every such CPU


@cache
def text(number, shapes=None):
    return assembly(number, ARM, shapes)


def chains(text, name):
    """The loops with multiply-adds and without a jump inside, in the function of that name."""
    function = re.search(rf"^{name}:\n(.*?)^\s*\.size\s+{name},", text, re.DOTALL | re.MULTILINE)
    assert function, f"there is no function {name} in the module"
    lines = [line.split("//")[0].strip() for line in function[1].splitlines()]
    labels = {line[:-1]: n for n, line in enumerate(lines) if line.endswith(":")}
    found = []
    for n, line in enumerate(lines):
        jump = JUMP.match(line)
        start = labels.get(jump[1], n) if jump else n
        body = [x for x in lines[start:n] if x and not x.startswith(".")]
        if any(x.startswith("fmla") for x in body) and not any(map(JUMP.match, body)):
            found.append(body)
    assert found, f"{name} has no loop with multiply-adds"
    return found


def check(text, shapes):
    names = [f"recur_{rows}x1" for rows in shapes.mr] + [f"project_{rows}" for rows in shapes.mr]
    names += [f"k_blocks_{rows}" for rows in shapes.mr] + [f"hidden_{rows}x4" for rows in shapes.mr]
    for name in names:
        for loop in chains(text, name):
            assert not [x for x in loop if "[sp" in x], f"{name} spills"
    tallest = shapes.mr[0]
    for name in (f"recur_{tallest}x1", f"project_{tallest}", f"k_blocks_{tallest}", f"hidden_{tallest}x4"):
        for loop in chains(text, name):
            multiply_adds, loads = (sum(x.startswith(word) for x in loop) for word in ("fmla", "ld"))
            assert multiply_adds >= 2.5 * loads, f"{name}: {multiply_adds} multiply-adds for {loads} loads"


@pytest.mark.parametrize("number", ["float32", "float64"])
def test_main_loops_stay_in_registers(number):
    check(text(number), shapes_of(number, ARM))


def test_only_what_every_such_cpu_has():
    assert not re.search(NEWER, text("float32"))


def test_the_check_notices_a_tile_that_does_not_fit():
    """Eight rows by four gates are all 32 registers."""
    too_tall = Shapes(mr=(8, 1), nr=(1,), row_pairs=(1,))
    with pytest.raises(AssertionError, match="spills"):
        check(text("float32", too_tall), too_tall)
