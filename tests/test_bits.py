"""The same bits for every batch, tile, hoisting, group, division into calls, memory layout and level.

Every path is forced at small sizes through the planner's private settings, and the kernel's own counters
prove that it ran. A kernel with the additions of one tile in another order makes the comparison fail.
"""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
from bits import DIGEST_OF_ALL, SIZES, digest, run
from judge import equal
from needs import leave_out
from numba import types
from samples import data, make

import numlstm
from numlstm.kernels import microkernel, projection, recurrence, tile
from numlstm.kernels.compiler import inline
from numlstm.kernels.instructions import INT64, instruction
from numlstm.kernels.loading import build, levels, linker, registry
from numlstm.kernels.plan_layout import LEAST_HALVED, Header, lanes_of_last
from numlstm.kernels.simd import SideBySide, Simd
from numlstm.kernels.tile import FROM_ZERO, Tile
from numlstm.runtime.call import Call

pytestmark = pytest.mark.cpu_level

NEVER = 1 << 30  # terms, more than any chain has
FORCED = {
    "hoisted, long chunks": {"hoist": True},
    "hoisted, chunks of 2": {"hoist": True, "hoist_steps": 2},
    "not hoisted": {"hoist": False, "k_block_min": NEVER},
    "rows one by one": {"mr": 1},
    "tiles of at most 2": {"mr": 2, "hoist": True, "k_block_min": NEVER},
    "tiles of at most 3": {"mr": 3, "k_block_min": NEVER},
    "tiles of at most 4": {"mr": 4, "hoist": False, "k_block_min": NEVER},
    "run after run": {"hoist": True, "k_block_min": 1},
    "run after run, not hoisted": {"hoist": False, "k_block_min": 1},
    "run after run, chunks of 2": {"hoist": True, "hoist_steps": 2, "k_block_min": 1},
    "run after run, tiles of at most 2": {"hoist": True, "mr": 2, "k_block_min": 1},
    "groups of 1 row": {"group": 1},
    "groups of 5 rows": {"group": 5, "hoist": True},
    "weights asked for ahead": {"beyond_l2": True, "mr": 1},
    "weights not asked for ahead": {"beyond_l2": False},
}


def shapes():
    """Those of this level."""
    return build.REGISTERS_32 if registry.level().registers >= 32 else build.REGISTERS_16


@pytest.fixture(autouse=True)
def alone():
    """On one thread, whose counters are read; what threads share is in test_threads.py."""
    with numlstm.num_threads(1):
        yield


def every_path(lstm, steps=5, batch=11):
    """The settings whose results differ in a bit from the default's."""
    x, hx = data(lstm, steps, batch)
    want, _ = run(lstm, x, hx)
    return [name for name, forced in FORCED.items() if not equal(run(lstm, x, hx, **forced)[0], want)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("hidden", "proj"), SIZES)
def test_no_setting_changes_a_bit(hidden, proj, dtype):
    lstm = make(hidden, proj, dtype, num_layers=2, bidirectional=True)
    assert every_path(lstm) == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("hidden", "proj"), SIZES)
def test_a_row_does_not_see_its_batch(hidden, proj, dtype):
    lstm = make(hidden, proj, dtype, num_layers=2, bidirectional=True)
    x, (h_0, c_0) = data(lstm, 4, 23)
    whole, _ = run(lstm, x, (h_0, c_0))
    for rows in [[7], [0, 22], [3, 1, 2], [*range(5, 17)], [9] * 8]:
        part, _ = run(lstm, x[:, rows], (h_0[:, rows], c_0[:, rows]))
        assert equal(part, [array[:, rows] for array in whole]), rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("hidden", "proj"), SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_sequence_may_be_cut_anywhere(hidden, proj, dtype, batch):
    lstm = make(hidden, proj, dtype, num_layers=3)
    x, hx = data(lstm, 9, batch)
    whole, _ = run(lstm, x, hx)
    for cuts in [(1,), (8,), (4, 5), (2, 3, 7), range(1, 9)]:
        state, outputs = hx, []
        for part in np.split(x, list(cuts)):
            output, state = lstm(part, state)
            outputs.append(output)
        assert equal((np.concatenate(outputs), *state), whole), list(cuts)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_layout_changes_nothing(dtype):
    lstm = make(37, 5, dtype, num_layers=2, bidirectional=True)
    x, (h_0, c_0) = data(lstm, 6, 7)
    want, _ = run(lstm, x, (h_0, c_0))
    layouts = {
        "Fortran order": np.asfortranarray(x),
        "big-endian": x.astype(x.dtype.newbyteorder(">")),
        "every second number": np.repeat(x, 2, axis=2)[:, :, ::2],
        "batch first in memory": np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2),
        "backwards in memory": np.ascontiguousarray(x[::-1])[::-1],
        "unaligned": np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape),
    }
    for name, other in layouts.items():
        for pieces in (4 << 20, 1, 300):
            assert equal(run(lstm, other, (h_0, c_0), convert_bytes=pieces)[0], want), (name, pieces)
    first = numlstm.LSTM(5, 37, 2, proj_size=5, bidirectional=True, batch_first=True, dtype=dtype, seed=37).eval()
    output, (h_n, c_n) = first(x.transpose(1, 0, 2), (np.asfortranarray(h_0), c_0[:, ::-1][:, ::-1]))
    assert equal((output.transpose(1, 0, 2), h_n, c_n), want)


