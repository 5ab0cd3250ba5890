"""What becomes of a charge, try by try, with an EHR faked at the wire."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest
import requests
import responses
from urllib3.exceptions import MaxRetryError, NewConnectionError

from quarterhour.fhir.charge_item import Charge, identifier_for, withdrawal_of
from quarterhour.fhir.charge_items import OneByOne
from quarterhour.fhir.oracle_charge import OracleCharges
from quarterhour.fhir.server import Server
from quarterhour.fhir.systems import ORACLE_EXTENSIONS
from quarterhour.plugin import audit, database, leases, outbox
from quarterhour.plugin.leases import LEASE
from quarterhour.plugin.outbox import FIRST_PAUSE, State

BASE = "https://ehr.example/fhir"
NOW = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)


def a_charge(code="97110", units=2):
    known = {"patient": "Patient/1", "encounter": "Encounter/1", "date_of_service": date(2026, 11, 20)}
    return Charge(
        identifier=identifier_for(BASE, code=code, modifiers=("GP",), **known),
        **known,
        code=code,
        units=units,
        modifiers=("GP",),
        services=("Procedure/1",),
        performers=("Practitioner/1",),
        enterer="Practitioner/1",
        entered_at=NOW,
        rationale="23 minutes make 2 units.",
    )


def no_connection():
    """As requests raises it where nobody listens."""
    return requests.exceptions.ConnectionError(MaxRetryError(None, "/", NewConnectionError(None, "refused")))


class Ehr:
    """Keeps the ChargeItems it is sent; answers each request with what the test put on the list, or well."""

    def __init__(self, wire):
        self.items = []
        self.asked = []
        self.next = []
        self.retry_after = None
        self.before_write = lambda: None
        wire.add_callback(responses.POST, f"{BASE}/ChargeItem", callback=self._create)
        wire.add_callback(responses.GET, f"{BASE}/ChargeItem", callback=self._search)

    def _create(self, request):
        self.asked.append("write")
        self.before_write()
        kind = self.next.pop(0) if self.next else "well"
        if kind in {"refused", "forbidden", "unauthorized", "busy"}:
            status = {"refused": 422, "forbidden": 403, "unauthorized": 401, "busy": 429}[kind]
            outcome = {"resourceType": "OperationOutcome", "issue": [{"diagnostics": f"No: {kind}"}]}
            headers = {"Retry-After": self.retry_after} if kind == "busy" and self.retry_after else {}
            return status, headers, json.dumps(outcome)
        if kind == "unreachable":
            raise no_connection()
        item = {**json.loads(request.body), "id": str(len(self.items) + 1)}
        if kind != "lost before":
            self.items.append(item)
        if kind in {"lost", "lost before"}:
            raise requests.exceptions.ReadTimeout
        if kind == "failed after":
            return 500, {}, ""
        return 201, {"Location": f"{BASE}/ChargeItem/{item['id']}"}, json.dumps(item)

    def _search(self, _request):
        self.asked.append("search")
        kind = self.next.pop(0) if self.next else "well"
        if kind == "forbidden":
            return 403, {}, "{}"
        if kind == "unreachable":
            raise no_connection()
        entries = [{"resource": item} for item in self.items]
        return 200, {}, json.dumps({"resourceType": "Bundle", "entry": entries})


@pytest.fixture
def ehr():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as wire:
        yield Ehr(wire)


@pytest.fixture
def decided(here):
    """A decision with one charge, or with those given."""

    def made(*charges):
        with here.engine.begin() as connection:
            connection.execute(
                database.decision.insert().values(
                    id="d", visit="v", revision=1, issuer="i", person="p", signed_at=NOW, sealed=b"x"
                )
            )
            outbox.intend(connection, here.vault, "d", charges or (a_charge(),), NOW)
        return here

    return made


WAIT = timedelta(seconds=65)  # what "not found" takes to mean something


def send(here, now=NOW, *, by_hand=False):
    server = Server(BASE, "token", requests.Session(), sleep=lambda _: None)
    box = outbox.Outbox(here.engine, here.vault, lambda: now)
    return outbox.send(box, OneByOne(server, WAIT), "d", who="Practitioner/1", by_hand=by_hand)


def rows(here):
    with here.engine.begin() as connection:
        return outbox.charges_of(connection, here.vault, "d")


def test_a_charge_is_stored_before_the_ehr_hears_of_it(decided, ehr):
    (row,) = rows(decided())
    assert (row.state, row.attempts, row.reference, row.problem) == (State.INTENDED, 0, None, None)
    assert row.charge == a_charge()
    assert ehr.asked == []


def test_a_first_try_writes_without_a_search_and_is_confirmed_with_its_reference(decided, ehr):
    here = decided()
    assert send(here)
    (row,) = rows(here)
    assert (row.state, row.reference, row.problem, row.attempts) == (State.CONFIRMED, "ChargeItem/1", None, 1)
    assert ehr.asked == ["write"]


def test_a_confirmed_charge_is_never_sent_again(decided, ehr):
    here = decided()
    for _ in range(3):
        assert send(here)
    assert ehr.asked == ["write"]


# what happened at the first try -> (its state, what the second try asks, what is in the EHR then)
FIRST_TRIES = {
    "lost": (State.UNKNOWN, ["search"], 1),
    "lost before": (State.UNKNOWN, ["search", "write"], 1),
    "failed after": (State.UNKNOWN, ["search"], 1),
    "refused": (State.REFUSED, ["search", "write"], 1),
    "forbidden": (State.REFUSED, ["search", "write"], 1),
    "unauthorized": (State.INTENDED, ["write"], 1),
    "busy": (State.INTENDED, ["write"], 1),
    "unreachable": (State.INTENDED, ["write"], 1),
}


@pytest.mark.parametrize("happens", FIRST_TRIES)
def test_after_each_kind_of_first_try_the_second_leaves_one_record_and_no_doubt(decided, ehr, happens):
    state, second, records = FIRST_TRIES[happens]
    here = decided()
    ehr.next = [happens]
    send(here)
    (row,) = rows(here)
    assert row.state is state
    assert row.problem
    ehr.asked.clear()
    send(here, NOW + WAIT, by_hand=True)  # a person presses "Send again"
    (row,) = rows(here)
    assert (row.state, row.problem, row.attempts) == (State.CONFIRMED, None, 1 + second.count("write"))
    assert ehr.asked == second
    assert len(ehr.items) == records


def test_a_refusal_keeps_the_ehr_s_words(decided, ehr):
    here = decided()
    ehr.next = ["refused"]
    send(here)
    assert rows(here)[0].problem.endswith("The EHR says: No: refused")


@pytest.mark.parametrize("first", ["lost", "lost before"])
@pytest.mark.parametrize("search", ["forbidden", "unreachable"])
def test_a_doubt_stays_a_doubt_while_the_ehr_cannot_be_searched_and_nothing_is_written(
    decided, ehr, first, search
):
    here = decided()
    ehr.next = [first, *[search] * 3]
    send(here)
    ehr.asked.clear()
    send(here)
    assert rows(here)[0].state is State.UNKNOWN
    assert "write" not in ehr.asked


@pytest.mark.parametrize("write", ["unauthorized", "busy", "unreachable"])
def test_a_doubt_stays_a_doubt_where_the_second_try_was_not_carried_out(decided, ehr, write):
    here = decided()
    ehr.next = ["lost before", "well", write]
    send(here)
    send(here)
    assert rows(here)[0].state is State.UNKNOWN


def test_a_charge_found_as_being_sent_after_a_crash_is_searched_for_first(decided, ehr):
    here = decided()
    send(here)
    with here.engine.begin() as connection:  # the process died between the answer and its record
        connection.execute(database.charge.update().values(state=State.SENDING, reference=None))
    ehr.asked.clear()
    send(here)
    assert rows(here)[0].state is State.CONFIRMED
    assert rows(here)[0].reference == "ChargeItem/1"
    assert ehr.asked == ["search"]


def test_a_record_under_our_identifier_that_says_something_else_is_told_and_not_overwritten(decided, ehr):
    here = decided()
    ehr.next = ["lost"]
    send(here)
    ehr.items[0]["quantity"] = {"value": 9}
    for later in (1, 2):
        send(here, NOW + later * WAIT, by_hand=True)
        (row,) = rows(here)
        assert row.state is State.REFUSED
        assert "differs in the units" in row.problem
    assert ehr.asked == ["write", "search", "search"]


def test_a_refused_charge_does_not_hold_up_the_next_and_a_doubtful_one_does(decided, ehr):
    here = decided(a_charge("97110"), a_charge("97112"))
    ehr.next = ["refused"]
    send(here)
    assert [row.state for row in rows(here)] == [State.REFUSED, State.CONFIRMED]


@pytest.mark.parametrize("wall", ["lost", "unreachable", "unauthorized"])
def test_behind_a_wall_the_next_charge_is_not_tried(decided, ehr, wall):
    here = decided(a_charge("97110"), a_charge("97112"))
    ehr.next = [wall]
    send(here)
    assert [row.attempts for row in rows(here)] == [1, 0]
    assert rows(here)[1].state is State.INTENDED
    send(here, NOW + WAIT)
    assert [row.state for row in rows(here)] == [State.CONFIRMED, State.CONFIRMED]
    assert len(ehr.items) == 2


def test_not_found_means_nothing_before_the_wait_is_over(decided, ehr):
    here = decided()
    ehr.next = ["lost before"]
    send(here)
    ehr.asked.clear()
    send(here, NOW + WAIT - timedelta(microseconds=1), by_hand=True)
    assert rows(here)[0].state is State.UNKNOWN
    assert ehr.asked == ["search"]
    send(here, NOW + WAIT, by_hand=True)
    assert rows(here)[0].state is State.CONFIRMED


def test_a_refused_charge_is_tried_again_only_when_a_person_asks(decided, ehr):
    here = decided()
    ehr.next = ["refused"]
    send(here)
    send(here, NOW + WAIT)
    assert ehr.asked == ["write"]
    send(here, NOW + WAIT, by_hand=True)
    assert ehr.asked == ["write", "search", "write"]


def test_a_refused_charge_is_not_tried_again_while_the_ehr_cannot_be_searched(decided, ehr):
    here = decided()
    ehr.next = ["forbidden", *["unreachable"] * 3]
    send(here)
    send(here, NOW + WAIT, by_hand=True)
    assert ehr.asked.count("write") == 1
    assert rows(here)[0].state is State.REFUSED


HOUR = timedelta(hours=1)
THE_TIME_OF_DAY = [
    "1764326400",
    "1764326400000",
]  # in seconds, in milliseconds; neither is a number of seconds


@pytest.mark.parametrize(
    ("after", "waits"), [("60", timedelta(minutes=1)), *((t, HOUR) for t in THE_TIME_OF_DAY)]
)
def test_a_charge_waits_as_long_as_the_ehr_asks_and_an_hour_at_most(decided, ehr, after, waits):
    here = decided()
    ehr.next, ehr.retry_after = ["busy"], after
    send(here)
    (row,) = rows(here)
    assert (row.state, row.due_at) == (State.INTENDED, NOW + waits)
    send(here, NOW + waits - timedelta(microseconds=1))
    assert ehr.asked == ["write"]
    send(here, NOW + waits)
    assert ehr.asked == ["write", "write"]
    assert rows(here)[0].state is State.CONFIRMED


def test_what_cannot_be_reached_is_tried_ever_more_seldom_and_at_least_every_quarter_of_an_hour(decided, ehr):
    here = decided()
    ehr.next = ["unreachable"] * 9
    now, pauses = NOW, []
    for _ in range(9):
        send(here, now)
        (row,) = rows(here)
        assert row.state is State.INTENDED
        pauses.append((row.due_at - now).total_seconds())
        send(here, row.due_at - timedelta(microseconds=1))  # a worker's round before its time
        now = row.due_at
    assert pauses == [20, 40, 80, 160, 320, 640, 900, 900, 900]
    assert ehr.asked == ["write"] * 9
    send(here, now)
    assert rows(here)[0].state is State.CONFIRMED


@pytest.mark.parametrize("wall", ["unreachable", "busy"])
def test_behind_a_pause_the_next_charge_waits_too_and_a_person_does_not(decided, ehr, wall):
    here = decided(a_charge("97110"), a_charge("97112"))
    ehr.next = [wall]
    send(here)
    send(here, NOW + FIRST_PAUSE - timedelta(microseconds=1))
    assert ehr.asked == ["write"]
    send(here, by_hand=True)
    assert [row.state for row in rows(here)] == [State.CONFIRMED, State.CONFIRMED]


def test_a_new_permission_is_used_at_once(decided, ehr):
    here = decided()
    ehr.next = ["unauthorized"]
    send(here)
    send(here)
    assert rows(here)[0].state is State.CONFIRMED


def trail(here):
    with here.engine.begin() as connection:
        return [entry.action for entry in audit.entries(connection, here.vault)]


def test_what_stays_as_it_was_has_no_further_entry_in_the_trail(decided, ehr):
    here = decided()
    ehr.next = [*["unreachable"] * 3, "unauthorized", "unauthorized"]
    for _ in range(5):
        send(here, by_hand=True)
    assert trail(here) == ["charge-intended", "charge-intended"]  # the second for another reason
    send(here)
    assert trail(here) == ["charge-intended", "charge-intended", "charge-confirmed"]


def test_a_doubt_that_stays_one_has_one_entry_in_the_trail(decided, ehr):
    here = decided()
    ehr.next = ["lost before", *["forbidden"] * 3]
    for _ in range(4):
        send(here)
    assert trail(here) == ["charge-unknown", "charge-unknown"]  # no answer; then no permission to look


def test_a_person_who_sends_again_does_not_wait_as_long_as_the_ehr_asked(decided, ehr):
    here = decided()
    ehr.next, ehr.retry_after = ["busy"], "3600"
    send(here)
    send(here, by_hand=True)
    assert ehr.asked == ["write", "write"]
    assert len(ehr.items) == 1
    assert rows(here)[0].state is State.CONFIRMED


def test_a_person_who_sends_again_waits_for_a_doubt_also_where_the_ehr_was_busy_before(decided, ehr):
    here = decided()
    ehr.next, ehr.retry_after = ["busy", "lost before"], "3600"
    send(here)
    send(here, by_hand=True)
    assert rows(here)[0].state is State.UNKNOWN
    send(here, NOW + WAIT - timedelta(microseconds=1), by_hand=True)
    assert ehr.asked == ["write", "write", "search"]
    send(here, NOW + WAIT, by_hand=True)
    assert ehr.asked == ["write", "write", "search", "search", "write"]
    assert len(ehr.items) == 1


def test_while_somebody_sends_nobody_else_does_until_the_lease_runs_out(decided, ehr):
    here = decided()
    encounter = outbox.encounter_key(here.vault, "i", "Encounter/1")
    with here.engine.begin() as connection:
        assert leases.take(connection, encounter, NOW) is not None
    assert send(here) is False
    assert send(here, NOW + LEASE - timedelta(microseconds=1)) is False
    assert ehr.asked == []
    assert send(here, NOW + LEASE + timedelta(microseconds=1)) is True
    assert rows(here)[0].state is State.CONFIRMED


def test_the_lease_is_given_back_whatever_happened(decided, ehr):
    here = decided()
    ehr.next = ["lost"]
    assert send(here)
    assert send(here)


def test_every_outcome_has_its_entry_in_the_trail(decided, ehr):
    here = decided()
    ehr.next = ["lost"]
    send(here)
    send(here)
    with here.engine.begin() as connection:
        trail = audit.entries(connection, here.vault)
    assert [entry.action for entry in trail] == ["charge-unknown", "charge-confirmed"]
    assert {entry.what["charge"] for entry in trail} == {a_charge().identifier}
    assert trail[1].what["reference"] == "ChargeItem/1"


def test_what_a_crashed_writer_left_is_not_sent_again_before_its_lease_and_the_wait_are_over(decided, ehr):
    """It may have been stalled between its note and the sending, up to the end of its lease."""
    here = decided()
    with here.engine.begin() as connection:
        connection.execute(
            database.charge.update().values(
                state=State.SENDING, attempts=1, updated_at=NOW, due_at=NOW + LEASE + WAIT
            )
        )
    send(here, NOW + LEASE + WAIT - timedelta(microseconds=1))
    assert ehr.asked == ["search"]
    assert rows(here)[0].state is State.UNKNOWN
    send(here, NOW + LEASE + WAIT)
    assert ehr.asked == ["search", "search", "write"]


def test_a_charge_is_marked_as_possibly_under_way_until_its_lease_and_the_wait_are_over(decided, ehr):
    here = decided()
    seen = []
    ehr.before_write = lambda: seen.append(rows(here)[0])
    send(here)
    assert [(row.state, row.due_at) for row in seen] == [(State.SENDING, NOW + LEASE + WAIT)]


@pytest.mark.parametrize(
    ("slept", "written"), [(timedelta(seconds=15), True), (timedelta(seconds=16), False)]
)
def test_a_writer_that_slept_after_its_note_does_not_send_any_more(decided, ehr, slept, written):
    here = decided()
    times = iter([NOW] * 3)  # taking the lease, renewing it, the note
    clock = lambda: next(times, NOW + slept)  # noqa: E731
    server = Server(BASE, "token", requests.Session(), sleep=lambda _: None)
    box = outbox.Outbox(here.engine, here.vault, clock)
    outbox.send(box, OneByOne(server, WAIT), "d", who="Practitioner/1")
    assert ehr.asked == (["write"] if written else [])
    assert rows(here)[0].state is (State.CONFIRMED if written else State.INTENDED)


# Oracle's operation: accepted at once, found later and by likeness


class Oracle:
    """Takes every ``$create`` and ``$credit``, and shows of it what the test says."""

    def __init__(self, wire):
        self.taken = []
        self.shown = []
        self.status = 200
        wire.add_callback(responses.POST, f"{BASE}/ChargeItem/$create", callback=self._take)
        wire.add_callback(responses.POST, f"{BASE}/ChargeItem/7/$credit", callback=self._take)
        wire.add_callback(responses.GET, f"{BASE}/ChargeItem", callback=self._search)
        wire.add_callback(responses.GET, f"{BASE}/ChargeItem/7", callback=self._read)

    def item(self, id_, **more):
        modifier = {"url": "code", "valueCodeableConcept": {"coding": [{"code": "GP"}]}}
        return {
            "resourceType": "ChargeItem", "id": id_, "status": "billable",
            "extension": [{"url": f"{ORACLE_EXTENSIONS}/modifier-code", "extension": [modifier]}],
            "code": {"coding": [{"code": "97110"}]}, "subject": {"reference": "Patient/1"},
            "context": {"reference": "Encounter/1"}, "quantity": {"value": 2},
            "occurrenceDateTime": "2026-11-20",
        } | more  # fmt: skip

    def _take(self, request):
        self.taken.append(request.url.rpartition("$")[2])
        return 200, {}, ""

    def _search(self, _request):
        if self.shown == "no list":
            return self.status, {}, "[]"
        entries = [{"resource": item} for item in self.shown]
        return self.status, {}, json.dumps({"resourceType": "Bundle", "entry": entries})

    def _read(self, _request):
        return self.status, {}, json.dumps(self.item("7"))


@pytest.fixture
def oracle():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as wire:
        yield Oracle(wire)


def send_to_oracle(here, now, *, by_hand=False):
    server = Server(BASE, "token", requests.Session(), sleep=lambda _: None)
    way = OracleCharges(server, WAIT, "https://fhir.cerner.com/x", {"CPT": "1", "MODIFIER": "2"})
    box = outbox.Outbox(here.engine, here.vault, lambda: now)
    outbox.send(box, way, "d", who="Practitioner/1", by_hand=by_hand)


CREDIT = withdrawal_of(a_charge(), "ChargeItem/7", why="Wrong units.", by="Practitioner/1", at=NOW)


@pytest.mark.parametrize(("charge", "operation"), [(a_charge(), "create"), (CREDIT, "credit")])
@pytest.mark.parametrize("looks", [[200], [503], [503, 200], [503, 503, 200, 200]])
def test_what_oracle_accepted_is_not_sent_again_whatever_the_looks_for_it_brought(
    decided, oracle, charge, operation, looks
):
    here = decided(charge)
    send_to_oracle(here, NOW)
    for number, status in enumerate(looks, start=1):
        oracle.status = status
        send_to_oracle(here, NOW + number * 2 * WAIT, by_hand=True)
        (row,) = rows(here)
        assert (row.state, row.how) == (State.UNKNOWN, "accepted")
    assert oracle.taken == [operation]


def test_of_several_charges_that_came_since_none_is_made_one_more_and_the_last_one_left_is_ours(
    decided, oracle
):
    here = decided()
    send_to_oracle(here, NOW)
    oracle.shown = [oracle.item("8"), oracle.item("9")]
    for number in (1, 2):
        send_to_oracle(here, NOW + number * WAIT, by_hand=True)
        (row,) = rows(here)
        assert (row.state, row.how) == (State.UNKNOWN, "accepted")
        assert "holds 2 such charges" in row.problem
    oracle.shown.pop()
    send_to_oracle(here, NOW + 3 * WAIT, by_hand=True)
    assert (rows(here)[0].state, rows(here)[0].reference) == (State.CONFIRMED, "ChargeItem/8")
    assert oracle.taken == ["create"]


@pytest.mark.parametrize("status", [500, 503, 200])
def test_a_look_before_the_first_try_that_fails_leaves_no_doubt_and_the_charge_is_sent_later(
    decided, oracle, status
):
    here = decided()
    oracle.status = status
    if status == 200:
        oracle.shown = "no list"  # an answer that cannot be read
    send_to_oracle(here, NOW)
    (row,) = rows(here)
    assert (row.state, oracle.taken) == (State.INTENDED, [])
    assert row.problem
    oracle.status, oracle.shown = 200, []
    send_to_oracle(here, NOW + 2 * WAIT, by_hand=True)
    (row,) = rows(here)
    assert (row.state, row.how, oracle.taken) == (State.UNKNOWN, "accepted", ["create"])
