"""Every shell command in README and docs/ runs as it stands, in a copy of what a checkout ships.

A block ``sh`` is run by bash. Of a block ``console`` each command is run, and what it prints is what the page shows. A
block is complete in itself: it starts in the checkout's root and needs no other block. Installation commands are not
run but checked: the extras, the packages and the switches exist. So are commands within a sentence.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from commands import command_names, command_of
from needs import leave_out, need, need_files

from numlstm.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
SHIPPED = ("examples", "docs", "benchmarks", "tests/fixtures")  # what commands may read, beside the top-level files
HANG = 900  # seconds; no measurement
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
SERVER = re.compile(r"^python examples/serve\.py ", re.M)  # runs until it is interrupted


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @classmethod
    def all_of(cls, page: Path) -> Iterator["Block"]:
        text = page.read_text("utf-8")
        for found in FENCE.finditer(text):
            yield cls(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of every simple command."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="&|;\n")
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, "#"
        commands: list[list[str]] = [[]]
        for word in lexer:
            if set(word) <= set("&|;\n"):
                commands.append([])
            else:
                commands[-1].append(word)
        return [command for command in commands if command]


BLOCKS = [block for page in PAGES for block in Block.all_of(page)]

# What a command takes beyond the fast suite: words in it, markers, and what must be there.
TAKES = (
    (r"\bnumlstm export\b", ["system"], ["cc"]),
    (r"\bnode |\bexamples/web/", ["system"], ["node", "ziglang"]),
    (r"\bc\+\+ ", ["system"], ["c++"]),
    (r"\brustc ", ["system"], ["rustc"]),
    (r"\bnumlstm demo\b", ["slow"], []),
    (r"--plot\b", ["slow"], ["matplotlib"]),
    (r"\bnumlstm bench\b|\bbenchmarks\b", ["slow"], []),
    (r"\.parquet\b|\bdask\b", ["slow"], ["dask", "distributed", "pyarrow"]),
    (r"speech\.wav|\bexamples/web/make\.py", ["slow"], ["onnx", "matplotlib", "silero_vad"]),
    (r"\bserve\.py\b", ["slow"], ["websockets"]),
    (r"\bnumlstm warmup\b", ["slow"], []),
    (r"\bexamples/\w+\.py\b", ["slow"], []),
    (r"\bsphinx", ["docs"], ["sphinx", "myst_nb", "numpydoc", "furo", "sphinx_copybutton"]),
)


def marks(text: str) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, name) for words, names, _ in TAKES if re.search(words, text) for name in names]


def check_needs(text: str) -> None:
    for words, _, needed in TAKES:
        for name in needed if re.search(words, text) else []:
            if name == "silero_vad":
                need_files(name)
            elif name in ("cc", "c++", "rustc", "node"):
                if shutil.which(name) is None:
                    leave_out(f"needs {name}")
            else:
                need(name)


def cases(language: str) -> list[object]:
    return [
        pytest.param(block, id=block.name, marks=marks(block.text)) for block in BLOCKS if block.language == language
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout in which installation has been done: `.venv/bin` has this environment's programs."""
    root = tmp_path / "checkout"
    for folder in SHIPPED:
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, root)
    programs = root / ".venv" / "bin"
    programs.mkdir(parents=True)
    python = (
        f'#!/bin/sh\ncase "$1 $2" in "-m venv" | "-m pip" | "-m pytest") exit 0;; esac\nexec {sys.executable} "$@"\n'
    )
    entry = "#!/bin/sh\nexec {} -c 'from {} import main; main()' \"$@\"\n"
    texts = {"python": python, "python3": python, "pip": "#!/bin/sh\nexit 0\n"}
    texts |= {
        "numlstm": entry.format(sys.executable, "numlstm.cli"),
        "dask": entry.format(sys.executable, "dask.__main__"),
    }
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return root


def environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{checkout / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def run(text: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run by bash; what it leaves in the background ends with it, and so may keep no pipe open."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        with subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=checkout, env=environment(checkout), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            start_new_session=True,
        ) as shell:  # fmt: skip
            try:
                code = shell.wait(timeout=HANG)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGTERM)
        said = [file.read() for file in (stdout, stderr) if file.seek(0) == 0]
    return subprocess.CompletedProcess(text, code, *said)


