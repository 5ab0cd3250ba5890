"""A review's lines as charges: what each one names, and by what it is told from the others."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import IntegrityError

from quarterhour.core.library import Library
from quarterhour.core.visit import Discipline
from quarterhour.fhir.normalise import Occurrence
from quarterhour.fhir.performers import Performer
from quarterhour.plugin import sign_off
from quarterhour.plugin.charges import charges_from
from quarterhour.plugin.review import Answers, review

SHIPPED = Library.load()
EST = timezone(timedelta(hours=-5))


@pytest.fixture
def charged(here):
    """The charges of a visit, with these answers."""
    (issuer,) = here.issuers

    def made(prepared, **answers):
        reviewed = review(prepared, Answers(**answers), SHIPPED)
        return charges_from(here, issuer, reviewed, here.clock(), enterer="Practitioner/t1")

    return made


def at(time):
    return datetime.fromisoformat(f"2026-11-20T{time}:00").replace(tzinfo=EST)


@pytest.fixture
def morning_and_afternoon(a_visit):
    """97110 by t1 from 9:00 to 9:30, and by t2 from 15:00 to 15:30."""
    return a_visit(
        ("97110", 30),
        ("97110", 30),
        times={
            "Procedure/1": Occurrence(at("09:00"), at("09:30")),
            "Procedure/2": Occurrence(at("15:00"), at("15:30")),
        },
        people={
            "Procedure/1": (Performer("Practitioner/t1"),),
            "Procedure/2": (Performer("Practitioner/t2"), Performer(None)),
        },
    )


def named(charge):
    return charge.units, charge.services, charge.performers, charge.start, charge.end


def test_a_charge_names_its_services_from_the_first_start_to_the_last_end(charged, morning_and_afternoon):
    (charge,) = charged(morning_and_afternoon)
    assert named(charge) == (
        4,
        ("Procedure/1", "Procedure/2"),
        ("Practitioner/t1", "Practitioner/t2"),
        at("09:00"),
        at("15:30"),
    )


@pytest.mark.parametrize(
    ("left_out", "person", "start", "end"), [("2", "t1", "09:00", "09:30"), ("1", "t2", "15:00", "15:30")]
)
def test_of_a_service_that_was_left_out_nothing_is_in_the_charge(
    charged, morning_and_afternoon, left_out, person, start, end
):
    (charge,) = charged(morning_and_afternoon, left_out={f"Procedure/{left_out}": "Not done."})
    kept = {"1": "2", "2": "1"}[left_out]
    assert named(charge) == (2, (f"Procedure/{kept}",), (f"Practitioner/{person}",), at(start), at(end))


def test_without_times_in_the_chart_a_charge_has_none(charged, a_visit):
    (charge,) = charged(a_visit(("97110", 30)))
    assert (charge.start, charge.end) == (None, None)


@pytest.mark.parametrize("policy", SHIPPED.ids)
def test_the_same_code_in_two_disciplines_of_a_day_is_two_charges_under_every_policy(
    charged, a_visit, policy
):
    (pt,) = charged(a_visit(("97530", 30), policy=policy))
    (ot,) = charged(a_visit(("97530", 30), discipline=Discipline.OT, policy=policy))
    assert pt.identifier != ot.identifier


@pytest.mark.parametrize("policy", ["ama-midpoint", "hns"])
def test_both_are_stored_and_a_second_sign_off_of_one_of_them_is_the_same_charge(
    here, charged, a_visit, policy
):
    def store(charges, decision):
        row = {"id": decision, "visit": decision, "revision": 1, "issuer": "x", "person": "p"}
        row |= {"signed_at": here.clock(), "way": "charge-item", "replaces": None}
        made = sign_off.made_ready(here.vault, row, {}, charges, who="Practitioner/t1")
        with here.engine.begin() as connection:
            sign_off.store(connection, here.vault, made)

    pt = charged(a_visit(("97530", 30), policy=policy))
    store(pt, "pt")
    store(charged(a_visit(("97530", 30), discipline=Discipline.OT, policy=policy)), "ot")
    assert charged(a_visit(("97530", 30), policy=policy))[0].identifier == pt[0].identifier
    with pytest.raises(IntegrityError):
        store(pt, "again")


def test_a_charge_of_before_its_identifier_held_the_discipline_is_corrected_by_the_one_it_was_written_with(
    charged, a_visit
):
    (wanted,) = charged(a_visit(("97530", 30), policy="hns"))
    before = replace(wanted, identifier="as-it-was", units=1)
    row = SimpleNamespace(charge=before, reference="ChargeItem/7")
    taken_back, new = sign_off.corrected((row,), (wanted,), "One unit too few.", wanted.entered_at)
    assert (taken_back.withdraws, taken_back.withdrawn_reference) == ("as-it-was", "ChargeItem/7")
    assert (new.replaces, new.units) == ("as-it-was", 2)
    same = SimpleNamespace(charge=replace(before, units=2), reference="ChargeItem/7")
    assert sign_off.corrected((same,), (wanted,), "Nothing.", wanted.entered_at) == ()
