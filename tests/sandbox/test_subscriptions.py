"""Subscriptions of the sandbox: what an app is told when a visit ends, and what it can ask about it."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import quote

import pytest
import requests
from fhir.resources.R4B import get_fhir_model_class
from werkzeug.wrappers import Request, Response

from quarterhour.sandbox.authorization import Authorized, Token
from quarterhour.sandbox.ehr import running

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
TOPIC = f"{BACKPORT}/SubscriptionTopic/r4-encounter-complete"
PROFILES = f"{BACKPORT}/StructureDefinition"
SECRET = "Authorization: Bearer told-to-nobody"


@dataclass
class Endpoint:
    """An app's address for notifications, and what arrived at it."""

    url: str = ""
    status: int = 200
    arrived: list[tuple[str, str, dict, object]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ, start_response):
        request = Request(environ)
        body = request.get_data()
        with self.lock:
            self.arrived.append(
                (request.method, request.path, dict(request.headers), json.loads(body) if body else None)
            )
        return Response(status=self.status)(environ, start_response)

    @property
    def told(self) -> list[dict[str, object]]:
        """The status parameters of each notification that arrived, by name."""
        return [status_of(body) for _, _, _, body in self.arrived if body]


def status_of(bundle: dict) -> dict[str, object]:
    resource = bundle["entry"][0]["resource"]
    assert resource["resourceType"] == "Parameters"
    given = {}
    for parameter in resource["parameter"]:
        if parameter["name"] == "notification-event":
            given.setdefault("events", []).append(
                {part["name"]: next(v for k, v in part.items() if k != "name") for part in parameter["part"]}
            )
        else:
            given[parameter["name"]] = next(v for k, v in parameter.items() if k != "name")
    return given


def numbers(told: dict) -> list[str]:
    return [event["event-number"] for event in told.get("events", [])]


@pytest.fixture
def endpoint():
    made = Endpoint()

    def factory(base_url):
        made.url = f"{base_url}/hooks/abc"
        return made

    with running(factory):
        yield made


@pytest.fixture
def backend():
    """The token of a program without a user, which reaches every chart."""

    def issued(app, scope="system/Encounter.rs system/Subscription.crds"):
        # The scopes are a user's in effect: what matters here is that no patient is named.
        scope = scope.replace("system/", "user/")
        token = Token(
            access_token="a-backend-token",
            refresh_token=None,
            client_id="quarterhour-jwt",
            scope=scope,
            authorized=Authorized("Practitioner/none", None, None),
            family="backend",
            expires_at=app.ehr.smart.clock() + timedelta(hours=1),
        )
        app.ehr.smart.issued.tokens[token.access_token] = token
        return {"access_token": token.access_token}

    return issued


def topic_subscription(endpoint, content="id-only", **channel):
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "A test",
        "criteria": TOPIC,
        "channel": {
            "type": "rest-hook",
            "endpoint": endpoint.url,
            "payload": "application/fhir+json",
            "_payload": {
                "extension": [{"url": f"{PROFILES}/backport-payload-content", "valueCode": content}]
            },
            "header": [SECRET],
        }
        | channel,
    }


def criteria_subscription(endpoint, criteria="Encounter?status=finished", **channel):
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "A test",
        "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": endpoint.url, "header": [SECRET]} | channel,
    }


@dataclass
class Subscribed:
    """A subscription that was made, and both ends of it."""

    app: object
    endpoint: Endpoint
    token: dict
    id: str

    def get(self, operation="", **asked):
        path = f"/Subscription/{self.id}{operation}"
        return self.app.fhir(self.token, "GET", path, params=asked)

    def finish(self, *scenarios):
        for scenario in scenarios:
            self.app.ehr.finish(scenario)
        assert self.app.ehr.subscriptions.all_sent()

    def end_again(self, scenario="cms-ex1"):
        """A visit is opened and ended once more."""
        ehr = self.app.ehr
        encounter = ehr.store.get("Encounter", ehr.scenario(scenario).encounter).resource
        ehr.store.put({**encounter, "status": "in-progress"})
        ehr.finish(scenario)

    def state(self):
        return self.get().json()["status"]


