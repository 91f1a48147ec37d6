"""numlstm.torch in graphs of torch.compile and torch.export, and in two processes that average their gradients."""

import os
import subprocess
import sys
import textwrap

import pytest
from needs import need

torch = need("torch")
from torch import nn  # noqa: E402
from torch_lstms import BOUND, assert_near, floats, given, gradients, pair, states  # noqa: E402

from numlstm.torch import operators  # noqa: E402
from numlstm.torch.engine import engine  # noqa: E402

pytestmark = [pytest.mark.cpu_level, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_whole_it_has_the_same_gradients(backend):
    flags = [
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"proj_size": 2, "bias": False, "dtype": torch.float64},
    ]
    for of in flags if backend == "aot_eager" else flags[:1]:
        torch._dynamo.reset()  # so that no limit on how often a function is compiled is reached
        ours, theirs = pair(**of)
        compiled = torch.compile(ours, fullgraph=True, backend=backend)
        dtype = of.get("dtype", torch.float32)
        for kind in ("batch", "unbatched"):
            x, rows = given(ours, kind, dtype)
            for hx in (None, states(ours, *rows, dtype=dtype)):
                got, grads = gradients(compiled, x, hx)
                want, of_theirs = gradients(theirs, x, hx)
                assert_near([*got, *grads], [*want, *of_theirs], BOUND[dtype])
                with torch.no_grad():
                    assert_near(floats(compiled(x, hx)), got, 0)


def test_compiled_with_a_head_dropout_and_sequences_of_any_length():
    ours, theirs = pair(num_layers=3, dropout=0.5)
    head = nn.Linear(5, 2)
    runs = []

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def run(x):
        runs.append(1)  # as often as it is compiled
        return head(ours(x)[0]).sum()

    for steps, rows in ((6, 4), (9, 5), (13, 3), (20, 7)):
        x = torch.randn(steps, rows, 3, requires_grad=True)
        torch.manual_seed(2)
        (got,) = torch.autograd.grad(run(x), x)
        torch.manual_seed(2)
        (want,) = torch.autograd.grad(head(theirs(x)[0]).sum(), x)
        assert_near([got], [want], 2e-5)


def test_the_operator_is_as_pytorch_wants_it():
    for both, layers in ((False, 1), (True, 2)):
        ours, _ = pair(bidirectional=both, num_layers=layers, dtype=torch.float64)
        x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
        masks = [torch.rand(6, 4, 10, dtype=torch.float64) for _ in range(layers - 1)]
        hx = states(ours, 4, dtype=torch.float64)
        for of_states in ((None, None), hx):
            call = (x, *of_states, masks, list(ours.parameters()), layers, both, True)
            # the fourth, whether graphs have the same outputs, would compare memory between the parts of what is kept
            checks = "test_schema", "test_autograd_registration", "test_faketensor"
            torch.library.opcheck(operators.lstm, call, test_utils=checks)
    with pytest.raises(RuntimeError, match=r"weights must have shapes[\s\S]*Theirs are"):
        operators.lstm(
            x, None, None, [], [torch.zeros(8, 3), torch.zeros(8, 2), torch.zeros(7), torch.zeros(8)], 1, False, True
        )


def test_a_fake_result_is_as_large_as_a_real_one():
    for hidden, proj, both, layers, rows, dtype in (
        (1, 0, False, 1, 1, torch.float32),
        (17, 3, True, 2, 5, torch.float32),
        (40, 0, False, 3, 2, torch.float64),
    ):
        of_sizes = engine(3, hidden, layers, True, both, proj, dtype)
        weights = [torch.randn(shape, dtype=dtype) for shape in of_sizes.shapes]
        masks = [torch.ones(4, rows, (proj or hidden) * (2 if both else 1), dtype=dtype) for _ in range(layers - 1)]
        x = torch.randn(4, rows, 3, dtype=dtype)
        for drawn in ([], masks):
            real = operators.lstm(x, None, None, drawn, weights, layers, both, True)
            with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fake = operators.lstm(mode.from_tensor(x), None, None, drawn, weights, layers, both, True)
            assert [(r.shape, r.stride()) for r in real] == [(f.shape, f.stride()) for f in fake]


def test_packed_sequences_break_the_graph_and_run():
    ours, theirs = pair()
    x, _ = given(ours, "packed", torch.float32)
    got = gradients(torch.compile(ours, backend="aot_eager"), x, None)
    assert_near(got[1], gradients(theirs, x, None)[1], 2e-5)


def test_an_exported_program_is_pytorchs():
    ours, _ = pair()
    x = torch.randn(6, 4, 3)
    program = torch.export.export(ours.eval(), (x,))
    assert "aten.lstm" in str(program.graph) and "numlstm" not in str(program.graph)  # it runs without numlstm
    assert_near([program.module()(x)[0]], [ours(x)[0]], 2e-5)


TRAIN = """
import os, sys
import torch
from torch import nn
from numlstm.torch import accelerate

rank, fast = int(sys.argv[1]), sys.argv[3] == "ours"
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.set_num_threads(1)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 5, num_layers=2), nn.Linear(5, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0])

torch.manual_seed(0)
model = Model()
if fast:
    assert accelerate(model) == {}
model = nn.parallel.DistributedDataParallel(model)
optim = torch.optim.Adam(model.parameters(), lr=0.01)
data = torch.randn(20, 2, 6, 4, 3)
for batch in data:
    optim.zero_grad()
    loss = model(batch[rank]).pow(2).mean()
    loss.backward()
    optim.step()
    print(f"{loss.item():.6f}")
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_one_model(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    losses = {}
    for kind in ("ours", "theirs"):
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "train.py", str(rank), str(tmp_path / kind), kind],
                **{"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environ},
            )
            for rank in range(2)
        ]
        for rank, process in enumerate(processes):
            said, complaint = process.communicate(timeout=300)
            assert process.returncode == 0, complaint
            losses[kind, rank] = [float(line) for line in said.split()]
    for rank in range(2):
        assert len(losses["ours", rank]) == 20
        assert losses["ours", rank] == pytest.approx(losses["theirs", rank], abs=2e-5)
