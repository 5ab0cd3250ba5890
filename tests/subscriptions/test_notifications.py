"""Notifications lost, doubled, reordered, forged, flooded: nothing lost, nothing believed, the service stays up."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from limits import RateLimitItemPerMinute

from quarterhour.plugin import subscription_views, subscriptions

TOPIC = "http://hl7.org/fhir/uv/subscriptions-backport/SubscriptionTopic/r4-encounter-complete"
VISITS = ["open-visit", "cms-ex1", "cms-ex2"]
ELSEWHERE = "https://elsewhere.example/fhir/Encounter/"


def a_notice(*events, kind="event-notification", status="active", count=None):
    """A notification in R4's form; events as (number, reference or None)."""
    parameters = [
        {"name": "subscription", "valueReference": {"reference": "Subscription/1"}},
        {"name": "status", "valueCode": status},
        {"name": "type", "valueCode": kind},
    ]
    if count is not None:
        parameters.append({"name": "events-since-subscription-start", "valueString": str(count)})
    for number, reference in events:
        part = [{"name": "event-number", "valueString": str(number)}]
        if reference:
            part.append({"name": "focus", "valueReference": {"reference": reference}})
        parameters.append({"name": "notification-event", "part": part})
    resource = {"resourceType": "Parameters", "parameter": parameters}
    return {"resourceType": "Bundle", "type": "history", "entry": [{"resource": resource}]}


@pytest.fixture
def told(between):
    """Subscribed to the topic, with nothing waiting."""
    made = between()
    made.subscribe()
    made.forget_jobs()
    return made


# As it should be


def test_a_visit_that_ends_is_asked_for_by_its_id(told):
    told.finish("open-visit")
    assert told.asked() == {"capture": ["open-visit"], "look": [], "catch-up": []}
    assert (told.one.through, told.one.ahead) == (1, ())
    assert told.one.event_at == told.one.heard_at == told.clock()


def test_a_full_notification_is_a_hint_like_any_other(told):
    bundle = a_notice((1, None), count=1)
    bundle["entry"].append(
        {"resource": {"resourceType": "Encounter", "id": "enc-cms-ex1", "status": "planned"}}
    )
    assert told.tell(bundle).status_code == 200
    assert told.asked()["capture"] == ["cms-ex1"]
    assert told.asked()["look"] == []


def test_a_notification_in_the_form_of_r4b_is_understood(told):
    status = {
        "resourceType": "SubscriptionStatus",
        "status": "active",
        "type": "event-notification",
        "eventsSinceSubscriptionStart": "1",
        "notificationEvent": [{"eventNumber": "1", "focus": {"reference": "Encounter/enc-cms-ex1"}}],
    }
    told.tell({"resourceType": "Bundle", "type": "history", "entry": [{"resource": status}]})
    assert told.asked()["capture"] == ["cms-ex1"]
    assert told.one.through == 1


@pytest.mark.parametrize("kind", ["handshake", "heartbeat"])
def test_a_greeting_and_a_heartbeat_only_show_that_the_line_is_up(told, kind):
    told.clock.forward(minutes=1)
    assert told.tell(a_notice(kind=kind, count=0)).status_code == 200
    assert told.asked() == {"capture": [], "look": [], "catch-up": []}
    assert told.one.heard_at == told.clock()
    assert told.one.event_at is None


def test_an_answer_has_no_body(told):
    assert told.tell(a_notice((1, "Encounter/enc-cms-ex1"), count=1)).content == b""


# Lost


def test_what_was_lost_between_two_is_asked_for_by_number(told):
    told.sandbox.subscriptions.spoil.extend(["double", "lose"])
    told.finish(*VISITS)
    assert told.asked()["capture"] == ["cms-ex2", "open-visit"]
    assert (told.one.through, told.one.ahead) == (1, (3,))
    told.clock.forward(seconds=11)
    told.catch_up()
    assert told.asked() == {"capture": sorted(VISITS), "look": [], "catch-up": []}
    assert (told.one.through, told.one.ahead) == (3, ())