@pytest.fixture
def subscribe(start, endpoint, backend):
    @contextmanager
    def subscribed(subscription, **quirks):
        with start(**quirks) as app:
            token = backend(app)
            made = app.fhir(token, "POST", "/Subscription", json=subscription)
            assert made.status_code == 201, made.text
            assert made.json()["status"] == "requested"
            assert app.ehr.subscriptions.all_sent()
            yield Subscribed(app, endpoint, token, made.json()["id"])

    return subscribed


# The topic


def test_the_endpoint_is_greeted_before_the_subscription_is_active(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint)) as made:
        assert made.state() == "active"
        ((method, path, headers, bundle),) = endpoint.arrived
    assert (method, path) == ("POST", "/hooks/abc")
    assert headers["Authorization"] == "Bearer told-to-nobody"
    assert headers["Content-Type"] == "application/fhir+json"
    assert bundle["type"] == "history"
    get_fhir_model_class("Bundle").model_validate(bundle)
    told = status_of(bundle)
    assert told["type"] == "handshake"
    assert told["status"] == "requested"
    assert told["topic"] == TOPIC
    assert told["events-since-subscription-start"] == "0"
    assert told["subscription"]["reference"] == f"{made.app.ehr.fhir_url}/Subscription/{made.id}"


@pytest.mark.parametrize("status", [500, 404, 302])
def test_an_endpoint_that_does_not_answer_the_greeting_gets_a_subscription_in_error(
    subscribe, endpoint, status
):
    endpoint.status = status
    with subscribe(topic_subscription(endpoint)) as made:
        subscription = made.get().json()
    assert subscription["status"] == "error"
    assert subscription["error"] == f"handshake: the endpoint answered {status}"
    assert len(endpoint.arrived) == 3


def test_a_visit_that_ends_is_told_with_its_number_and_its_id_alone(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint)) as made:
        made.finish("open-visit")
        bundle = endpoint.arrived[-1][3]
        assert len(bundle["entry"]) == 1
        get_fhir_model_class("Bundle").model_validate(bundle)
        told = status_of(bundle)
        assert told["type"] == "event-notification"
        assert told["events-since-subscription-start"] == "1"
        (event,) = told["events"]
        assert event["event-number"] == "1"
        assert event["focus"]["reference"] == f"{made.app.ehr.fhir_url}/Encounter/enc-open-visit"
        assert "pat-weiss" not in json.dumps(bundle)


def test_a_full_notification_carries_the_encounter_as_it_ended(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint, "full-resource")) as made:
        made.finish("open-visit")
    (_, entry) = endpoint.arrived[-1][3]["entry"]
    assert entry["fullUrl"].endswith("/Encounter/enc-open-visit")
    assert entry["resource"]["status"] == "finished"
    assert entry["resource"]["subject"]["reference"] == "Patient/pat-weiss"


def test_an_empty_notification_names_no_encounter(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint, "empty")) as made:
        made.finish("open-visit")
    assert "enc-open-visit" not in json.dumps(endpoint.arrived[-1][3])
    assert numbers(endpoint.told[-1]) == ["1"]


def test_only_the_end_of_a_visit_is_an_event(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint)) as made:
        store = made.app.ehr.store
        encounter = store.get("Encounter", "enc-open-visit").resource
        store.put({**encounter, "priority": {"text": "routine"}})
        made.finish("open-visit", "open-visit")
        store.put({**store.get("Encounter", "enc-open-visit").resource, "priority": {"text": "urgent"}})
        assert made.app.ehr.subscriptions.all_sent()
    assert [told["type"] for told in endpoint.told] == ["handshake", "event-notification"]


def test_a_filter_narrows_the_topic(subscribe, endpoint):
    subscription = topic_subscription(endpoint)
    url = f"{PROFILES}/backport-filter-criteria"
    criteria = {"extension": [{"url": url, "valueString": "Encounter?patient=Patient/pat-adams"}]}
    with subscribe(subscription | {"_criteria": criteria}) as made:
        made.finish("open-visit")
        made.end_again("cms-ex1")
        assert made.app.ehr.subscriptions.all_sent()
    assert [
        event["focus"]["reference"][-11:] for told in endpoint.told for event in told.get("events", [])
    ] == ["enc-cms-ex1"]


