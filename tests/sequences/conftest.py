"""What tests of streams share."""

import pytest

from numlstm.runtime import fast_call, object_layout


@pytest.fixture(params=["built-in", "built-in without the GIL", "ctypes"])
def way(request, monkeypatch):
    """Every way in which Python reaches the machine code of a stream."""
    if request.param == "ctypes":
        monkeypatch.setattr(object_layout, "functions", None)
    elif request.param == "built-in without the GIL":
        monkeypatch.setattr(fast_call, "GIL_WORK", -1)
    return request.param
