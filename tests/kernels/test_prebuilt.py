"""Prebuilt kernels: used if they fit, without Numba and llvmlite, and refused if not."""

import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest
from needs import leave_out
from shipping import NUMBERS, computed, ship

import numlstm
from numlstm.export import targets
from numlstm.kernels.loading import build, cache, fingerprint, jit, levels, prebuilt, registry
from numlstm.wheels import libraries

pytestmark = [pytest.mark.cpu_level, pytest.mark.slow]


HERE = targets.find("host")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package that ships the kernels for this CPU."""
    package = libraries.copy_of_package(tmp_path_factory.mktemp("shipped"))
    for number in NUMBERS:
        ship(package, number, registry.level())
    return package


@pytest.fixture(scope="module")
def here():
    """What this checkout says."""
    return computed(Path(numlstm.__file__).parent)


def test_shipped_kernels_need_no_numba_and_give_the_same_bits(package, here, tmp_path):
    said = computed(package, hidden=("numba", "llvmlite"), NUMLSTM_CACHE_DIR=str(tmp_path / "cache"))
    assert said["error"] is None and said["told"] == []
    assert {number: origin.split(":")[0] for number, origin in said["origins"].items()} == dict.fromkeys(
        NUMBERS, "shipped"
    )
    assert said["bits"] == here["bits"]
    assert not (tmp_path / "cache").exists()


def test_nothing_is_imported_for_them_that_could_make_them(package):
    assert computed(package)["imported"] == []
    assert computed(package)["bits"]


@pytest.mark.parametrize("hidden", [("numba",), ("numba", "llvmlite")])
def test_where_none_fits_and_none_can_be_made_a_sentence_says_so(tmp_path, hidden):
    """The cache is empty, so that Numba or llvmlite is really missed."""
    said = computed(libraries.copy_of_package(tmp_path), hidden, NUMLSTM_CACHE_DIR=str(tmp_path / "cache"))
    assert said["bits"] == {}
    assert f"numlstm has no float32 kernels for this CPU, whose level is {registry.level().name}" in said["error"]
    assert "none came with this installation" in said["error"]
    assert "pip install 'numba>=" in said["error"]


def other_copy(package, folder):
    shutil.copytree(package, folder / "numlstm")
    return folder / "numlstm"


def test_an_edited_kernel_is_not_taken_for_the_shipped_one(package, here, tmp_path):
    """It is built where it can be, and the log says why; as it was, the shipped one fits again."""
    edited = other_copy(package, tmp_path)
    path = edited / "kernels" / "recurrence.py"
    text = path.read_text("utf-8")
    path.write_text(f"{text}\n# edited\n", "utf-8")
    hidden = ("numba", "llvmlite")
    said = computed(edited, hidden, numbers=("float32",))
    assert "were built from other sources" in said["error"]
    said = computed(edited, numbers=("float32",), NUMLSTM_CACHE_DIR=str(tmp_path / "cache"))
    assert said["told"][0] == (
        "numlstm: no shipped float32 kernels are used: those that came with this installation were built from other "
        "sources"
    )
    assert "compiling the float32 kernels" in said["told"][1]
    assert said["origins"]["float32"].startswith(f"compiled in this process, and cached: {tmp_path}")
    assert said["bits"]["float32"] == here["bits"]["float32"]
    path.write_text(text, "utf-8")
    assert computed(edited, hidden, numbers=("float32",))["error"] is None


def test_a_library_is_whole_after_strip(package, tmp_path):
    """Which tools that bundle applications run on libraries: what it removes was never there."""
    if (strip := shutil.which("strip")) is None:
        leave_out("needs strip, of binutils")
    (path,) = (package / "kernels" / "shipped").glob("*-float32-*")
    copy = Path(shutil.copy(path, tmp_path))
    subprocess.run([strip, copy], check=True, timeout=60)
    found, content = prebuilt.find("float32", registry.level(), str(tmp_path))
    assert found == str(copy) and content == copy.read_bytes()


def test_an_edited_loader_does_not_cost_the_shipped_kernels(package, tmp_path):
    edited = other_copy(package, tmp_path)
    path = edited / "kernels" / "loading" / "registry.py"
    path.write_text(path.read_text("utf-8") + "\n# edited\n", "utf-8")
    assert computed(edited, numbers=("float32",))["origins"]["float32"].startswith("shipped")


def test_without_sources_the_shipped_kernels_are_used(package, tmp_path):
    """An installation of bytecode alone."""
    stripped = other_copy(package, tmp_path)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", stripped], check=True, timeout=300)
    for path in stripped.rglob("*.py"):
        path.unlink()
    assert computed(stripped, hidden=("numba", "llvmlite"))["error"] is None


def archive(package, folder):
    """A zipapp that holds this copy of the package; the package in it."""
    path = folder / "app" / "app.pyz"
    path.parent.mkdir()
    zipapp.create_archive(package.parent, path, main="numlstm.cli:main", filter=lambda name: name.parts[0] == "numlstm")
    return path / "numlstm"


def test_a_zipapp_uses_the_kernels_that_it_holds(package, here, tmp_path):
    """The system loads files alone; that of a library is gone again when it has."""
    (tmp_path / "tmp").mkdir()
    inside = archive(package, tmp_path)
    folders = {"TMPDIR": str(tmp_path / "tmp"), "NUMLSTM_CACHE_DIR": str(tmp_path / "cache")}
    said = computed(inside, ("numba", "llvmlite"), **folders)
    assert said["error"] is None and said["told"] == [] and said["bits"] == here["bits"]
    folder = inside / "kernels" / "shipped"
    assert all(origin.startswith(f"shipped: {folder}") for origin in said["origins"].values())
    assert list((tmp_path / "tmp").iterdir()) == []
    command = [sys.executable, str(inside.parent), "info"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=tmp_path).stdout
    assert f"float32 kernels  shipped: {folder}" in told


def test_a_damaged_library_in_a_zipapp_is_not_loaded(package, tmp_path):
    damaged = other_copy(package, tmp_path)
    (path,) = (damaged / "kernels" / "shipped").glob("*-float32-*")
    path.write_bytes(path.read_bytes()[:-1])
    inside = archive(damaged, tmp_path)
    said = computed(inside, ("numba", "llvmlite"), numbers=("float32",), NUMLSTM_CACHE_DIR="/nowhere")
    assert "is damaged" in said["error"]


def test_a_zipapp_without_kernels_finds_those_in_the_cache(tmp_path):
    """Which are those of the same sources, wherever these stand; no others are taken for them."""
    said = computed(archive(libraries.copy_of_package(tmp_path), tmp_path), numbers=("float32",))
    assert said["told"] == [
        f"numlstm: no shipped float32 kernels are used: none came with this installation for {registry.level().name}"
    ]
    assert said["origins"]["float32"].startswith("cache: ")


def test_without_sources_or_bytecode_nothing_is_cached(monkeypatch, tmp_path):
    """As in a bundled application: another version's kernels would go by the same name."""
    monkeypatch.setenv("NUMLSTM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "object_code", lambda number, level: b"code")
    assert jit.object_code("float32", registry.level())[1].startswith("compiled in this process, and cached: ")
    monkeypatch.setattr(fingerprint, "listed", lambda folder: [])
    code, origin = jit.object_code("float32", registry.level())
    assert code == b"code" and origin.startswith("compiled for this process alone: the kernels' sources are not in ")


def test_cached_kernels_of_bytecode_alone_follow_the_bytecode(monkeypatch, tmp_path):
    """Else a later version's would be taken for an earlier one's."""
    shutil.copytree(fingerprint.FOLDER, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", tmp_path], check=True, timeout=300)
    for path in tmp_path.rglob("*.py"):
        path.unlink()
    monkeypatch.setattr(fingerprint, "FOLDER", str(tmp_path / "kernels"))
    monkeypatch.setattr(fingerprint.deciding, "__defaults__", (str(tmp_path / "kernels"), ".py"))
    before = cache.fingerprint("float32", registry.level())
    with (tmp_path / "kernels" / "activations.pyc").open("ab") as file:
        file.write(b"edited")
    assert cache.fingerprint("float32", registry.level()) != before


def test_a_library_for_another_level_is_left_alone(package, tmp_path):
    other = next(level for level in levels.LEVELS.values() if level != registry.level())
    moved = other_copy(package, tmp_path)
    for number in NUMBERS:
        (own,) = (moved / "kernels" / "shipped").glob(f"*-{number}-*")
        check = prebuilt.checksum(own.read_bytes())
        own.rename(own.with_name(prebuilt.file_name(number, other, fingerprint.name(other), check)))
    said = computed(moved, hidden=("numba", "llvmlite"))
    assert f"none came with this installation for {registry.level().name}" in said["error"]


@pytest.mark.parametrize("fault", ["empty", "truncated", "flipped", "longer", "no library", "unreadable"])
def test_a_damaged_library_is_not_loaded(package, tmp_path, fault):
    """Half a library would end the process with a signal; what can be refused is refused before."""
    damaged = other_copy(package, tmp_path)
    (path,) = (damaged / "kernels" / "shipped").glob("*-float32-*")
    content, half = path.read_bytes(), path.stat().st_size // 2
    assert prebuilt.find("float32", registry.level(), str(path.parent)) == (str(path), content)
    if fault == "unreadable":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[:half],
                "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
                "longer": content + b"\0",
                "no library": (nothing := b"\x7fELF" + bytes(2000)),
            }[fault]
        )
        if fault == "no library":  # under its own checksum
            path.rename(str(path).replace(prebuilt.checksum(content), prebuilt.checksum(nothing)))
    told = (
        "the system does not load one"
        if fault == "no library"
        else "Is a directory"
        if fault == "unreadable"
        else "is damaged"
    )
    said = computed(damaged, numbers=("float32",))
    assert said["origins"]["float32"].startswith(("cache: ", "compiled in this process"))
    assert told in said["told"][0]


