"""What README shows before one scrolls, and what .ci/run takes from it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST_SCREEN = 45  # lines


def test_the_first_screen_has_all_that_a_visitor_looks_for():
    screen = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:FIRST_SCREEN])
    commands = re.findall(r"```sh\n(.+?)\n```", screen)
    assert [command.split("/")[-1] for command in commands] == ["numlstm demo", "python -m pytest"]
    (code,) = re.findall(r"```python\n(.+?)```", screen, re.DOTALL)
    assert "numlstm.LSTM(" in code
    assert code.count(">>> ") == 6
    (picture,) = re.findall(r"!\[.+?\]\((.+?)\)", screen)
    assert (ROOT / picture).read_text("utf-8").rstrip().endswith("</svg>")


def test_ci_runs_the_test_command():
    """.ci/run takes the one line that ends so."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len([line for line in lines if line.endswith("-m pytest")]) == 1
    assert "-m pytest$" in (ROOT / ".ci" / "run").read_text("utf-8")
