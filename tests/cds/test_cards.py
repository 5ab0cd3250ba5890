"""What cards say of thresholds and authorizations: on both sides of each edge; no EHR, no database."""

from datetime import date
from decimal import Decimal

import msgspec
import pytest

from quarterhour.core.findings import Severity
from quarterhour.core.library import Library
from quarterhour.core.policy import InForce
from quarterhour.core.visit import Discipline, History
from quarterhour.plugin.cds import Context, booked
from quarterhour.plugin.cds_cards import Known, authorization_card, kx_cards, waiting_card
from quarterhour.plugin.worklist import Standing, Summary, Weight

LIBRARY = Library.load()
TODAY = date(2026, 11, 21)
LAUNCH = "https://units.example/launch"


def a_visit(
    on, *, discipline=Discipline.PT, codes=("97110",), standing=Standing.OPEN, findings=(), **history
):
    return Summary(
        date_of_service=on,
        discipline=discipline,
        patient="Ann Adams",
        record_number="MRN-1",
        therapists=("Practitioner/1",),
        units=3,
        weight=Weight.NONE,
        open_questions=0,
        standing=standing,
        findings=findings,
        chart=dict.fromkeys(codes, "30 min") | {"policy": "x", "charged 97110": "2 units"},
        encounter=f"Encounter/enc-{on}",
        history=History(**history),
    )


def known(*visits, waits=False):
    newest_first = sorted(visits, key=lambda one: one.date_of_service, reverse=True)
    return [Known(one, waits) for one in newest_first]


def kx(*visits, policy="cms-part-b", on=TODAY):
    return [given.card for given in kx_cards(known(*visits), InForce(LIBRARY.policy(policy), on))]


def visits_card(*visits, booked=1, policy="tufts-commercial-pt", on=TODAY):
    terms = InForce(LIBRARY.policy(policy), on)
    return [given.card for given in authorization_card(known(*visits), terms, LIBRARY.codes, booked)]


def november(*days, **changed):
    return [a_visit(date(2026, 11, day), **changed) for day in days]


# The threshold of 2026 is 2,480.00; 80 percent of it are 1,984.00.
@pytest.mark.parametrize(
    ("amount", "indicator"),
    [("1983.99", None), ("1984.00", "info"), ("2480.00", "info"), ("2480.01", "warning")],
)
def test_a_kx_card_comes_from_80_percent_on_and_warns_above_the_threshold(amount, indicator):
    cards = kx(a_visit(date(2026, 11, 20), therapy_amount=Decimal(amount)))
    assert [card.indicator for card in cards] == ([indicator] if indicator else [])


def test_a_kx_card_says_the_amount_whose_it_is_and_where_the_threshold_stands():
    (card,) = kx(a_visit(date(2026, 11, 20), therapy_amount=Decimal("2500.5")))
    assert card.summary == ("PT and SLP together: $2,500.50 this year is above the KX threshold, $2,480.00.")
    assert "entered at the visit of 20 November 2026; what was done since is not in it" in card.detail
    assert card.source.url.startswith("https://")


def test_pt_and_slp_share_a_threshold_and_ot_has_its_own():
    cards = kx(
        a_visit(date(2026, 11, 20), therapy_amount=Decimal(2400)),
        a_visit(date(2026, 11, 19), discipline=Discipline.SLP, therapy_amount=Decimal(2300)),
        a_visit(date(2026, 11, 18), discipline=Discipline.OT, therapy_amount=Decimal(2600)),
    )
    assert [card.summary.split(":")[0] for card in cards] == ["PT and SLP together", "OT"]
    assert "$2,400.00" in cards[0].summary


@pytest.mark.parametrize(
    "visit",
    [
        a_visit(date(2026, 11, 20)),
        a_visit(date(2025, 11, 20), therapy_amount=Decimal(9000)),
        a_visit(date(2026, 11, 22), therapy_amount=Decimal(9000)),
        a_visit(date(2026, 11, 20), discipline=None, therapy_amount=Decimal(9000)),
        a_visit(date(2026, 11, 20), standing=Standing.GONE, therapy_amount=Decimal(9000)),
    ],
    ids=["no-amount", "last-year", "not-yet", "no-discipline", "no-visit-any-more"],
)
def test_without_an_amount_of_this_year_nothing_is_said_of_kx(visit):
    assert kx(visit) == []


