"""The suite itself: README's command and the one for the rest run every test once, and no helper is defined twice."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
RUN = (ROOT / ".ci" / "run").read_text("utf-8")
OPTIONS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
PLACES = {"gpu", "cpu_level"}  # they say where a test runs, not when


def left_out():
    """The expression of what README's command leaves out."""
    return re.search(r"-m 'not \((.+)\)'", OPTIONS["addopts"])[1]


def test_the_rest_is_what_the_command_of_readme_leaves_out():
    assert re.findall(r"pytest -v -m '(.+)'", RUN) == [left_out()]
    assert f'python -m pytest -m "{left_out()}"' in (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_every_marker_is_registered_and_leaves_out_or_says_where():
    registered = {line.partition(":")[0] for line in OPTIONS["markers"]}
    assert set(left_out().split(" or ")) == registered - PLACES
    assert "--strict-markers" in OPTIONS["addopts"]


def test_ci_runs_readme_s_command_first_and_ends_with_pytest():
    assert RUN.index("-m pytest$") < RUN.index("eval ") < RUN.index("pytest -v -m '")
    assert RUN.rstrip().splitlines()[-1].startswith(".venv/bin/python -m pytest ")


def test_ci_repeats_at_the_lower_level_what_depends_on_it():
    assert "NUMLSTM_CPU=$lower .venv/bin/python -m pytest -m cpu_level\n" in RUN
    marked = {path.name for path in TESTS.rglob("test_*.py") if "pytest.mark.cpu_level" in path.read_text("utf-8")}
    assert marked >= {"test_bits.py", "test_threads.py", "test_export.py", "test_bench.py", "test_embedding.py"}


def collected(*options, folder=ROOT):
    """The tests that a command would run, and how many there are in all."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    chosen, whole = re.search(r"^(\d+)/(\d+) tests collected", done.stdout, re.MULTILINE).groups()
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(tests) == int(chosen)
    return tests, int(whole)


def together(first, rest):
    """Whether two commands run every test, and none of them twice."""
    tests = first[0] + rest[0]
    return first[1] == rest[1] == len(tests) and not set(first[0]) & set(rest[0])


@pytest.mark.slow
def test_the_two_commands_are_the_whole_collection():
    first, rest = collected(), collected("-m", left_out())
    assert together(first, rest) and len(first[0]) > len(rest[0]) > 0


@pytest.mark.slow
def test_a_test_that_neither_runs_or_both_would_be_seen(tmp_path):
    """In a suite of three tests, whose second command knows one marker less, or is no other."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -m 'not (slow or fuzz)'\nmarkers =\n    slow\n    fuzz\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\n"
        "@pytest.mark.slow\ndef test_b(): pass\n@pytest.mark.fuzz\ndef test_c(): pass\n"
    )
    first = collected(folder=tmp_path)
    assert len(first[0]) == 1 and together(first, collected("-m", "slow or fuzz", folder=tmp_path))
    assert not together(first, collected("-m", "slow", folder=tmp_path))
    assert not together(first, first)


def closure(extra):
    """The distributions that the project needs with that extra, of what is installed, by their normalised names."""
    todo, seen = [f"numlstm[{extra}]"], set()
    while todo:
        name, extras, _marker = re.fullmatch(r"([\w.-]+)(?:\[(.*?)\])?[^;]*(?:;(.*))?", todo.pop()).groups()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system or Python
            continue
        todo += [each for each in required if "extra ==" not in each or (extras and f"extra == '{extras}'" in each)]
    return {name for name, _ in seen}


@pytest.mark.slow
def test_the_extra_test_is_enough_to_collect():
    """README's command needs no other extra: packages of theirs are hidden, as if they were not installed."""
    wanted = closure("test")
    assert {"numba", "pytest", "hypothesis"} <= wanted and not {"torch", "sphinx", "dask"} & wanted
    owners = {
        module: {re.sub(r"[-_.]+", "-", name).lower() for name in names}
        for module, names in metadata.packages_distributions().items()
    }
    hidden = [module for module, names in owners.items() if not names & wanted]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden})); import pytest; "
        "sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMLSTM_CI"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins of hidden packages
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_no_helper_stands_in_two_files():
    """A function without a test's name whose statements are those of another file's."""
    found = defaultdict(set)
    for path in TESTS.rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                body = node.body[ast.get_docstring(node) is not None :]
                found[ast.dump(node.args), *map(ast.dump, body)].add(f"{path.name}: {node.name}")
    assert [sorted(places) for places in found.values() if len(places) > 1] == []