def check_installation(command: list[str]) -> None:
    """An installation command names extras and packages that there are; one that runs the tests, their markers."""
    words = command[command.index("-m") + 1 :] if "-m" in command[:2] else command
    program, *arguments = [Path(words[0]).name, *words[1:]]
    if program == "pytest":
        if "-m" in arguments:
            known = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
            asked = set(re.findall(r"\w+", arguments[arguments.index("-m") + 1])) - {"not", "and", "or"}
            assert asked <= known, f"no marker of the tests: {asked - known}"
    elif program == "pip":
        assert arguments[0] == "install", f"not an installation: {command}"
        installed_by_ci = (ROOT / ".ci" / "run").read_text("utf-8") if (ROOT / ".ci").is_dir() else None
        for word in arguments[1:]:
            if word.startswith("-"):
                assert word in ("-q", "-e", "--no-deps"), f"no switch of these pages: {word}"
            elif extras := re.fullmatch(r"\.(?:\[([\w,]+)\])?", word):
                unknown = {name for name in (extras[1] or "").split(",") if name} - set(EXTRAS)
                assert not unknown, f"no extra of this project: {unknown}"
            else:
                name = re.match(r"[\w-]+", word)[0]
                known = [*PROJECT["project"]["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
                names = {re.match(r"[\w-]+", one)[0] for one in known}
                assert name in names or installed_by_ci is None or name in installed_by_ci, f"CI never installs {name}"


def is_installation(command: list[str]) -> bool:
    return re.match(r"(\S*/)?(pip |python3? -m (venv|pip|pytest)\b)", " ".join(command)) is not None


@pytest.mark.parametrize("block", cases("sh"))
def test_a_block_runs_as_it_stands(block: Block, checkout: Path) -> None:
    for command in filter(is_installation, block.commands()):
        check_installation(command)
    if all(map(is_installation, block.commands())):
        return
    check_needs(block.text)
    ports = free_ports(block.text)
    if SERVER.search(block.text):
        check_server(block, ports, checkout)
        return
    done = run(elsewhere(block.text, ports), checkout)
    assert done.returncode == 0, f"{block.name}\n{done.stdout}\n{done.stderr}"


def free_ports(text: str) -> dict[str, int]:
    """A port that nobody uses for each that a block names: the page's own may be in use on this machine."""
    ports = {}
    for named in re.findall(r"--port (\d+)", text):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports[named] = listener.getsockname()[1]
    return ports


def elsewhere(text: str, ports: dict[str, int]) -> str:
    for named, free in ports.items():
        text = re.sub(rf"\b{named}\b", str(free), text)
    return text


def check_server(block: Block, ports: dict[str, int], checkout: Path) -> None:
    """What serves until it is ended, with the page's own client."""
    (port,) = ports.values()
    (client,) = (elsewhere(each.text, ports) for each in Block.all_of(block.page) if "connect(" in each.text)
    text = SERVER.sub(r"exec \g<0>", elsewhere(block.text, ports))
    command = ["bash", "-euo", "pipefail", "-c", text]
    with subprocess.Popen(
        command, cwd=checkout, env=environment(checkout), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            until = time.monotonic() + HANG
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, server.stdout.read()
                time.sleep(0.05)
            done = subprocess.run(
                [sys.executable, "-c", client], cwd=checkout, capture_output=True, text=True, timeout=HANG, check=False
            )
            server.terminate()
            said = server.communicate(timeout=HANG)[0]
        finally:
            server.kill()  # else leaving the context would wait for a server that goes on
    assert done.returncode == 0, f"{block.name}\n{done.stderr}\n{said}"


# ------------------------------------------------------------ what commands print

OTHER_EACH_TIME = (
    r"^(date +).*", r"^(engine +numlstm )\S+( in float32, numpy )\S+", r"^(kernels +).*", r"(SHA-256 )[0-9a-f]+",
    r"\d\.\de[-+]\d\d\b", r"[\d,.]+( bytes| MB)",
)  # fmt: skip


def comparable(text: str) -> str:
    """Without what another day, machine or version of NumPy has another of."""
    for pattern in OTHER_EACH_TIME:
        text = re.sub(pattern, lambda match: "".join(match.groups()), text, flags=re.M)
    return text


def session(text: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def differences(text: str, checkout: Path) -> list[str]:
    """The commands of a console block that fail or print another thing."""
    found = []
    for command, shown in session(text):
        done = run(command, checkout)
        if done.returncode or done.stderr or comparable(done.stdout) != comparable(shown):
            found.append(f"{command}\n{done.stdout}{done.stderr}")
    return found


@pytest.mark.parametrize("block", cases("console"))
def test_commands_print_what_the_page_shows(block: Block, checkout: Path) -> None:
    check_needs(block.text)
    assert not differences(block.text, checkout), block.name


# ------------------------------------------------------------ commands within a sentence


def inline(page: Path) -> list[str]:
    """The commands of numlstm's in a page's sentences and tables."""
    prose = FENCE.sub("", page.read_text("utf-8"))
    return re.findall(r"`((?:python -m )?numlstm [^`]+)`", " ".join(prose.split()))


def check_inline(command: str) -> None:
    """The command and its switches exist."""
    words = shlex.split(command.removeprefix("python -m "))[1:]
    if words[0].startswith("-"):
        return
    while words[1:] and (words[0], words[1]) in command_names():
        words = [f"{words[0]} {words[1]}", *words[2:]]
    options = {name for each in command_of(*words[0].split()).params for name in [*each.opts, *each.secondary_opts]}
    unknown = {word for word in words[1:] if re.match("-[a-z-]", word)} - options - {"--help"}
    assert not unknown, f"{command}: no such option: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_exist(page: Path) -> None:
    for command in inline(page):
        check_inline(command)


EXAMPLES = re.findall(r"`((?:python|numlstm) [^`]+)`", (ROOT / "docs" / "examples.md").read_text("utf-8"))


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, id=command, marks=marks(command)) for command in EXAMPLES if "serve.py" not in command],
)
def test_commands_of_the_page_of_examples_run(command: str, checkout: Path) -> None:
    check_needs(command)
    done = run(command, checkout)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


# ------------------------------------------------------------ nothing is left out, and faults are noticed


def test_every_shell_command_is_in_a_block_that_is_run() -> None:
    known = {"", "sh", "console", "python", "py", "text", "c", "rust", "yaml", "toml", "math", "js"}
    assert {block.language for block in BLOCKS} <= known
    for block in BLOCKS:
        if block.language not in ("sh", "console", "text"):
            assert not re.search(r"^\$? ?(pip|python3?|numlstm|cc|asv) ", block.text, re.M), block.name
    for page in PAGES:
        prose = FENCE.sub("", page.read_text("utf-8"))
        assert not re.search(r"^ {4}(\$ |pip|python|numlstm|cc|asv)", prose, re.M), f"{page.name}: an indented command"
    assert sum(block.language == "sh" for block in BLOCKS) >= 8


def test_a_block_that_fails_is_noticed(checkout: Path) -> None:
    assert run("numlstm inspect examples/none.safetensors\necho done", checkout).returncode != 0
    assert (
        run("numlstm inspect examples/sensors.safetensors > inspected && grep -q LSTM inspected", checkout).returncode
        == 0
    )


@pytest.mark.parametrize(
    "text, says",
    [
        ("python3 -m venv .venv && .venv/bin/pip install -q -e '.[tset]'\n", "no extra of this project"),
        ("pip install --upgrade-all .\n", "no switch"),
        ("pip install never-heard-of-it\n", "CI never installs"),
        ("python -m pip install -e '.[test,cuda11]' && python -m pytest\n", "no extra of this project"),
        ("python -m pytest -m gpus\n", "no marker"),
    ],
)
def test_a_wrong_installation_is_noticed(text: str, says: str) -> None:
    commands = Block(ROOT / "README.md", 1, "sh", text).commands()
    with pytest.raises(AssertionError, match=says):
        for command in filter(is_installation, commands):
            check_installation(command)


@pytest.mark.parametrize("command", ["numlstm inspekt x", "numlstm run a b --grouped c", "python -m numlstm chek x"])
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises(AssertionError, match="no such"):
        check_inline(command)


def test_a_page_that_shows_another_output_is_noticed(checkout: Path) -> None:
    shown = (
        "$ numlstm run examples/sensors.safetensors examples/readings.csv -o first.npz\nfirst.npz: output (168, 32), "
    )
    shown += "h_n (1, 32), c_n (1, 32), float32\n"
    assert not differences(shown, checkout)
    assert differences(shown.replace("168", "167"), checkout)
    assert differences(shown.replace("first.npz\n", "first.npy\n"), checkout)


def test_commands_are_click_commands() -> None:
    assert isinstance(main, click.Group)
