"""The FHIR R4 server: read, search, create, update, batch and transaction over the store.

https://hl7.org/fhir/R4/http.html. Who may do what is asked of the access token before anything else.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from flask import Blueprint, Response, request

from .charges import EXTENSIONS, WRITABLE, accept, created_by_operation, credited_by_operation
from .outcome import Refused
from .quirks import Quirks
from .scopes import permits
from .search import PARAMETERS, understood
from .store import Filed, Resource, Store
from .subscriptions import OPERATIONS, TOPIC, TOPIC_LISTED, Subscriptions

MIMETYPE = "application/fhir+json"


@dataclass(frozen=True)
class Access:
    """What a bearer may do. With a patient, only in that patient's chart, whatever the scopes say.

    SMART would let a ``user/`` scope reach other patients; this EHR is stricter, so that an app that mixes
    patients up fails here first.
    """

    scope: str
    patient: str | None


@dataclass(frozen=True)
class Answer:
    """An answer to one request, alone or within a Bundle."""

    status: int
    resource: Resource | None = None
    filed: Filed | None = None


class FhirServer:
    """The interactions, each for one bearer, without HTTP."""

    def __init__(self, base: str, store: Store, quirks: Quirks, subscriptions: Subscriptions) -> None:
        self.base = base
        self.store = store
        self.quirks = quirks
        self.subscriptions = subscriptions

    @property
    def types(self) -> tuple[str, ...]:
        """The types of resource that this EHR has."""
        lacks = {
            "ChargeItem": self.quirks.no_charge_item,
            "Subscription": self.quirks.subscriptions == "none",
        }
        return tuple(each for each in PARAMETERS if not lacks.get(each))

    def read(self, access: Access, resource_type: str, resource_id: str) -> Answer:
        self._allow(access, resource_type, "r")
        filed = self.store.get(resource_type, resource_id)
        if filed is None or not _in_compartment(access, filed):
            # The same words for both, so that nobody learns who is a patient here.
            raise Refused(404, "not-found", f"No {resource_type} {resource_id} in reach of this token.")
        return Answer(200, filed.resource, filed)

    def search(self, access: Access, resource_type: str, arguments: list[tuple[str, str]]) -> Answer:
        self._allow(access, resource_type, "s")
        if self.quirks.no_encounter_search and any(name.startswith("encounter") for name, _ in arguments):
            raise Refused(400, "not-supported", f"{resource_type} cannot be searched by encounter here.")
        search = understood(resource_type, arguments, self.base)
        filed = self.store.searchable(resource_type, search.patient)
        found = search.found(each for each in filed if _in_compartment(access, each))
        size = min(search.count if search.count is not None else self.quirks.page_size, self.quirks.page_size)
        page = found[search.offset : search.offset + size]
        bundle: Resource = {"resourceType": "Bundle", "id": str(uuid.uuid4()), "type": "searchset"}
        if not self.quirks.no_total:
            bundle["total"] = len(found)
        bundle["link"] = [{"relation": "self", "url": self._page(resource_type, arguments, search.offset)}]
        if size and search.offset + size < len(found):
            url = self._page(resource_type, arguments, search.offset + size)
            if self.quirks.foreign_next_link:
                url = self.quirks.foreign_next_link + url[len(_origin(url)) :]
            bundle["link"].append({"relation": "next", "url": url})
        if page:
            bundle["entry"] = [
                {
                    "fullUrl": f"{self.base}/{resource_type}/{each.resource['id']}",
                    "resource": each.resource,
                    "search": {"mode": "match"},
                }
                for each in page
            ]
        return Answer(200, bundle)

    def create(
        self, access: Access, resource_type: str, resource: Any, if_none_exist: str | None = None
    ) -> Answer:
        """https://hl7.org/fhir/R4/http.html#ccreate: none found 201, one 200 as it is, more 412."""
        self._allow(access, resource_type, "c")
        if resource_type == "Subscription":
            self._backend(access)
            subscription = self.subscriptions.create(resource)
            return Answer(201, subscription.resource, subscription)
        self._writable(resource_type)
        with self.store.lock:
            if if_none_exist and not self.quirks.no_conditional_create:
                matching = self._matching(access, resource_type, if_none_exist)
                if len(matching) > 1:
                    raise Refused(412, "multiple-matches", f"{len(matching)} resources fit If-None-Exist.")
                if matching:
                    return Answer(200, matching[0].resource, matching[0])
            accept(resource, resource_type, self.store)
            patient = self._chart_of(access, resource)
            filed = self.store.put({**resource, "id": self.store.new_id()}, patient)
        return Answer(201, filed.resource, filed)

    def update(
        self, access: Access, resource_type: str, resource_id: str, resource: Any, if_match: str | None = None
    ) -> Answer:
        self._allow(access, resource_type, "u")
        self._writable(resource_type)
        with self.store.lock:
            before = self.store.get(resource_type, resource_id)
            if before is None or not _in_compartment(access, before):
                raise Refused(404, "not-found", f"No {resource_type} {resource_id} in reach of this token.")
            if if_match and not self.quirks.no_etag and if_match != before.etag:
                raise Refused(412, "conflict", f"The current version is {before.etag}, not {if_match}.")
            accept(resource, resource_type, self.store)
            if resource.get("id") != resource_id:
                raise Refused(400, "invalid", "The id in the body differs from the one in the address.")
            filed = self.store.put(resource, self._chart_of(access, resource))
        return Answer(200, filed.resource, filed)

    def delete(self, access: Access, resource_type: str, resource_id: str) -> None:
        self._allow(access, resource_type, "d")
        if resource_type != "Subscription":
            raise Refused(405, "not-supported", f"{resource_type} cannot be deleted here.")
        self._backend(access)
        self.subscriptions.delete(resource_id)

    def subscription_status(self, access: Access, resource_id: str) -> Answer:
        self._allow(access, "Subscription", "r")
        return Answer(200, self.subscriptions.status(resource_id))

    def subscription_events(
        self, access: Access, resource_id: str, *, since: str, until: str, content: str
    ) -> Answer:
        self._allow(access, "Subscription", "r")
        return Answer(200, self.subscriptions.events(resource_id, since, until, content))

    def create_charge(self, access: Access, parameters: Any) -> None:
        """Oracle's ``$create``: no answer but 200, and a charge some time later."""
        self._allow(access, "ChargeItem", "c")
        with self.store.lock:
            charge = created_by_operation(parameters, self.store)
            self.store.put({**charge, "id": self.store.new_id()}, self._chart_of(access, charge))

    def credit_charge(self, access: Access, resource_id: str, parameters: Any) -> None:
        """Oracle's ``$credit``: an offsetting charge, which the first one names from then on."""
        self._allow(access, "ChargeItem", "c")
        with self.store.lock:
            charge = self.read(access, "ChargeItem", resource_id).resource
            assert charge is not None
            credited_by_operation(parameters, charge)
            offset = {**charge, "id": self.store.new_id(), "status": "not-billable"}
            self.store.put(offset, self._chart_of(access, charge))
            names = {
                "url": f"{EXTENSIONS}/offset-by",
                "valueReference": {"reference": f"ChargeItem/{offset['id']}"},
            }
            self.store.put(
                {**charge, "extension": [*charge.get("extension", []), names]}, self._chart_of(access, charge)
            )

    def bundle(self, access: Access, bundle: Any) -> Answer:
        """https://hl7.org/fhir/R4/http.html#transaction: a transaction wholly or not at all, a batch each."""
        kind = bundle.get("type") if isinstance(bundle, dict) else None
        if kind not in ("batch", "transaction") or bundle.get("resourceType") != "Bundle":
            raise Refused(400, "invalid", "The body must be a Bundle of type batch or transaction.")
        if kind == "transaction" and self.quirks.no_transaction:
            raise Refused(400, "not-supported", "This server has no transactions.")
        entries = bundle.get("entry", [])
        if not isinstance(entries, list):
            raise Refused(400, "structure", "Bundle.entry must be a list.")
        if kind == "batch":
            answers = [self._batched(access, entry) for entry in entries]
        else:
            with self.store.all_or_nothing():
                answers = self._transaction(access, entries)
        return Answer(
            200,
            {
                "resourceType": "Bundle",
                "id": str(uuid.uuid4()),
                "type": f"{kind}-response",
                "entry": [self._response_entry(answer) for answer in answers],
            },
        )

    def capability_statement(self, authorize_url: str, token_url: str) -> Resource:
        def interactions(resource_type: str) -> list[dict[str, str]]:
            codes = ["read", "search-type"]
            if resource_type in WRITABLE:
                codes += ["create", "update"]
            if resource_type == "Subscription":
                codes += ["create", "delete"]
            return [{"code": code} for code in codes]

        def parameters(resource_type: str) -> list[dict[str, str]]:
            return [
                {"name": name, "type": parameter.type}
                for name, parameter in PARAMETERS[resource_type].items()
                if not (self.quirks.no_encounter_search and name == "encounter")
            ]

        system = ["batch"] if self.quirks.no_transaction else ["batch", "transaction"]
        return {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": "2026-11-21",
            "kind": "instance",
            "software": {"name": "Quarterhour sandbox"},
            "implementation": {"description": "Synthetic patients; a demo and test tool", "url": self.base},
            "fhirVersion": "4.0.1",
            "format": ["json"],
            "rest": [
                {
                    "mode": "server",
                    "security": {
                        "service": [
                            {
                                "coding": [
                                    {
                                        "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                                        "code": "SMART-on-FHIR",
                                    }
                                ]
                            }
                        ],
                        "extension": [
                            {
                                "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                                "extension": [
                                    {"url": "authorize", "valueUri": authorize_url},
                                    {"url": "token", "valueUri": token_url},
                                ],
                            }
                        ],
                    },
                    "resource": [
                        {
                            "type": resource_type,
                            "interaction": interactions(resource_type),
                            "versioning": "no-version" if self.quirks.no_etag else "versioned-update",
                            "conditionalCreate": resource_type in WRITABLE
                            and not self.quirks.no_conditional_create,
                            "searchParam": parameters(resource_type),
                        }
                        | (self._topics() if resource_type == "Subscription" else {})
                        for resource_type in self.types
                    ],
                    "interaction": [{"code": code} for code in system],
                }
            ],
        }

    def _topics(self) -> Resource:
        """What a CapabilityStatement says of topics, which R4 has no place for."""
        if self.quirks.subscriptions not in ("both", "topic"):
            return {}
        operations = [
            each for each in OPERATIONS if not (self.quirks.no_events_operation and each["name"] == "events")
        ]
        return {
            "extension": [{"url": TOPIC_LISTED, "valueCanonical": TOPIC}],
            "operation": operations,
        }

    def _backend(self, access: Access) -> None:
        """A subscription reaches beyond any one patient, and so must whoever asks for it."""
        if access.patient is not None:
            raise Refused(403, "forbidden", "A Subscription takes the token of a backend service.")

    def _allow(self, access: Access, resource_type: str, action: str) -> None:
        if resource_type not in self.types:
            raise Refused(404, "not-supported", f"This server has no {resource_type}.")
        if not permits(access.scope, resource_type, action):
            raise Refused(403, "forbidden", f"The granted scopes do not allow {action!r} on {resource_type}.")

    def _writable(self, resource_type: str) -> None:
        if resource_type not in WRITABLE:
            raise Refused(405, "not-supported", f"{resource_type} is read only here.")

    def _chart_of(self, access: Access, resource: Resource) -> str | None:
        """The chart that a written resource goes into; refused if that is not the bearer's patient's."""
        patient = (resource.get("subject") or resource.get("patient") or {}).get("reference")
        if resource["resourceType"] == "Provenance":
            targets = [
                self.store.get(*each.get("reference", "").split("/")[:2])
                for each in resource["target"]
                if "/" in each.get("reference", "")
            ]
            patient = next((each.patient for each in targets if each), None)
        if access.patient is not None and patient != access.patient:
            raise Refused(403, "forbidden", "The resource is about another patient than the token.")
        return str(patient) if patient else None

    def _matching(self, access: Access, resource_type: str, query: str) -> list[Filed]:
        search = understood(resource_type, _arguments(query), self.base)
        return [
            each
            for each in search.found(self.store.searchable(resource_type, search.patient))
            if _in_compartment(access, each)
        ]

    def _page(self, resource_type: str, arguments: Iterable[tuple[str, str]], offset: int) -> str:
        query = [(name, value) for name, value in arguments if name != "_offset"]
        if offset:
            query.append(("_offset", str(offset)))
        return f"{self.base}/{resource_type}?{urlencode(query)}"

    def _entry(self, access: Access, entry: Any) -> Answer:
        """One entry of a Bundle, as if it had come alone."""
        if not isinstance(entry, dict) or not isinstance(entry.get("request"), dict):
            raise Refused(400, "required", "Bundle.entry.request is missing.")
        asked = entry["request"]
        try:
            address = urlsplit(str(asked.get("url", "")))
        except ValueError as error:
            raise Refused(400, "value", "Bundle.entry.request.url is no address.") from error
        parts = address.path.removeprefix(f"{urlsplit(self.base).path}/").strip("/").split("/")
        match (asked.get("method"), *parts):
            case ("GET", str(resource_type)):
                return self.search(access, resource_type, _arguments(address.query))
            case ("GET", str(resource_type), str(resource_id)):
                return self.read(access, resource_type, resource_id)
            case ("POST", str(resource_type)):
                if_none_exist = str(asked.get("ifNoneExist", ""))
                return self.create(access, resource_type, entry.get("resource"), if_none_exist)
            case ("PUT", str(resource_type), str(resource_id)):
                return self.update(
                    access, resource_type, resource_id, entry.get("resource"), asked.get("ifMatch")
                )
        raise Refused(405, "not-supported", "Not known in a Bundle: the method or address of an entry.")

    def _batched(self, access: Access, entry: Any) -> Answer:
        try:
            return self._entry(access, entry)
        except Refused as refused:
            return Answer(refused.status, refused.outcome())

    def _transaction(self, access: Access, entries: list[Any]) -> list[Answer]:
        """POST before PUT before GET; references to another entry's fullUrl become what that was filed as."""
        answers: dict[int, Answer] = {}
        filed_as: dict[str, str] = {}
        order = {"POST": 0, "PUT": 1, "GET": 2}

        def rank(numbered: tuple[int, Any]) -> int:
            return order.get(_method(numbered[1]), len(order))

        # Those that refer to others come after the others: a Provenance points at what it tells of.
        for index, entry in sorted(enumerate(entries), key=lambda each: (rank(each), _refers(each[1]))):
            resolved = json.loads(_resolved(json.dumps(entry), filed_as))
            answers[index] = self._entry(access, resolved)
            filed = answers[index].filed
            if filed is not None and isinstance(entry.get("fullUrl"), str):
                filed_as[entry["fullUrl"]] = f"{filed.resource['resourceType']}/{filed.resource['id']}"
        return [answers[index] for index in range(len(entries))]

    def _response_entry(self, answer: Answer) -> dict[str, Any]:
        response: dict[str, Any] = {"status": str(answer.status)}
        entry: dict[str, Any] = {"response": response}
        if answer.filed is not None:
            response["location"] = self.location(answer.filed)
            response["lastModified"] = answer.filed.resource["meta"]["lastUpdated"]
            if not self.quirks.no_etag:
                response["etag"] = answer.filed.etag
        if answer.resource is not None and answer.resource["resourceType"] == "OperationOutcome":
            response["outcome"] = answer.resource
        elif answer.resource is not None:
            entry["resource"] = answer.resource
        return entry

    def location(self, filed: Filed) -> str:
        resource = filed.resource
        return f"{self.base}/{resource['resourceType']}/{resource['id']}/_history/{filed.version}"


