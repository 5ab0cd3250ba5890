"""Every fault against every way out, once, on both databases; at length it is `make faults`.

After recovery there is exactly one charge a line on the other side; where that side cannot be asked, there
was exactly one attempt, and the line says that it is not known.
"""

import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import requests

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from fault_matrix import CELLS, IN_FLIGHT, OUTS, Clock, Gate, Out, _judged, run, some_charges, stored
from writer_process import SENT_AT

from quarterhour.fhir.charge_items import OneByOne
from quarterhour.fhir.errors import OnRecord
from quarterhour.fhir.server import Server
from quarterhour.fhir.systems import CHARGE_IDENTIFIER
from quarterhour.plugin import outbox
from quarterhour.plugin.outbox import State
from quarterhour.sandbox.authorization import Authorized, Token
from quarterhour.sandbox.ehr import create_sandbox, running
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

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


# A request that outlives its sender: why charges were once doubled here, and why only then


class Slow:
    """An EHR without conditional create that keeps a write waiting until it is let through."""

    def __init__(self, application, held):
        self._application, self._held = application, held
        self.writes, self.through, self.done = 0, threading.Event(), threading.Event()

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] != "POST":
            return self._application(environ, start_response)
        self.writes += 1
        held = self.writes == self._held
        if held:
            assert self.through.wait(10)
        try:
            return self._application(environ, start_response)
        finally:
            if held:
                self.done.set()


@contextmanager
def a_slow_ehr(clock, *, held, around=lambda application: application):
    made = {}

    def factory(base_url):
        made["app"] = create_sandbox(
            base_url=base_url, app_url="http://localhost:9", clock=clock,
            quirks=Quirks(no_conditional_create=True),
        )  # fmt: skip
        made["slow"] = Slow(around(made["app"]), held)
        return made["slow"]

    with running(factory) as base_url:
        sandbox = made["app"].extensions["sandbox"]
        sandbox.smart.issued.tokens["token"] = Token(
            "token", None, "test", "user/ChargeItem.cruds patient/*.rs",
            Authorized("Practitioner/pr-reyes", "Patient/pat-adams", "Encounter/enc-cms-ex1"),
            "family", clock() + timedelta(days=365),
        )  # fmt: skip
        yield sandbox, made["slow"], f"{base_url}/fhir"


LAG = 5


def written_late(bench, in_flight, jump, around=lambda application: application):
    """A charge whose first write fails, and whose second is under way while the clock moves by ``jump``.

    The sender has given it up and looks again; then the EHR gets it. How many records there are, the
    charge's state, and the way that it left by, to look once more.
    """
    clock = Clock()
    wait = timedelta(seconds=LAG + in_flight)
    (charge,) = some_charges(bench, 1)
    decision = stored(bench, OUTS[1], (charge,))
    with ExitStack() as stack:
        sandbox, slow, base = stack.enter_context(a_slow_ehr(clock, held=2, around=around))
        http = stack.enter_context(requests.Session())
        http.headers[SENT_AT] = str((clock() + wait).timestamp())  # the second one's, which is under way
        way = OneByOne(Server(base, "token", http, read_timeout=1, retries=0), wait)
        here = outbox.Outbox(bench.engine, bench.vault, clock)
        sandbox.faults.add(Fault("status", status=500, method="POST"))
        for moved in (0, wait.total_seconds(), jump):
            clock.offset += moved
            outbox.send(here, way, decision, who="Practitioner/t1")
        slow.through.set()
        assert slow.done.wait(10)
        clock.offset += 2 * wait.total_seconds()
        outbox.send(here, way, decision, who="Practitioner/t1")
        (row,) = bench.rows(decision)
        records = sum(
            {"system": CHARGE_IDENTIFIER, "value": charge.identifier} in filed.resource["identifier"]
            for filed in sandbox.store.all("ChargeItem")
        )
        try:
            doubt = None if way.find(charge) else "none"
        except OnRecord as error:
            doubt = str(error)
        return records, row.state, doubt


def test_a_write_that_reaches_the_ehr_as_late_as_the_site_says_it_can_is_not_written_again(bench):
    assert written_late(bench, in_flight=60, jump=64) == (1, State.CONFIRMED, None)


def test_a_write_under_way_for_longer_than_the_site_says_is_doubled_and_found_so_afterwards(bench):
    """The limit, and what happened to the matrix before it had its gate: its clock jumped by 130 seconds
    while a busy machine had yet to read a request that was promised to take two."""
    records, state, doubt = written_late(bench, in_flight=2, jump=130)
    assert (records, state) == (2, State.CONFIRMED)
    assert doubt.startswith("The EHR holds 2 records of the same charge")


def test_the_same_write_is_not_doubled_where_the_site_allows_for_it(bench):
    assert written_late(bench, in_flight=130, jump=130) == (1, State.CONFIRMED, None)


def test_the_matrix_s_gate_drops_what_comes_later_than_the_site_says(bench):
    clock = Clock()
    gate = Gate(clock)
    reached = []

    def application(_environ, start_response):
        reached.append(True)
        start_response("200 OK", [])
        return []

    with running(lambda _: gate.around(application)) as base:
        sent_at = clock().timestamp()

        def post():
            return requests.post(base, headers={SENT_AT: str(sent_at)}, timeout=5)

        gate.jump(IN_FLIGHT - 5)
        assert post().status_code == 200
        gate.jump(6)
        with pytest.raises(requests.ConnectionError):
            post()
    assert (len(reached), gate.late) == (1, 1)


def test_the_matrix_s_clock_does_not_move_while_a_request_is_looked_at():
    clock = Clock()
    gate = Gate(clock)
    inside, out = threading.Event(), threading.Event()

    def application(_environ, start_response):
        inside.set()
        assert out.wait(10)
        assert clock.offset == 0
        start_response("200 OK", [])
        return []

    with running(lambda _: gate.around(application)) as base:
        asking = threading.Thread(target=lambda: requests.get(base, timeout=10))
        asking.start()
        assert inside.wait(10)
        moving = threading.Thread(target=lambda: gate.jump(100))
        moving.start()
        time.sleep(0.05)
        assert clock.offset == 0
        out.set()
        moving.join()
        asking.join()
    assert clock.offset == 100
