"""A FHIR server faked at the wire: what the tests put in is what HTTP brings out."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
import requests
import responses

from quarterhour.fhir.chart import Begun, Chart, ChartSettings, begin_chart, read_chart
from quarterhour.fhir.normalise import PreparedVisit, visits_from
from quarterhour.fhir.server import Server

BASE = "https://ehr.example/fhir"
BOSTON = ZoneInfo("America/New_York")
NOW = datetime(2026, 11, 20, 18, 0, tzinfo=BOSTON)

PT, PTA, OT = "225100000X", "225200000X", "225X00000X"

_PATIENT_OF = {"Coverage": "beneficiary"}
_REFERENCE_OF = {"encounter": "encounter", "context": "context", "practitioner": "practitioner"}
_DATES_OF = {
    "Procedure": ("performedPeriod", "performedDateTime"),
    "Encounter": ("period",),
    "Observation": ("effectiveDateTime",),
    "ChargeItem": ("occurrencePeriod", "occurrenceDateTime"),
}


class Ehr:
    """One patient, P1, with one encounter, E1, on Friday 2026-11-20 in Boston, treated by T1, a PT."""

    def __init__(self, wire: responses.RequestsMock) -> None:
        self.wire = wire
        self.resources: list[dict[str, Any]] = []
        self.entries: dict[str, list[Any]] = {}  # further entries of a search, however strange
        self.refused: dict[str, int] = {}  # resource type, or "Type?parameter", to HTTP status
        self.instead: dict[str, str] = {}  # a reference that brings another record
        self.wait = lambda: 0
        self.held: Callable[[str, dict[str, list[str]]], bool] = lambda _path, _query: False
        self.gate = threading.Event()  # what is held is not answered before
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.site: dict[str, Any] = {}
        self.now = NOW
        wire.add_callback(
            responses.GET, url=re.compile(r"https://ehr\.example/fhir/.*"), callback=self._answer
        )
        self.add("Patient", "P1", name=[{"family": "Synthetic", "given": ["Pat"]}], birthDate="1950-01-01")
        self.add("Practitioner", "T1", name=[{"text": "Terry Therapist"}])
        self.encounter = self.add(
            "Encounter",
            "E1",
            status="finished",
            subject={"reference": "Patient/P1"},
            period={"start": "2026-11-20T09:00:00-05:00", "end": "2026-11-20T10:00:00-05:00"},
            **{"class": {"code": "AMB"}},
        )
        self.role("T1", PT)

    # What is in the chart

    def add(self, kind: str, id_: str, **elements: Any) -> dict[str, Any]:
        resource = {"resourceType": kind, "id": id_, **elements}
        self.resources.append(resource)
        return resource

    def role(self, practitioner: str, *taxonomy: str) -> dict[str, Any]:
        coding = [{"system": "http://nucc.org/provider-taxonomy", "code": code} for code in taxonomy]
        return self.add(
            "PractitionerRole",
            f"R{len(self.resources)}",
            practitioner={"reference": f"Practitioner/{practitioner}"},
            specialty=[{"coding": [each]} for each in coding],
        )

    def procedure(
        self, code: str = "97110", start: str | None = "09:00", end: str | None = "09:15", **changed: Any
    ) -> dict[str, Any]:
        """A completed Procedure of E1 by T1; times of the day in Boston, or None for none at all."""
        elements: dict[str, Any] = {
            "status": "completed",
            "code": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": code}]},
            "subject": {"reference": "Patient/P1"},
            "encounter": {"reference": "Encounter/E1"},
            "performer": [{"actor": {"reference": "Practitioner/T1"}}],
        }
        if start and end:
            elements["performedPeriod"] = {"start": _in_boston(start), "end": _in_boston(end)}
        elements.update(changed)
        id_ = elements.pop("id", f"PR{len(self.resources)}")
        return self.add("Procedure", id_, **{k: v for k, v in elements.items() if v is not None})

    def charge(self, code: str = "97110", units: Any = 1, **changed: Any) -> dict[str, Any]:
        """A ChargeItem of E1 that somebody entered."""
        elements: dict[str, Any] = {
            "status": "billable",
            "code": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": code}]},
            "subject": {"reference": "Patient/P1"},
            "context": {"reference": "Encounter/E1"},
            "occurrenceDateTime": "2026-11-20",
            "quantity": {"value": units},
        }
        elements.update(changed)
        id_ = elements.pop("id", f"C{len(self.resources)}")
        return self.add("ChargeItem", id_, **{k: v for k, v in elements.items() if v is not None})

    def coverage(self, id_: str = "COV1", **changed: Any) -> dict[str, Any]:
        elements = {
            "status": "active",
            "beneficiary": {"reference": "Patient/P1"},
            "payor": [{"reference": "Organization/medicare", "display": "Medicare"}],
            "order": 1,
        }
        elements.update(changed)
        return self.add("Coverage", id_, **{k: v for k, v in elements.items() if v is not None})

    # What we make of it

    def server(self, **settings: Any) -> Server:
        return Server(BASE, "secret-token", requests.Session(), **{"sleep": lambda _: None, **settings})

    @property
    def settings(self) -> ChartSettings:
        return ChartSettings.from_site(self.site, BOSTON)

    def chart(self, **changed: Any) -> Chart:
        launch = {"patient": "P1", "encounter": "E1", "user": "Practitioner/T1", "now": self.now, **changed}
        return read_chart(self.server(), settings=self.settings, **launch)

    def begin(self, server: Server) -> Begun:
        launch = {"patient": "P1", "encounter": "E1", "user": "Practitioner/T1", "now": self.now}
        return begin_chart(server, settings=self.settings, **launch)

    def visits(self) -> tuple[PreparedVisit, ...]:
        return visits_from(self.chart(), self.settings, self.now)

    def visit(self) -> PreparedVisit:
        (visit,) = self.visits()
        return visit

    # The wire

    def searches(self, kind: str) -> list[dict[str, list[str]]]:
        return [query for path, query in self.asked if path == kind]

    def _answer(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        address = urlsplit(str(request.url))
        path = address.path.removeprefix("/fhir/")
        query = parse_qs(address.query)
        self.asked.append((path, query))
        kind = path.split("/")[0]
        self.wait()
        if self.held(path, query):
            assert self.gate.wait(10)
        path = self.instead.get(path, path)
        status = next(
            (
                status
                for what, status in self.refused.items()
                if what in {kind, path} or what in {f"{kind}?{name}" for name in query}
            ),
            None,
        )
        if status:
            return status, {}, json.dumps({"resourceType": "OperationOutcome", "issue": []})
        if "/" in path:
            found = [each for each in self.resources if f"{each['resourceType']}/{each['id']}" == path]
            return (200, {}, json.dumps(found[0])) if found else (404, {}, "{}")
        entries = [{"resource": each} for each in self.resources if self._matches(each, kind, query)]
        bundle = {"resourceType": "Bundle", "entry": entries + self.entries.get(kind, [])}
        return 200, {}, json.dumps(bundle)

    def _matches(self, resource: dict[str, Any], kind: str, query: dict[str, list[str]]) -> bool:
        if resource["resourceType"] != kind:
            return False
        for name, element in _REFERENCE_OF.items():
            sent = (resource.get(element) or {}).get("reference", "")
            wanted = query.get(name, [""])[0].split(",")
            if name in query and not {sent, sent.split("/")[-1]} & set(wanted):
                return False
        dates = query.get("date", []) + query.get("occurrence", [])
        day = _day_of(resource, _DATES_OF.get(kind, ()))
        return not dates or bool(day and dates[0][2:] <= day <= dates[1][2:])


def _day_of(resource: dict[str, Any], elements: tuple[str, ...]) -> str | None:
    for element in elements:
        sent = resource.get(element)
        text = sent.get("start") if isinstance(sent, dict) else sent
        if isinstance(text, str):
            return text[:10]
    return None


def _in_boston(time: str) -> str:
    """A time of the visit's day, 09:00 or 09:00:30; anything longer as it is."""
    if len(time) > len("09:00:00"):
        return time
    return f"2026-11-20T{time}{':00' if len(time) == len('09:00') else ''}-05:00"


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def ehr(wire: responses.RequestsMock) -> Ehr:
    return Ehr(wire)
