"""What becomes of cards: kept without a patient in clear, on record, counted by finding."""

import pytest
from sqlalchemy import select

from quarterhour.plugin import database
from quarterhour.plugin.cds_feedback import overridden

WHEN = "2026-11-21T17:05:31Z"


@pytest.fixture
def both(an_asking):
    opened = an_asking()
    opened.capture("missing-minutes")
    return opened


def given(both):
    (card,) = both.ask(scenario="missing-minutes")
    return card


def about(card, outcome="overridden", **more):
    return {"card": card["uuid"], "outcome": outcome, "outcomeTimestamp": WHEN} | more


def count(both, finding="unreviewed-units"):
    return next(one for one in overridden(both.here) if one.finding == finding)


def rows(both):
    with both.here.engine.begin() as connection:
        return connection.execute(select(database.cds_card)).all()


def test_a_card_that_was_put_aside_counts_for_every_finding_it_was_about(both):
    card = given(both)
    given(both)
    assert both.tell(about(card), hook="patient-view").status_code == 200
    counted = {one.finding: (one.given, one.overridden) for one in overridden(both.here)}
    assert counted["unreviewed-units"] == (2, 1)
    assert len(counted) > 1
    assert set(counted.values()) == {(2, 1)}


def test_a_reason_of_ours_is_counted_and_another_is_other(both):
    ours, theirs, none = given(both), given(both), given(both)
    code = ours["overrideReasons"][0]
    foreign = {"code": "d7ecf885", "system": "https://example.com/cds-hooks/override-reason-system"}
    both.tell(
        about(ours, overrideReason={"reason": code}),
        about(theirs, overrideReason={"reason": foreign, "userComment": "Ann has it."}),
        about(none),
    )
    assert count(both).reasons == {"charged-elsewhere": 1, "other": 1, "none": 1}
    assert code["code"] == "charged-elsewhere"


def test_what_a_person_wrote_is_sealed(both):
    card = given(both)
    both.tell(about(card, overrideReason={"userComment": "Ann Kowalski has paid"}))
    kept = [row for row in rows(both) if row.outcome]
    assert all(row.reason == "other" and b"Kowalski" not in row.sealed for row in kept)
    assert both.here.vault.open(kept[0].sealed)["comment"] == "Ann Kowalski has paid"
    (entry,) = both.audited("card-feedback")
    assert entry.what["why"]["comment"] == "Ann Kowalski has paid"


def test_an_accepted_card_counts_as_accepted(both):
    both.tell(about(given(both), "accepted", acceptedSuggestions=[{"id": "x"}]))
    assert (count(both).accepted, count(both).overridden) == (1, 0)


def test_the_last_word_on_a_card_counts(both):
    card = given(both)
    both.tell(about(card), about(card, "accepted"))
    assert (count(both).accepted, count(both).overridden) == (1, 0)


@pytest.mark.parametrize(
    "feedback",
    [
        {"card": "e56e1945-20b3-4393-8503-a1a20fd73152", "outcome": "overridden"},
        {"card": "' OR 1=1 --", "outcome": "overridden"},
        {"outcome": "ignored"},
    ],
    ids=["another-card", "no-card", "outcome"],
)
def test_feedback_on_what_was_not_given_changes_nothing(both, feedback):
    card = given(both)
    assert both.tell({"card": card["uuid"]} | feedback).status_code == 200
    assert count(both).overridden == 0
    assert both.audited("card-feedback") == []


def test_another_service_of_ours_says_nothing_of_this_ones_cards(both):
    both.tell(about(given(both)), hook="encounter-start")
    assert count(both).overridden == 0


DEEP = (
    b'{"feedback": [{"card": "x", "outcome": "overridden", "overrideReason": {"reason": {"x": '
    + b"[" * 100_000
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"feedback": 1}',
        b'{"feedback": [{"card": 1}]}',
        DEEP,
        b"\xff",
    ],
    ids=["empty", "list", "number", "wrong-type", "deep", "no-utf8"],
)
def test_what_is_no_feedback_is_said_to_be_none(both, body):
    address = both.address("patient-view", "/feedback")
    assert both.post(address, body, both.token(address)).status_code == 400


def test_feedback_wants_a_token_of_its_own(both):
    card, address = given(both), both.address("patient-view", "/feedback")
    token = both.token(both.address())  # for the service itself: clients differ in which they name
    assert both.tell(about(card), token=token).status_code == 200
    assert both.tell(about(card), token=token).status_code == 401
    assert both.post(address, {"feedback": []}, None).status_code == 401
    other = both.token(both.address("encounter-start", "/feedback"))
    assert both.tell(about(card), token=other).status_code == 401


def test_what_is_stored_of_a_card_holds_nothing_of_the_patient(both):
    given(both)
    stored = str([tuple(row) for row in rows(both)])
    assert [word for word in ("kowalski", "Kowalski", "reyes", "enc-") if word in stored] == []


def test_cards_are_counted_for_90_days(both):
    given(both)
    both.clock.forward(days=90)
    given(both)
    assert count(both).given == 2
    both.clock.forward(seconds=1)
    given(both)
    assert count(both).given == 2