def test_an_endpoint_that_fails_is_tried_three_times_then_the_subscription_is_in_error_and_goes_on_counting(
    subscribe, endpoint
):
    with subscribe(topic_subscription(endpoint)) as made:
        endpoint.status = 503
        made.finish("open-visit")
        assert len(endpoint.arrived) == 4
        endpoint.status = 200
        made.end_again()
        assert made.app.ehr.subscriptions.all_sent()
        assert len(endpoint.arrived) == 4
        told = status_of(made.get("/$status").json())
    assert told["status"] == "error"
    assert told["events-since-subscription-start"] == "2"
    assert told["error"] == {"text": "event-notification: the endpoint answered 503"}


def test_a_heartbeat_comes_when_it_was_quiet_for_its_period(subscribe, endpoint, clock):
    heartbeat = {"url": f"{PROFILES}/backport-heartbeat-period", "valueUnsignedInt": 60}
    with subscribe(topic_subscription(endpoint, extension=[heartbeat])) as made:
        made.finish("open-visit")
        clock.passed += timedelta(seconds=50)
        made.app.ehr.subscriptions.beat()
        assert made.app.ehr.subscriptions.all_sent()
        assert len(endpoint.told) == 2
        clock.passed += timedelta(seconds=11)
        made.app.ehr.subscriptions.beat()
        made.app.ehr.subscriptions.beat()
        assert made.app.ehr.subscriptions.all_sent()
    assert [told["type"] for told in endpoint.told] == ["handshake", "event-notification", "heartbeat"]
    assert endpoint.told[-1]["events-since-subscription-start"] == "1"


# What can be asked


def test_the_status_says_how_many_events_there_were(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint)) as made:
        made.finish("open-visit")
        bundle = made.get("/$status").json()
    assert bundle["type"] == "searchset"
    told = status_of(bundle)
    assert (told["type"], told["status"]) == ("query-status", "active")
    assert told["events-since-subscription-start"] == "1"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, ["1", "2", "3"]),
        ({"eventsSinceNumber": "2"}, ["2", "3"]),
        ({"eventsUntilNumber": "2"}, ["1", "2"]),
        ({"eventsSinceNumber": "2", "eventsUntilNumber": "2"}, ["2"]),
        ({"eventsSinceNumber": "4"}, []),
    ],
)
def test_events_can_be_asked_for_by_number(subscribe, endpoint, asked, given):
    with subscribe(topic_subscription(endpoint)) as made:
        made.finish("open-visit")
        made.end_again("cms-ex1")
        made.end_again("cms-ex2")
        bundle = made.get("/$events", **asked).json()
    told = status_of(bundle)
    assert bundle["type"] == "history"
    assert told["type"] == "query-event"
    assert numbers(told) == given


@pytest.mark.parametrize(
    "asked",
    [{"eventsSinceNumber": "x"}, {"eventsUntilNumber": "-1"}, {"content": "all"}],
)
def test_what_is_not_understood_of_a_question_for_events_is_refused(subscribe, endpoint, asked):
    with subscribe(topic_subscription(endpoint)) as made:
        assert made.get("/$events", **asked).status_code == 400


def test_an_ehr_may_lack_the_events_operation(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint), no_events_operation=True) as made:
        assert made.get("/$events").status_code == 404
        assert made.get("/$status").status_code == 200


# What a test can order


@pytest.mark.parametrize(
    ("spoilt", "arrive"),
    [
        (["lose"], ["2", "3"]),
        (["double"], ["1", "1", "2", "3"]),
        (["reorder"], ["2", "1", "3"]),
        (["double", "lose", "reorder"], ["1", "1"]),
    ],
)
def test_notifications_are_lost_doubled_and_late_as_ordered(subscribe, endpoint, spoilt, arrive):
    with subscribe(topic_subscription(endpoint)) as made:
        made.app.ehr.subscriptions.spoil.extend(spoilt)
        made.finish("open-visit")
        made.end_again("cms-ex1")
        made.end_again("cms-ex2")
        assert made.app.ehr.subscriptions.all_sent()
    assert [number for told in endpoint.told for number in numbers(told)] == arrive


# R4's criteria


def test_without_a_payload_the_endpoint_gets_an_empty_post_and_no_greeting(subscribe, endpoint):
    with subscribe(criteria_subscription(endpoint)) as made:
        assert made.state() == "active"
        assert endpoint.arrived == []
        made.finish("open-visit")
    ((method, path, headers, body),) = endpoint.arrived
    assert (method, path, body) == ("POST", "/hooks/abc", None)
    assert headers["Authorization"] == "Bearer told-to-nobody"


