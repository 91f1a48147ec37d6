"""Exported libraries in C and C++ programs: the bits of Python, no crash on any file, many threads, other CPUs."""

import platform
import re
from functools import cache

import embedded
import pytest
from embedded import LARGE, SIZES, cases, compiled, differing, model, run, tool, write_cases
from needs import leave_out

from numlstm.export import MODEL, export

DTYPES = ("float32", "float64")
HOST = "host"
ARM = "aarch64-linux"


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``folder(dtype, target)`` of a library, its header, and a small model."""

    @cache
    def folder(dtype, target=HOST, level=None):
        where = tmp_path_factory.mktemp(f"{dtype}-{target}")
        export(model(SIZES[6], dtype), where, target=target, level=level, echo=lambda line: None)
        return where

    return folder


def check(program, before, folder, dtype, sizes, target=HOST, level=None, most_steps=11):
    """Run all cases of a model through a program, and compare."""
    lstm = model(sizes, dtype)
    where = folder / "models"
    export(lstm, where, target=target, level=level, echo=lambda line: None)
    some = cases(lstm.bidirectional, most_steps)
    write_cases(lstm, some, where / "cases")
    run(*before, program, where / MODEL, where / "cases", where / "results")
    wrong, compared = differing(lstm, some, (where / "results").read_bytes())
    assert not wrong, (sizes, wrong)
    assert compared > 100
    return len(some)


@pytest.mark.parametrize("names", [("gcc", "cc"), ("g++", "c++")], ids=["C", "C++"])
def test_a_program_gives_the_bits_of_python(names, dtype, folders):
    folder = folders(dtype)
    program = compiled("runner", folder, folder / "libnumlstm.a", tool(*names), "-O1")
    ran = sum(check(program, [], folder, dtype, sizes) for sizes in SIZES)
    assert ran > 100
    check(program, [], folder, dtype, LARGE, most_steps=5)
