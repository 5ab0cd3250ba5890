"""A launch's pages beside the review: choosing the visit, taking the charges along, the trail, the end.

And for administrators: whose sessions are open, and ending them.
"""

from __future__ import annotations

import csv
import io

from flask import Blueprint, Response, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from . import audit, flow, rights, sessions, worklist
from .administration_views import administered
from .installation import Installation
from .review import Review, review
from .review_views import Page, code_names, opened_here, page_of, with_operator_roles
from .rights import NotAllowed, NotYet
from .sessions import Opened
from .style import style_sheet

blueprint = Blueprint("session", __name__, url_prefix="/launches/<launch_id>")

COLUMNS = (
    "Date of service",
    "Patient",
    "Record number",
    "Code",
    "Name",
    "Minutes",
    "Units",
    "Modifiers",
    "Policy",
)
EVERYBODY = "everybody"
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@blueprint.get("/encounters")
def encounters(launch_id: str) -> str | AnyResponse:
    """The patient's recent visits, where the launch came without one."""
    here, launch = opened_here(launch_id)
    if launch.encounter is not None:
        return redirect(url_for("review.visits", launch_id=launch_id))
    towards = session.get("towards")
    if towards:
        encounter = worklist.encounter_for(here, with_operator_roles(launch), towards)
        if encounter is not None:
            flow.choose_encounter(here, launch, encounter)
            return redirect(url_for("review.visits", launch_id=launch_id))
        session.pop("towards")
    found = flow.encounters_of(here, launch)
    return render_template("encounters.html", launch=launch, found=found, missed=bool(towards))


@blueprint.post("/encounters")
def choose(launch_id: str) -> AnyResponse:
    """Goes on with the visit that was chosen."""
    here, launch = opened_here(launch_id)
    flow.choose_encounter(here, launch, request.form.get("encounter", ""))
    return redirect(url_for("review.visits", launch_id=launch_id))


@blueprint.post("/end")
def end(launch_id: str) -> str:
    """Signs out of this launch. The page that follows holds nothing of it."""
    here, launch = opened_here(launch_id)
    revoked = sessions.end(here, launch)
    return render_template("ended.html", issuer=launch.issuer, revoked=revoked)


@blueprint.get("/administration/sessions")
def active(launch_id: str) -> str:
    """Who has Quarterhour open at this EHR, and since when; nothing of any patient."""
    here, launch = administered(launch_id)
    return _active(here, launch)


@blueprint.post("/administration/sessions")
def end_others(launch_id: str) -> str:
    """Ends all sessions of one person, or of everybody else; this browser's own has its own button."""
    here, launch = administered(launch_id)
    person = request.form.get("person", "")
    others = [
        each.launch
        for each in sessions.active(here, launch.issuer)
        if each.launch.id != launch.id and person in {each.launch.person, EVERYBODY}
    ]
    confirmed = sessions.end_others(here, launch, others) if others else 0
    return _active(here, launch, ended=len(others), confirmed=confirmed)


def _active(here: Installation, launch: Opened, **done: int) -> str:
    people: dict[str, list[sessions.Active]] = {}
    for each in sessions.active(here, launch.issuer):
        people.setdefault(each.launch.person, []).append(each)
    return render_template("sessions.html", launch=launch, people=people, everybody=EVERYBODY, **done)


@blueprint.get("/style.css")
def style(launch_id: str) -> Response:
    """The EHR's colours, lengths and fonts as this launch may use them."""
    here, launch = opened_here(launch_id)
    return Response(style_sheet(here, launch), mimetype="text/css")


@blueprint.get("/visits/<int:position>/charges.csv")
def charges_csv(launch_id: str, position: int) -> Response:
    """The charges as a table, for entering them by hand where signing off here is not possible."""
    page, reviewed = _exported(launch_id, position, "csv")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([_cell(cell) for cell in row] for row in _rows(page, reviewed))
    answer = Response(text.getvalue(), mimetype="text/csv")
    answer.headers["Content-Disposition"] = 'attachment; filename="charges.csv"'  # names nobody
    return answer


@blueprint.get("/visits/<int:position>/print")
def printed(launch_id: str, position: int) -> str:
    """The same charges as a page to print or copy: a frame may not be allowed to download."""
    page, reviewed = _exported(launch_id, position, "print")
    return render_template(
        "print.html",
        launch=page.launch,
        prepared=page.prepared,
        position=position,
        reviewed=reviewed,
        names=code_names(page, reviewed),
        policy=page.here.library.policy(reviewed.policy or ""),
    )


@blueprint.get("/visits/<int:position>/audit")
def trail(launch_id: str, position: int) -> str:
    """What was done on this visit, by whom: for administrators, who examine it."""
    page = page_of(launch_id, position)
    if not rights.may_read_audit(page.launch.roles or frozenset()):
        raise NotAllowed(
            "The audit trail is for administrators.",
            advice="If you examine it for your clinic, ask the administrator of Quarterhour to map you to "
            f"the role administrator for {page.launch.issuer.name}.",
        )
    with page.here.engine.begin() as connection:
        entries = audit.entries(connection, page.here.vault, page.key)
        audit.record(
            connection,
            page.here.vault,
            now=page.here.clock(),
            action="trail-read",
            who=page.launch.who,
            issuer=page.launch.issuer.iss,
            visit=page.key,
        )
    return render_template(
        "audit.html", launch=page.launch, prepared=page.prepared, position=position, entries=entries
    )


def _exported(launch_id: str, position: int, how: str) -> tuple[Page, Review]:
    """The visit as it is settled now. Raises ``NotYet`` while something is open: half a bill is none."""
    page = page_of(launch_id, position)
    answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    reviewed = review(page.prepared, answers, page.here.library)
    if reviewed.blocked:
        raise NotYet(
            " ".join(reviewed.blocked),
            advice="Settle it on the review page, then export or print the charges.",
        )
    with page.here.engine.begin() as connection:
        audit.record(
            connection,
            page.here.vault,
            now=page.here.clock(),
            action="exported",
            who=page.launch.who,
            issuer=page.launch.issuer.iss,
            visit=page.key,
            what={"how": how, "charges": {line.code: line.units for line in reviewed.charged}},
        )
    return page, reviewed


def _rows(page: Page, reviewed: Review) -> list[tuple[str, ...]]:
    person, names = page.prepared.person, code_names(page, reviewed)
    return [
        (
            reviewed.visit.date_of_service.isoformat(),
            person.name or "",
            person.record_number or "",
            line.code,
            names.get(line.code, ""),
            "" if line.minutes is None else str(line.minutes),
            str(line.units),
            " ".join(modifier.code for modifier in line.modifiers),
            reviewed.policy or "",
        )
        for line in reviewed.charged
    ]


def _cell(text: str) -> str:
    """Spreadsheets run what begins like a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return f"'{text}" if text.startswith(FORMULA) else text
