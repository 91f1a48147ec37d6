"""Sphinx settings: `sphinx-build -W -b html docs docs/_build` builds the site."""

project = "numlstm"
author = "The numlstm developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "numlstm"
html_static_path: list[str] = []

# Pages are read on GitHub too, where their examples are the doctests of the suite: nothing is run here.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say it
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
