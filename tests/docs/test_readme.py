"""README is a page long, says first what a visitor looks for, uses the field's words, and gives .ci/run its command."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
MOST, FIRST_SCREEN = 150, 65  # lines


def screen():
    return "\n".join(README.splitlines()[:FIRST_SCREEN])


def test_it_is_a_page_long():
    assert len(README.splitlines()) <= MOST
    assert max(map(len, README.splitlines())) <= 170


def test_the_first_screen_has_all_that_a_visitor_looks_for():
    commands = re.findall(r"```sh\n(.+?)\n```", screen())
    assert [command.split("/")[-1] for command in commands] == ["numlstm demo", "python -m pytest"]
    for said in ("Use it for", "Use something else", "Python 3.11", "Linux", "macOS", "Windows", "AVX2", "AVX-512"):
        assert said in screen()
    (code,) = re.findall(r"```python\n(.+?)```", screen(), re.DOTALL)
    loaded = re.findall(r'numlstm\.load\("(.+?)"\)', code)
    assert loaded and all((ROOT / path).is_file() for path in loaded)


@pytest.mark.parametrize(
    "searched",
    [
        "bitwise reproducible",
        "batch-invariant",
        "deterministic",
        "real-time",
        "low-latency",
        "PyTorch",
        "Keras",
        "ONNX",
    ],
)
def test_words_that_people_search_for(searched):
    assert re.search(searched, screen(), re.IGNORECASE)


@pytest.mark.parametrize("word", ["peer", "judge", "certificate", "planted", "beyond one machine", "this line"])
def test_no_word_of_our_own(word):
    assert word not in README.lower()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_speed_is_of_two_kinds_of_cpu():
    (heading,) = re.findall(r"^\| workload .*", README, re.M)
    assert "AVX-512" in heading and "AVX2" in heading
    rows = re.findall(r"^\| (\w+) \| [\d, ]+ \|.*", README, re.M)
    performance = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert len(rows) == 10 and all(performance.count(f"| {row} |") >= 2 for row in rows)


def test_ci_runs_the_test_command():
    """.ci/run takes the one line that ends so."""
    assert len([line for line in README.splitlines() if line.endswith("-m pytest")]) == 1
    assert "-m pytest$" in (ROOT / ".ci" / "run").read_text("utf-8")
