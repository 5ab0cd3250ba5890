"""Every fault against every way out, once, on both databases; at length it is `make faults`.

After recovery there is exactly one charge a line on the other side; where that side cannot be asked, there
was exactly one attempt, and the line says that it is not known.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from fault_matrix import CELLS, OUTS, Out, _judged, run, some_charges, stored

A_PROCESS_DIES = {
    "killed before sending",
    "killed at a step",
    "killed awaiting the answer",
    "two workers at once",
}


def _name(value):
    return value.title if isinstance(value, Out) else str(value)


@pytest.mark.parametrize(("out", "fault", "lines"), CELLS, ids=_name)
def test_nothing_is_lost_and_nothing_is_written_twice(bench, out, fault, lines):
    outcome = run(bench, out, fault, lines)
    assert (outcome.lost, outcome.doubled) == (0, 0)
    assert outcome.injected or fault == "killed at a step"  # a step after the last kills nothing
    assert outcome.unknown in ({0, lines} if out.way == "dft" else {0})


@pytest.mark.parametrize("fault", ["dropped after processing", "500 after processing", "truncated body"])
def test_the_naive_way_doubles_what_the_outbox_does_not(bench, fault):
    out = OUTS[1]
    assert run(bench, out, fault, 3, naive=True).doubled > 0
    assert run(bench, out, fault, 3).doubled == 0


def test_the_judge_sees_a_charge_that_is_lost(bench):
    """A matrix that could not fail would prove nothing."""
    outcome = run(bench, OUTS[1], "422", 1, naive=True)
    assert outcome.lost == 0
    bench.sandboxes["bare"].store._filed.pop("ChargeItem")
    charges = some_charges(bench, 1)
    decision = stored(bench, OUTS[1], charges)
    assert _judged(bench, OUTS[1], decision, charges, 1, naive=False).lost == 1
