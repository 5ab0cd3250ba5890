"""What is charged already: taken off where it is certain, told where it is not."""

from decimal import Decimal

import pytest
from fhir.resources.R4B.chargeitem import ChargeItem

from quarterhour.core.findings import Severity, Status
from quarterhour.core.visit import AlreadyCharged

OT = "225X00000X"
MODIFIER = "https://quarterhour.org/fhir/StructureDefinition/charge-modifier"


def with_modifier(code):
    parts = [
        {"url": "rank", "valuePositiveInt": 1},
        {"url": "code", "valueCodeableConcept": {"coding": [{"code": code}]}},
    ]
    return [{"url": MODIFIER, "extension": parts}]


def doubts(prepared):
    return [finding for finding in prepared.findings if finding.id == "already-charged"]


@pytest.mark.parametrize("status", ["planned", "billable", "billed", "unknown"])
def test_what_somebody_charged_is_taken_off(ehr, status):
    ehr.procedure("97110")
    sent = ehr.charge("97110", 2, status=status, id="C1")
    ChargeItem.model_validate(sent)
    prepared = ehr.visit()
    assert prepared.visit.already_charged == (AlreadyCharged("97110", 2),)
    assert [(charge.reference, charge.counted) for charge in prepared.charges] == [("ChargeItem/C1", True)]
    assert doubts(prepared) == []


@pytest.mark.parametrize("status", ["aborted", "entered-in-error", "not-billable"])
def test_what_was_withdrawn_is_shown_and_not_taken_off(ehr, status):
    ehr.procedure("97110")
    ehr.charge("97110", 2, status=status)
    prepared = ehr.visit()
    assert prepared.visit.already_charged == ()
    assert [charge.counted for charge in prepared.charges] == [False]


def test_charges_of_another_day_are_no_business_of_this_one(ehr):
    ehr.procedure("97110")
    ehr.charge("97110", 2, occurrenceDateTime="2026-11-19", context={"reference": "Encounter/E0"})
    prepared = ehr.visit()
    assert prepared.visit.already_charged == ()
    assert prepared.charges == ()


def test_a_charge_without_a_date_belongs_to_its_visit(ehr):
    ehr.procedure("97110")
    ehr.charge("97110", 1, occurrenceDateTime=None)
    assert ehr.visit().visit.already_charged == (AlreadyCharged("97110", 1),)


@pytest.mark.parametrize("units", [Decimal("1.5"), -1, None])
def test_units_that_are_no_whole_number_are_told_and_not_rounded(ehr, units):
    ehr.procedure("97110")
    ehr.charge("97110", units=None if units is None else float(units))
    prepared = ehr.visit()
    assert prepared.visit.already_charged == ()
    (finding,) = doubts(prepared)
    assert (finding.severity, finding.status) == (Severity.CRITICAL, Status.NOT_CHECKED)


def test_units_written_with_a_decimal_point_are_whole_all_the_same(ehr):
    ehr.procedure("97110")
    ehr.charge("97110", units=2.0)
    assert ehr.visit().visit.already_charged == (AlreadyCharged("97110", 2),)


def two_disciplines(ehr):
    ehr.role("T2", OT)
    ehr.procedure("97530", id="pt")
    ehr.procedure("97530", "09:30", "09:45", id="ot", performer=[{"actor": {"reference": "Practitioner/T2"}}])


@pytest.mark.parametrize(
    "tells",
    [{"extension": with_modifier("GO")}, {"service": [{"reference": "Procedure/ot"}]}],
)
def test_a_charge_is_taken_off_the_discipline_that_it_names(ehr, tells):
    two_disciplines(ehr)
    ehr.charge("97530", 1, **tells)
    charged = {prepared.visit.discipline: prepared.visit.already_charged for prepared in ehr.visits()}
    assert charged == {"PT": (), "OT": (AlreadyCharged("97530", 1),)}


def test_a_charge_that_may_be_of_either_discipline_is_told_to_both(ehr):
    two_disciplines(ehr)
    ehr.charge("97530", 1)
    for prepared in ehr.visits():
        assert prepared.visit.already_charged == ()
        assert "for which discipline" in doubts(prepared)[0].message


def without_performer(ehr):
    ehr.procedure("97140", "10:00", "10:15", id="unknown", performer=None)


def test_a_charge_is_taken_off_where_a_service_of_unknown_discipline_is_counted_with_its_discipline(ehr):
    ehr.procedure("97110")
    without_performer(ehr)
    ehr.charge("97140", 1, extension=with_modifier("GP"))
    assert ehr.visit().visit.already_charged == (AlreadyCharged("97140", 1),)


@pytest.mark.parametrize("encounter", ["E1", "E2"])  # where the known disciplines' services are
def test_a_charge_of_a_known_discipline_is_not_taken_off_a_service_that_cannot_be_of_it(ehr, encounter):
    period = {"start": "2026-11-20T09:00:00-05:00"}
    ehr.add("Encounter", "E2", subject={"reference": "Patient/P1"}, period=period, status="finished")
    two_disciplines(ehr)
    for procedure in ehr.resources[-2:]:
        procedure["encounter"] = {"reference": f"Encounter/{encounter}"}
    without_performer(ehr)
    ehr.charge("97140", 1, extension=with_modifier("GP"))
    charged = {prepared.visit.discipline: prepared.visit.already_charged for prepared in ehr.visits()}
    assert charged[None] == ()
    assert charged.get("PT", (AlreadyCharged("97140", 1),)) == (AlreadyCharged("97140", 1),)


def test_a_charge_of_another_group_carries_its_tin(ehr):
    ehr.site = {"groups": {"Organization/B": {"tin": "2", "specialty": "OT"}}}
    ehr.procedure("97110")
    ehr.charge("97110", 1, performingOrganization={"reference": "Organization/B"})
    assert ehr.visit().visit.already_charged == (AlreadyCharged("97110", 1, "2", "OT"),)


def test_another_patients_charge_is_left_out_and_named(ehr):
    ehr.procedure("97110")
    ehr.charge("97110", 1, id="C9", subject={"reference": "Patient/P2"})
    prepared = ehr.visit()
    assert prepared.charges == ()
    assert any("ChargeItem/C9" in finding.message for finding in prepared.findings)


def test_where_charges_cannot_be_read_nobody_is_told_that_there_are_none(ehr):
    ehr.procedure("97110")
    ehr.refused["ChargeItem"] = 403
    (finding,) = {finding.message: finding for finding in doubts(ehr.visit())}.values()
    assert (finding.severity, finding.status) == (Severity.CRITICAL, Status.NOT_CHECKED)


@pytest.mark.parametrize("units", ["1e999999", "-1e9999999999", "1e-999999"])
def test_an_absurd_quantity_is_no_units_and_costs_no_time(ehr, units):
    ehr.procedure("97110")
    ehr.charge("97110", units)  # as an int, this number takes minutes to write down
    prepared = ehr.visit()
    assert prepared.visit.already_charged == ()
    assert "already-charged" in {finding.id for finding in prepared.findings}