def blueprint(  # noqa: C901 - one address after another
    server: FhirServer,
    access_of: Callable[[str | None], Access],
    capability_statement: Resource,
) -> Blueprint:
    """The HTTP side; ``access_of`` turns an Authorization header into an access or raises ``Refused``."""
    api = Blueprint("fhir", __name__, url_prefix="/fhir")

    def bearer() -> Access:
        return access_of(request.headers.get("Authorization"))

    @api.before_request
    def slow() -> None:
        time.sleep(server.quirks.delay_ms / 1000)

    @api.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        response = _json(error.outcome(), error.status)
        response.headers.update(error.headers)
        return response

    @api.get("/metadata")
    def metadata() -> Response:
        return _json(capability_statement, 200)

    @api.post("")
    @api.post("/")
    def bundle() -> Response:
        return _json(server.bundle(bearer(), _body()).resource, 200)

    @api.get("/<resource_type>")
    def search(resource_type: str) -> Response:
        arguments = list(request.args.items(multi=True))
        return _json(server.search(bearer(), resource_type, arguments).resource, 200)

    @api.post("/<resource_type>/_search")
    def posted_search(resource_type: str) -> Response:
        arguments = [*request.args.items(multi=True), *request.form.items(multi=True)]
        return _json(server.search(bearer(), resource_type, arguments).resource, 200)

    @api.post("/ChargeItem/$create")
    def create_charge() -> Response:
        server.create_charge(bearer(), _body())
        response = Response(status=200)
        response.headers["Location"] = f"{server.base}/ChargeItem/$create"
        return response

    @api.post("/ChargeItem/<resource_id>/$credit")
    def credit_charge(resource_id: str) -> Response:
        server.credit_charge(bearer(), resource_id, _body())
        return Response(status=200)

    @api.post("/<resource_type>")
    def create(resource_type: str) -> Response:
        if_none_exist = request.headers.get("If-None-Exist")
        return answered(server.create(bearer(), resource_type, _body(), if_none_exist))

    @api.get("/<resource_type>/<resource_id>")
    def read(resource_type: str, resource_id: str) -> Response:
        return answered(server.read(bearer(), resource_type, resource_id))

    @api.delete("/<resource_type>/<resource_id>")
    def delete(resource_type: str, resource_id: str) -> Response:
        server.delete(bearer(), resource_type, resource_id)
        return Response(status=204)

    @api.get("/Subscription/<resource_id>/$status")
    def subscription_status(resource_id: str) -> Response:
        return _json(server.subscription_status(bearer(), resource_id).resource, 200)

    @api.get("/Subscription/<resource_id>/$events")
    def subscription_events(resource_id: str) -> Response:
        answer = server.subscription_events(
            bearer(),
            resource_id,
            since=request.args.get("eventsSinceNumber", ""),
            until=request.args.get("eventsUntilNumber", ""),
            content=request.args.get("content", ""),
        )
        return _json(answer.resource, 200)

    @api.put("/<resource_type>/<resource_id>")
    def update(resource_type: str, resource_id: str) -> Response:
        if_match = request.headers.get("If-Match")
        return answered(server.update(bearer(), resource_type, resource_id, _body(), if_match))

    def answered(answer: Answer) -> Response:
        response = _json(answer.resource, answer.status)
        if answer.filed is not None:
            response.headers["Last-Modified"] = format_datetime(
                answer.filed.last_updated.astimezone(UTC), usegmt=True
            )
            if not server.quirks.no_etag:
                response.headers["ETag"] = answer.filed.etag
            if request.method != "GET":
                response.headers["Location"] = server.location(answer.filed)
        return response

    return api


def _json(resource: Resource | None, status: int) -> Response:
    response = Response(json.dumps(resource), status=status, mimetype=MIMETYPE)
    response.headers["Cache-Control"] = "no-store"
    request_id = request.headers.get("X-Request-Id")
    if request_id:
        response.headers["X-Request-Id"] = request_id
    return response


def _body() -> Any:
    try:
        return json.loads(request.get_data(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "structure", "The body is not JSON.") from error


def _no_number(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def _arguments(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query.removeprefix("?"), keep_blank_values=True)


def _in_compartment(access: Access, filed: Filed) -> bool:
    return access.patient is None or filed.patient in (None, access.patient)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _method(entry: Any) -> str:
    asked = entry.get("request") if isinstance(entry, dict) else None
    return str(asked.get("method")) if isinstance(asked, dict) else ""


def _refers(entry: Any) -> bool:
    resource = entry.get("resource") if isinstance(entry, dict) else None
    return "urn:uuid:" in json.dumps(resource)


def _resolved(text: str, filed_as: dict[str, str]) -> str:
    for full_url, reference in filed_as.items():
        text = text.replace(json.dumps(full_url), json.dumps(reference))
    return text
