"""Draws docs/panels.svg: where the packing code puts each weight, and the tile of registers that passes over a panel.

Every cell of the drawing is read from panels that `numlstm.runtime.packed_weights` packed: the value of a weight says
which gate, unit and term it belongs to. Run `python docs/draw_panels.py` after a change of the layout; a test holds the
file against it.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["NUMLSTM_CPU"] = "x86-64-v3"  # eight lanes, so that a page holds them

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from numlstm.base.config import Config
from numlstm.kernels.plan_layout import lanes_of_last
from numlstm.kernels.tile import REGISTERS_16
from numlstm.runtime.packed_weights import Panels

INPUTS, UNITS = 2, 10
TERMS = INPUTS + UNITS
GATES = ("i", "f", "g", "o")
COLOURS = ("#4477aa", "#ee6677", "#ccbb44", "#228833")
FILE = Path(__file__).parent / "panels.svg"


def placed() -> list[np.ndarray]:
    """What lies in each place [k][gate][lane] of every block: 1 + (gate * UNITS + unit) * TERMS + k; 0 is padding."""
    config = Config(INPUTS, UNITS, bias=False)
    marks = 1 + np.arange(4 * UNITS * TERMS, dtype=np.float32).reshape(4 * UNITS, TERMS)
    weights = {"weight_ih_l0": marks[:, :INPUTS], "weight_hh_l0": marks[:, INPUTS:]}
    panels = Panels.pack(config, np.dtype(np.float32), weights.items())
    at, blocks = panels.layout(0).panel, []
    for unit in range(0, UNITS, panels.lanes):
        lanes = panels.lanes if unit + panels.lanes <= UNITS else lanes_of_last(UNITS, panels.lanes)
        count = TERMS * 4 * lanes
        blocks.append(panels.data[at : at + count].reshape(TERMS, 4, lanes).astype(int))
        at += count
    return blocks


def draw_panels(axes: Axes, panels: list[np.ndarray]) -> None:
    """One row a term k, one column a lane of a gate; memory runs along the rows."""
    widest = panels[0].shape[2]
    for block, cells in enumerate(panels):
        terms, gates, lanes = cells.shape
        top = block * (terms + 2.2)
        middle = top + terms / 2
        axes.text(
            -3.6, middle, f"panel of block {block}", fontsize=9, weight="bold", rotation=90, ha="center", va="center"
        )
        for gate in range(gates):
            axes.text((gate + 0.5) * (lanes + 0.5) - 0.5, top - 0.7, f"gate {GATES[gate]}", ha="center", va="center")
        for k in range(terms):
            name = f"x[{k}]" if k < INPUTS else f"h[{k - INPUTS}]"
            axes.text(-0.4, top + k + 0.5, name, ha="right", va="center", fontsize=7)
            for gate in range(gates):
                for lane in range(lanes):
                    x, mark = gate * (lanes + 0.5) + lane, cells[k, gate, lane]
                    style = {"facecolor": COLOURS[gate], "alpha": 0.55 if k < INPUTS else 0.3}
                    if mark == 0:
                        style = {"facecolor": "0.93"}
                    axes.add_patch(Rectangle((x, top + k), 1, 1, edgecolor="0.6", linewidth=0.4, **style))
                    if mark:
                        row, term = divmod(mark - 1, TERMS)
                        if (row // UNITS, term) != (gate, k):
                            raise ValueError("the packing code follows another order: this drawing no longer says it")
                        axes.text(x + 0.5, top + k + 0.5, row % UNITS, ha="center", va="center", fontsize=5.5)
    axes.add_patch(
        FancyArrowPatch((0, -1.9), (4 * (widest + 0.5), -1.9), arrowstyle="->", mutation_scale=10, color="0.3")
    )
    axes.text(0, -2.5, "addresses grow along a row, then row after row", fontsize=8, color="0.3")
    axes.set_xlim(-4.4, 4 * (widest + 0.5) + 0.5)
    axes.set_ylim(len(panels) * (TERMS + 2.2), -3.4)


def draw_tile(axes: Axes, height: int) -> None:
    """The registers of the tallest tile: rows of the batch down, gates across."""
    for gate in range(4):
        axes.add_patch(Rectangle((2 + 2 * gate, 0.4), 1.8, 0.8, facecolor=COLOURS[gate], alpha=0.3, edgecolor="0.4"))
        axes.text(2.9 + 2 * gate, 0.8, f"w {GATES[gate]}", ha="center", va="center", fontsize=8)
        for row in range(height):
            y = 2 + 1.2 * row
            axes.add_patch(Rectangle((2 + 2 * gate, y), 1.8, 1, facecolor=COLOURS[gate], alpha=0.55, edgecolor="0.4"))
            axes.text(2.9 + 2 * gate, y + 0.5, f"row {row}, {GATES[gate]}", ha="center", va="center", fontsize=7)
    for row in range(height):
        y = 2 + 1.2 * row
        axes.add_patch(Rectangle((0, y), 1.6, 1, facecolor="0.85", edgecolor="0.4"))
        axes.text(0.8, y + 0.5, f"x[{row}][k]", ha="center", va="center", fontsize=7)
    below = 2 + 1.2 * height
    lines = (
        "a term: one row of the panel times one number of each batch row,",
        f"{4 * height} FMAs; one weight at a time, {4 * height} + {height} + 1 = {5 * height + 1} registers of 16",
    )
    for n, line in enumerate(lines):
        axes.text(0, below + 0.6 + 0.8 * n, line, fontsize=8)
    axes.set_xlim(-0.2, 10)
    axes.set_ylim(below + 2, 0)


def main(file: Path = FILE) -> None:
    """Write the drawing."""
    plt.rcParams |= {"svg.hashsalt": "numlstm", "svg.fonttype": "none", "font.size": 8}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6.4), width_ratios=(1.75, 1), layout="constrained")
    left.set_title(
        f"Panels of {UNITS} units with {INPUTS} inputs; a cell is a weight, its number the unit, grey is padding.\n"
        "The last two units fit half a register: two of their gates share one.",
        fontsize=9,
    )
    right.set_title("The tile that passes over a panel (16 registers of 8 lanes)", fontsize=9)
    draw_panels(left, placed())
    draw_tile(right, REGISTERS_16.mr[0])
    right.set_anchor("N")
    right.set_aspect(1)
    for axes in (left, right):
        axes.axis("off")
    figure.savefig(file, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
