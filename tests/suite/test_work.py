"""The measure of work that tests of linear time rely on tells a loop from a loop in a loop."""

import pytest
from work import assert_linear, operations


def once(n):
    return lambda: [abs(k) for k in range(n)]


def squared(n):
    return lambda: [abs(k) for k in range(n) for _ in range(n)]


def test_work_is_the_same_each_time_and_grows_with_the_loop():
    assert operations(once(100)) == operations(once(100))
    assert operations(once(200)) - operations(once(100)) == operations(once(300)) - operations(once(200)) > 100


def test_a_loop_is_linear_and_a_loop_in_a_loop_is_not():
    assert_linear(once, 50)
    with pytest.raises(AssertionError, match="in proportion"):
        assert_linear(squared, 50)


def test_what_is_raised_goes_on_and_counting_ends():
    with pytest.raises(ZeroDivisionError):
        operations(lambda: 1 / 0)
    assert operations(lambda: None) < 10
