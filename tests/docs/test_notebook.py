"""examples/multilayer_lstm.ipynb: made of the tutorial, executed, and showing what it shows today."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from needs import need
from scripts import script

for name in ("nbformat", "nbclient", "ipykernel"):
    need(name)

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def maker():
    return script(EXAMPLES / "make_notebook.py")


@pytest.fixture(scope="module")
def committed():
    import nbformat

    notebook = nbformat.read(EXAMPLES / "multilayer_lstm.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def sources(notebook):
    return [(cell["cell_type"], cell["source"]) for cell in notebook["cells"]]


def shown(notebook):
    """The text that each code cell shows."""
    texts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            outputs = cell["outputs"]
            assert all(output["output_type"] in ("stream", "execute_result") for output in outputs)
            texts.append(
                "".join(o["text"] if o["output_type"] == "stream" else o["data"]["text/plain"] for o in outputs)
            )
    return texts


def test_cells_are_the_tutorials(maker, committed):
    made = maker.from_tutorial(maker.TUTORIAL.read_text(encoding="utf-8"))
    assert sources(made) == sources(committed)
    assert sum(kind == "code" for kind, _ in sources(made)) > 15


def test_a_changed_tutorial_makes_another_notebook(maker, committed):
    text = maker.TUTORIAL.read_text(encoding="utf-8")
    assert sources(maker.from_tutorial(text.replace("num_layers=2, seed=0", "num_layers=3, seed=0"))) != sources(
        committed
    )
    with pytest.raises(ValueError, match="the tutorial lacks the sentence"):
        maker.from_tutorial(text.replace("as a notebook", "as another thing"))


@pytest.mark.slow
def test_outputs_are_todays(maker, committed):
    fresh = maker.executed(committed)
    assert shown(fresh) == shown(committed)
    assert sum(bool(text) for text in shown(committed)) > 15  # it was committed executed

    counts = [cell["execution_count"] for cell in committed["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))

    spoilt = deepcopy(committed)  # an output that is not what the code gives is noticed
    cell = next(cell for cell in spoilt["cells"] if cell["cell_type"] == "code" and "round(4)" in cell["source"])
    cell["outputs"][0]["data"]["text/plain"] = cell["outputs"][0]["data"]["text/plain"].replace("7", "8", 1)
    assert shown(fresh) != shown(spoilt)


def test_it_tells_of_no_machine_and_no_time(committed):
    assert committed["metadata"] == {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    assert all(cell["metadata"] == {} for cell in committed["cells"])
    assert not any(word in json.dumps(committed) for word in ("/home", "/tmp", "/usr", 'execution": {', "Users"))