def test_an_integer_input_equals_its_conversion():
    lstm = make(13, 0, "float32")
    x = np.random.default_rng(0).integers(-9, 9, (6, 4, 5))
    want, _ = run(lstm, x.astype(np.float32))
    for dtype in ("i1", "i8", ">i2", "f2", "f8", "longdouble"):
        assert equal(run(lstm, x.astype(dtype), convert_bytes=64)[0], want), dtype


def test_every_path_is_taken_and_counted():
    """The counters of each forced run say that it went where it was sent, and nowhere else."""
    lstm = make(37, 5, "float32", num_layers=2)
    x, hx = data(lstm, 5, 11)
    counts = {name: run(lstm, x, hx, **forced)[1] for name, forced in FORCED.items()}
    cells, steps = 2, 5
    assert counts["hoisted, long chunks"][Header.HOISTED] == cells
    assert counts["hoisted, chunks of 2"][Header.HOISTED] == cells * 3
    assert counts["not hoisted"][Header.HOISTED] == 0
    one_by_one = counts["rows one by one"]
    assert one_by_one[Header.MULTI_BLOCK] > 0 and one_by_one[Header.TILES] == 0
    for most in (2, 3, 4):
        count = counts[f"tiles of at most {most}"]
        assert count[Header.TALL] == max(rows for rows in shapes().mr if rows <= most)
        assert count[Header.TILES] > 0 and count[Header.MULTI_BLOCK] == 0
    for name in ("run after run", "run after run, chunks of 2", "run after run, tiles of at most 2"):
        assert counts[name][Header.K_BLOCKS] > counts[name][Header.HOISTED] > 0, name
    assert counts["not hoisted"][Header.K_BLOCKS] == counts["rows one by one"][Header.K_BLOCKS] == 0
    assert (counts["run after run, not hoisted"][Header.K_BLOCKS] > 0) == shapes().side_by_side
    assert counts["groups of 1 row"][Header.GROUPS] == 11
    assert counts["groups of 5 rows"][Header.GROUPS] == 3
    for name, count in counts.items():
        assert count[Header.PROJECTED] == cells * steps * count[Header.GROUPS], name
        assert count[Header.PART] == cells * count[Header.GROUPS], name


def test_the_default_plan_hoists_and_fills_tiles():
    """What the planner chooses by itself takes the paths that are tested above."""
    lstm = numlstm.LSTM(40, 256, num_layers=2, seed=0).eval()
    x = np.zeros((12, 8, 40), np.float32)
    _, count = run(lstm, x)
    assert count[Header.HOISTED] >= 2 and count[Header.TALL] >= 3 and count[Header.SINGLE_BLOCK] == 0
    lstm = numlstm.LSTM(8, 520, seed=0).eval()
    _, count = run(lstm, np.zeros((2, 8, 8), np.float32))
    assert count[Header.K_BLOCKS] >= 2


@pytest.mark.parametrize("rows", [1, 3])
def test_after_an_odd_number_of_steps_blocks_are_walked_backwards(rows):
    """A call begins where the one before has ended, for what it used last may still be in a cache."""
    lstm = make(70, 0, "float32")
    x, hx = data(lstm, 5, rows)
    whole = lstm(x, hx)[0]
    for steps, walked in ((1, [1, 0, 1]), (2, [0, 0, 0]), (3, [1, 0, 1])):
        for after in walked:
            results = np.empty((steps, rows, 70), np.float32), *(np.empty_like(state) for state in hx)
            lstm._model.executor.run(Call(lstm._panels, x[:steps], *hx, *results))
            assert lstm._model.executor.idle[-1].slots[Header.SERPENTINE] == after
            assert equal(results[:1], (whole[:steps],)) and equal((results[1][0],), (whole[steps - 1],))


STEPPED = (5, 24, 37, 48, 64, 70, 96, 130)  # a tile, several, and a last block of fewer units