def test_the_last_one_lost_shows_in_the_next_heartbeat(told):
    told.sandbox.subscriptions.spoil.append("lose")
    told.finish("open-visit")
    assert told.asked()["capture"] == []
    told.clock.forward(seconds=301)
    told.sandbox.subscriptions.beat()
    assert told.sandbox.subscriptions.all_sent()
    told.clock.forward(seconds=11)
    told.catch_up()
    assert told.asked()["capture"] == ["open-visit"]


def test_without_any_heartbeat_the_regular_look_finds_what_was_lost(told):
    told.sandbox.subscriptions.spoil.append("lose")
    told.finish("open-visit")
    told.clock.forward(minutes=4)
    subscriptions.ask_for_checks(told.here)
    assert told.asked()["catch-up"] == []
    told.clock.forward(minutes=1)
    subscriptions.ask_for_checks(told.here)
    told.catch_up()
    assert told.asked() == {"capture": ["open-visit"], "look": [], "catch-up": []}


def test_where_the_ehr_keeps_no_events_what_changed_is_searched_for(between):
    made = between(no_events_operation=True)
    made.subscribe()
    made.forget_jobs()
    made.sandbox.subscriptions.spoil.append("lose")
    made.finish(*VISITS)
    made.clock.forward(seconds=11)
    made.catch_up()
    assert made.asked() == {"capture": ["cms-ex1", "cms-ex2"], "look": [made.issuer.iss], "catch-up": []}
    assert (made.one.through, made.one.ahead) == (3, ())


def test_events_that_the_ehr_has_forgotten_are_searched_for(told):
    told.sandbox.subscriptions.spoil.extend(["lose", "lose"])
    told.finish(*VISITS)
    channel = told.sandbox.subscriptions._channels[told.one.ehr_id]
    channel.events[0:1] = [channel.events[1]]  # number 1 is gone, and the count stays
    told.clock.forward(seconds=11)
    told.catch_up()
    assert told.asked()["look"] == [told.issuer.iss]
    assert told.one.through == 3


def test_more_lost_than_can_be_asked_for_is_searched_for(told):
    told.tell(a_notice((5000, "Encounter/enc-cms-ex1"), count=5000))
    channel = told.sandbox.subscriptions._channels[told.one.ehr_id]
    told.finish("open-visit")
    channel.events.extend(channel.events * 4999)
    told.clock.forward(seconds=11)
    told.catch_up()
    assert told.asked()["look"] == [told.issuer.iss]
    assert told.sandbox.requests("GET", "*events") == []
    assert (told.one.through, told.one.ahead) == (5000, ())


# Doubled and reordered


def test_a_doubled_notification_is_taken_once(told):
    told.sandbox.subscriptions.spoil.append("double")
    told.finish("open-visit")
    assert (told.one.through, told.one.ahead) == (1, ())
    told.forget_jobs()
    told.tell(a_notice((1, "Encounter/enc-open-visit"), count=1))
    assert told.asked()["capture"] == []


def test_reordered_notifications_are_all_taken_and_nothing_is_missing(told):
    told.sandbox.subscriptions.spoil.append("reorder")
    told.finish(*VISITS)
    assert told.asked()["capture"] == sorted(VISITS)
    assert (told.one.through, told.one.ahead) == (3, ())


@pytest.mark.parametrize(
    "spoilt",
    [
        ["lose", "double", "reorder"],
        ["reorder", "lose", "double"],
        ["lose", "lose", "lose"],
        ["double", "reorder", "lose"],
    ],
)
def test_whatever_goes_wrong_with_three_notifications_all_three_visits_are_asked_for(told, spoilt):
    told.sandbox.subscriptions.spoil.extend(spoilt)
    told.finish(*VISITS)
    told.clock.forward(minutes=5)
    subscriptions.ask_for_checks(told.here)
    told.catch_up()
    assert told.asked()["capture"] == sorted(VISITS)
    assert (told.one.through, told.one.ahead) == (3, ())