def test_with_a_payload_the_endpoint_gets_the_encounter_as_an_update(subscribe, endpoint):
    with subscribe(criteria_subscription(endpoint, payload="application/fhir+json")) as made:
        made.finish("open-visit")
    ((method, path, _, body),) = endpoint.arrived
    assert (method, path) == ("PUT", "/hooks/abc/Encounter/enc-open-visit")
    assert body["status"] == "finished"


def test_criteria_fire_on_every_version_that_fits_them(subscribe, endpoint):
    with subscribe(criteria_subscription(endpoint)) as made:
        made.finish("open-visit")
        store = made.app.ehr.store
        store.put(store.get("Encounter", "enc-open-visit").resource)
        store.put({**store.get("Encounter", "enc-open-visit").resource, "status": "cancelled"})
        assert made.app.ehr.subscriptions.all_sent()
    assert len(endpoint.arrived) == 2


# Creating and deleting


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"status": "active"}, 422),
        ({"criteria": "Encounter?colour=blue"}, 400),
        ({"criteria": "Patient?name=x"}, 422),
        ({"criteria": f"{BACKPORT}/SubscriptionTopic/another"}, 422),
        ({"reason": 5}, 422),
        ({"channel": {"type": "email", "endpoint": "mailto:a@b.example"}}, 422),
        ({"channel": {"type": "rest-hook", "endpoint": "https://elsewhere.example/hook"}}, 422),
        ({"channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/", "payload": "text/plain"}}, 422),
        ({"channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/", "header": ["nonsense"]}}, 422),
        ({"criteria": TOPIC}, 422),  # a topic needs to know how much to send
    ],
)
def test_a_subscription_that_cannot_be_served_is_refused(start, endpoint, backend, changed, status):
    with start() as app:
        subscription = criteria_subscription(endpoint) | changed
        answer = app.fhir(backend(app), "POST", "/Subscription", json=subscription)
        assert answer.status_code == status
        assert answer.json()["resourceType"] == "OperationOutcome"
        assert app.ehr.store.all("Subscription") == []


@pytest.mark.parametrize(
    ("kinds", "made", "status"),
    [
        ("criteria", topic_subscription, 422),
        ("criteria", criteria_subscription, 201),
        ("topic", topic_subscription, 201),
        ("topic", criteria_subscription, 422),
        ("none", topic_subscription, 404),
    ],
)
def test_an_ehr_may_offer_one_kind_alone_or_none(start, endpoint, backend, kinds, made, status):
    with start(subscriptions=kinds) as app:
        answer = app.fhir(backend(app), "POST", "/Subscription", json=made(endpoint))
        assert answer.status_code == status
        assert app.ehr.subscriptions.all_sent()


@pytest.mark.parametrize(
    ("kinds", "topics", "operations"),
    [("both", [TOPIC], ["status", "events"]), ("criteria", [], []), ("topic", [TOPIC], ["status", "events"])],
)
def test_the_capability_statement_lists_the_topic(start, kinds, topics, operations):
    with start(subscriptions=kinds) as app:
        statement = app.fhir(None, "GET", "/metadata").json()
    get_fhir_model_class("CapabilityStatement").model_validate(statement)
    (subscription,) = [each for each in statement["rest"][0]["resource"] if each["type"] == "Subscription"]
    assert {"code": "create"} in subscription["interaction"]
    assert {"code": "delete"} in subscription["interaction"]
    assert [each["valueCanonical"] for each in subscription.get("extension", [])] == topics
    assert [each["name"] for each in subscription.get("operation", [])] == operations


def test_a_deleted_subscription_is_gone_and_hears_no_more(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint)) as made:
        path = f"/Subscription/{made.id}"
        assert made.app.fhir(made.token, "DELETE", path).status_code == 204
        made.finish("open-visit")
        for gone in ("", "/$status", "/$events"):
            assert made.get(gone).status_code == 404
        assert made.app.fhir(made.token, "DELETE", path).status_code == 404
    assert [told["type"] for told in endpoint.told] == ["handshake"]


def test_nothing_else_can_be_deleted(subscribe, endpoint, backend):
    with subscribe(topic_subscription(endpoint)) as made:
        token = backend(made.app, "system/*.cruds")
        assert made.app.fhir(token, "DELETE", "/Encounter/enc-cms-ex1").status_code == 405