def steps_of_stream(units):
    """The results of single steps of one row, and those of one call."""
    lstm = make(units, 0, "float32")
    x, stream = data(lstm, 5, 1)[0], lstm.stream()
    return [stream(x[k]).copy() for k in range(5)], list(lstm(x)[0])


@pytest.mark.parametrize("units", STEPPED)
def test_single_steps_of_one_row_have_the_bits_of_a_call(units):
    """A step stores h twice, into the output and for the step that follows."""
    got, want = steps_of_stream(units)
    assert equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["again", "copy"])
def test_a_planted_loss_of_h_between_steps_is_noticed(monkeypatch, fault):
    """h of the last tile goes nowhere else, or that of the tiles before it is not copied."""

    class Forgetful(Simd):
        def _pointers(self):
            super()._pointers()
            self.distance = instruction(types.int64, self.pointer, self.pointer)(lambda builder, a, b: INT64(0))

    def nothing(simd):
        @inline
        def copy(target, source, count):
            return

        return copy

    if fault == "copy":
        monkeypatch.setattr(recurrence, "copier", nothing)
    put_in_place(monkeypatch, Forgetful if fault == "again" else Simd)
    assert not all(equal(*steps_of_stream(units)) for units in STEPPED)


def test_more_rows_than_take_turns_at_once():
    """Their sums are kept for so many rows; the rest follow, and the last of them ask for the next panel."""
    lstm = make(37, 0, "float32", num_layers=2)
    for far in (False, True):
        x, hx = data(lstm, 3, 4 * projection.ROWS_AT_ONCE + 5)
        want, count = run(lstm, x, hx, hoist=False, k_block_min=NEVER)
        assert count[Header.K_BLOCKS] == 0
        got, count = run(lstm, x, hx, hoist=False, k_block_min=1, beyond_l2=far)
        assert (count[Header.K_BLOCKS] > 0) == shapes().side_by_side and equal(got, want)
        got, count = run(lstm, x, hx, hoist=True, k_block_min=1, beyond_l2=far)
        assert count[Header.K_BLOCKS] > 0 and equal(got, want)


def test_few_rows_take_turns_where_no_cache_holds_the_panels():
    """One tile of rows then reads the panels through the chain that asks for them ahead of their use."""
    lstm = make(37, 0, "float32", num_layers=2)
    for rows in (1, 2, 3):
        x, hx = data(lstm, 5, rows)
        want, near = run(lstm, x, hx, hoist=True, k_block_min=1, beyond_l2=False)  # of the projection ahead alone
        got, far = run(lstm, x, hx, hoist=True, k_block_min=1, beyond_l2=True)
        assert (far[Header.K_BLOCKS] > near[Header.K_BLOCKS]) == (rows > 1) and equal(got, want)


def few_rows(lstm):
    """Whether few rows have the bits that they have one by one, and how many epilogues there were."""
    for rows in (2, 3, 5, 6, 7):
        x, hx = data(lstm, 5, rows)
        want, _ = run(lstm, x, hx, mr=1)
        for hoist in (False, True):
            got, count = run(lstm, x, hx, hoist=hoist, k_block_min=1, beyond_l2=True)
            yield rows, hoist, equal(got, want), count[Header.TILES]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("proj", [0, 5])