@pytest.mark.parametrize("seed", range(6))
def test_whatever_goes_wrong_with_twenty_notifications_every_visit_is_asked_for(told, seed):
    by_chance = random.Random(seed)
    finished = [each.id for each in told.sandbox.scenarios if not each.problem]
    told.sandbox.subscriptions.spoil.extend(by_chance.choices(["lose", "double", "reorder"], k=len(finished)))
    for visit in finished:
        told.finish(visit)
        if by_chance.random() < 0.3:
            told.clock.forward(seconds=11)
            told.catch_up()
    told.clock.forward(minutes=5)
    subscriptions.ask_for_checks(told.here)
    told.catch_up()
    assert told.asked()["capture"] == sorted(finished)
    assert (told.one.through, told.one.ahead) == (len(finished), ())


def test_an_ehr_that_counts_anew_is_noticed_and_searched(told):
    told.finish("open-visit", "cms-ex1")
    told.sandbox.subscriptions._channels[told.one.ehr_id].events.clear()
    told.forget_jobs()
    told.finish("cms-ex2")
    assert told.asked()["capture"] == []  # number 1 was taken before
    told.clock.forward(seconds=11)
    told.catch_up()
    assert told.asked()["look"] == [told.issuer.iss]
    assert told.one.through == 1
    told.finish("cms-ex3")
    assert told.asked()["capture"] == ["cms-ex3"]


# Forged


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic wrong", "Bearer \u00e9", "bearer {token}", "Bearer {token}x"],
)
def test_without_the_secret_nothing_is_taken_and_nothing_is_said(told, authorization):
    headers = {}
    if authorization is not None:
        headers = {"Authorization": authorization.format(token=told.secrets.token).encode("latin-1")}
    answer = requests.post(
        told.endpoint, json=a_notice((1, "Encounter/enc-cms-ex1"), count=9), headers=headers, timeout=5
    )
    assert (answer.status_code, answer.content) == (404, b"")
    assert told.asked() == {"capture": [], "look": [], "catch-up": []}
    assert told.one.through == 0


def test_an_address_that_is_nobodys_answers_as_one_with_a_wrong_secret(told):
    headers = {"Authorization": f"Bearer {told.secrets.token}"}
    nobodys = requests.post(f"{told.app_url}/subscriptions/nobodys", headers=headers, timeout=5)
    wrong = told.tell(a_notice(), token="wrong")
    assert (nobodys.status_code, nobodys.content) == (wrong.status_code, wrong.content) == (404, b"")
    assert nobodys.headers.keys() == wrong.headers.keys()


def test_the_address_of_a_subscription_that_was_taken_back_is_nobodys(told):
    endpoint, headers = told.endpoint, {"Authorization": f"Bearer {told.secrets.token}"}
    subscriptions.unsubscribe(told.here, told.issuer, told.one)
    assert requests.post(endpoint, headers=headers, timeout=5).status_code == 404


def test_neither_the_address_nor_the_secret_stands_in_the_database_or_the_address_of_the_secret(
    told, tmp_path
):
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("quarterhour.sqlite3*"))
    assert told.secrets.token.encode() not in stored
    assert told.secrets.path.encode() not in stored
    assert len(told.secrets.token) >= 43
    assert len(told.secrets.path) >= 43


def test_no_address_in_a_notification_is_followed(told):
    bundle = a_notice((1, f"{ELSEWHERE}enc-cms-ex1"), (2, "https://elsewhere.example/evil"), count=2)
    bundle["link"] = [{"relation": "next", "url": "https://elsewhere.example/next"}]
    bundle["entry"][0]["resource"]["parameter"][0]["valueReference"]["reference"] = (
        "https://elsewhere.example/x"
    )
    before = len(told.sandbox.requests())
    assert told.tell(bundle).status_code == 200
    # The id is looked for at the EHR that we know; what is no Encounter only says that something changed.
    assert told.asked() == {"capture": ["cms-ex1"], "look": [told.issuer.iss], "catch-up": []}
    assert len(told.sandbox.requests()) == before


@pytest.mark.parametrize(
    "reference",
    [
        "Encounter/",
        "Encounter/a/b",
        "Patient/1",
        "Encounter/a b",
        f"Encounter/{'a' * 65}",
        "Encounter/x?_id=1",
        "#x",
    ],
)
def test_what_is_no_encounters_id_is_never_asked_for(told, reference):
    told.tell(a_notice((1, reference), count=1))
    assert told.asked() == {"capture": [], "look": [told.issuer.iss], "catch-up": []}


