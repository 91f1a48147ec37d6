"""Settings of Hypothesis, and state machines that are run, or must fail."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

CI = os.environ.get("NUMLSTM_CI") == "1"
PATIENT = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def cases(count: int, **more: object) -> settings:
    """So many examples; always the same ones in CI."""
    return settings(
        **{"max_examples": count, "deadline": None, "derandomize": CI, "suppress_health_check": PATIENT} | more
    )


def run(machine: type[RuleBasedStateMachine], courses: int, steps: int) -> None:
    """So many courses of events, of so many steps at most."""
    run_state_machine_as_test(machine, settings=cases(courses, stateful_step_count=steps))


def must_fail(machine: type[RuleBasedStateMachine], courses: int, steps: int) -> None:
    """The same with a planted fault, which one of the courses finds. Examples are not made smaller."""
    quick = cases(courses, stateful_step_count=steps, phases=[Phase.generate], derandomize=True, database=None)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=quick)
