"""What a person settled so far is kept, also where two pages of theirs keep it at once; on both databases."""

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from quarterhour.plugin import database, flow
from quarterhour.plugin.installation import install
from quarterhour.plugin.review import Answers
from quarterhour.plugin.sessions import Opened


@pytest.fixture
def here(server_of, settings, tmp_path, now):
    with closing(install(settings(database_url=server_of(tmp_path)), lambda: now)) as opened:
        yield opened


@pytest.fixture
def launch(here):
    return Opened("launch", next(iter(here.issuers)), session=None, person="person")


def test_a_draft_takes_the_place_of_the_one_before(here, launch, now):
    flow.keep_draft(here, launch, "visit", Answers(policy="cms-part-b"))
    flow.keep_draft(here, launch, "visit", Answers(policy="hns"))
    assert flow.draft_of(here, launch, "visit") == (Answers(policy="hns"), now)


def test_a_draft_says_when_it_was_kept_last(settings, server_of, tmp_path, now):
    times = iter([now, now + timedelta(minutes=1)])
    with closing(install(settings(database_url=server_of(tmp_path)), lambda: next(times))) as here:
        launch = Opened("launch", next(iter(here.issuers)), session=None, person="person")
        for _ in range(2):
            flow.keep_draft(here, launch, "visit", Answers())
        assert flow.draft_of(here, launch, "visit")[1] == now + timedelta(minutes=1)


def test_a_draft_that_is_kept_while_another_one_is_being_kept_stands(here, launch, now):
    """The other transaction has written the first draft of this visit, and is not yet committed."""
    first = {"visit": "visit", "person": "person", "updated_at": now}
    with ThreadPoolExecutor(1) as another:
        with here.engine.begin() as connection:
            connection.execute(
                database.draft.insert().values(**first, sealed=here.vault.seal(Answers(policy="cms-part-b")))
            )
            kept = another.submit(flow.keep_draft, here, launch, "visit", Answers(policy="hns"))
            wait([kept], timeout=0.5)
        kept.result(timeout=30)
    assert flow.draft_of(here, launch, "visit")[0] == Answers(policy="hns")


def test_twenty_drafts_of_one_visit_at_once_leave_one(here, launch):
    with ThreadPoolExecutor(8) as tabs:
        list(tabs.map(lambda _: flow.keep_draft(here, launch, "visit", Answers()), range(20)))
    with here.engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(database.draft)) == 1
