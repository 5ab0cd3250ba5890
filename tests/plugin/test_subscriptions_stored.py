"""What notifications leave in the database, on both kinds, however many come in at once."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select

from quarterhour.fhir.subscriptions import Notice
from quarterhour.plugin import database, subscriptions
from quarterhour.plugin.installation import install
from quarterhour.plugin.subscriptions import Looked, Secrets

ISS = "https://ehr.example/fhir"


@pytest.fixture
def subscribed(server_of, settings, tmp_path, now):
    """An installation with one subscription, as the EHR's greeting finds it."""
    with closing(install(settings(database_url=server_of(tmp_path)), lambda: now)) as here:
        made = Secrets("the-path", "the-token")
        with here.engine.begin() as connection:
            connection.execute(
                insert(database.subscription).values(
                    id="s", issuer=ISS, path=here.vault.index("subscription", made.path), kind="topic",
                    criteria="t", ehr_id="1", status="active", through=0, made_at=now, sealed=here.vault.seal(made),
                )
            )  # fmt: skip
        yield here


def an_event(number, encounter=None):
    return Notice("event-notification", "active", number, (number,), (encounter or f"Encounter/{number}",))


def waiting(here):
    with here.engine.begin() as connection:
        rows = connection.execute(
            select(database.job.c.kind, func.count()).group_by(database.job.c.kind)
        ).all()
    return dict(map(tuple, rows))


def rows_ahead(here):
    with here.engine.begin() as connection:
        return connection.scalar(select(func.count()).select_from(database.received_event))


def test_doubled_and_in_any_order_from_many_threads_each_event_is_taken_once(subscribed):
    numbers = [*range(1, 41), *range(1, 41)]
    random.Random(7).shuffle(numbers)
    with ThreadPoolExecutor(8) as senders:
        list(senders.map(lambda number: subscriptions.take_in(subscribed, "s", an_event(number)), numbers))
    (one,) = subscriptions.known(subscribed)
    assert (one.through, one.ahead, rows_ahead(subscribed)) == (40, (), 0)
    assert waiting(subscribed)["capture"] == 40


def test_a_flood_about_one_visit_leaves_one_job(subscribed):
    for number in range(1, 51):
        subscriptions.take_in(subscribed, "s", an_event(number, "Encounter/a"))
    assert waiting(subscribed) == {"capture": 1}


def test_numbers_ahead_of_a_gap_are_kept_until_the_gap_is_closed(subscribed):
    for number in (2, 4, 5):
        subscriptions.take_in(subscribed, "s", an_event(number))
    assert rows_ahead(subscribed) == 3
    subscriptions.take_in(subscribed, "s", an_event(1))
    (one,) = subscriptions.known(subscribed)
    assert (one.through, one.ahead, rows_ahead(subscribed)) == (2, (4, 5), 2)
    subscriptions.take_in(subscribed, "s", an_event(3))
    assert rows_ahead(subscribed) == 0


def test_the_secret_opens_its_own_address_and_no_other(subscribed):
    assert subscriptions.addressed(subscribed, "the-path", "Bearer the-token") == "s"
    for path, authorization in [
        ("the-path", "Bearer the-toke"),
        ("the-path", "Bearer the-tokenn"),
        ("the-path", ""),
        ("the-path", None),
        ("the-pat", "Bearer the-token"),
        ("", "Bearer the-token"),
    ]:
        assert subscriptions.addressed(subscribed, path, authorization) is None


def test_what_comes_in_while_the_ehr_is_asked_is_kept(subscribed, now):
    """The EHR's answer is older than the events 3 and 4, which are not lost for that."""
    (before,) = subscriptions.known(subscribed)
    looked = Looked(now - timedelta(seconds=1), "1", Notice("query-status", "active", 1), None)
    for number in (4, 1, 2):
        subscriptions.take_in(subscribed, "s", an_event(number))
    with subscribed.engine.begin() as connection:
        subscriptions.settle(connection, subscribed, "s", before, looked)
    (one,) = subscriptions.known(subscribed)
    assert (one.through, one.ahead) == (2, (4,))


def test_a_notification_of_a_subscription_that_was_just_taken_back_leaves_nothing(subscribed):
    with subscribed.engine.begin() as connection:
        connection.execute(database.subscription.delete())
    subscriptions.take_in(subscribed, "s", an_event(1))
    subscriptions.overwhelmed(subscribed, "s")
    assert waiting(subscribed) == {}
