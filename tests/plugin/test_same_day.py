"""Which charges of other visits come off, by what became of them; on both databases."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from quarterhour.core.visit import AlreadyCharged, Provider, Visit
from quarterhour.fhir.charge_item import Charge, withdrawal_of
from quarterhour.fhir.charged import ExistingCharge
from quarterhour.plugin import database, outbox
from quarterhour.plugin.outbox import State
from quarterhour.plugin.same_day import found_by, is_taken, with_signed

ISS = "https://ehr.example/fhir"
NOW = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)
DAY = date(2026, 11, 20)


class Day:
    """A patient's day on one of the databases, of which this test alone knows."""

    def __init__(self, bench, patient):
        self.engine, self.vault, self.patient = bench.engine, bench.vault, patient
        self.charges = self.decisions = 0

    def charge(self, code="97110", units=2, **changed):
        self.charges += 1
        known = {
            "identifier": f"{self.patient[-8:]}-{self.charges}", "patient": self.patient, "encounter": "Encounter/other",
            "date_of_service": DAY, "code": code, "units": units, "modifiers": ("GP",), "services": ("Procedure/9",),
            "performers": ("Practitioner/1",), "enterer": "Practitioner/1", "entered_at": NOW, "rationale": "Why.",
        }  # fmt: skip
        return Charge(**known | changed)

    def sign(
        self,
        *charges,
        visit="other",
        revision=1,
        state=State.CONFIRMED,
        discipline="PT",
        provider=None,
        reference=None,
        way="csv",
    ):
        """A decision on another visit, its charges in this state."""
        record = {
            "discipline": discipline,
            "visit": Visit(DAY, discipline, (), provider=provider or Provider()),
        }
        first = charges[0]
        self.decisions += 1
        with self.engine.begin() as connection:
            row = {
                "id": f"{self.patient[-8:]}-{visit}-{revision}", "visit": f"{self.patient}-{visit}"[-64:],
                "revision": revision, "issuer": ISS, "person": "p", "way": way,
                "signed_at": NOW + timedelta(minutes=revision), "sealed": self.vault.seal(record),
                "place": self.decisions,
                **found_by(
                    self.vault, ISS, first.patient, first.encounter, first.date_of_service, charges
                ),
            }  # fmt: skip
            connection.execute(database.decision.insert().values(**row))
            outbox.intend(connection, self.vault, row["id"], charges, NOW)
            table = database.charge
            connection.execute(
                update(table)
                .where(table.c.decision == row["id"])
                .values(state=state, reference=self.vault.seal(reference) if reference else None)
            )

    def seen(self, prepared):
        with self.engine.begin() as connection:
            return with_signed(connection, self.vault, ISS, "mine", prepared)


@pytest.fixture
def day(bench, request):
    return Day(bench, f"Patient/{abs(hash((request.node.nodeid, bench.engine.dialect.name))):016x}")


@pytest.fixture
def mine(a_visit, day):
    """The visit that is looked at: 30 minutes of one Procedure."""
    made = a_visit(("97110", 30), patient=day.patient, encounter=f"Encounter/{day.patient[-16:]}")
    (service,) = made.visit.services
    own = replace(service, reference=f"Procedure/{day.patient[-16:]}")
    return replace(made, visit=replace(made.visit, services=(own,)))


def service_of(prepared):
    return prepared.visit.services[0].reference


def off(prepared):
    return [(one.code, one.units) for one in prepared.visit.already_charged]


@pytest.mark.parametrize("state", State)
def test_whatever_became_of_it_what_the_newest_decision_charges_comes_off(day, mine, state):
    day.sign(day.charge(), state=state)
    seen = day.seen(mine)
    assert off(seen) == [("97110", 2)]
    (finding,) = seen.findings
    assert finding.message == (
        "97110 × 2: signed in Quarterhour for another visit of this day (Encounter/other), and not in the chart; "
        "taken off here."
    )


