"""Subscriptions of an EHR: asked for, asked about, and what their notifications say.

Two kinds: R4's own (https://hl7.org/fhir/R4/subscription.html), whose criteria are a search, and the one of R5
brought back to R4 (https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/), which follows a topic and numbers its
events. What a notification says is a hint: the address of nothing in it is ever followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import msgspec
from fhir.resources.R4B.subscription import Subscription

from .errors import BadAnswer, Refused
from .server import MEDIA_TYPE, Server

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
PROFILES = f"{BACKPORT}/StructureDefinition"
TOPIC_LISTED = f"{PROFILES}/capabilitystatement-subscriptiontopic-canonical"
# The topics that the backport itself describes for the end of a visit; an EHR with one of its own is told which.
ENCOUNTER_COMPLETE = (
    f"{BACKPORT}/SubscriptionTopic/r4-encounter-complete",
    f"{BACKPORT}/SubscriptionTopic/r4b-encounter-complete",
)
CRITERIA = "Encounter?status=finished"
HEARTBEAT_SECONDS = 300
TIMEOUT_SECONDS = 10
MOST_EVENTS_A_NOTIFICATION = 50
NO_OPERATION = frozenset({400, 404, 405, 501})
LARGEST_NUMBER = 2**63 - 1  # an integer64

Kind = Literal["topic", "criteria"]
_View = TypeVar("_View")
_ENCOUNTER = re.compile(r"(?:^|/)(Encounter/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?$")


CANNOT_BE_READ = "The EHR's answer about a subscription cannot be read. Tell your administrator."


NOTHING = msgspec.Raw(b"null")


class NotANotice(ValueError):
    """A body that is no notification of any form that we know."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notification, ``$status`` or ``$events`` says.

    ``count`` is how many events there were since the subscription began; ``numbers`` are those of the events in
    this one, ``encounters`` what they are about ("Encounter/1"). ``nameless``: an event does not say which visit.
    """

    type: str  # handshake, heartbeat, event-notification, query-status, query-event
    status: str | None = None
    count: int | None = None
    numbers: tuple[int, ...] = ()
    encounters: tuple[str, ...] = ()
    nameless: bool = False
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offered:
    """What an EHR says of subscriptions in its CapabilityStatement."""

    creates: bool
    topics: tuple[str, ...]


# --- asking -------------------------------------------------------------------------------------------------


def offered(server: Server) -> Offered:
    """Whether subscriptions can be made, and the topics that are listed. Raises ``EhrError``."""
    statement = _decoded(server.request_data("metadata"), _Statement)
    listed = [
        resource
        for rest in statement.rest or ()
        for resource in rest.resource or ()
        if resource.type == "Subscription"
    ]
    topics = tuple(
        value
        for resource in listed
        for extension in resource.extension or ()
        if extension.url == TOPIC_LISTED and (value := extension.value_canonical or extension.value_uri)
    )
    creates = any(each.code in {"create", "update"} for one in listed for each in one.interaction or ())
    return Offered(creates, topics)


def topic_of(topics: Iterable[str]) -> str | None:
    """Of the topics that an EHR lists, the one that says that a visit has ended; a version stays with it."""
    return next((topic for topic in topics if topic.partition("|")[0] in ENCOUNTER_COMPLETE), None)


def subscription(kind: Kind, criteria: str, endpoint: str, header: str) -> dict[str, Any]:
    """A Subscription to ask for: the least that tells us of a visit, its id or nothing at all.

    ``criteria`` is the topic's canonical, or R4's search. ``header`` is a whole line, "Authorization: ...".
    """
    channel: dict[str, Any] = {"type": "rest-hook", "endpoint": endpoint, "header": [header]}
    resource: dict[str, Any] = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "Suggests the billable units of visits that have ended (Quarterhour).",
        "criteria": criteria,
        "channel": channel,
    }
    if kind == "topic":
        resource["meta"] = {"profile": [f"{PROFILES}/backport-subscription"]}
        channel["payload"] = MEDIA_TYPE
        channel["_payload"] = {
            "extension": [{"url": f"{PROFILES}/backport-payload-content", "valueCode": "id-only"}]
        }
        channel["extension"] = [
            {"url": f"{PROFILES}/backport-heartbeat-period", "valueUnsignedInt": HEARTBEAT_SECONDS},
            {"url": f"{PROFILES}/backport-timeout", "valueUnsignedInt": TIMEOUT_SECONDS},
            {"url": f"{PROFILES}/backport-max-count", "valuePositiveInt": MOST_EVENTS_A_NOTIFICATION},
        ]
    Subscription.model_validate(resource)
    return resource


def create(server: Server, resource: Mapping[str, Any]) -> str:
    """Its id at the EHR. Raises ``EhrError`` as ``Server.create`` does; ``BadAnswer`` where no id comes back."""
    created = server.create(resource)
    if created.location and created.location.startswith("Subscription/"):
        return created.location.removeprefix("Subscription/")
    head = _decoded(created.body, _Head) if created.body else None
    if head is None or head.id is None:
        raise BadAnswer(
            "The EHR took the subscription and did not say under which id.", request_id=created.request_id
        )
    return head.id


def found_at(server: Server, endpoint: str) -> str | None:
    """The id of the Subscription with this endpoint, which only we know; None: there is none."""
    for entry in server.search("Subscription", {"url": endpoint}):
        head = _decoded(_decoded(entry, _Entry).resource, _Head)
        if head.resource_type == "Subscription":
            return head.id
    return None


def status_of(server: Server, kind: Kind, id_: str) -> Notice:
    """How the EHR sees a subscription, by ``$status`` where it has that. Raises ``EhrError``; ``NotFound``: it is gone."""
    told = _operation(server, f"Subscription/{id_}/$status") if kind == "topic" else None
    if told is not None:
        return told
    read = _decoded(server.read(f"Subscription/{id_}"), _Subscription)
    return Notice("query-status", status=read.status, errors=(read.error,) if read.error else ())


def events_of(server: Server, id_: str, since: int, until: int) -> Notice | None:
    """The events of these numbers, both included, as far as the EHR still has them; None: it has no ``$events``.

    https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/OperationDefinition-backport-subscription-events.html
    """
    asked = {"eventsSinceNumber": str(since), "eventsUntilNumber": str(until), "content": "id-only"}
    return _operation(server, f"Subscription/{id_}/$events?{urlencode(asked)}")


def _operation(server: Server, path: str) -> Notice | None:
    """The answer of an operation; None where the EHR does not have it, or not for this subscription."""
    try:
        return notice(server.request_data(path))
    except NotANotice as error:
        raise BadAnswer(CANNOT_BE_READ) from error
    except Refused as error:
        if error.status in NO_OPERATION:
            return None
        raise


# --- reading ------------------------------------------------------------------------------------------------


def notice(body: bytes) -> Notice:
    """A notification Bundle, whose first entry is a Parameters (R4) or a SubscriptionStatus (R4B, R5).

    Raises ``NotANotice`` for anything else.
    """
    try:
        bundle = msgspec.json.decode(body, type=_Bundle)
        entries = [each.resource for each in bundle.entry or () if bytes(each.resource) != b"null"]
        heads = [msgspec.json.decode(each, type=_Head) for each in entries]
        if bundle.resource_type != "Bundle" or not heads:
            raise NotANotice
        if heads[0].resource_type == "Parameters":
            told = _from_parameters(msgspec.json.decode(entries[0], type=_Parameters))
        elif heads[0].resource_type == "SubscriptionStatus":
            told = _from_status(msgspec.json.decode(entries[0], type=_Status))
        else:
            raise NotANotice
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NotANotice from error
    enclosed = [_encounter(head) for head in heads[1:]]
    encounters = tuple(dict.fromkeys([*told.encounters, *filter(None, enclosed)]))
    return replace(
        told, encounters=encounters, nameless=told.nameless and len(encounters) < len(told.numbers)
    )


def encounter_in(body: bytes) -> str | None:
    """The reference of an Encounter that came whole, as R4 sends it with a payload; None for anything else."""
    try:
        head = msgspec.json.decode(body, type=_Head)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return _encounter(head)


def encounter_of(reference: str | None) -> str | None:
    """The Encounter that a reference, relative or absolute, names: "Encounter/1".

    Whose server it names does not matter: an EHR may know itself by another name than we do, and the id is looked
    for at the one that we know.
    """
    found = _ENCOUNTER.search(reference or "")
    return found[1] if found else None


def _encounter(head: _Head) -> str | None:
    is_one = head.resource_type == "Encounter" and head.id is not None
    return encounter_of(f"Encounter/{head.id}") if is_one else None


def _decoded(body: bytes | msgspec.Raw, kind: type[_View]) -> _View:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadAnswer(CANNOT_BE_READ) from error


def _from_parameters(parameters: _Parameters) -> Notice:
    given = {each.name: each for each in parameters.parameter or ()}
    events = [
        {part.name: part for part in each.part or ()}
        for each in parameters.parameter or ()
        if each.name == "notification-event"
    ]
    focuses = [encounter_of(_reference(event.get("focus"))) for event in events]
    type_ = given.get("type")
    if type_ is None or type_.value_code is None:
        raise NotANotice
    status = given.get("status")
    return Notice(
        type=type_.value_code,
        status=status.value_code if status else None,
        count=_number(_value(given.get("events-since-subscription-start"))),
        numbers=tuple(n for event in events if (n := _number(_value(event.get("event-number")))) is not None),
        encounters=tuple(dict.fromkeys(filter(None, focuses))),
        nameless=None in focuses,
        errors=tuple(
            words
            for each in parameters.parameter or ()
            if each.name == "error" and (words := _words(each.value_codeable_concept))
        ),
    )


def _from_status(status: _Status) -> Notice:
    events = status.notification_event or ()
    focuses = [encounter_of(event.focus.reference if event.focus else None) for event in events]
    return Notice(
        type=status.type,
        status=status.status,
        count=_number(status.events_since_subscription_start),
        numbers=tuple(n for event in events if (n := _number(event.event_number)) is not None),
        encounters=tuple(dict.fromkeys(filter(None, focuses))),
        nameless=None in focuses,
        errors=tuple(words for each in status.error or () if (words := _words(each))),
    )


def _number(value: str | int | None) -> int | None:
    """A count or event number: servers send it as a string, as integer64 must be, or as a number."""
    text = str(value)
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(LARGEST_NUMBER)):
        return None
    return number if (number := int(text)) <= LARGEST_NUMBER else None


def _value(parameter: _Parameter | None) -> str | int | None:
    if parameter is None:
        return None
    values = (
        parameter.value_string,
        parameter.value_integer,
        parameter.value_unsigned_int,
        parameter.value_integer64,
    )
    return next((value for value in values if value is not None), None)


def _reference(parameter: _Parameter | None) -> str | None:
    return parameter.value_reference.reference if parameter and parameter.value_reference else None


def _words(concept: _Concept | None) -> str | None:
    if concept is None:
        return None
    coding = next(iter(concept.coding or ()), None)
    return concept.text or (coding and (coding.display or coding.code)) or None


class _Json(msgspec.Struct, rename="camel"):
    """An element: camelCase in JSON, unknown parts passed over."""


class _Head(_Json):
    resource_type: str
    id: str | None = None


class _Entry(_Json):
    resource: msgspec.Raw = NOTHING  # an entry may have none


class _Bundle(_Json):
    resource_type: str
    entry: list[_Entry] | None = None


class _Coding(_Json):
    code: str | None = None
    display: str | None = None


class _Concept(_Json):
    text: str | None = None
    coding: list[_Coding] | None = None


class _Reference(_Json):
    reference: str | None = None


class _Parameter(_Json):
    name: str
    value_code: str | None = None
    value_string: str | int | None = None
    value_integer: str | int | None = None
    value_unsigned_int: str | int | None = None
    value_integer64: str | int | None = None
    value_reference: _Reference | None = None
    value_codeable_concept: _Concept | None = None
    part: list[_Parameter] | None = None


class _Parameters(_Json):
    parameter: list[_Parameter] | None = None


class _Event(_Json):
    event_number: str | int | None = None
    focus: _Reference | None = None


class _Status(_Json):
    type: str
    status: str | None = None
    events_since_subscription_start: str | int | None = None
    notification_event: list[_Event] | None = None
    error: list[_Concept] | None = None


class _Subscription(_Json):
    status: str
    error: str | None = None


class _Extension(_Json):
    url: str | None = None
    value_canonical: str | None = None
    value_uri: str | None = None


class _Interaction(_Json):
    code: str | None = None


class _Resource(_Json):
    type: str | None = None
    interaction: list[_Interaction] | None = None
    extension: list[_Extension] | None = None


class _Rest(_Json):
    resource: list[_Resource] | None = None


class _Statement(_Json):
    rest: list[_Rest] | None = None
