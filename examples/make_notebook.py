"""Make multilayer_lstm.ipynb of docs/tutorial.md: its prose as text cells, its examples as executed code cells.

pip install -e ".[docs]"
python examples/make_notebook.py
"""

from __future__ import annotations

import doctest
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
TUTORIAL = HERE.parent / "docs" / "tutorial.md"
NOTEBOOK = HERE / "multilayer_lstm.ipynb"

THIS_PAGE = (
    "Every example on this page runs in the test suite;\n"
    "`examples/multilayer_lstm.ipynb` is the same page as a notebook.",
    "Every cell of this notebook runs in the test suite;\n`docs/tutorial.md` is the same page as text.",
)


def from_tutorial(markdown: str) -> Any:
    """The notebook that a tutorial's text makes, not executed yet.

    A code cell ends where an example shows something, for a cell shows what its last expression gives.
    """
    if THIS_PAGE[0] not in markdown:
        raise ValueError(f"the tutorial lacks the sentence that is another one in the notebook: {THIS_PAGE[0]!r}")
    markdown = markdown.replace(*THIS_PAGE).replace('np.load("examples/', 'np.load("')
    cells = []
    for number, part in enumerate(re.split(r"```python\n(.*?)```", markdown, flags=re.DOTALL)):
        if number % 2 == 0:
            if part.strip():
                cells.append(new_markdown_cell(part.strip()))
            continue
        source = ""
        for example in doctest.DocTestParser().get_examples(part):
            source += example.source
            if example.want:
                cells.append(new_code_cell(source.rstrip()))
                source = ""
        if source:
            cells.append(new_code_cell(source.rstrip()))
    for number, cell in enumerate(cells, 1):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def executed(notebook: Any) -> Any:
    """A copy of the notebook with fresh outputs, and metadata that tell of no machine, version or time."""
    fresh = deepcopy(notebook)
    NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(HERE)}}, record_timing=False).execute()
    fresh["metadata"] = deepcopy(notebook["metadata"])
    return fresh


def main() -> None:
    """Write the notebook."""
    notebook = executed(from_tutorial(TUTORIAL.read_text(encoding="utf-8")))
    nbformat.validate(notebook)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
