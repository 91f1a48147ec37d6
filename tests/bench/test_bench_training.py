"""``numlstm bench train``: every engine's gradients are right, wrong ones are noticed, all take turns."""

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from commands import invoke
from needs import need
from scripts import benchmark

from numlstm.bench import training
from numlstm.bench.engines import task
from numlstm.bench.engines import training as engines

pytestmark = pytest.mark.cpu_level

SMALL = training.Training("small", 3, 5, 2, 2, 6, 4)
PACKED = training.Training("packed", 3, 5, 2, 1, 6, 4, packed=True)


def wrong(workload, name, names=("numlstm",)):
    """Why an engine whose gradient of that name is wrong is left out."""

    def faulty(task):
        passes = engines.numlstm(task)["vjp"]

        def gradients(found):
            arrays = {key: np.array(array) for key, array in passes.gradients(found).items()}
            arrays[name].flat[-1] += 1e-2 * np.abs(arrays[name]).max()
            return arrays

        return {"vjp": engines.Passes(passes.call, gradients)}

    return training.measured(workload, names, 1, 2, 1e-4, {"numlstm": faulty})["left_out"]


@pytest.mark.parametrize("workload", [SMALL, PACKED], ids=lambda workload: workload.name)
@pytest.mark.parametrize("name", ["numlstm", "torch"])
def test_gradients_are_those_of_the_reference(name, workload):
    need(name)
    asked = workload.task(1)
    wanted = training.expected(asked)
    for passes in engines.ENGINES[name](asked).values():
        with passes.context():
            assert training.error(passes.gradients(passes.call()), wanted, "float32") < 1e-5


@pytest.mark.parametrize("name", ["input", "weight_hh_l1", "bias_ih_l0"])
def test_a_wrong_gradient_is_noticed(name):
    says = wrong(PACKED, name)["numlstm"]
    assert f"wrong result: the gradient of {name} differs from the reference by up to 0.01 of its" in says


def test_a_framework_that_is_not_installed_is_left_out_by_name(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(task, "version", missing)
    found = training.measured(SMALL, ["numlstm", "torch", "jax", "keras"], 1, 2, 1e-4)
    for name in ("torch", "jax", "keras"):
        assert found["left_out"][name] == f"{name} is not installed (pip install {name})"
    assert found["times"].keys() == {"numlstm", training.FORWARD, training.INFERENCE}
    assert all(len(times) == 2 and min(times) > 0 for times in found["times"].values())


def test_the_report():
    times = {"numlstm": [2.0, 4.0, 2.0], "torch": [6.0, 8.0, 1.0], "vjp": [1.0, 1.0, 1.0], "inference": [0.5, 1.0, 2.0]}
    one = training.Times(SMALL, 1, times, {"jax": "it is not installed"})
    two = training.Times(SMALL, 2, {**times, "numlstm": [1.0, 1.0, 2.0]}, {})
    text = training.text([one, two], ["torch", "jax"], 3)
    assert "| small    |    2.00 |  6.00 |       2.00 |               1.00 |" in text
    assert "|       6.00 |               1.00 |          2.00 |" in text
    assert "Below 1.0 over torch: none of 1." in text and "- jax: left out: it is not installed (1 of 2)" in text
    slow = training.Times(SMALL, 1, {**times, "torch": [1.0, 2.0, 1.0]}, {})
    assert "Below 1.0 over torch: small 0.50 of 1." in training.text([slow], ["torch"], 3)


def test_the_command(monkeypatch):
    asked = []

    def run(workloads, baselines, threads, rounds, seconds, progress):
        asked.append(([workload.name for workload in workloads], baselines, threads, rounds))
        return [training.Times(workloads[0], 1, {}, {"numlstm": "wrong result"})]

    monkeypatch.setattr(training, "run", run)
    result = invoke("bench", "train", "--workload", "amp", "--sizes", "1,4,1,1,3,2,packed", "--threads", "2",
                    "--baselines", "none")  # fmt: skip
    assert result.exit_code == 1 and "numlstm on amp: wrong result" in result.output
    invoke("bench", "train", "--sweep", "2", "--quick")
    invoke("bench", "train")
    assert asked[0] == (["amp", "1,4,1,1,3,2,packed"], [], (2,), 9)
    assert (len(asked[1][0]), *asked[1][1:]) == (2, ["torch", "jax", "keras"], (1,), 3)
    assert asked[2][0] == list(training.WORKLOADS)
    for args, says in (
        (("--workload", "ampp"), "no workload is called 'ampp'; there are seed, amp"),
        (("--sizes", "1,2,packed"), "must be six whole numbers"),
        (("--sizes", "1,2,1,1,3,4,packed,batch_first"), "packed sequences have the steps first"),
        (("--baselines", "tensorflow"), "there is no baseline 'tensorflow'; there are torch"),
    ):
        result = invoke("bench", "train", *args)
        assert result.exit_code == 2 and says in result.output


@pytest.mark.slow
def test_a_run_in_processes_of_its_own():
    """Every framework that is installed is right, or says what it lacks."""
    need("torch")
    projected = training.Training("projected", 3, 5, 1, 1, 4, 2, 2, batch_first=True)
    workloads = SMALL, PACKED, projected
    found = training.run(workloads, training.BASELINES, [1, 2], 2, 1e-3, lambda _: None)
    assert [(each.workload, each.threads) for each in found] == [(each, n) for n in (1, 2) for each in workloads]
    assert training.failures(found) == []
    lacks = {PACKED: ["JAX has no packed sequences"], projected: ["the LSTM that keras runs here has no proj_size"]}
    for each in found:
        assert {"numlstm", "torch"} <= each.times.keys()
        for name, reason in each.left_out.items():
            assert (
                reason.startswith((f"{name} is not installed", "jax is not installed"))
                or reason in lacks[each.workload]
            )


def test_the_sweep_is_the_same_each_time():
    assert training.configurations(3, 1) == training.configurations(3, 1) != training.configurations(3, 2)


def test_asv(monkeypatch):
    monkeypatch.setenv("NUMLSTM_BENCH_QUICK", "1")
    module = benchmark("train")
    names, _ = module.Train.params
    assert names == list(training.WORKLOADS)
    for name in ("seed", "packed"):
        timed = module.Train()
        timed.setup(name, 1)
        timed.time_passes(name, 1)
        timed.time_optimiser(name, 1)
    monkeypatch.setattr(module, "microseconds", lambda call: call() and 3.0)
    assert timed.track_forward_over_inference(name, 1) == 1 and module.Train.track_forward_over_inference.unit
