"""docs/files.md runs as a doctest; here: that its commands print what it says."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")


def sessions(text):
    """(command, what it prints) of every console block."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.S | re.M):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def machine_apart(text):
    """Without what another day, machine or version of NumPy has another of."""
    for pattern in (
        r"^(date +).*", r"^(engine +numlstm )\S+( in float32, numpy )\S+", r"^(kernels +).*", r"(SHA-256 )[0-9a-f]+",
        r"\d\.\de[-+]\d\d\b", r"[\d,]+( bytes)",
    ):  # fmt: skip
        text = re.sub(pattern, lambda match: "".join(match.groups()), text, flags=re.M)
    return text


@pytest.fixture
def folder(monkeypatch):
    """The folder that the page's own code makes, with the file that it shows."""
    test = doctest.DocTestParser().get_doctest(PAGE, {}, "files", None, 0)
    names = {}
    test.globs = names
    assert doctest.DocTestRunner(verbose=False).run(test, clear_globs=False).failed == 0
    made = Path(names["folder"])
    shown = next(output for command, output in sessions(PAGE) if command == "cat steps.csv")
    (made / "steps.csv").write_text(shown)
    return made


def printed(folder, command):
    name, *args = command.split()
    if name == "cat":
        return (folder / args[0]).read_text()
    assert name == "numlstm"
    ran = subprocess.run(
        [sys.executable, "-m", "numlstm", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stderr == ""
    return ran.stdout


def test_the_commands_print_what_the_page_says(folder):
    commands = [command.split()[1] for command, _ in sessions(PAGE)]
    assert {"inspect", "convert", "run", "check"} <= set(commands)
    for command, shown in sessions(PAGE):
        assert machine_apart(printed(folder, command)) == machine_apart(shown), command


@pytest.mark.slow
def test_a_page_that_says_another_thing_is_noticed(folder):
    wrong = {"layers": "lairs", "(2, 4)": "(2, 5)", "passed": "failed", "3 other": "2 other", "float64": "float32"}
    noticed = set()
    for command, shown in sessions(PAGE):
        got = machine_apart(printed(folder, command))
        for said in filter(shown.count, wrong):
            assert got != machine_apart(shown.replace(said, wrong[said]))
            noticed.add(said)
    assert noticed == set(wrong)
