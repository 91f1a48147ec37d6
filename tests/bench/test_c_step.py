"""The timing program for exported libraries: it runs, and its table has every size."""

import shutil
import sys

import pytest
from needs import leave_out
from scripts import benchmark

pytestmark = pytest.mark.slow


def test_steps_of_an_exported_library_are_timed(monkeypatch, capsys):
    if shutil.which("cc") is None:
        leave_out("needs a C compiler")
    script = benchmark("c_step")
    monkeypatch.setattr(sys, "argv", ["c_step.py", "--rounds", "1"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["units", "step", "forward", "more"]
    rows = [[float(word) for word in line.split()] for line in lines[2:]]
    assert [row[0] for row in rows] == list(script.SIZES)
    assert all(step > 0 and forward > 0 for _, step, forward, _ in rows)
