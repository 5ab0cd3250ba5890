"""The reviewer's pages: the visits of a launch, one under review, its sign-off and its receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flask import Blueprint, abort, g, redirect, render_template, request, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from ..core.suggestion import Suggestion
from ..core.visit import Discipline
from ..core.visit_json import suggestion_json
from ..fhir.normalise import PreparedVisit
from . import flow, presenters, sign_off, ways
from .flow import Opened
from .installation import Installation
from .launch_views import browser_of, installation
from .outbox import State
from .review import MOST_MINUTES, Answers, Correction, Review, review
from .rights import Obstacle, against_signing, may_read_audit
from .sign_off import Signed

blueprint = Blueprint("review", __name__, url_prefix="/launches/<launch_id>")

LONGEST_REASON = 300
STATES = {
    State.CONFIRMED: "Written",
    State.INTENDED: "Not yet sent",
    State.SENDING: "Being sent",
    State.REFUSED: "Refused by the EHR",
    State.UNKNOWN: "Not known: the EHR did not answer",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One visit of one launch, as every page of it needs it."""

    here: Installation
    launch: Opened
    position: int
    visits: tuple[PreparedVisit, ...]
    key: str

    @property
    def prepared(self) -> PreparedVisit:
        """The visit of this page."""
        return self.visits[self.position - 1]

    @property
    def obstacles(self) -> tuple[Obstacle, ...]:
        """Why this person cannot sign off in this launch; empty: they can."""
        launch = self.launch
        scopes = launch.session.context.scopes
        return against_signing(launch.issuer, scopes, launch.roles or frozenset())


def opened_here(launch_id: str) -> tuple[Installation, Opened]:
    """The launch of this address, which this browser owns; the page may be framed where its EHR says."""
    here = installation()
    launch = flow.opened(here, launch_id, browser_of())
    g.framed_by = launch.issuer.embedding_origins
    return here, launch


def page_of(launch_id: str, position: int) -> Page:
    """Raises 404 for a position that the launch has not."""
    here, launch = opened_here(launch_id)
    visits = flow.visits_of(here, launch)
    if launch.roles is None:  # read just now
        here, launch = opened_here(launch_id)
    if not 1 <= position <= len(visits):
        abort(404)
    return Page(here, launch, position, visits, flow.key_of(here, launch, visits[position - 1]))


@blueprint.get("/")
def visits(launch_id: str) -> str | Response:
    """Where a launch arrives: at its one visit, or at the choice between several."""
    here, launch = opened_here(launch_id)
    if launch.encounter is None:
        return redirect(url_for("session.encounters", launch_id=launch_id))
    found = flow.read_visits(here, launch) if "again" in request.args else flow.visits_of(here, launch)
    with_services = [number for number, prepared in enumerate(found, start=1) if prepared.visit.services]
    if len(with_services) == 1:
        return redirect(url_for("review.show", launch_id=launch_id, position=with_services[0]))
    return render_template(
        "visits.html",
        launch=launch,
        visits=[_link(launch_id, found, number) for number in with_services],
        findings=presenters.shown(tuple(finding for prepared in found for finding in prepared.findings)),
    )


@blueprint.get("/visits/<int:position>")
def show(launch_id: str, position: int) -> str:
    """The review page."""
    page = page_of(launch_id, position)
    answers, kept_at = flow.draft_of(page.here, page.launch, page.key)
    return _render(page, answers, kept_at=kept_at)


@blueprint.post("/visits/<int:position>")
def settle(launch_id: str, position: int) -> str | Response:
    """Keeps what was settled, then recalculates, reads the chart again, or goes on to sign off."""
    page = page_of(launch_id, position)
    before, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    answers, problems = answers_from(request.form, page.prepared, before, page.here)
    flow.keep_draft(page.here, page.launch, page.key, answers)
    if request.headers.get("X-Fragment"):
        fragment = Response(
            _render(page, answers, problems=problems, kept_at=page.here.clock(), template="_review.html"),
            mimetype="text/html",
        )
        fragment.headers["X-Fragment"] = "1"
        return fragment
    if problems:
        return Response(_render(page, answers, problems=problems), 422, mimetype="text/html")
    go = request.form.get("go")
    if go == "reload":
        flow.read_visits(page.here, page.launch)
        return redirect(url_for("review.visits", launch_id=launch_id))
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if go == "sign" and not page.obstacles and not reviewed_of(page, answers, signed).blocked:
        return redirect(url_for("review.confirm", launch_id=launch_id, position=position))
    return redirect(url_for("review.show", launch_id=launch_id, position=position))