def test_a_number_that_the_ehr_never_gave_does_no_lasting_harm(told):
    told.tell(a_notice((2**62, "Encounter/enc-cms-ex1"), count=2**62))
    told.clock.forward(seconds=11)
    told.catch_up()
    assert (told.one.through, told.one.ahead) == (0, ())
    told.finish("open-visit")
    assert told.one.through == 1
    assert told.asked()["capture"] == ["cms-ex1", "open-visit"]  # both are read, and the truth decides


def test_a_status_in_a_notification_is_asked_after_and_not_believed(told):
    told.tell(a_notice(kind="heartbeat", status="off", count=0))
    assert told.one.status == "requested"  # as the EHR's own answer had it
    told.clock.forward(seconds=11)
    told.catch_up()
    assert told.one.status == "active"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"<Bundle/>",
        b'{"resourceType":"Bundle","entry":[]}',
        b'{"resourceType":"Bundle","entry":[{}]}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Basic"}}]}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Parameters"}}]}',
        b'{"resourceType":"Bundle","entry":' + b"[" * 90_000,
        b'{"resourceType":"Encounter"}',
        b'{"resourceType":"Encounter","id":"../../x"}',
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_what_cannot_be_read_says_only_that_something_happened(told, body):
    answer = requests.post(
        told.endpoint, data=body, headers={"Authorization": f"Bearer {told.secrets.token}"}, timeout=5
    )
    assert answer.status_code == 200
    assert told.asked() == {"capture": [], "look": [told.issuer.iss], "catch-up": []}


def test_a_body_that_is_too_large_is_not_read_and_nothing_is_lost(told):
    answer = requests.post(
        told.endpoint,
        data=b"{" + b" " * 300_000,
        headers={"Authorization": f"Bearer {told.secrets.token}"},
        timeout=5,
    )
    assert answer.status_code == 200
    assert told.asked() == {"capture": [], "look": [told.issuer.iss], "catch-up": [told.one.id]}


def test_where_a_notification_says_it_comes_from_does_not_matter(told):
    """An EHR's gateway may add what browsers add; what counts is the secret."""
    headers = {"Origin": "https://ehr.example", "Sec-Fetch-Site": "cross-site"}
    assert told.tell(a_notice((1, "Encounter/enc-cms-ex1"), count=1), headers=headers).status_code == 200
    assert told.asked()["capture"] == ["cms-ex1"]


# Flooded


def test_a_flood_about_one_visit_is_one_job_and_the_service_stays_up(told):
    def tell(number):
        return told.tell(a_notice((number, "Encounter/enc-cms-ex1"), count=number)).status_code

    with ThreadPoolExecutor(8) as senders:
        assert set(senders.map(tell, range(1, 101))) == {200}
    assert told.asked()["capture"] == ["cms-ex1"]
    assert (told.one.through, told.one.ahead) == (100, ())
    assert requests.get(f"{told.app_url}/.well-known/jwks.json", timeout=5).status_code == 200


def test_over_the_limit_a_notification_is_not_looked_at_and_nothing_is_lost(told):
    limiter = told.app.extensions["quarterhour_limiter"]
    limit = RateLimitItemPerMinute(subscription_views.PER_MINUTE)
    limiter.hit(
        limit, "notifications", told.one.id, cost=subscription_views.PER_MINUTE - 3
    )  # and the greeting
    statuses = [told.tell(a_notice((n, f"Encounter/{n}"), count=n)).status_code for n in range(1, 5)]
    assert statuses == [200, 200, 429, 429]
    assert told.asked() == {
        "capture": ["Encounter/1", "Encounter/2"],
        "look": [told.issuer.iss],
        "catch-up": [told.one.id],
    }


def test_who_tries_secrets_is_looked_at_no_more_for_a_while(told):
    statuses = [told.tell(token="wrong").status_code for _ in range(302)]
    assert statuses[:300] == [404] * 300
    assert statuses[300:] == [429] * 2
    assert told.tell().status_code == 429
