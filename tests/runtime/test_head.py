"""The kernel of heads: against the reference, the same bits in any batch and at any level, and special numbers."""

from hashlib import sha256

import numpy as np
import pytest
from judge import same_bits

from numlstm import reference
from numlstm.kernels.plan_layout import Activation
from numlstm.runtime.head import Head

pytestmark = pytest.mark.cpu_level

SIZES = [(1, 1), (1, 40), (5, 16), (33, 17), (64, 33), (130, 70)]  # outputs, inputs
# of the bits of `digest`, on any CPU with fused multiply-add
DIGEST = {"float32": "7dfd1b57e626c2e0", "float64": "638ab8bca6f8d183"}


def made(outputs, inputs, rows, dtype):
    rng = np.random.default_rng(outputs + inputs + rows)
    arrays = (rng.standard_normal(shape) for shape in ((outputs, inputs), outputs, (rows, inputs), (rows, outputs + 1)))
    return [array.astype(dtype) for array in arrays]


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numbers_of_the_reference(dtype, activation):
    eps = np.finfo(dtype).eps
    for outputs, inputs in SIZES:
        weight, bias, x, given = made(outputs, inputs, 7, dtype)
        for own in (bias, None):
            head = Head(np.dtype(dtype), weight, own, activation, skip=0.5)
            want = reference.head(x, weight, own, activation.name.lower(), 0.5 * given[:, :outputs])
            scale = 1 + np.abs(x) @ np.abs(weight).T
            assert (np.abs(head(x, given) - want) <= 4 * eps * scale).all(), (outputs, inputs)
        alone = Head(np.dtype(dtype), None, None, activation)(x)
        assert np.abs(alone - reference.head(x, activation=activation.name.lower())).max() <= 2 * eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_has_the_same_bits_in_any_batch(dtype):
    for outputs, inputs in SIZES:
        weight, bias, x, given = made(outputs, inputs, 192 + 9, dtype)
        head = Head(np.dtype(dtype), weight, bias, Activation.SOFTMAX, skip=-2.0)
        whole = head(x, given)
        for rows in (slice(0, 1), slice(3, 5), slice(192 - 1, None)):
            assert same_bits(head(np.ascontiguousarray(x[rows]), np.ascontiguousarray(given[rows])), whole[rows])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_are_those_of_every_cpu(dtype):
    digest = sha256()
    for activation in Activation:
        for outputs, inputs in SIZES:
            weight, bias, x, given = made(outputs, inputs, 5, dtype)
            digest.update(Head(np.dtype(dtype), weight, bias, activation, 0.25)(x, given).tobytes())
    assert digest.hexdigest()[:16] == DIGEST[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_k_blocks_of_16(dtype):
    """With weights of 1, a large term hides small ones of its own K-block alone."""
    big = 2 / np.finfo(dtype).eps
    x = np.ones((1, 48), dtype)
    x[0, 16] = big  # opens the second K-block
    head = Head(np.dtype(dtype), np.ones((1, 48), dtype))
    want = big  # fifteen more of the second block are lost one by one
    want = np.dtype(dtype).type(16) + np.dtype(dtype).type(want)
    want += np.dtype(dtype).type(16)
    assert head(x)[0, 0] == want


def test_special_numbers():
    x = np.float32([[-np.inf, -1e4, -88, -0.0, 0, 88, 1e4, np.inf, np.nan]])
    sigmoid, tanh, relu = (Head(x.dtype, None, None, kind)(x) for kind in (2, 3, 1))
    assert sigmoid[0, [0, 1, 2]].tolist() == [0, 0, 0] and (sigmoid[0, 5:8] == 1).all() and sigmoid[0, 4] == 0.5
    assert tanh[0, [0, 1]].tolist() == [-1, -1] and (tanh[0, 5:8] == 1).all() and tanh[0, 4] == 0
    assert relu[0, :5].tolist() == [0] * 5 and relu[0, 7] == np.inf
    assert np.isnan([sigmoid[0, 8], tanh[0, 8], relu[0, 8]]).all()
    softmax = Head(x.dtype, None, None, Activation.SOFTMAX)
    assert softmax(np.float32([[-np.inf, 0, 3e38]])).tolist() == [[0, 0, 1]]
    assert softmax(np.float32([[5, 5]])).tolist() == [[0.5, 0.5]]
    assert np.isnan(softmax(np.float32([[1, np.nan, 2]]))).all()
    assert Head(x.dtype, None, None, Activation.RELU)(np.empty((0, 3), np.float32)).shape == (0, 3)
