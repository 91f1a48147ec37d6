"""The bits of gradients, on every CPU with a fused multiply-add: a committed digest."""

import hashlib

import numpy as np
import pytest
from needs import leave_out

import numlstm
from numlstm.kernels.loading import registry

pytestmark = pytest.mark.cpu_level

CASES = (
    # input, hidden, flags, steps, rows
    (1, 40, {}, 33, 1),
    (5, 24, {"num_layers": 2}, 9, 7),
    (3, 13, {"bidirectional": True}, 6, 3),
    (8, 50, {"num_layers": 2, "bidirectional": True, "proj_size": 20}, 5, 4),
    (40, 70, {"bias": False}, 4, 30),
)


DIGEST = "b6f6bf60624aa56c9e43ce959079fd54c9315c29e1fca4fd4d7662cd45995ed6"


def digest(memory="all", nudged=False):
    """A hash over the gradients of both dtypes; the draws are of a generator that NumPy froze.

    ``nudged``: one number of one gradient of an output is the next one above.
    """
    total = hashlib.sha256()
    for dtype in ("float32", "float64"):
        for inputs, units, flags, steps, rows in CASES:
            draw = np.random.RandomState(units).standard_normal
            lstm = numlstm.LSTM(inputs, units, **flags, dtype=dtype).eval()
            lstm.load_state_dict({name: draw(value.shape) / 8 for name, value in lstm.named_parameters()})
            (output, states), backward = lstm.vjp(draw((steps, rows, inputs)).astype(dtype), memory=memory)
            d_output = draw(output.shape).astype(dtype)
            if nudged and units == 70:
                d_output[0, 0, 0] = np.nextafter(d_output[0, 0, 0], np.inf)
            grads = backward(d_output, tuple(draw(s.shape).astype(dtype) for s in states))
            for array in (grads.input, *(grads.parameters[name] for name in sorted(grads.parameters))):
                total.update(array.tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("memory", ["all", "low"])
def test_gradients_are_those_of_the_committed_digest(memory):
    if not registry.level().fused:
        leave_out("a CPU without a fused multiply-add gives other bits, and says so")
    assert digest(memory) == DIGEST


def test_a_fault_of_one_rounding_is_another_digest():
    assert digest(nudged=True) != DIGEST
