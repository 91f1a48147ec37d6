"""The coverage that .ci/run prints: by folder, with the files below a share."""

from covered import lines_of


def file(lines, covered, branches=0, taken=0):
    summary = {"num_statements": lines, "covered_lines": covered, "num_branches": branches, "covered_branches": taken}
    return {"summary": summary | {"percent_covered": 1.5}}


def test_folders_low_files_and_all_are_told():
    files = {
        "numlstm/a.py": file(90, 90, 10, 10),
        "numlstm/b/c.py": file(10, 5, 10, 5),
        "numlstm/b/__init__.py": file(0, 0),
    }
    assert list(lines_of({"files": files})) == [
        " 100% of    90 lines  numlstm",
        "  50% of    10 lines  numlstm/b",
        "below 80%: numlstm/b/c.py 50%",
        "  92% of   100 lines  in all",
    ]