def test_the_sources_name_follows_what_decides_the_code_and_nothing_else(tmp_path):
    folder = tmp_path / "kernels"
    shutil.copytree(fingerprint.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    own = levels.LEVELS["x86-64-v3"]
    before, of_training = (fingerprint.name(own, str(folder), training=training) for training in (False, True))
    assert before == fingerprint.name(own) and before != fingerprint.name(levels.LEVELS["x86-64-v4"])
    names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py"))
    compilers = {f"loading/{name}" for name in fingerprint.COMPILERS}
    assert set(names) > {*compilers, "loading/registry", "__init__"}
    for name in names:
        path = folder / f"{name}.py"
        text = path.read_bytes()
        path.write_bytes(text.replace(b"the", b"teh", 1) if b"the" in text else text + b"#")
        decides = name in compilers or not (name.startswith("loading/") or name.endswith("__init__"))
        assert (fingerprint.name(own, str(folder), training=True) != of_training) == decides, name
        decides = decides and not name.startswith("training/")
        assert (fingerprint.name(own, str(folder)) != before) == decides, name
        path.write_bytes(text)
    for more in (folder / "more.py", folder / "entries" / "more.py"):
        more.write_text("")
        assert fingerprint.name(own, str(folder)) != before
        more.unlink()


def test_the_build_uses_none_of_the_loaders():
    code = (
        "import sys, numlstm.kernels.loading.build as b; print(*(n for n in sys.modules if n[:16] == b.__name__[:16]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    used = {name.removeprefix("numlstm.kernels.") for name in done.stdout.split()}
    assert {"loading.build", "recurrence", "simd", "plan_layout"} <= used
    # registry is imported with the package itself, and what it imports at once
    known = {"build", "levels", "registry", "prebuilt", "entry_points", "fingerprint"}
    assert {name for name in used if name.startswith("loading.")} <= {f"loading.{name}" for name in known}


def test_a_linker_that_fails_is_told_of(monkeypatch, tmp_path):
    command = libraries.linker(HERE)
    with pytest.raises(RuntimeError, match="does not link the kernels"):
        libraries.linked("float32", b"no object", HERE, command)
    with pytest.raises(RuntimeError, match="does not link the kernels"):
        libraries.linked("float32", b"", HERE, [str(tmp_path / "nowhere")])
    monkeypatch.setattr(libraries.shutil, "which", lambda name: None)
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    assert libraries.linker(HERE) is None
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: name)
    assert libraries.linker(HERE)[:4] == [sys.executable, "-m", "ziglang", "ld.lld"]


def test_a_linker_of_this_machine_links_for_no_other(monkeypatch):
    """The system's ld knows one kind of CPU; LLVM's knows all."""
    monkeypatch.setattr(libraries.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(libraries, "host", lambda: "x86_64-linux")
    systems = {name: target for name, target in targets.TARGETS.items() if name != "wasm32"}  # a page installs no wheel
    found = {name: libraries.linker(target)[0] for name, target in systems.items()}
    assert found.pop("x86_64-linux") == "/usr/bin/ld" and found.pop("aarch64-linux") == "/usr/bin/ld.lld"
    assert set(found.values()) == {sys.executable}


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, ("x86-64-v3", "x86-64-v4")),
        ("", ("x86-64-v3", "x86-64-v4")),
        ("native", (registry.level().name,)),
        ("x86-64-v3, x86-64", ("x86-64-v3", "x86-64")),
        (f"native,{registry.level().name}", (registry.level().name,)),
    ],
)
def test_a_build_may_ask_for_fewer_levels(monkeypatch, asked, names):
    monkeypatch.delenv("NUMLSTM_BUILD_LEVELS", raising=False)
    if asked is not None:
        monkeypatch.setenv("NUMLSTM_BUILD_LEVELS", asked)
    assert tuple(level.name for level in libraries.wanted(HERE)) == names