def test_a_clinicians_token_makes_and_deletes_no_subscription(app, endpoint):
    token = app.token(scope="launch patient/*.rs user/Subscription.cruds")
    made = app.fhir(token, "POST", "/Subscription", json=topic_subscription(endpoint))
    assert made.status_code == 403
    assert app.fhir(token, "DELETE", "/Subscription/1").status_code == 403


def test_a_token_without_the_scope_makes_no_subscription(start, endpoint, backend):
    with start() as app:
        token = backend(app, "system/Encounter.rs")
        answer = app.fhir(token, "POST", "/Subscription", json=topic_subscription(endpoint))
        assert answer.status_code == 403


# The button, and polling


def test_the_button_finishes_the_visit_and_tells_the_app(subscribe, endpoint):
    with subscribe(topic_subscription(endpoint)) as made:
        page = f"{made.app.ehr.base_url}/visits/enc-open-visit"
        before = made.app.ehr.store.get("Encounter", "enc-open-visit").resource
        assert "Finish the visit" in requests.get(page, timeout=5).text
        after_it = requests.post(f"{page}/finish", timeout=5)
        assert after_it.url == page
        assert "Finish the visit" not in after_it.text
        assert made.app.ehr.subscriptions.all_sent()
        after = made.app.ehr.store.get("Encounter", "enc-open-visit").resource
    assert (before["status"], after["status"]) == ("in-progress", "finished")
    assert after["period"]["end"] > after["period"]["start"]
    assert after["meta"]["lastUpdated"] > before["meta"]["lastUpdated"]
    assert numbers(endpoint.told[-1]) == ["1"]


def test_a_visit_that_ended_has_no_button(app):
    page = f"{app.ehr.base_url}/visits/enc-cms-ex1"
    assert "Finish the visit" not in app.http.get(page).text
    version = app.ehr.store.get("Encounter", "enc-cms-ex1").version
    assert app.http.post(f"{page}/finish").status_code == 200
    assert app.ehr.store.get("Encounter", "enc-cms-ex1").version == version


def test_what_changed_since_is_found_page_by_page_in_the_order_of_the_changes(start, backend, clock):
    with start(page_size=2) as app:
        token = backend(app)
        clock.passed += timedelta(minutes=1)
        since = (clock() - timedelta(seconds=30)).isoformat(timespec="milliseconds")
        app.ehr.finish("open-visit")
        for scenario in ("cms-ex2", "cms-ex1"):
            clock.passed += timedelta(seconds=1)
            encounter = app.ehr.store.get("Encounter", f"enc-{scenario}").resource
            app.ehr.store.put({**encounter, "status": "finished"})
        found, path = [], f"/Encounter?_lastUpdated=ge{quote(since)}&status=finished&_sort=_lastUpdated"
        while path:
            page = app.fhir(token, "GET", path).json()
            found.append([entry["resource"]["id"] for entry in page["entry"]])
            following = [link["url"] for link in page["link"] if link["relation"] == "next"]
            path = following[0].removeprefix(app.ehr.fhir_url) if following else None
    assert found == [["enc-open-visit", "enc-cms-ex2"], ["enc-cms-ex1"]]


def test_a_search_in_one_chart_finds_what_moved_into_it_and_not_what_left(start, backend):
    with start() as app:
        token = backend(app, "system/*.rs")
        store = app.ehr.store

        def procedures(patient):
            found = app.fhir(token, "GET", f"/Procedure?patient={patient}").json()
            return [entry["resource"]["id"] for entry in found.get("entry", [])]

        assert procedures("pat-weiss") == ["proc-open-visit-1", "proc-open-visit-2"]
        moved = store.get("Procedure", "proc-open-visit-2").resource
        store.put({**moved, "subject": {"reference": "Patient/pat-varga"}})
        assert procedures("pat-weiss") == ["proc-open-visit-1"]
        assert procedures("Patient/pat-varga") == ["proc-open-visit-2"]

        def taken_back():
            with store.all_or_nothing():
                store.put({**moved, "subject": {"reference": "Patient/pat-weiss"}})
                raise KeyError

        with pytest.raises(KeyError):
            taken_back()
        assert procedures("pat-weiss") == ["proc-open-visit-1"]
        store.remove("Procedure", "proc-open-visit-1")
        assert procedures("pat-weiss") == []