def test_of_an_older_decision_only_what_was_written_comes_off(day, mine):
    day.sign(day.charge("97140", 1), state=State.REFUSED)
    day.sign(day.charge("97110", 1), revision=2)
    assert off(day.seen(mine)) == [("97110", 1)]


@pytest.mark.parametrize(
    ("state", "left"),
    [(State.CONFIRMED, []), (State.INTENDED, [("97110", 2)]), (State.UNKNOWN, [("97110", 2)])],
)
def test_what_is_taken_back_comes_off_until_that_is_known_to_be_done(day, mine, state, left):
    charge = day.charge()
    day.sign(charge)
    back = withdrawal_of(charge, None, why="Wrong.", by="Practitioner/1", at=NOW, revision=2)
    day.sign(back, revision=2, state=state)
    assert off(day.seen(mine)) == left


def test_one_s_own_decision_another_patient_s_and_another_day_s_do_not_come_off(day, mine):
    day.sign(day.charge())
    with day.engine.begin() as connection:
        own = f"{day.patient}-other"[-64:]
        assert with_signed(connection, day.vault, ISS, own, mine) == replace(mine, decided_that_day=1)
        assert off(with_signed(connection, day.vault, "https://other.example", "mine", mine)) == []
    assert off(day.seen(replace(mine, patient="Patient/somebody-else"))) == []
    tomorrow = replace(mine, visit=replace(mine.visit, date_of_service=DAY + timedelta(days=1)))
    assert off(day.seen(tomorrow)) == []


@pytest.mark.parametrize(
    ("signed", "visit", "others", "comes_off"),
    [
        ("PT", "PT", (), True),
        ("OT", "PT", (), False),
        (None, "PT", (), True),
        ("PT", None, (), True),
        ("PT", None, ("OT",), True),
        ("PT", None, ("PT",), False),  # the day has a visit of that discipline besides this one
        (None, None, ("PT",), True),
    ],
)
def test_a_charge_comes_off_where_it_may_be_of_the_visit_s_discipline(
    day, mine, signed, visit, others, comes_off
):
    day.sign(day.charge(), discipline=signed)
    known = replace(mine, visit=replace(mine.visit, discipline=visit), other_disciplines=others)
    assert off(day.seen(known)) == ([("97110", 2)] if comes_off else [])


def test_another_billing_group_s_are_named_with_it_for_the_count_to_compare(day, mine):
    day.sign(day.charge(), provider=Provider("12-3456789", "PT"))
    assert day.seen(mine).visit.already_charged == (AlreadyCharged("97110", 2, "12-3456789", "PT"),)


def test_the_same_services_come_off_whatever_group_and_day_they_were_signed_for(day, mine):
    """The Procedure was dated a day earlier, for a visit of another group, and of a patient who was merged since."""
    charge = day.charge(
        date_of_service=DAY - timedelta(days=1),
        services=(service_of(mine),),
        encounter=mine.encounter,
        patient=f"{mine.patient}-before-the-merge",
    )
    day.sign(charge, provider=Provider("12-3456789", "PT"))
    seen = day.seen(mine)
    assert seen.visit.already_charged == (AlreadyCharged("97110", 2),)
    (finding,) = seen.findings
    assert "for services of this visit (19 November 2026, Physical therapy)" in finding.message


def test_other_services_of_another_day_do_not_come_off_though_the_encounter_is_the_same(day, mine):
    day.sign(day.charge(date_of_service=DAY - timedelta(days=1), encounter=mine.encounter))
    assert off(day.seen(mine)) == []


