"""Sphinx settings: `sphinx-build -W -b html docs docs/_build` builds the site."""

import importlib.metadata
import re

from sphinx.application import Sphinx

project = "numlstm"
author = "the numlstm developers"
copyright = f"2026, {author}"
release = importlib.metadata.version("numlstm")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
highlight_language = "text"
html_theme = "furo"
html_title = f"numlstm {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False

# Pages are read on GitHub too, where their examples are the doctests of the suite: nothing is run here.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# What the copy button copies: the input without prompts and without what is printed.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_typehints = "none"  # the docstrings say it
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False


def trim_doctests(app: Sphinx, page: str, source: list[str]) -> None:
    """Take away the empty line that ends a doctest, which only doctest needs."""
    source[0] = re.sub(r"\n\n```$", "\n```", source[0], flags=re.M)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", trim_doctests)
