"""What notifications and an EHR's answers about subscriptions say; every form of them, and what is none."""

import json

import pytest
from fhir.resources.R4B import get_fhir_model_class

from quarterhour.fhir.subscriptions import (
    ENCOUNTER_COMPLETE,
    NotANotice,
    Notice,
    encounter_in,
    encounter_of,
    notice,
    subscription,
    topic_of,
)


def bundle(*resources):
    entries = [{"fullUrl": "urn:uuid:1"} | ({"resource": each} if each else {}) for each in resources]
    return json.dumps({"resourceType": "Bundle", "type": "history", "entry": entries}).encode()


def parameters(*given):
    return {"resourceType": "Parameters", "parameter": list(given)}


def event(number, reference=None, kind="valueString"):
    part = [{"name": "event-number", kind: number}]
    if reference:
        part.append({"name": "focus", "valueReference": {"reference": reference}})
    return {"name": "notification-event", "part": part}


TYPE = {"name": "type", "valueCode": "event-notification"}


# The example of the backport for R4, in its own values:
# https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/Bundle-r4-notification-id-only.json.html
ID_ONLY = parameters(
    {
        "name": "subscription",
        "valueReference": {"reference": "https://example.org/fhir/Subscription/admission"},
    },
    {"name": "topic", "valueCanonical": "http://example.org/FHIR/SubscriptionTopic/encounter-complete"},
    {"name": "status", "valueCode": "active"},
    {"name": "type", "valueCode": "event-notification"},
    {"name": "events-since-subscription-start", "valueString": "2"},
    {
        "name": "notification-event",
        "part": [
            {"name": "event-number", "valueString": "2"},
            {"name": "timestamp", "valueInstant": "2020-05-29T11:44:13.1882432-05:00"},
            {"name": "focus", "valueReference": {"reference": "https://example.org/fhir/Encounter/551683b3"}},
        ],
    },
)


def test_a_notification_in_r4_says_number_count_and_visit():
    assert notice(bundle(ID_ONLY)) == Notice(
        "event-notification", status="active", count=2, numbers=(2,), encounters=("Encounter/551683b3",)
    )


def test_a_notification_in_r4b_and_r5_says_the_same():
    status = {
        "resourceType": "SubscriptionStatus",
        "status": "active",
        "type": "event-notification",
        "eventsSinceSubscriptionStart": "2",
        "notificationEvent": [
            {"eventNumber": "2", "focus": {"reference": "https://example.org/fhir/Encounter/551683b3"}}
        ],
        "subscription": {"reference": "https://example.org/fhir/Subscription/admission"},
    }
    assert notice(bundle(status)) == notice(bundle(ID_ONLY))


def test_several_events_in_one_notification_are_all_there_and_a_visit_once():
    told = notice(
        bundle(
            parameters(TYPE, event("3", "Encounter/a"), event("4", "Encounter/b"), event("5", "Encounter/a"))
        )
    )
    assert told.numbers == (3, 4, 5)
    assert told.encounters == ("Encounter/a", "Encounter/b")
    assert not told.nameless


@pytest.mark.parametrize("kind", ["valueString", "valueInteger", "valueUnsignedInt", "valueInteger64"])
def test_a_number_is_read_as_text_and_as_a_number(kind):
    assert notice(bundle(parameters(TYPE, event("7", "Encounter/a", kind)))).numbers == (7,)
    assert notice(bundle(parameters(TYPE, event(7, "Encounter/a", kind)))).numbers == (7,)


@pytest.mark.parametrize("number", ["", "-1", "1.5", "1e3", " 1", "٣", "9" * 19, "9" * 5000, str(2**63)])
def test_what_is_no_event_number_is_left_out(number):
    told = notice(bundle(parameters(TYPE, event(number, "Encounter/a"))))
    assert (told.numbers, told.encounters) == ((), ("Encounter/a",))


def test_the_largest_number_is_one():
    assert notice(bundle(parameters(TYPE, event(str(2**63 - 1))))).numbers == (2**63 - 1,)