@pytest.mark.parametrize("shown", ["by reference", "by identifier"])
@pytest.mark.parametrize("counted", [True, False])  # not: it stands there as entered in error
def test_what_the_chart_shows_is_the_chart_s_to_say(day, mine, shown, counted):
    charge = day.charge()
    day.sign(charge, reference="ChargeItem/7", way="charge-item")
    if shown == "by reference":
        existing = ExistingCharge("ChargeItem/7", "97110", 2, "billable", counted)
    else:
        existing = ExistingCharge("ChargeItem/8", "97110", 2, "billable", counted, (charge.identifier,))
    chart = replace(mine, charges=(existing,))
    seen = day.seen(chart)
    assert (seen.visit, seen.charges, seen.findings) == (chart.visit, chart.charges, ())


@pytest.mark.parametrize("way", ["csv", "oracle"])
def test_where_a_suggestion_stood_that_was_taken_back_says_nothing_of_the_charge(day, mine, way):
    """Until the charge itself was written, its row still names that place."""
    charge = day.charge()
    day.sign(charge, state=State.INTENDED, reference="ChargeItem/7", way=way)
    aborted = ExistingCharge(
        "ChargeItem/7", "97110", 2, "aborted", counted=False, identifiers=(charge.identifier,)
    )
    assert off(day.seen(replace(mine, charges=(aborted,)))) == [("97110", 2)]


def test_a_charge_that_oracle_shows_is_known_by_its_place_alone(day, mine):
    day.sign(day.charge(), reference="ChargeItem/7", way="oracle")
    shown = ExistingCharge("ChargeItem/7", "97110", 2, "billable", counted=True)
    assert off(day.seen(replace(mine, charges=(shown,)))) == []


def test_one_charge_of_the_chart_is_taken_for_one_of_ours_and_no_more(day, mine):
    day.sign(day.charge(), day.charge())
    chart = replace(mine, charges=(ExistingCharge("ChargeItem/7", "97110", 2, "billable", counted=True),))
    seen = day.seen(chart)
    assert off(seen) == [("97110", 2)]
    assert [finding.status for finding in seen.findings] == ["not-checked", "fail"]
    other = ExistingCharge("ChargeItem/7", "97110", 1, "billable", counted=True)
    assert off(day.seen(replace(mine, charges=(other,)))) == [("97110", 2), ("97110", 2)]


@pytest.mark.parametrize("way", ["charge-item", "transaction"])
def test_what_we_enter_in_the_chart_ourselves_is_not_taken_for_somebody_else_s_charge(day, mine, way):
    """It waits for the EHR, and the front desk entered the same: two charges."""
    day.sign(day.charge(), state=State.INTENDED, way=way)
    chart = replace(mine, charges=(ExistingCharge("ChargeItem/7", "97110", 2, "billable", counted=True),))
    assert off(day.seen(chart)) == [("97110", 2)]


def test_a_charge_of_the_chart_without_an_id_is_none_of_ours(day, mine):
    day.sign(day.charge(), state=State.INTENDED)
    chart = replace(mine, charges=(ExistingCharge(None, "97110", 1, "billable", counted=False),))
    assert off(day.seen(chart)) == [("97110", 2)]


def test_of_two_who_counted_the_same_decisions_in_one_is_stored(day, mine):
    """The other looks again: it takes a place that is taken."""
    day.sign(day.charge(), visit="earlier")
    place = day.seen(mine).decided_that_day + 1
    assert place == 2

    def sign(number):
        one = day.charge()
        named = found_by(day.vault, ISS, day.patient, "Encounter/other", DAY, (one,))
        try:
            with day.engine.begin() as connection:
                connection.execute(
                    database.decision.insert().values(
                        id=one.identifier, visit=one.identifier, revision=1, issuer=ISS, person="p", way="csv",
                        signed_at=NOW, sealed=b"x", place=place, **named,
                    )
                )  # fmt: skip
        except IntegrityError:
            return named["day"]
        return None

    with ThreadPoolExecutor(8) as clicks:
        refused = list(clicks.map(sign, range(8)))
    assert refused.count(None) == 1
    (of_day,) = {each for each in refused if each}
    assert is_taken(day.engine, of_day, place)
    assert not is_taken(day.engine, of_day, place + 1)
