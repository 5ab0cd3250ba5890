"""Subscriptions: apps that are told when a visit ends, by R4's criteria or by the topic backported from R5.

https://hl7.org/fhir/R4/subscription.html, and https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/ in its form
for R4: a notification is a ``history`` Bundle that begins with a Parameters. Notifications go out from a thread of
their own, one after the other; a test can order that some are lost, doubled or late.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import requests
from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

from .outcome import Refused
from .quirks import Quirks
from .search import Search, understood
from .store import Filed, Resource, Store

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
TOPIC = f"{BACKPORT}/SubscriptionTopic/r4-encounter-complete"
PROFILES = f"{BACKPORT}/StructureDefinition"
TOPIC_LISTED = f"{PROFILES}/capabilitystatement-subscriptiontopic-canonical"
OPERATIONS = tuple(
    {"name": name, "definition": f"{BACKPORT}/OperationDefinition/backport-subscription-{name}"}
    for name in ("status", "events")
)
MEDIA_TYPE = "application/fhir+json"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRIES = 3
SECONDS_BETWEEN_TRIES = 0.1
LONGEST_DELIVERY = 5  # seconds
LOOK_EVERY = 1.0  # seconds, whether a heartbeat is due

Spoilt = Literal["lose", "double", "reorder"]
Content = Literal["empty", "id-only", "full-resource"]


@dataclass(frozen=True)
class Event:
    """One visit that ended, as one subscription counts it."""

    number: int
    at: datetime
    encounter: Filed


@dataclass
class Channel:
    """What is kept of one subscription beside its resource."""

    topic: bool
    content: Content | None  # None: R4 without a payload
    endpoint: str
    headers: dict[str, str]
    heartbeat: timedelta | None
    timeout: float
    filters: tuple[Search, ...]
    events: list[Event] = field(default_factory=list)
    sent_at: datetime | None = None
    held: Event | None = None  # goes out after the next one


class Subscriptions:
    """All subscriptions of the sandbox, and the thread that delivers."""

    def __init__(
        self, base: str, app_url: str, store: Store, quirks: Quirks, clock: Callable[[], datetime]
    ) -> None:
        self.base = base
        self.store = store
        self.quirks = quirks
        self.spoil: deque[Spoilt] = deque()  # what becomes of the next notifications of events, one each
        self._app = urlsplit(app_url)
        self._clock = clock
        self._channels: dict[str, Channel] = {}
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._http = requests.Session()
        self._http.trust_env = False
        store.filed = self._filed

    # What an app asks

    def create(self, resource: Any) -> Filed:
        """A new subscription, still ``requested``; it becomes ``active`` once its endpoint has answered.

        https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/workflow.html. Raises ``Refused`` (400, 422).
        """
        channel = self._understood(resource)
        with self.store.lock:
            filed = self.store.put({**resource, "id": self.store.new_id()})
            self._channels[filed.resource["id"]] = channel
            self._start()
            self._waiting.put(partial(self._activate, filed.resource["id"]))
        return filed

    def delete(self, subscription: str) -> None:
        """Take one away; what waits to be sent to it is not sent. Raises ``Refused`` (404)."""
        with self.store.lock:
            if not self.store.remove("Subscription", subscription):
                raise Refused(404, "not-found", f"No Subscription {subscription} in reach of this token.")
            del self._channels[subscription]

    def status(self, subscription: str) -> Resource:
        """What ``$status`` answers: a searchset with one status in it."""
        with self.store.lock:
            channel = self._channel(subscription)
            status = self._status(subscription, channel, "query-status", ())
        return {
            "resourceType": "Bundle",
            "id": str(uuid.uuid4()),
            "type": "searchset",
            "total": 1,
            "entry": [
                {
                    "fullUrl": f"urn:uuid:{status['id']}",
                    "resource": status,
                    "search": {"mode": "match"},
                }
            ],
        }

    def events(self, subscription: str, since: str, until: str, content: str) -> Resource:
        """What ``$events`` answers: the events of a range of numbers, both ends included."""
        if self.quirks.no_events_operation:
            raise Refused(404, "not-supported", "This server has no $events.")
        with self.store.lock:
            channel = self._channel(subscription)
            first = _number("eventsSinceNumber", since) if since else 1
            last = _number("eventsUntilNumber", until) if until else len(channel.events)
            asked = content or channel.content or "id-only"
            if asked not in ("empty", "id-only", "full-resource"):
                raise Refused(400, "value", f"content: {asked!r} is not known.")
            events = tuple(each for each in channel.events if first <= each.number <= last)
            return self._bundle(subscription, channel, "query-event", events, asked)

    # What the chart's users and tests cause

    def beat(self) -> None:
        """Queue a heartbeat for every subscription that has heard nothing for its period."""
        with self.store.lock:
            now = self._clock()
            for subscription, channel in self._channels.items():
                quiet = now - (channel.sent_at or now)
                if channel.heartbeat and quiet >= channel.heartbeat and self._state(subscription) == "active":
                    channel.sent_at = now
                    self._waiting.put(partial(self._tell, subscription, "heartbeat", ()))

    def all_sent(self, within: float = 5) -> bool:
        """Whether everything that waits was sent, after at most so many seconds."""
        with self._waiting.all_tasks_done:
            return self._waiting.all_tasks_done.wait_for(
                lambda: not self._waiting.unfinished_tasks, timeout=within
            )

    def close(self) -> None:
        """End the thread; what waits is not sent."""
        with self.store.lock:
            self._channels.clear()
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join()
        self._http.close()

    # What happens inside

    def _filed(self, before: Filed | None, filed: Filed) -> None:
        """Under the store's lock: every subscription that this version of an Encounter is an event of counts it."""
        if filed.resource["resourceType"] != "Encounter":
            return
        ended = filed.resource["status"] == "finished"
        newly = ended and (before is None or before.resource["status"] != "finished")
        for subscription, channel in self._channels.items():
            matches = all(search.found([filed]) for search in channel.filters)
            if matches and (newly or not channel.topic):
                channel.events.append(Event(len(channel.events) + 1, filed.last_updated, filed))
                event = channel.events[-1]
                # A subscription in error goes on counting and sends nothing:
                # https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/errors.html
                self._waiting.put(partial(self._spoilt, subscription, event))

    def _spoilt(self, subscription: str, event: Event) -> None:
        """Send one event, or what a test ordered in its place."""
        channel = self._channels.get(subscription)
        if channel is None:
            return
        fault = self.spoil.popleft() if self.spoil else None
        if fault == "lose":
            return
        if fault == "reorder":
            channel.held = event
            return
        self._tell(subscription, "event-notification", (event,))
        if fault == "double":
            self._tell(subscription, "event-notification", (event,))
        if channel.held is not None:
            late, channel.held = channel.held, None
            self._tell(subscription, "event-notification", (late,))

    def _activate(self, subscription: str) -> None:
        channel = self._channels.get(subscription)
        if channel is None:
            return
        if not channel.topic or self._tell(subscription, "handshake", ()):
            self._set_state(subscription, "active")

    def _tell(self, subscription: str, kind: str, events: tuple[Event, ...]) -> bool:
        """Deliver one notification; after some tries in vain the subscription is in error."""
        with self.store.lock:
            channel = self._channels.get(subscription)
            state = self._state(subscription)
            if channel is None or state not in ("active", "requested"):
                return False
            if not channel.topic and state == "requested":
                return False
            channel.sent_at = self._clock()
            method, url, body = self._request(subscription, channel, kind, events)
        failed = ""
        for attempt in range(TRIES):
            time.sleep(SECONDS_BETWEEN_TRIES if attempt else 0)
            failed = self._deliver(method, url, body, channel)
            if not failed:
                return True
        self._set_state(subscription, "error", f"{kind}: {failed}")
        return False

    def _request(
        self, subscription: str, channel: Channel, kind: str, events: tuple[Event, ...]
    ) -> tuple[str, str, Resource | None]:
        if channel.topic:
            bundle = self._bundle(subscription, channel, kind, events, channel.content or "empty")
            return "POST", channel.endpoint, bundle
        # R4: with a payload as an update of the resource, without one as an empty POST.
        # https://hl7.org/fhir/R4/subscription.html#2.46.7.1
        if channel.content is None:
            return "POST", channel.endpoint, None
        (event,) = events
        resource = event.encounter.resource
        return "PUT", f"{channel.endpoint.rstrip('/')}/Encounter/{resource['id']}", resource

    def _deliver(self, method: str, url: str, body: Resource | None, channel: Channel) -> str:
        """Empty where the endpoint took it; else what went wrong."""
        try:
            answer = self._http.request(
                method,
                url,
                data=None if body is None else json.dumps(body),
                headers=({} if body is None else {"Content-Type": MEDIA_TYPE}) | channel.headers,
                timeout=channel.timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return type(error).__name__
        return "" if answer.status_code // 100 == 2 else f"the endpoint answered {answer.status_code}"  # noqa: PLR2004 - 2xx

    def _bundle(
        self,
        subscription: str,
        channel: Channel,
        kind: str,
        events: tuple[Event, ...],
        content: str,
    ) -> Resource:
        status = self._status(subscription, channel, kind, events if content != "empty" else ())
        if content == "empty":
            status["parameter"] += [
                {"name": "notification-event", "part": _event_number(event)} for event in events
            ]
        entries: list[Resource] = [
            {
                "fullUrl": f"urn:uuid:{status['id']}",
                "resource": status,
                "request": {"method": "GET", "url": f"{self.base}/Subscription/{subscription}/$status"},
                "response": {"status": "200"},
            }
        ]
        if content == "full-resource":
            entries += [
                {
                    "fullUrl": f"{self.base}/Encounter/{event.encounter.resource['id']}",
                    "resource": event.encounter.resource,
                    "request": {"method": "PUT", "url": f"Encounter/{event.encounter.resource['id']}"},
                    "response": {"status": "200"},
                }
                for event in events
            ]
        return {
            "resourceType": "Bundle",
            "id": str(uuid.uuid4()),
            "type": "history",
            "timestamp": self._clock().isoformat(timespec="milliseconds"),
            "entry": entries,
        }

    def _status(self, subscription: str, channel: Channel, kind: str, events: tuple[Event, ...]) -> Resource:
        # https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/StructureDefinition-backport-subscription-status-r4.html
        filed = self.store.get("Subscription", subscription)
        assert filed is not None
        parameters: list[Resource] = [
            {
                "name": "subscription",
                "valueReference": {"reference": f"{self.base}/Subscription/{subscription}"},
            },
            *([{"name": "topic", "valueCanonical": TOPIC}] if channel.topic else []),
            {"name": "status", "valueCode": filed.resource["status"]},
            {"name": "type", "valueCode": kind},
            {"name": "events-since-subscription-start", "valueString": str(len(channel.events))},
        ]
        parameters += [
            {
                "name": "notification-event",
                "part": [
                    *_event_number(event),
                    {
                        "name": "focus",
                        "valueReference": {
                            "reference": f"{self.base}/Encounter/{event.encounter.resource['id']}"
                        },
                    },
                ],
            }
            for event in events
        ]
        if "error" in filed.resource:
            parameters.append({"name": "error", "valueCodeableConcept": {"text": filed.resource["error"]}})
        return {
            "resourceType": "Parameters",
            "id": str(uuid.uuid4()),
            "meta": {"profile": [f"{PROFILES}/backport-subscription-status-r4"]},
            "parameter": parameters,
        }

    def _channel(self, subscription: str) -> Channel:
        channel = self._channels.get(subscription)
        if channel is None:
            raise Refused(404, "not-found", f"No Subscription {subscription} in reach of this token.")
        return channel

    def _state(self, subscription: str) -> str:
        filed = self.store.get("Subscription", subscription)
        return str(filed.resource["status"]) if filed else "deleted"

    def _set_state(self, subscription: str, state: str, error: str | None = None) -> None:
        with self.store.lock:
            filed = self.store.get("Subscription", subscription)
            if filed is None:
                return
            said = {"error": error} if error else {}
            self.store.put({**filed.resource, "status": state} | said)

    def _understood(self, resource: Any) -> Channel:
        """The channel of a Subscription that this server can serve. Raises ``Refused`` (400, 422)."""
        if not isinstance(resource, dict) or resource.get("resourceType") != "Subscription":
            raise Refused(400, "invalid", "The body must be a Subscription.")
        try:
            get_fhir_model_class("Subscription").model_validate(resource)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in ("Subscription", *first["loc"]))
            raise Refused(422, "structure", f"{where}: {first['msg']}") from error
        if resource["status"] != "requested":
            raise Refused(422, "business-rule", "Subscription.status must be requested.")
        channel = resource["channel"]
        if channel["type"] != "rest-hook":
            raise Refused(422, "not-supported", "Subscription.channel.type: only rest-hook is offered.")
        topic = resource["criteria"] == TOPIC
        given = {each["url"].removeprefix(f"{PROFILES}/"): each for each in channel.get("extension", [])}
        heartbeat = given.get("backport-heartbeat-period", {}).get("valueUnsignedInt")
        timeout = given.get("backport-timeout", {}).get("valueUnsignedInt", LONGEST_DELIVERY)
        return Channel(
            topic=topic,
            content=self._content(channel, topic=topic),
            endpoint=self._endpoint(channel),
            headers=dict(_header(line) for line in channel.get("header", [])),
            heartbeat=timedelta(seconds=heartbeat) if topic and heartbeat else None,
            timeout=min(timeout, LONGEST_DELIVERY),
            filters=self._filters(resource, topic=topic),
        )

    def _content(self, channel: Resource, *, topic: bool) -> Content | None:
        payload = channel.get("payload")
        if payload not in (None, MEDIA_TYPE):
            raise Refused(
                422, "not-supported", f"Subscription.channel.payload: only {MEDIA_TYPE} is offered."
            )
        if not topic:
            return "full-resource" if payload else None
        given = {each["url"]: each for each in channel.get("_payload", {}).get("extension", [])}
        content = given.get(f"{PROFILES}/backport-payload-content", {}).get("valueCode")
        if payload is None or content not in ("empty", "id-only", "full-resource"):
            raise Refused(422, "required", "Subscription.channel.payload needs backport-payload-content.")
        return content  # type: ignore[no-any-return]

    def _endpoint(self, channel: Resource) -> str:
        """Only the app beside this sandbox is called, wherever a Subscription points."""
        endpoint = str(channel.get("endpoint", ""))
        try:
            to = urlsplit(endpoint)
            allowed = to.hostname in LOOPBACK or (to.scheme, to.netloc) == (
                self._app.scheme,
                self._app.netloc,
            )
        except ValueError:
            allowed = False
        if not allowed or to.scheme not in ("http", "https"):
            raise Refused(
                422, "business-rule", "Subscription.channel.endpoint: only the app of this sandbox."
            )
        return endpoint

    def _filters(self, resource: Resource, *, topic: bool) -> tuple[Search, ...]:
        criteria = resource["criteria"]
        kinds = self.quirks.subscriptions
        if topic and kinds in ("both", "topic"):
            given = resource.get("_criteria", {}).get("extension", [])
            filters = [
                each["valueString"] for each in given if each["url"] == f"{PROFILES}/backport-filter-criteria"
            ]
        elif not topic and kinds in ("both", "criteria"):
            filters = [criteria]
        else:
            raise Refused(422, "not-supported", "Subscription.criteria: this kind is not offered here.")
        searches = []
        for each in filters:
            resource_type, _, query = each.partition("?")
            if resource_type != "Encounter" or not query:
                raise Refused(422, "not-supported", f"{each!r} is no search for Encounters.")
            searches.append(understood("Encounter", parse_qsl(query, keep_blank_values=True), self.base))
        return tuple(searches)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="subscriptions", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                task = self._waiting.get(timeout=LOOK_EVERY)
            except queue.Empty:
                self.beat()
                continue
            try:
                if task is None:
                    return
                task()
            finally:
                self._waiting.task_done()


def _event_number(event: Event) -> list[Resource]:
    return [
        {"name": "event-number", "valueString": str(event.number)},
        {"name": "timestamp", "valueInstant": event.at.isoformat(timespec="milliseconds")},
    ]


def _header(line: str) -> tuple[str, str]:
    """https://hl7.org/fhir/R4/subscription-definitions.html#Subscription.channel.header: "Name: value"."""
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or not line.isprintable():
        raise Refused(
            422, "value", "Subscription.channel.header: a line such as 'Authorization: Bearer ...'."
        )
    return name.strip(), value.strip()


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 18:  # noqa: PLR2004 - as far as an integer64 surely goes
        raise Refused(400, "value", f"{name} must be a whole number.")
    return int(text)
