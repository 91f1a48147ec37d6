"""The shape of the package: a function fits a screen, and a folder a list that one takes in at a glance."""

import ast
import shutil
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "numlstm"
# Closures that Numba compiles: a factory holds the functions of a kernel
KERNELS = ("kernels/", "cuda/kernels/")
PLAIN = "kernels/loading/"
LINES, KERNEL_LINES = 60, 120  # of a function, its docstring apart; of any function with its docstring
TOP, FILES = 12, 15  # modules of the package itself; files of a folder


def lines(function):
    """Lines of a function, and of its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(function)
    of_docstring = first.end_lineno - first.lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1, of_docstring


def violations(package):
    """Everything that is too long or too many, a sentence each; and how many functions there are."""
    said, count = [], 0
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            count += 1
            total, of_docstring = lines(function)
            where = f"{place}:{function.lineno} {function.name} has"
            if total > KERNEL_LINES:
                said.append(f"{where} {total} lines; {KERNEL_LINES} are the most")
            elif total - of_docstring > LINES and (place.startswith(PLAIN) or not place.startswith(KERNELS)):
                said.append(f"{where} {total - of_docstring} lines without its docstring; {LINES} are the most")
    for folder in sorted({path.parent for path in package.rglob("*") if path.is_file()} - {package}):
        files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in (".pyc", ".so")]
        if len(files) > FILES:
            said.append(f"{folder.relative_to(package).as_posix()} has {len(files)} files; {FILES} are the most")
    modules = list(package.glob("*.py"))
    if len(modules) > TOP:
        said.append(f"the package itself has {len(modules)} modules; {TOP} are the most")
    return said, count


def test_functions_and_folders_are_small():
    said, count = violations(PACKAGE)
    assert not said, "\n".join(said)
    assert count > 1000


@pytest.mark.parametrize(
    "place, text, says",
    [
        (
            "base/log.py",
            "def long():\n" + "    x = 1\n" * 60,
            "long has 61 lines without its docstring; 60 are the most",
        ),
        ("base/log.py", "def told():\n    '''A.\n" + "\n" * 70 + "    '''\n    x = 1\n", None),
        ("kernels/tile.py", "def long():\n" + "    x = 1\n" * 60, None),
        ("kernels/tile.py", "def long():\n" + "    x = 1\n" * 120, "long has 121 lines; 120 are the most"),
        ("cuda/kernels/step.py", "def long():\n" + "    x = 1\n" * 120, "long has 121 lines; 120 are the most"),
    ],
)
def test_a_planted_long_function_is_found(place, text, says, tmp_path):
    package = tmp_path / "numlstm"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    before, _ = violations(package)
    with (package / place).open("a", encoding="utf-8") as file:
        file.write(f"\n\n{text}")
    new = [said for said in violations(package)[0] if said not in before]
    assert [says in said for said in new] == ([True] if says else [])


def test_a_file_too_many_is_found(tmp_path):
    package = tmp_path / "numlstm"
    (package / "base").mkdir(parents=True)
    for n in range(TOP):
        (package / f"a{n}.py").write_text("")
    for n in range(FILES):
        (package / "base" / f"a{n}.py").write_text("")
    assert violations(package) == ([], 0)
    (package / "more.py").write_text("")
    (package / "base" / "more.c").write_text("")
    assert len(violations(package)[0]) == 2