@blueprint.get("/visits/<int:position>/sign")
def confirm(launch_id: str, position: int) -> str | Response:
    """The last page before signing: exactly what will be written, and where."""
    page = page_of(launch_id, position)
    answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed and not answers.correction:
        return redirect(url_for("review.receipt", launch_id=launch_id, position=position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles)
    return _to_confirm(page, answers, signed)


def _to_confirm(
    page: Page, answers: Answers, signed: Signed | None, changes: tuple[str, ...] = ()
) -> str | Response:
    """The page before signing; the review where it cannot be signed as it is."""
    reviewed = reviewed_of(page, answers, signed)
    if reviewed.blocked:
        if changes:
            return _render(page, answers, problems=list(changes))
        return redirect(url_for("review.show", launch_id=page.launch.id, position=page.position))
    way = sign_off.way_of(page.here, page.launch)
    return render_template(
        "confirm.html",
        launch=page.launch,
        prepared=page.prepared,
        position=page.position,
        reviewed=reviewed,
        names=code_names(page, reviewed),
        codes_of={service.reference: service.code for service in page.prepared.visit.services},
        seen=seen(reviewed),
        changes=changes,
        way_says=ways.BEFORE[way].format(ehr=page.launch.issuer.name),
        standing=signed.standing if signed else (),
    )


@blueprint.post("/visits/<int:position>/sign")
def sign(launch_id: str, position: int) -> str | Response:
    """Signs what was seen, once, if the chart still says so; then sends it."""
    page = page_of(launch_id, position)
    answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    before = sign_off.decision_of(page.here, page.launch, page.key)
    if before is not None and not answers.correction:
        return redirect(url_for("review.receipt", launch_id=launch_id, position=position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles)
    reviewed = reviewed_of(page, answers, before)
    if reviewed.blocked or request.form.get("seen") != seen(reviewed):
        # Another tab changed the draft, or the page was old: nobody signs what they did not see.
        return redirect(url_for("review.confirm", launch_id=launch_id, position=position))
    now = sign_off.reread(page.here, page.launch, page.key, page.prepared)
    if now.changes:
        visits = flow.visits_of(page.here, page.launch)
        if now.prepared is None:
            return redirect(url_for("review.visits", launch_id=launch_id))
        page = replace(page, visits=visits, position=visits.index(now.prepared) + 1)
        return _to_confirm(page, answers, before, now.changes)
    sign_off.sign(page.here, page.launch, page.key, reviewed, not_reread=now.not_read, corrects=before)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed is not None and signed.mine:
        if answers.correction and signed.record["correction"]:
            flow.keep_draft(page.here, page.launch, page.key, replace(answers, correction=None))
        sign_off.send(page.here, page.launch, signed)
    return redirect(url_for("review.receipt", launch_id=launch_id, position=position))


@blueprint.post("/visits/<int:position>/send")
def send(launch_id: str, position: int) -> Response:
    """Sends what is still to be sent of a signed decision."""
    page = page_of(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed is None:
        return redirect(url_for("review.show", launch_id=launch_id, position=position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles)
    if not signed.settled:
        sign_off.send(page.here, page.launch, signed, by_hand=True)
    return redirect(url_for("review.receipt", launch_id=launch_id, position=position))


@blueprint.post("/visits/<int:position>/correct")
def correct(launch_id: str, position: int) -> Response:
    """Opens signed charges for a correction, with its reason; nothing is changed until it is signed."""
    page = page_of(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    why = " ".join(request.form.get("why", "").split())[:LONGEST_REASON]
    if signed is None or not signed.correctable or not why:
        return redirect(url_for("review.receipt", launch_id=launch_id, position=position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles)
    flow.read_visits(page.here, page.launch)
    answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    flow.keep_draft(page.here, page.launch, page.key, replace(answers, correction=why))
    return redirect(url_for("review.show", launch_id=launch_id, position=position))


@blueprint.get("/visits/<int:position>/ticket")
def ticket(launch_id: str, position: int) -> str | Response:
    """What was signed, on a page to print for billing."""
    page = page_of(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed is None:
        return redirect(url_for("review.show", launch_id=launch_id, position=position))
    return render_template(
        "ticket.html",
        launch=page.launch,
        prepared=page.prepared,
        position=position,
        signed=signed,
        date_of_service=page.prepared.visit.date_of_service,
        discipline=signed.record["discipline"],
    )


@blueprint.get("/visits/<int:position>/receipt")
def receipt(launch_id: str, position: int) -> str | Response:
    """What became of each charge."""
    page = page_of(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed is None:
        return redirect(url_for("review.show", launch_id=launch_id, position=position))
    visit = page.prepared.visit
    table = page.here.library.codes
    found = {row.charge.code: table.on(row.charge.code, visit.date_of_service) for row in signed.rows}
    return render_template(
        "receipt.html",
        launch=page.launch,
        prepared=page.prepared,
        position=position,
        signed=signed,
        busy=any(row.state is State.SENDING for row in signed.rows),
        date_of_service=visit.date_of_service,
        discipline=signed.record["discipline"],
        policy=signed.record["policy"],
        names={code: known.name for code, known in found.items() if known},
        states=STATES,
        after={
            row.charge.identifier: ways.AFTER[row.how].format(reference=row.reference)
            for row in signed.rows
            if row.how
        },
        kept=[row for row in signed.standing if row not in signed.rows],
    )


def reviewed_of(page: Page, answers: Answers, signed: Signed | None) -> Review:
    """The visit with the answers in it; under correction, without taking off what is corrected."""
    prepared = page.prepared
    if signed and answers.correction:
        prepared = sign_off.without_own(prepared, signed)
    return review(prepared, answers, page.here.library)


def seen(reviewed: Review) -> str:
    """A digest of what a person is shown before signing."""
    assert reviewed.suggestion is not None  # noqa: S101 - blocked otherwise
    shown = [
        suggestion_json(reviewed.suggestion),
        repr(reviewed.charged).encode(),
        repr(reviewed.answers).encode(),
    ]
    return hashlib.sha256(b"\0".join(shown)).hexdigest()


# --- the form ---------------------------------------------------------------------------------------------


def answers_from(
    form: MultiDict[str, str], prepared: PreparedVisit, before: Answers, here: Installation
) -> tuple[Answers, list[str]]:
    """What the form settles, and a sentence for each entry that cannot be used (what was kept then stays)."""
    problems: list[str] = []
    minutes: dict[str, Correction] = {}
    left_out: dict[str, str] = {}
    for service in prepared.visit.services:
        reference = service.reference or ""
        entered = form.get(f"minutes:{reference}", "").strip()
        why = form.get(f"why:{reference}", "").strip()[:LONGEST_REASON]
        out = form.get(f"out:{reference}", "").strip()[:LONGEST_REASON]
        if out:
            left_out[reference] = out
        if not entered:
            continue
        if not entered.isascii() or not entered.isdigit() or int(entered) > MOST_MINUTES:
            problems.append(
                f"{service.code}: '{entered[:20]}' is not whole minutes from 0 to {MOST_MINUTES}."
            )
        elif not why:
            problems.append(
                f"{service.code}: say where the {entered} minutes are documented, so that they count."
            )
        else:
            minutes[reference] = Correction(int(entered), why)
            continue
        if reference in before.minutes:
            minutes[reference] = before.minutes[reference]
    policy = form.get("policy")
    discipline = form.get("discipline")
    return (
        Answers(
            policy=policy if policy in here.library.ids else before.policy,
            discipline=Discipline(discipline) if discipline in set(Discipline) else before.discipline,
            tie=_tie(form.get("tie", "")) or before.tie,
            minutes=minutes,
            left_out=left_out,
            modifiers_off=_modifiers_off(form),
            correction=before.correction,
            notes={
                name.removeprefix("note:"): value.strip()[:LONGEST_REASON]
                for name, value in form.items()
                if name.startswith("note:") and value.strip()
            },
        ),
        problems,
    )


def _tie(value: str) -> dict[str, int] | None:
    """Units by code from the form's ``97112=2 97110=1``; None for anything else."""
    pairs = [part.partition("=") for part in value.split()]
    if not pairs or not all(code and units.isascii() and units.isdigit() for code, _, units in pairs):
        return None
    return {code: int(units) for code, _, units in pairs}


def _modifiers_off(form: MultiDict[str, str]) -> dict[str, tuple[str, ...]]:
    off = {}
    for name in form:
        if name.startswith("offered:"):
            code = name.removeprefix("offered:")
            kept = set(form.getlist(f"on:{code}"))
            taken_off = tuple(
                modifier for modifier in dict.fromkeys(form.getlist(name)) if modifier not in kept
            )
            if taken_off:
                off[code] = taken_off
    return off


# --- the page ---------------------------------------------------------------------------------------------


def _render(
    page: Page,
    answers: Answers,
    *,
    problems: list[str] | None = None,
    kept_at: Any = None,
    template: str = "review.html",
) -> str:
    here, prepared = page.here, page.prepared
    signed = sign_off.decision_of(here, page.launch, page.key)
    reviewed = reviewed_of(page, answers, signed)
    findings = presenters.shown(reviewed.findings)
    missing = presenters.missing_minutes(reviewed)
    ties = _ties(reviewed)
    choices = sum(
        (
            prepared.visit.discipline is None,
            prepared.policy_id is None or reviewed.not_in_force is not None,
            len(missing),
            ties is not None,
        )
    )
    return render_template(
        template,
        launch=page.launch,
        prepared=prepared,
        position=page.position,
        reviewed=reviewed,
        policy=here.library.policy(reviewed.policy) if reviewed.policy else None,
        policies=[here.library.policy(id_) for id_ in here.library.ids],
        disciplines=presenters.DISCIPLINES,
        others=[
            _link(page.launch.id, page.visits, number)
            for number, other in enumerate(page.visits, start=1)
            if number != page.position and other.visit.services
        ],
        findings=findings,
        missing=missing,
        ties=ties,
        open_codes={
            code for tie in (reviewed.suggestion.ties if reviewed.suggestion else ()) for code in tie.codes
        },
        choices=choices,
        names=code_names(page, reviewed),
        compared=_compared(page, reviewed),
        signed=None if answers.correction else signed,
        correction=answers.correction if signed else None,
        problems=problems or [],
        obstacles=page.obstacles,
        may_read_audit=may_read_audit(page.launch.roles or frozenset()),
        kept_at=kept_at,
        said=_said(reviewed, choices, len(findings)),
    )


def _link(launch_id: str, found: tuple[PreparedVisit, ...], number: int) -> Mapping[str, str]:
    visit = found[number - 1].visit
    text = f"{presenters.long_date(visit.date_of_service)} · {presenters.discipline_name(visit.discipline)}"
    return {"href": url_for("review.show", launch_id=launch_id, position=number), "text": text}


def code_names(page: Page, reviewed: Review) -> dict[str, str]:
    """Our short names of the codes on the page."""
    table, on = page.here.library.codes, reviewed.visit.date_of_service
    found = {service.code: table.on(service.code, on) for service in page.prepared.visit.services}
    return {code: known.name for code, known in found.items() if known}


def _ties(reviewed: Review) -> Mapping[str, Any] | None:
    """The choice as the page puts it; kept on the page once chosen, so that it can be changed."""
    suggestion = reviewed.suggestion
    if suggestion is None or not reviewed.ways:
        return None
    codes = tuple(dict.fromkeys(code for way in reviewed.ways for code in way))
    least = {code: min(way.get(code, 0) for way in reviewed.ways) for code in codes}
    tied = [code for code in codes if any(way.get(code, 0) != least[code] for way in reviewed.ways)]
    units = sum(reviewed.ways[0].values()) - sum(least.values())
    first = next(line for line in suggestion.lines if line.code == tied[0])
    return {
        "codes": tied,
        "units": units,
        "because": first.because[:2],  # the total, and what is left of this code and of its equals
        "options": [
            {
                "value": " ".join(f"{code}={count}" for code, count in way.items()),
                "units": [(code, way.get(code, 0), way.get(code, 0) > least[code]) for code in tied],
                "chosen": reviewed.answers.tie == way,
            }
            for way in reviewed.ways
        ],
    }


def _compared(page: Page, reviewed: Review) -> Mapping[str, Any]:
    codes = list(dict.fromkeys(service.code for service in reviewed.visit.services))
    every = [*([reviewed.suggestion] if reviewed.suggestion else []), *reviewed.comparison]
    return {
        "codes": codes,
        "rows": [
            {
                "title": page.here.library.policy(suggestion.policy).title,
                "used": suggestion is reviewed.suggestion,
                "units": list(_units_or_range(suggestion, codes)),
                "total": "?" if suggestion.total_timed_units is None else suggestion.total_timed_units,
            }
            for suggestion in every
        ],
    }


def _units_or_range(suggestion: Suggestion, codes: list[str]) -> Iterator[str]:
    """Units of the day by code; "1 or 2" where a tie is open."""
    for code in codes:
        given = sum(line.units_of_day for line in suggestion.lines if line.code == code)
        ways = {way.get(code, 0) for way in suggestion.lines_if} if suggestion.ties else {given}
        yield " or ".join(str(units) for units in sorted(ways))


def _said(reviewed: Review, choices: int, findings: int) -> str:
    """What a screen reader says after a recalculation."""
    if reviewed.suggestion is None:
        return f"{presenters.plural(choices, 'choice')} for you."
    return (
        f"{presenters.plural(reviewed.suggestion.total_timed_units, 'timed unit')}, "
        f"{presenters.plural(choices, 'choice')} for you, {presenters.plural(findings, 'finding')}."
    )
