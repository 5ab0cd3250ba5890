"""The pages of the EHR: the list of visits, one visit's chart, and the app in a frame beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, abort, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from .scenarios import Scenario
from .store import Resource, Store

if TYPE_CHECKING:
    from .ehr import Sandbox

CLINIC_ZONE = ZoneInfo("America/New_York")
_DASH = "\N{EM DASH}"


@dataclass(frozen=True)
class VisitRow:
    """One line of the list of visits."""

    scenario: Scenario
    patient: str
    times: str
    therapist: str
    charges: int


@dataclass(frozen=True)
class ServiceRow:
    """One documented Procedure, as the chart shows it."""

    code: str
    name: str
    performer: str
    times: str
    minutes: str
    status: str
    note: str


@dataclass(frozen=True)
class ChargeRow:
    """One ChargeItem, as the billing office would look at it."""

    code: str
    modifiers: str
    units: str
    status: str
    entered_by: str
    entered: str
    identifier: str
    note: str
    reference: str


def blueprint(sandbox: Sandbox) -> Blueprint:  # noqa: C901 - one address after another
    pages = Blueprint("chart", __name__)
    store = sandbox.store
    app_origins = sorted({_origin(uri) for client in sandbox.clients for uri in client.redirect_uris})
    policy = "; ".join(
        [
            "default-src 'none'",
            "style-src 'self'",
            "script-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
            # The authorization page redirects into the app; a frame or form is held to where it ends.
            " ".join(["frame-src 'self'", *app_origins]),
            " ".join(["form-action 'self'", *app_origins]),
        ]
    )

    @pages.after_app_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    def scenario_of(encounter: str) -> Scenario:
        found = next((each for each in sandbox.scenarios if each.encounter == encounter), None)
        return found or abort(404)

    @pages.app_errorhandler(404)
    def not_found(_error: Exception) -> tuple[str, int]:
        return render_template("refused.html", message="This chart has no such page."), 404

    @pages.get("/favicon.ico")
    def no_icon() -> Response:
        return Response(status=204)

    @pages.get("/")
    def visits() -> str:
        rows = sorted(
            (_visit_row(scenario, sandbox) for scenario in sandbox.scenarios),
            key=lambda row: _period(_encounter(row.scenario, store))[0],
        )
        whole = sorted(
            (row for row in rows if not row.scenario.problem),
            key=lambda row: row.scenario.date_of_service,
            reverse=True,
        )
        days = [
            (day, list(on_day)) for day, on_day in groupby(whole, lambda row: row.scenario.date_of_service)
        ]
        return render_template(
            "visits.html",
            days=days,
            problems=[row for row in rows if row.scenario.problem],
            long_day=long_day,
        )

    @pages.get("/visits/<encounter>")
    def visit(encounter: str) -> str:
        return page(scenario_of(encounter), frame=None)

    @pages.get("/visits/<encounter>/app")
    def with_app(encounter: str) -> str:
        scenario = scenario_of(encounter)
        return page(scenario, frame=launch_url(scenario, framed=True))

    @pages.get("/visits/<encounter>/tab")
    def in_tab(encounter: str) -> AnyResponse:
        return redirect(launch_url(scenario_of(encounter)))

    @pages.post("/visits/<encounter>/finish")
    def finish(encounter: str) -> AnyResponse:
        """The visit is over, and whoever subscribed to that is told."""
        sandbox.finish(scenario_of(encounter).id)
        return redirect(f"/visits/{encounter}", 303)

    @pages.get("/visits/<encounter>/charges")
    def charges(encounter: str) -> str:
        """Only the table, for the page to replace its own with."""
        scenario = scenario_of(encounter)
        return render_template("charges.html", charges=_charges(scenario, sandbox))

    @pages.get("/visits/<encounter>/cards")
    def cards(encounter: str) -> str:
        """What the app says of this patient, for the page to show once it stands."""
        scenario = scenario_of(encounter)
        user = request.args.get("user", scenario.user)
        return render_template(
            "cards.html", cards=sandbox.cds.cards(scenario, user), scenario=scenario, user=user
        )

    def launch_url(scenario: Scenario, *, framed: bool = False) -> str:
        user = request.args.get("user", scenario.user)
        if store.get("Practitioner", user) is None:
            abort(404)
        return sandbox.launch_url(
            scenario.id,
            sandbox.clients[0].client_id,
            user,
            framed=framed,
            app_context=request.args.get("context"),
        )

    def page(scenario: Scenario, frame: str | None) -> str:
        encounter = _encounter(scenario, store)
        patient = _resource(store, "Patient", scenario.patient)
        coverage = _resource(store, "Coverage", f"cov-{scenario.patient}")
        return render_template(
            "visit.html",
            scenario=scenario,
            frame=frame,
            open=encounter["status"] != "finished",
            user=request.args.get("user", scenario.user),
            users=[
                (filed.resource["id"], person_name(filed.resource)) for filed in store.all("Practitioner")
            ],
            name=person_name(patient),
            born=_day(date.fromisoformat(patient["birthDate"])),
            sex=patient["gender"],
            mrn=patient["identifier"][0]["value"],
            payer=coverage["payor"][0]["display"],
            day=long_day(scenario.date_of_service),
            times=_times(*_period(encounter)),
            staff=", ".join(each["individual"]["display"] for each in encounter["participant"]),
            reason=f"{encounter['reasonCode'][0]['coding'][0]['code']} {encounter['reasonCode'][0]['text']}",
            place=_resource(store, *encounter["location"][0]["location"]["reference"].split("/"))["name"],
            services=_services(scenario, sandbox),
            charges=_charges(scenario, sandbox),
        )

    @pages.app_context_processor
    def helpers() -> dict[str, Any]:
        return {"person_name": person_name}

    return pages


def person_name(person: Resource) -> str:
    """A Practitioner's or Patient's name as it is said, with credentials."""
    name = person["name"][0]
    said = " ".join([*name.get("given", []), name.get("family", "")])
    return ", ".join([said, *name.get("suffix", [])])


def long_day(day: date) -> str:
    return f"{day:%A} {_day(day)}"


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _resource(store: Store, resource_type: str, resource_id: str) -> Resource:
    filed = store.get(resource_type, resource_id)
    return filed.resource if filed else abort(404)


def _encounter(scenario: Scenario, store: Store) -> Resource:
    return _resource(store, "Encounter", scenario.encounter)


def _period(resource: Resource, element: str = "period") -> tuple[str, str]:
    period = resource.get(element, {})
    return period.get("start", ""), period.get("end", "")


def _clock_time(instant: str) -> str:
    if not instant:
        return "?"
    local = datetime.fromisoformat(instant).astimezone(CLINIC_ZONE)
    return f"{local.hour}:{local:%M}"


def _times(start: str, end: str) -> str:
    return f"{_clock_time(start)}\N{EN DASH}{_clock_time(end)}" if start or end else _DASH


def _minutes(start: str, end: str) -> str:
    if not (start and end) or end < start:
        return "unknown"
    return str(int((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() // 60))


def _visit_row(scenario: Scenario, sandbox: Sandbox) -> VisitRow:
    encounter = _encounter(scenario, sandbox.store)
    return VisitRow(
        scenario=scenario,
        patient=person_name(_resource(sandbox.store, "Patient", scenario.patient)),
        times=_times(*_period(encounter)),
        therapist=encounter["participant"][0]["individual"]["display"],
        charges=len(sandbox.charge_items(scenario.id)),
    )


def _services(scenario: Scenario, sandbox: Sandbox) -> list[ServiceRow]:
    reference = f"Encounter/{scenario.encounter}"
    return [
        _service_row(filed.resource)
        for filed in sandbox.store.all("Procedure")
        if filed.resource["encounter"]["reference"] == reference
    ]


def _service_row(procedure: Resource) -> ServiceRow:
    start, end = _period(procedure, "performedPeriod")
    code = procedure.get("code", {})
    return ServiceRow(
        code=", ".join(coding["code"] for coding in code.get("coding", [])) or _DASH,
        name=code.get("text", "no code"),
        performer=procedure["performer"][0]["actor"]["display"],
        times=_times(start, end),
        minutes=_minutes(start, end),
        status=procedure["status"],
        note=_notes(procedure),
    )


def _charges(scenario: Scenario, sandbox: Sandbox) -> list[ChargeRow]:
    return [_charge_row(charge, sandbox.store) for charge in sandbox.charge_items(scenario.id)]


def _charge_row(charge: Resource, store: Store) -> ChargeRow:
    entered = charge.get("enteredDate", "")
    return ChargeRow(
        code=", ".join(coding.get("code", "?") for coding in charge["code"].get("coding", [])),
        modifiers=" ".join(_modifiers(charge)) or _DASH,
        units=str(charge.get("quantity", {}).get("value", _DASH)),
        status=charge["status"],
        entered_by=_who(charge.get("enterer", {}), store),
        entered=datetime.fromisoformat(entered).astimezone(CLINIC_ZONE).strftime("%Y-%m-%d %H:%M")
        if "T" in entered
        else entered or _DASH,
        identifier=", ".join(each.get("value", "") for each in charge.get("identifier", [])) or _DASH,
        note=_notes(charge),
        reference=f"ChargeItem/{charge['id']}",
    )


def _who(reference: Resource, store: Store) -> str:
    kind, _, resource_id = reference.get("reference", "").partition("/")
    filed = store.get(kind, resource_id)
    if filed is not None and "name" in filed.resource:
        return person_name(filed.resource)
    return str(reference.get("display") or reference.get("reference") or _DASH)


def _modifiers(charge: Resource) -> list[str]:
    """Codes of all extensions whose name ends in ``modifier``, ranked where a rank or priority is given.

    ChargeItem has no modifier element; EHRs and apps each have an extension of their own.
    """
    ranked = []
    for position, extension in enumerate(charge.get("extension", [])):
        if "modifier" not in extension.get("url", "").rsplit("/", 1)[-1]:
            continue
        parts = {part.get("url"): part for part in extension.get("extension", [])}
        rank = _first_value(parts.get("rank") or parts.get("priority") or {}, ("Positive", "Integer"))
        concept = (parts.get("code") or extension).get("valueCodeableConcept", {})
        codes = [coding.get("code", "?") for coding in concept.get("coding", [])]
        ranked.append((rank if isinstance(rank, int) else position + 1, codes))
    return [code for _, codes in sorted(ranked) for code in codes]


def _first_value(part: Resource, kinds: Iterable[str]) -> Any:
    return next((value for name, value in part.items() if any(kind in name for kind in kinds)), None)


def _notes(resource: Resource) -> str:
    return " ".join(note.get("text", "") for note in resource.get("note", []))
