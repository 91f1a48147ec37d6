"""What others run: the workflow for GitHub names the Pythons and the systems that the package names."""

import re
import runpy
import tomllib
from pathlib import Path

from needs import need

from numlstm.export import targets
from numlstm.wheels import libraries

ROOT = Path(__file__).parents[2]
WORKFLOW = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")


def test_the_workflow_runs_the_pythons_of_the_classifiers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert re.search(r"python: (\[.*\])", WORKFLOW)[1] == str(named).replace("'", '"')


def test_the_build_hook_has_a_tag_for_every_target_with_python():
    need("hatchling")
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))
    assert set(hook["TAGS"]) == set(targets.TARGETS) - {"wasm32"}
    assert all(libraries.SHIPPED[name.partition("-")[0]] for name in hook["TAGS"])