def test_few_rows_finish_several_blocks_at_once(dtype, proj):
    """Four chains or more are side by side then; a block of fewer units is finished by itself."""
    lanes = registry.lanes(dtype)
    for units in (4 * lanes, 9 * lanes - 1, 14 * lanes):  # none beside the four; eight and another; twelve and two
        steps, blocks = 5, -(-units // lanes)
        for rows, hoist, same, epilogues in few_rows(make(units, proj, dtype)):
            assert same, (units, rows, hoist)
            at_once = (6 if hoist else 3) // rows * 4
            if shapes().side_by_side and at_once:
                whole = units // lanes // 4 * 4
                assert epilogues == steps * (-(-whole // at_once) + blocks - whole), (units, rows, hoist)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_gates_share_a_register_where_half_of_one_holds_the_last_units(dtype):
    """Of one row beside the blocks before, of several two by two; whole registers elsewhere."""
    lanes = registry.lanes(dtype)
    if lanes < LEAST_HALVED:
        assert lanes_of_last(1, lanes) == lanes
        return
    for hidden in (1, lanes // 2, lanes + 1, 3 * lanes + lanes // 2, 4 * lanes + 2, 5 * lanes + 1):
        assert lanes_of_last(hidden, lanes) == lanes // 2
        lstm = make(hidden, 0, dtype, num_layers=2, bidirectional=True)
        for batch in (1, 2, 15):
            assert every_path(lstm, batch=batch) == [], (hidden, batch)
            assert run(lstm, *data(lstm, 5, batch))[1][Header.HALF] > 0
    for hidden in (lanes // 2 + 1, lanes, 3 * lanes - 1, 4 * lanes):
        assert lanes_of_last(hidden, lanes) == lanes
        lstm = make(hidden, 0, dtype)
        assert run(lstm, *data(lstm, 5, 3))[1][Header.HALF] == run(lstm, *data(lstm, 5, 1))[1][Header.HALF] == 0


def put_in_place(monkeypatch, simd):
    """A float32 kernel with other instructions."""
    monkeypatch.setattr(recurrence, "Simd", simd)
    kernel = linker.link(build.object_code("float32", registry.level()), registry.level(), "planted", 0.0)
    monkeypatch.setitem(registry._loaded, "float32", kernel)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("lower", "upper"), ("upper", "lower")])
def test_a_planted_mixture_of_two_rows_is_noticed(monkeypatch, names):
    """Rows that are finished two by two, with one gate where the other belongs."""

    class Crossed(Simd):
        def _halves(self):
            super()._halves()
            setattr(self, names[0], getattr(self, names[1]))

    if registry.lanes("float32") < LEAST_HALVED:
        leave_out("registers of this level are not halved")
    put_in_place(monkeypatch, Crossed)
    assert "rows one by one" in every_path(make(registry.lanes("float32") + 1, 0, "float32"))


@pytest.mark.slow
def test_a_planted_mixture_of_rows_side_by_side_is_noticed(monkeypatch):
    """The chains of several rows, each of which goes on with the value of another. Other levels have no such chains."""

    class Crossed(SideBySide):
        def fence(self, builder, values):
            return super().fence(builder, values)[::-1]

    monkeypatch.setattr(microkernel, "SideBySide", Crossed)
    put_in_place(monkeypatch, Simd)
    assert ("not hoisted" in every_path(make(13, 0, "float32"))) == shapes().side_by_side
    lstm = make(4 * registry.lanes("float32"), 0, "float32")
    assert any(same for *_, same, _ in few_rows(lstm)) != shapes().side_by_side


@pytest.fixture
def planted(monkeypatch):
    """Put a kernel in place of the float32 one whose two-row tiles add terms in reverse, or lose a run of them."""

    class Reordered(Tile):
        def _products(self):
            super()._products()
            if self.rows == 2:
                fma, term = self.fma, self.columns * self.simd.lanes

                @inline
                def dot(value, panel, index, gap, first, count, source, stride):
                    for n in range(count):
                        k = count - 1 - n
                        value = fma(value, panel, index + (first + k) * term, gap, source, k, stride)
                    return value

                self.dot = dot

        def _k_blocks(self):
            super()._k_blocks()
            if self.rows == 2:
                k_blocks = self.k_blocks

                @inline
                def forgetful(panel, ahead, count, source, stride, sums, sums_stride, bias, begin):
                    k_blocks(panel, ahead, count, source, stride, sums, sums_stride, bias, FROM_ZERO)

                self.k_blocks = forgetful

    monkeypatch.setattr(tile, "Tile", Reordered)
    put_in_place(monkeypatch, Simd)


@pytest.mark.slow
def test_a_planted_reordered_chain_is_noticed(planted):
    lstm = make(37, 0, "float32", num_layers=2)
    assert {"tiles of at most 2", "run after run, tiles of at most 2"} <= set(every_path(lstm))


DIGEST = """
import sys
sys.path[:0] = {path!r}
from bits import digest
print(digest())
"""


@pytest.mark.slow
@pytest.mark.skipif(levels.this_machine().name != "x86-64-v4", reason="needs a CPU with AVX-512 to compare with")
def test_another_level_of_the_cpu_gives_the_same_bits():
    environment = {**os.environ, "NUMLSTM_CPU": "x86-64-v3"}
    code = DIGEST.format(path=[os.path.join(os.path.dirname(__file__), "support")])
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert child.stdout.strip() == digest()


def test_bits_are_those_of_the_committed_digest():
    """Any CPU with a fused multiply-add gives these bits; another rule of arithmetic would be another digest."""
    if not registry.level().fused:
        leave_out("a CPU without a fused multiply-add gives other bits, and says so")
    assert digest() == DIGEST_OF_ALL


def test_kernels_drop_the_gil():
    """The C function is called through ctypes' own convention, which releases the GIL (PyDLL would keep it)."""
    assert isinstance(registry.kernel("float32").forward, ctypes._CFuncPtr)
    assert not registry.kernel("float32").forward._flags_ & ctypes._FUNCFLAG_PYTHONAPI