def test_a_policy_without_kx_says_nothing_of_it():
    assert kx(a_visit(date(2026, 11, 20), therapy_amount=Decimal(9000)), policy="optum-0048") == []


def test_a_year_whose_threshold_is_not_known_says_nothing_of_it():
    visit = a_visit(date(2027, 11, 20), therapy_amount=Decimal(9000))
    assert kx(visit, on=date(2027, 11, 21)) == []


# Eight treatment visits are free of authorization.
@pytest.mark.parametrize(
    ("visits", "booked", "indicator"),
    [(5, 1, None), (6, 1, "info"), (7, 1, "info"), (8, 1, "warning"), (5, 3, None), (5, 4, "warning")],
)
def test_an_authorization_card_comes_when_two_visits_are_left_and_warns_when_none_is(
    visits, booked, indicator
):
    cards = visits_card(*november(*range(1, visits + 1)), booked=booked)
    assert [card.indicator for card in cards] == ([indicator] if indicator else [])


def test_an_authorization_card_says_what_was_counted():
    (card,) = visits_card(*november(*range(1, 9)))
    assert card.summary == (
        "8 treatment visits this year, 8 without authorization: with the next one an authorization is needed."
    )
    assert "Visits at other providers are not known, and count too." in card.detail


def test_what_a_person_entered_counts_and_the_visits_since():
    entered = a_visit(date(2026, 11, 10), treatment_visits=4, treatment_visits_elsewhere=1)
    (card,) = visits_card(*november(2, 3), entered, *november(12, 13))
    assert card.summary.startswith("8 treatment visits this year")
    assert "5 as entered at the visit of 10 November 2026, and 3 from then on." in card.detail
    assert "other providers" not in card.detail


def test_two_visits_of_a_day_count_once_and_evaluations_do_not():
    evaluations = november(14, 15, 16, codes=("97161",))
    assert visits_card(*november(1, 1, 2, 3, 4, 5), *evaluations) == []
    (card,) = visits_card(*november(1, 2, 3, 4, 5), *november(6, codes=("97161", "97110")), *evaluations)
    assert card.summary.startswith("6 treatment visits this year")


def test_visits_of_last_year_and_visits_that_are_none_do_not_count():
    gone = november(1, 2, standing=Standing.GONE) + november(3, standing=Standing.UNDOCUMENTED)
    last_year = [a_visit(date(2025, 11, day)) for day in range(1, 9)]
    assert visits_card(*gone, *last_year, *november(10, 11, 12, 13, 14)) == []


def test_at_most_five_visits_are_linked_and_the_rest_is_counted():
    (given,) = waiting_card(known(*november(*range(1, 8)), waits=True), LAUNCH)
    assert [link.label for link in given.card.links] == [
        f"Review {day} November 2026, PT" for day in (7, 6, 5, 4, 3)
    ]
    assert "- and 2 more, on Quarterhour's worklist" in given.card.detail


def test_a_visit_that_was_kept_before_its_encounter_was_is_linked_without_naming_it():
    old = msgspec.structs.replace(a_visit(TODAY), encounter=None)
    (given,) = waiting_card(known(old, waits=True), LAUNCH)
    (link,) = given.card.links
    assert link.app_context is None


def test_findings_of_several_visits_are_named_once_each_for_their_feedback():
    found = (("minutes-below-minimum", Severity.WARNING), ("evaluation-alone", Severity.INFO))
    (given,) = waiting_card(known(*november(1, 2, findings=found), waits=True), LAUNCH)
    assert given.findings == ("unreviewed-units", "minutes-below-minimum", "evaluation-alone")
    assert given.card.indicator == "warning"
    (given,) = waiting_card(known(*november(1, findings=found[1:]), waits=True), LAUNCH)
    assert given.card.indicator == "info"


@pytest.mark.parametrize(
    ("appointments", "number"),
    [
        ({"resourceType": "Bundle", "entry": [{}, {}, {}]}, 3),
        ([{}, {}], 2),  # as the hook's own examples have it
        ({"resourceType": "Bundle"}, 1),
        ([], 1),
        (None, 1),
        ("two", 1),
    ],
)
def test_as_many_visits_count_as_are_being_booked_else_the_next_one(appointments, number):
    assert booked(Context("Practitioner/1", "p", None, appointments)) == number