def test_an_event_without_a_focus_does_not_say_which_visit():
    assert notice(bundle(parameters(TYPE, event("1")))).nameless
    assert notice(bundle(parameters(TYPE, event("1", "Patient/1")))).nameless
    assert not notice(bundle(parameters(TYPE))).nameless


def test_the_encounter_that_came_along_says_which_visit():
    told = notice(bundle(parameters(TYPE, event("1")), None, {"resourceType": "Encounter", "id": "a"}))
    assert (told.encounters, told.nameless) == (("Encounter/a",), False)


def test_of_two_events_one_encounter_leaves_one_without_a_name():
    told = notice(bundle(parameters(TYPE, event("1"), event("2")), {"resourceType": "Encounter", "id": "a"}))
    assert (told.encounters, told.nameless) == (("Encounter/a",), True)


def test_errors_are_told_in_the_ehrs_words():
    told = notice(
        bundle(
            parameters(
                TYPE,
                {"name": "error", "valueCodeableConcept": {"text": "The endpoint was away."}},
                {"name": "error", "valueCodeableConcept": {"coding": [{"code": "no-response"}]}},
                {"name": "error", "valueCodeableConcept": {}},
            )
        )
    )
    assert told.errors == ("The endpoint was away.", "no-response")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"true",
        bundle(),
        bundle(None),
        bundle({"resourceType": "Basic"}),
        bundle({"resourceType": "Parameters"}),
        bundle(parameters({"name": "type", "valueString": "heartbeat"})),
        bundle(parameters({"valueCode": "no name"})),
        bundle({"resourceType": "SubscriptionStatus", "status": "active"}),
        json.dumps(parameters(TYPE)).encode(),
        b"[" * 100_000,
    ],
    ids=lambda body: body[:60].decode(),
)
def test_what_is_no_notification_is_said_to_be_none(body):
    with pytest.raises(NotANotice):
        notice(body)


@pytest.mark.parametrize(
    ("reference", "encounter"),
    [
        ("Encounter/1", "Encounter/1"),
        ("https://ehr.example/fhir/Encounter/1", "Encounter/1"),
        ("https://ehr.example/fhir/Encounter/1/_history/2", "Encounter/1"),
        ("Encounter/1?x=y", None),
        ("Encounter/1#part", None),
        ("Encounter/", None),
        ("Encounter/" + "a" * 65, None),
        ("XEncounter/1", None),
        ("Encounter/1/Procedure/2", None),
        ("urn:uuid:1", None),
        ("", None),
        (None, None),
    ],
)
def test_of_a_reference_only_the_encounters_id_is_taken(reference, encounter):
    assert encounter_of(reference) == encounter


@pytest.mark.parametrize(
    ("body", "encounter"),
    [
        (b'{"resourceType":"Encounter","id":"1","status":5}', "Encounter/1"),
        (b'{"resourceType":"Patient","id":"1"}', None),
        (b'{"resourceType":"Encounter","id":"a b"}', None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_of_a_whole_encounter_only_its_id_is_taken(body, encounter):
    assert encounter_in(body) == encounter


@pytest.mark.parametrize(
    ("listed", "chosen"),
    [
        ([], None),
        (["http://ehr.example/topic/encounter"], None),
        (["http://ehr.example/topic", ENCOUNTER_COMPLETE[1]], ENCOUNTER_COMPLETE[1]),
        ([f"{ENCOUNTER_COMPLETE[0]}|1.1.0"], f"{ENCOUNTER_COMPLETE[0]}|1.1.0"),
    ],
)
def test_the_topic_is_chosen_that_says_a_visit_has_ended(listed, chosen):
    assert topic_of(listed) == chosen


@pytest.mark.parametrize("kind", ["topic", "criteria"])
def test_what_is_asked_for_is_valid_fhir_and_names_no_more_than_needed(kind):
    asked = subscription(
        kind, "Encounter?status=finished", "https://units.example/x", "Authorization: Bearer y"
    )
    get_fhir_model_class("Subscription").model_validate(asked)
    assert asked["channel"]["header"] == ["Authorization: Bearer y"]
    assert "full-resource" not in json.dumps(asked)
    assert ("payload" in asked["channel"]) is (kind == "topic")
