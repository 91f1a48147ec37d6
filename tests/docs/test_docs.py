"""The site of docs/: it is built without a warning, knows every page, and its drawing is what the packing code says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.glob("*.md"))]


def build(source, site):
    """Build the site; what Sphinx warned of is in the error stream."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(source), str(site)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def sphinx():
    for package in ("sphinx", "myst_nb", "numpydoc", "furo", "sphinx_copybutton"):
        need(package)


@pytest.fixture(scope="module")
def site(sphinx, tmp_path_factory):
    """The site's pages by name."""
    folder = tmp_path_factory.mktemp("site")
    done = build(DOCS, folder)
    assert done.returncode == 0, done.stderr
    return {page.stem: page.read_text("utf-8") for page in folder.glob("*.html")}


@pytest.mark.docs
def test_the_site_knows_everything_public(site):
    import numlstm

    missing = [name for name in numlstm.__all__ if f'id="numlstm.{name}"' not in site["api"]]
    assert not missing, f"docs/api.md lacks {missing}"


def code_of(page):
    """(language, its HTML) of every block."""
    return re.findall(r'<div class="highlight-(\w+) notranslate"><div class="highlight"><pre>(.*?)</pre>', page, re.S)


@pytest.mark.docs
def test_what_a_reader_sees(site):
    """Code and a picture on the front page, copy buttons, a footer, titles, and equations that are no Python."""
    assert code_of(site["index"]) and "speed.svg" in site["index"]
    assert all("copybutton.js" in site[path.stem] and "Copyright" in site[path.stem] for path in DOCS.glob("*.md"))
    assert "<h1>Installation, caching, environment variables" in site["start"]
    equations = {language for language, text in code_of(site["arithmetic"]) if "flush_c" in text}
    (half_life,) = (language for language, text in code_of(site["trace"]) if "half-life = " in text)
    assert equations == {half_life} == {"text"}


@pytest.mark.docs
def test_no_doctest_ends_with_an_empty_line(site):
    doctests = [text for page in site.values() for _, text in code_of(page) if "&gt;&gt;&gt; " in text]
    assert len(doctests) > 50
    assert not [text for text in doctests if re.sub("<.*?>", "", text).endswith("\n\n")]


def test_the_page_of_examples_names_every_one_and_nothing_else():
    page = (DOCS / "examples.md").read_text("utf-8")
    named = set(re.findall(r"examples/(\w+\.(?:py|ipynb))", page))
    there = {path.name for pattern in ("*.py", "*.ipynb") for path in (ROOT / "examples").glob(pattern)}
    assert named == {name for name in there if not name.startswith("make_")}


FOLDERS = "|".join(path.name for path in (ROOT / "numlstm").iterdir() if path.is_dir())
NAMED = re.compile(
    rf"(?<![\w./])(?:(?:numlstm|tests|docs|examples|benchmarks|training)/[\w./-]+\.\w+|(?:{FOLDERS})/[\w/]+\.py\b)"
    r"|(?<![\w./*-])\w+\.py\b"
)


def missing_files(text):
    """Files of this project that are not there: by their paths, also within the package, or a module's name alone."""
    modules = {path.name for path in (ROOT / "numlstm").rglob("*.py")}
    places = ROOT, ROOT / "numlstm"
    named = set(NAMED.findall(text)) - modules
    return {name for name in named if not any((place / name).exists() for place in places)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    assert not missing_files(page.read_text("utf-8"))


def test_a_file_that_has_moved_is_noticed():
    text = (
        "`numlstm/nowhere/lstm.py`, `runtime/gone.py`, and lstm.py, `numlstm/lstm.py`, `runtime/planner.py`, moved.py"
    )
    assert missing_files(text) == {"numlstm/nowhere/lstm.py", "runtime/gone.py", "moved.py"}


@pytest.mark.docs
def test_a_page_that_no_list_has_and_a_dead_link_are_warnings(sphinx, tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    shutil.copytree(DOCS / "static", source / "static")
    (source / "index.md").write_text("# Index\n\n[gone](gone.md)\n", "utf-8")
    (source / "stray.md").write_text("# Stray\n", "utf-8")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "stray.md" in done.stderr


@pytest.mark.slow
def test_the_drawing_is_of_the_present_panels(tmp_path):
    need("matplotlib")
    command = [sys.executable, str(DOCS / "draw_panels.py"), str(tmp_path / "panels.svg")]
    subprocess.run(command, check=True, timeout=300, cwd=ROOT)
    drawn, kept = ((folder / "panels.svg").read_text("utf-8") for folder in (tmp_path, DOCS))

    def texts(svg):
        return re.findall(r"<!-- (.*?) -->|<text[^>]*>(.*?)</text>", svg)

    assert len(texts(kept)) > 500
    assert texts(drawn) == texts(kept)


@pytest.mark.slow
def test_a_packing_code_with_another_order_is_noticed():
    need("matplotlib")
    code = (
        "import os, runpy, sys\n"
        "os.environ['NUMLSTM_CPU'] = 'x86-64-v3'\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"drawing = runpy.run_path({str(DOCS / 'draw_panels.py')!r})\n"
        "cells = [block[:, [0, 2, 1, 3]] for block in drawing['placed']()]\n"
        "axes = drawing['plt'].subplots()[1]\n"
        "drawing['draw_panels'](axes, cells)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300)
    assert "the packing code follows another order" in done.stderr