def test_a_level_that_there_is_none_of_is_no_level_of_a_build(monkeypatch):
    monkeypatch.setenv("NUMLSTM_BUILD_LEVELS", "x86-64-v3,host")
    with pytest.raises(ValueError, match=r"NUMLSTM_BUILD_LEVELS names 'host'; for x86_64-linux it may name x86-64"):
        libraries.wanted(HERE)


def test_a_library_that_needs_something_is_refused_by_the_linker():
    """An object that calls what nothing provides: a shipped library needs no C library."""
    import llvmlite.binding as llvm

    from numlstm.kernels.loading import build

    module = llvm.parse_assembly(
        "declare void @elsewhere()\ndefine void @numlstm_forward() { call void @elsewhere() ret void }"
    )
    code = build.target_machine(levels.LEVELS["x86-64-v3"]).emit_object(module)
    with pytest.raises(RuntimeError, match="elsewhere"):
        libraries.linked("float32", code, HERE, libraries.linker(HERE))


@pytest.mark.parametrize("without_sources", [False, True])
def test_a_library_of_another_level_whose_name_begins_alike_is_none(monkeypatch, tmp_path, without_sources):
    """x86-64 begins x86-64-v3: without sources to compare, a CPU without AVX2 would be given code that needs it."""
    for name in ("x86-64-v3", "x86-64-v4"):
        (tmp_path / prebuilt.file_name("float32", levels.LEVELS[name], "0123456789abcd", "00000000")).write_bytes(b"")
    if without_sources:
        monkeypatch.setattr(fingerprint, "name", lambda level: None)
    with pytest.raises(prebuilt.Unfit, match=r"none came with this installation for x86-64$"):
        prebuilt.find("float32", levels.LEVELS["x86-64"], str(tmp_path))
