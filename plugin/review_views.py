"""The reviewer's pages: the visits of a launch, one under review, its sign-off and its receipt."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from flask import Blueprint, abort, g, redirect, render_template, request, session, url_for
from sqlalchemy import Connection
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from ..core.suggestion import Suggestion, sharing, units_of_day
from ..core.terms import ELEMENTS
from ..core.visit import Discipline, PhaseOfCare
from ..core.visit_json import suggestion_json
from ..fhir.normalise import PreparedVisit
from ..launch.errors import LaunchRefused
from . import database, flow, presenters, reasons, sessions, sign_off, suggested, ways, worklist
from .flow import Opened
from .installation import Installation
from .launch_views import after_answer, browser_of, installation
from .outbox import Row, State
from .review import MOST_MINUTES, Answers, Correction, Review, review
from .rights import NotYet, Obstacle, against_signing, lacks_charge_scopes, may_read_audit
from .roles import roles_of
from .same_day import with_signed
from .sign_off import Signed
from .timeline import NARROW, WIDE, draw

log = structlog.get_logger()

blueprint = Blueprint("review", __name__, url_prefix="/launches/<launch_id>")

LONGEST_REASON = 300


class AnotherVisit(LaunchRefused):
    """A form that was made for a visit which the launch no longer holds."""

    status = 409
    title = "This visit is not here any more"

    def __init__(self, launch_id: str) -> None:
        super().__init__(
            "The chart was read again since this page was made, and the visit of this page is no longer in it "
            "as it was. Nothing was changed.",
            advice="Look at the visits as they are now, and enter there what you entered here.",
        )
        self.again = url_for("review.visits", launch_id=launch_id)
        self.again_text = "See the visits"


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

    def obstacles(self, signed: Signed | None = None) -> tuple[Obstacle, ...]:
        """Why this person cannot sign off in this launch; empty: they can.

        What is ``signed`` is sent and corrected by the way that it was signed for, whatever the site's is now.
        """
        launch = self.launch
        scopes = launch.session.context.scopes
        issuer = launch.issuer
        if signed is not None:
            issuer = issuer.model_copy(update={"writing": {**issuer.writing, "way": signed.way}})
        # Only where it matters: which way it is may have to be asked of the EHR.
        outside = (
            lacks_charge_scopes(issuer, scopes)
            and sign_off.way_of(self.here, launch, signed) in ways.WITHOUT_EHR
        )
        roles = launch.roles or frozenset()
        return against_signing(issuer, scopes, roles, into_ehr=not outside)

    @property
    def may_suggest(self) -> bool:
        """Whether charges may be written before review here: the site's option, and the EHR's permission."""
        issuer = self.launch.issuer
        wanted = self.here.writing[issuer.id].suggest
        return wanted and not lacks_charge_scopes(issuer, self.launch.session.context.scopes)


def opened_here(launch_id: str) -> tuple[Installation, Opened]:
    """The launch of this address, which this browser owns; the page may be framed where its EHR says."""
    here = installation()
    launch = flow.opened(here, launch_id, browser_of())
    g.framed_by = launch.issuer.embedding_origins
    return here, launch


def with_operator_roles(launch: Opened) -> Opened:
    """A launch that has read no chart yet knows of its person what the operator says."""
    if launch.roles is not None:
        return launch
    return replace(launch, roles=roles_of(launch.issuer, launch.session.id, now=installation().clock()))


def page_of(launch_id: str, position: int) -> Page:
    """Raises 404 for a position that the launch has not."""
    here, launch = opened_here(launch_id)
    launch, visits = flow.with_visits(here, launch, after_answer)
    with database.reading(here.engine) as connection:
        return _page_at(connection, here, launch, visits, position)


def posted_page(launch_id: str, position: int) -> Page:
    """The visit that the posted form was made for, wherever it stands in the launch by now.

    Another tab may have read the chart again since, and another visit may stand at this position. Raises
    ``AnotherVisit`` where the form's own is in the launch no more.
    """
    here, launch = opened_here(launch_id)
    launch, visits = flow.with_visits(here, launch, after_answer)
    key = request.form.get("visit", "")
    found = _position_of(here, launch, visits, key)
    if found is None:
        log.warning("another_visit", position=position)
        raise AnotherVisit(launch_id)
    with database.reading(here.engine) as connection:
        return _page_at(connection, here, launch, visits, found)


def _position_of(
    here: Installation, launch: Opened, visits: tuple[PreparedVisit, ...], key: str
) -> int | None:
    keys = [flow.key_of(here, launch, visit) for visit in visits]
    return keys.index(key) + 1 if key in keys else None


def _page_at(
    connection: Connection,
    here: Installation,
    launch: Opened,
    visits: tuple[PreparedVisit, ...],
    position: int,
) -> Page:
    """With what was signed here for the day's other visits, up to now."""
    if not 1 <= position <= len(visits):
        abort(404)
    key = flow.key_of(here, launch, visits[position - 1])
    this = with_signed(connection, here.vault, launch.issuer.iss, key, visits[position - 1])
    return Page(here, launch, position, (*visits[: position - 1], this, *visits[position:]), key)


@blueprint.get("/")
def visits(launch_id: str) -> str | Response:
    """Where a launch arrives: at its one visit, or at the choice between several."""
    here, launch = opened_here(launch_id)
    if launch.session.context.patient is None and worklist.sees_all(with_operator_roles(launch)):
        return redirect(url_for("worklist.show", launch_id=launch_id))
    if launch.encounter is None:
        return redirect(url_for("session.encounters", launch_id=launch_id))
    if "again" in request.args:
        here.read_ahead.take(launch.id)
        launch = replace(launch, chart=None)
    towards = session.get("towards")
    ahead: list[tuple[tuple[PreparedVisit, ...], Arrival]] = []

    def meanwhile(launch: Opened, expected: tuple[PreparedVisit, ...]) -> None:
        with suppress(Exception):  # raised again below, if it is so in the end
            ahead.append((expected, _arrival(here, launch, expected, towards)))

    launch, found = flow.with_visits(here, launch, after_answer, meanwhile)
    as_expected = [arrival for expected, arrival in ahead if expected is found]
    arrival = as_expected[0] if as_expected else _arrival(here, launch, found, towards)
    session.pop("towards", None)
    if arrival.remember:
        after_answer(arrival.remember)
    return arrival.html


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a launch arrives at, worked out without any effect; and what is then to be remembered of it."""

    html: str
    remember: Callable[[], None] | None = None


def _arrival(
    here: Installation, launch: Opened, found: tuple[PreparedVisit, ...], towards: str | None
) -> Arrival:
    with_services = [number for number, prepared in enumerate(found, start=1) if prepared.visit.services]
    sought = [n for n in with_services if towards and flow.key_of(here, launch, found[n - 1]) == towards]
    for number in sought or (with_services if len(with_services) == 1 else ()):
        # Shown at once: a redirect would be one more trip before the page.
        return _shown(here, launch, found, number)
    html = render_template(
        "visits.html",
        launch=launch,
        visits=[_link(launch.id, found, number) for number in with_services],
        findings=presenters.shown(tuple(finding for prepared in found for finding in prepared.findings)),
    )
    return Arrival(html)


@blueprint.get("/visits/<int:position>")
def show(launch_id: str, position: int) -> str:
    """The review page."""
    here, launch = opened_here(launch_id)
    launch, visits = flow.with_visits(here, launch, after_answer)
    shown = _shown(here, launch, visits, position)
    if shown.remember:
        after_answer(shown.remember)
    return shown.html


def _shown(here: Installation, launch: Opened, visits: tuple[PreparedVisit, ...], position: int) -> Arrival:
    with database.reading(here.engine) as connection:
        page = _page_at(connection, here, launch, visits, position)
        answers, kept_at = flow.draft_in(connection, here, launch, page.key)
        signed = sign_off.decision_in(connection, here, launch, page.key)
    reviewed = reviewed_of(page, answers, signed)
    return Arrival(
        _rendered(page, answers, signed, reviewed, kept_at=kept_at),
        partial(worklist.remember, here, launch, page.key, reviewed),
    )


@blueprint.post("/visits/<int:position>")
def settle(launch_id: str, position: int) -> str | Response:
    """Keeps what was settled, then recalculates, reads the chart again, or goes on to sign off."""
    page = posted_page(launch_id, position)
    before, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    answers, problems = answers_from(request.form, page.prepared, before, page.here)
    stop_correcting = request.form.get("go") == "stop-correcting"
    if stop_correcting:
        answers = replace(answers, correction=None)
    flow.keep_draft(page.here, page.launch, page.key, answers)
    g.nothing_lost = True
    if stop_correcting:
        return redirect(url_for("review.receipt", launch_id=launch_id, position=page.position))
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    # Where it has moved, the script loads the whole page, so that the address is that of the visit.
    if request.headers.get("X-Fragment") and page.position == position:
        now = page.here.clock()
        rendered = _render(page, answers, signed, problems=problems, kept_at=now, template="_review.html")
        fragment = Response(rendered, mimetype="text/html")
        fragment.headers["X-Fragment"] = "1"
        return fragment
    if problems:
        return Response(_render(page, answers, signed, problems=problems), 422, mimetype="text/html")
    go = request.form.get("go")
    if go == "reload":
        flow.read_visits(page.here, page.launch)
        return redirect(url_for("review.visits", launch_id=launch_id))
    if go == "sign" and not page.obstacles(signed) and not reviewed_of(page, answers, signed).blocked:
        return redirect(url_for("review.confirm", launch_id=launch_id, position=page.position))
    return redirect(url_for("review.show", launch_id=launch_id, position=page.position))


@blueprint.get("/visits/<int:position>/sign")
def confirm(launch_id: str, position: int) -> str | Response:
    """The last page before signing: exactly what will be written, and where."""
    page = page_of(launch_id, position)
    answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed and not answers.correction:
        return redirect(url_for("review.receipt", launch_id=launch_id, position=position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles(signed))
    if signed:
        sign_off.refuse_to_correct(page.here, page.launch, signed)
    return _to_confirm(page, answers, signed)


def _to_confirm(
    page: Page, answers: Answers, signed: Signed | None, changes: tuple[str, ...] = ()
) -> str | Response:
    """The page before signing; the review where it cannot be signed as it is."""
    reviewed = reviewed_of(page, answers, signed)
    if reviewed.blocked:
        if changes:
            return _render(page, answers, signed, problems=list(changes))
        return redirect(url_for("review.show", launch_id=page.launch.id, position=page.position))
    way = sign_off.way_of(page.here, page.launch, signed)
    try:
        sign_off.charges_to_sign(page.here, page.launch, reviewed, signed)
    except NotYet as error:  # told where it can be mended
        told = _render(page, answers, signed, problems=[*changes, f"{error.message} {error.advice}"])
        return Response(told, error.status, mimetype="text/html")
    return render_template(
        "confirm.html",
        launch=page.launch,
        prepared=page.prepared,
        position=page.position,
        reviewed=reviewed,
        names=code_names(page, reviewed),
        settled=presenters.settled(reviewed),
        seen=seen(reviewed),
        visit_key=page.key,
        changes=changes,
        way_says=ways.BEFORE[way].format(ehr=page.launch.issuer.name),
        left_behind=sign_off.left_behind(page.here, page.launch.issuer, page.key, way),
        standing=signed.standing if signed else (),
    )


@blueprint.post("/visits/<int:position>/sign")
def sign(launch_id: str, position: int) -> str | Response:
    """Signs what was seen, once, if the chart still says so; then sends it."""
    g.nothing_lost = True  # the form holds nothing of its own
    page = posted_page(launch_id, position)
    answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    before = sign_off.decision_of(page.here, page.launch, page.key)
    if before is not None and not answers.correction:
        return redirect(url_for("review.receipt", launch_id=launch_id, position=page.position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles(before))
    if before:
        sign_off.refuse_to_correct(page.here, page.launch, before)
    reviewed = reviewed_of(page, answers, before)
    if reviewed.blocked or request.form.get("seen") != seen(reviewed):
        # Another tab changed the draft, or another visit of the day was signed: nobody signs what they did not see.
        return _to_confirm(page, answers, before, (NOT_AS_SEEN,))
    now = sign_off.reread(page.here, page.launch, page.key, page.prepared)
    if now.changes and before is None and sign_off.decision_of(page.here, page.launch, page.key):
        # Another click signed it meanwhile: what is new in the chart may be its charges.
        return redirect(url_for("review.receipt", launch_id=launch_id, position=page.position))
    if now.changes:
        if not now.visits:
            return redirect(url_for("review.visits", launch_id=launch_id))
        found = _position_of(page.here, page.launch, now.visits, page.key)
        with database.reading(page.here.engine) as connection:
            page = _page_at(connection, page.here, page.launch, now.visits, found or page.position)
        return _to_confirm(page, answers, before, now.changes)
    g.nothing_lost = False
    sign_off.sign(page.here, page.launch, page.key, reviewed, not_reread=now.not_read, corrects=before)
    _send_at_once(page, answers, before)
    return redirect(url_for("review.receipt", launch_id=launch_id, position=page.position))


NOT_AS_SEEN = "The charges are no longer those of the page that you signed from; nothing was signed."


def _send_at_once(page: Page, answers: Answers, before: Signed | None) -> None:
    """Sends what was signed. Never raises: it is stored, and the receipt says what was sent and what waits.

    Any other page would have people enter charges by hand that are sent later all the same.
    """
    try:
        signed = sign_off.decision_of(page.here, page.launch, page.key)
        if signed is not None and signed.mine:
            if answers.correction and before is not None and signed.revision > before.revision:
                flow.keep_draft(page.here, page.launch, page.key, replace(answers, correction=None))
            sign_off.send(page.here, page.launch, signed)
    except Exception as error:  # noqa: BLE001 - as above
        log.error("not_sent_at_once", why=type(error).__name__)  # noqa: TRY400 - messages may hold data


@blueprint.post("/visits/<int:position>/suggestion")
def suggestion(launch_id: str, position: int) -> Response:
    """Writes what stands on the page as planned charges, or takes them back; nothing of it can be billed."""
    page = posted_page(launch_id, position)
    if not page.may_suggest:
        sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles())
        return redirect(url_for("review.show", launch_id=launch_id, position=page.position))
    server = sessions.server_for(page.here, page.launch)
    who, issuer = page.launch.who, page.launch.issuer
    why = " ".join(request.form.get("why", "").split())[:LONGEST_REASON]
    if request.form.get("go") == "write":
        answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
        reviewed = review(page.prepared, answers, page.here.library)
        suggested.write_suggestions(
            page.here, issuer, server, page.key, reviewed, who=who, person=page.launch.person
        )
    elif why and not page.obstacles():
        suggested.take_back_suggestions(page.here, issuer, server, page.key, why, who=who)
    return redirect(url_for("review.show", launch_id=launch_id, position=page.position, _anchor="suggested"))


@blueprint.post("/visits/<int:position>/send")
def send(launch_id: str, position: int) -> Response:
    """Sends what is still to be sent of a signed decision."""
    page = posted_page(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed is None:
        return redirect(url_for("review.show", launch_id=launch_id, position=page.position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles(signed))
    if not signed.settled:
        sign_off.send(page.here, page.launch, signed, by_hand=True)
    return redirect(url_for("review.receipt", launch_id=launch_id, position=page.position))


@blueprint.post("/visits/<int:position>/correct")
def correct(launch_id: str, position: int) -> Response:
    """Opens signed charges for a correction, with its reason; nothing is changed until it is signed."""
    page = posted_page(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    why = " ".join(request.form.get("why", "").split())[:LONGEST_REASON]
    if signed is None or not signed.correctable or not why:
        return redirect(url_for("review.receipt", launch_id=launch_id, position=page.position))
    sign_off.refuse_to_sign(page.here, page.launch, page.key, page.obstacles(signed))
    sign_off.refuse_to_correct(page.here, page.launch, signed)
    visits = flow.read_visits(page.here, page.launch)
    answers, _kept_at = flow.draft_of(page.here, page.launch, page.key)
    flow.keep_draft(page.here, page.launch, page.key, replace(answers, correction=why))
    found = _position_of(page.here, page.launch, visits, page.key)
    if found is None:
        return redirect(url_for("review.visits", launch_id=launch_id))
    return redirect(url_for("review.show", launch_id=launch_id, position=found))


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
        taken=all(row.state is State.CONFIRMED or row.how == "accepted" for row in signed.rows),
        date_of_service=visit.date_of_service,
        discipline=signed.record["discipline"],
        policy_title=_title(page.here, signed.record["policy"]),
        all_done=ways.all_done([row.charge for row in signed.rows], signed.way, page.launch.issuer.name),
        names={code: known.name for code, known in found.items() if known},
        after={row.charge.identifier: _what_happened(row, signed.way) for row in signed.rows},
        again=ways.AGAIN[ways.other_side(signed.way)],
        visit_key=page.key,
        no_access=None
        if signed.settled or signed.way in ways.WITHOUT_EHR
        else sessions.no_access(page.here, page.launch),
        kept=[row for row in signed.standing if row not in signed.rows],
    )


def _what_happened(row: Row, way: str) -> str:
    """To one charge, in words."""
    return ways.AFTER[row.how].format(reference=row.reference) if row.how else ways.state_says(row.state, way)


def _title(here: Installation, policy: str) -> str:
    """The policy's title; its id where it is no longer installed."""
    return here.library.policy(policy).title if policy in here.library.ids else policy


COLUMNS = (
    "Date of service",
    "Code",
    "Units",
    "Modifiers",
    "State",
    "Where",
    "Identifier",
    "Signed by",
    "Signed at (UTC)",
    "Policy",
)


def _receipt_rows(signed: Signed) -> list[tuple[str, ...]]:
    """The receipt as a table, its heads first. It names no patient: it can be handed on."""
    rows = [
        (
            row.charge.date_of_service.isoformat(),
            row.charge.code,
            str(-row.charge.units if row.charge.takes_back else row.charge.units),
            " ".join(row.charge.modifiers),
            ways.state_says(row.state, signed.way),
            row.reference or "",
            row.charge.identifier,
            signed.record["name"] or signed.record["who"],
            f"{signed.signed_at:%Y-%m-%d %H:%M}",
            signed.record["policy"] or "",
        )
        for row in signed.rows
    ]
    return [COLUMNS, *rows]


@blueprint.get("/visits/<int:position>/receipt.csv")
def receipt_csv(launch_id: str, position: int) -> Response:
    """The receipt as a table to keep."""
    page = page_of(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed is None:
        return redirect(url_for("review.show", launch_id=launch_id, position=position))
    text = io.StringIO()
    writer = csv.writer(text)
    # Spreadsheets run what begins like a formula (https://owasp.org/www-community/attacks/CSV_Injection);
    # only the units may begin with a sign, and they are numbers.
    writer.writerows(
        [f"'{cell}" if cell[:1] in FORMULA and not cell[1:].isdigit() else cell for cell in row]
        for row in _receipt_rows(signed)
    )
    answer = Response(text.getvalue(), mimetype="text/csv")
    answer.headers["Content-Disposition"] = 'attachment; filename="receipt.csv"'  # names nobody
    return answer


FORMULA = ("=", "+", "-", "@", "\t", "\r")


@blueprint.get("/visits/<int:position>/receipt/copy")
def receipt_copy(launch_id: str, position: int) -> str | Response:
    """The same as a page to copy from: a frame may not be allowed to download."""
    page = page_of(launch_id, position)
    signed = sign_off.decision_of(page.here, page.launch, page.key)
    if signed is None:
        return redirect(url_for("review.show", launch_id=launch_id, position=position))
    head, *rows = _receipt_rows(signed)
    return render_template(
        "copy.html",
        launch=page.launch,
        prepared=page.prepared,
        position=position,
        head=head,
        rows=rows,
        text="\n".join("\t".join(row) for row in (head, *rows)),
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
    left_out: dict[str, str] = {}
    for service in prepared.visit.services:
        out = form.get(f"out:{service.reference}", "").strip()[:LONGEST_REASON]
        if out:
            left_out[service.reference or ""] = out
    policy = form.get("policy")
    discipline = form.get("discipline")
    beside = form.get("beside", before.beside)
    on, off = _modifiers(form, before)
    entered = {name: form.get(name) for name in (*presenters.FIELDS, *_amounts(form, prepared, here))}
    answers = replace(
        before,
        policy=policy if policy in here.library.ids else before.policy,
        discipline=Discipline(discipline) if discipline in set(Discipline) else before.discipline,
        tie=_tie_from(form, before),
        minutes=_minutes(form, prepared, before, problems),
        left_out=left_out,
        modifiers_on=on,
        modifiers_off=off,
        notes=_notes(form, before.notes),
        record=_record(form, prepared, before),
        beside=beside if beside in here.library.ids else None,
    )
    for name, value in entered.items():
        if value is not None:
            answers = _with_field(answers, name, value.strip(), problems)
    codes = [line.code for line in review(prepared, answers, here.library).lines if line.units_of_day]
    return replace(answers, modifiers_on=_put_on(form, codes, on, problems)), problems


def _minutes(
    form: MultiDict[str, str], prepared: PreparedVisit, before: Answers, problems: list[str]
) -> dict[str, Correction]:
    """Corrections by service, each with a reason; an emptied field takes its correction back."""
    minutes: dict[str, Correction] = {}
    for service in prepared.visit.services:
        reference = service.reference or ""
        entered = form.get(f"minutes:{reference}", "").strip()
        assistants = form.get(f"assistant:{reference}", "").strip()
        why = form.get(f"why:{reference}", "").strip()[:LONGEST_REASON]
        if not entered:
            if assistants:
                problems.append(f"{service.code}: enter the minutes in all beside those of the assistant.")
            continue
        whole, share = _whole(entered), _whole(assistants)
        if whole is None:
            problems.append(
                f"{service.code}: '{entered[:20]}' is not whole minutes from 0 to {MOST_MINUTES}."
            )
        elif assistants and (share is None or share > whole):
            problems.append(
                f"{service.code}: the assistant's part is whole minutes from 0 to {whole}, "
                f"not '{assistants[:20]}'."
            )
        elif not why:
            problems.append(
                f"{service.code}: say where the {entered} minutes are documented, so that they count."
            )
        else:
            minutes[reference] = Correction(whole, why, share)
            continue
        if reference in before.minutes:
            minutes[reference] = before.minutes[reference]
    return minutes


def _whole(entered: str) -> int | None:
    return int(entered) if _is_number(entered) and int(entered) <= MOST_MINUTES else None


def _is_number(entered: str) -> bool:
    """Up to four digits: minutes of a day, units of a line, visits of a year."""
    return re.fullmatch(r"[0-9]{1,4}", entered) is not None


def _notes(form: MultiDict[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Reasons by the key of their finding. Those of findings that are not on the page now are kept."""
    boxes = {
        name.removeprefix("note:"): value.strip()[:LONGEST_REASON]
        for name, value in form.items()
        if name.startswith("note:")
    }
    return reasons.entered(before, boxes)


def _amounts(form: MultiDict[str, str], prepared: PreparedVisit, here: Installation) -> tuple[str, ...]:
    """The fields of amounts: a service's code, and that of its further stretches, may have one."""
    visit = prepared.visit
    codes = dict.fromkeys(service.code for service in visit.services)
    known = (here.library.codes.on(code, visit.date_of_service) for code in tuple(codes))
    codes |= dict.fromkeys(entry.addon_code for entry in known if entry and entry.addon_code)
    return tuple(f"amount:{code}" for code in codes if f"amount:{code}" in form)


def _record(
    form: MultiDict[str, str], prepared: PreparedVisit, before: Answers
) -> dict[str, tuple[str, ...] | None]:
    """By code what the record lacks. That something is lacking settles nothing until it is said what."""
    record = dict(before.record)
    for code in dict.fromkeys(service.code for service in prepared.visit.services):
        said = form.get(f"record:{code}")
        lacks = form.getlist(f"lacks:{code}")
        if said == "all":
            record[code] = ()
        elif said == "part":
            record[code] = tuple(element for element in ELEMENTS if element in lacks) or None
        elif said == "":
            record.pop(code, None)
    return record


def _with_field(answers: Answers, name: str, entered: str, problems: list[str]) -> Answers:
    """The answers with one field's entry; an empty one is not known. What cannot be read stays as it was."""
    field = presenters.field_of(name, answers)
    value: Any = None
    if field.kind == "count":
        value = _whole(entered)
    elif field.kind == "dollars":
        value = _dollars(entered)
    elif field.kind == "yes-no":
        value = {"yes": True, "no": False}.get(entered)
    elif entered in set(PhaseOfCare):
        value = PhaseOfCare(entered)
    if entered and value is None:
        wanted = {"count": "a whole number", "dollars": "an amount like 1234.50"}.get(field.kind, "an answer")
        problems.append(f"{field.label}: '{entered[:20]}' is not {wanted}.")
        return answers
    if name.startswith("amount:"):
        code = name.removeprefix("amount:")
        amounts = {other: amount for other, amount in answers.contract.amounts.items() if other != code}
        amounts |= {} if value is None else {code: value}
        return replace(answers, contract=replace(answers.contract, amounts=amounts))
    if name in presenters.OF_VISIT:
        return replace(answers, **{name: value})
    if name in presenters.OF_CONTRACT:
        return replace(answers, contract=replace(answers.contract, **{name: value}))
    return replace(answers, history=replace(answers.history, **{name: value}))


DOLLARS = re.compile(r"\$?\s?((?:\d{1,3}(?:,\d{3})+|\d{1,7})(?:\.\d{1,2})?)", re.ASCII)


def _dollars(entered: str) -> Decimal | None:
    """An amount as people write it here: 2,480 or $2480.00."""
    found = DOLLARS.fullmatch(entered)
    return Decimal(found[1].replace(",", "")) if found else None


def _tie(value: str) -> dict[str, int] | None:
    """Units by code from the form's ``97112=2 97110=1``; None for anything else."""
    pairs = [part.partition("=") for part in value.split()]
    shared = {code: _whole(units) for code, _, units in pairs if code}
    if len(shared) != len(pairs) or not shared:
        return None
    known = {code: units for code, units in shared.items() if units is not None}
    return known if known == shared else None


def _tie_from(form: MultiDict[str, str], before: Answers) -> Mapping[str, int] | None:
    """The way that was chosen, or the day's units with one more for each ticked code.

    Too few or too many ticks are kept as they are: the count says whether they settle the tie.
    """
    units = _tie(form.get("tie-open", ""))
    if units is None:
        return _tie(form.get("tie", "")) or before.tie
    taken = set(form.getlist("tie-takes"))
    shared = {code: given + (code in taken) for code, given in units.items()}
    return {code: given for code, given in shared.items() if given}


On = dict[str, dict[str, str]]


def _modifiers(form: MultiDict[str, str], before: Answers) -> tuple[On, dict[str, tuple[str, ...]]]:
    """Modifiers that the clinician put on and left on, and those of ours that are switched off, by code.

    A code may stand on two lines with the same modifier: switching it on either line switches it on both.
    """
    on = {code: dict(put) for code, put in before.modifiers_on.items()}
    off = {code: list(modifiers) for code, modifiers in before.modifiers_off.items()}
    for name in form:
        if not name.startswith("offered:"):
            continue
        code = name.removeprefix("offered:")
        offered, kept = Counter(form.getlist(name)), Counter(form.getlist(f"on:{code}"))
        for modifier, lines in offered.items():
            if modifier in off.get(code, ()):
                if kept[modifier]:
                    off[code].remove(modifier)
            elif kept[modifier] < lines and on.get(code, {}).pop(modifier, None) is None:
                off.setdefault(code, []).append(modifier)
    return (
        {code: put for code, put in on.items() if put},
        {code: tuple(modifiers) for code, modifiers in off.items() if modifiers},
    )


def _put_on(form: MultiDict[str, str], billed: Iterable[str], on: On, problems: list[str]) -> On:
    """With the modifier that the pressed button puts on: KX on every line, another on the code it names.

    ``billed`` are the codes with units, also one that no service names: 97130 of 97129's further minutes.
    """
    key = form.get("go", "").partition("put:")[2]
    if not key:
        return on
    reason = form.get(f"putwhy:{key}", "").strip()[:LONGEST_REASON]
    modifier, _, code = (key, "", "") if key == "KX" else form.get(f"putwhat:{key}", "").partition("@")
    codes = dict.fromkeys(each for each in billed if modifier == "KX" or each == code)
    if modifier not in {"KX", *presenters.SEPARATE} or not codes:
        problems.append("Choose the modifier to put on.")
    elif not reason:
        problems.append(f"{modifier} attests something: give your reason, then put it on.")
    else:
        return {**on, **{code: {**on.get(code, {}), modifier: reason} for code in codes}}
    return on


# --- the page ---------------------------------------------------------------------------------------------


def _render(page: Page, answers: Answers, signed: Signed | None, **shown: Any) -> str:
    reviewed = reviewed_of(page, answers, signed)
    after_answer(partial(worklist.remember, page.here, page.launch, page.key, reviewed))
    return _rendered(page, answers, signed, reviewed, **shown)


def _rendered(
    page: Page,
    answers: Answers,
    signed: Signed | None,
    reviewed: Review,
    *,
    problems: list[str] | None = None,
    kept_at: Any = None,
    template: str = "review.html",
) -> str:
    here, prepared = page.here, page.prepared
    findings = presenters.rows(reviewed, here.library)
    unchecked = sum(len(row.noted) for row in findings if row.kind == "unchecked")
    weighed = sum(len(row.noted) for row in findings) - unchecked
    missing = presenters.missing_minutes(reviewed)
    ties = _ties(reviewed)
    ask_policy = prepared.policy_id is None or reviewed.not_in_force is not None
    open_minutes = [service for service in missing if service.reference not in answers.minutes]
    choices = sum(
        (
            prepared.visit.discipline is None and answers.discipline is None,
            ask_policy and reviewed.policy is None,
            len(open_minutes),
            reviewed.suggestion is not None and bool(reviewed.suggestion.ties),
        )
    )
    minutes = presenters.minutes_picture(reviewed, here.library, ZoneInfo(page.launch.issuer.time_zone))
    return render_template(
        template,
        launch=page.launch,
        prepared=prepared,
        position=page.position,
        visit_key=page.key,
        reviewed=reviewed,
        answers=answers,
        policy=here.library.policy(reviewed.policy) if reviewed.policy else None,
        policies=[here.library.policy(id_) for id_ in here.library.ids],
        disciplines=presenters.DISCIPLINES,
        others=[
            _link(page.launch.id, page.visits, number)
            for number, other in enumerate(page.visits, start=1)
            if number != page.position and other.visit.services
        ],
        findings=findings,
        kept_fields=presenters.kept_fields(reviewed, findings),
        field_choices=presenters.CHOICES,
        missing=missing,
        ask_policy=ask_policy,
        ties=ties,
        open_codes={
            code for tie in (reviewed.suggestion.ties if reviewed.suggestion else ()) for code in tie.codes
        },
        choices=choices,
        names=code_names(page, reviewed),
        minutes=minutes,
        drawings=[("wide", draw(minutes, WIDE)), ("narrow", draw(minutes, NARROW))],
        compared=_compared(page, reviewed),
        sources=presenters.Sources(),
        unverified=presenters.unverified(reviewed, here.library),
        signed=None if answers.correction else signed,
        correction=answers.correction if signed else None,
        problems=problems or [],
        # What was typed and could not be used stands in its field again.
        typed=request.form if problems or template != "review.html" else {},
        obstacles=page.obstacles(signed),
        goes=_goes(page, signed),
        may_suggest=page.may_suggest and signed is None,
        suggested=[
            (row, _what_happened(row, "charge-item"))
            for row in (suggested.standing(here, page.key).rows if page.may_suggest else ())
        ],
        worklist_filters=session.get("worklist", {}),
        may_read_audit=may_read_audit(page.launch.roles or frozenset()),
        kept_at=kept_at,
        weighed=weighed,
        unchecked=unchecked,
        said=_said(reviewed, choices, weighed, unchecked),
    )


def _goes(page: Page, signed: Signed | None) -> str | None:
    """Where what is signed goes, as far as that is known without asking the EHR."""
    way = signed.way if signed else sign_off.known_way(page.here, page.launch.issuer)
    return ways.GOES[way].format(ehr=page.launch.issuer.name) if way else None


def _link(launch_id: str, found: tuple[PreparedVisit, ...], number: int) -> Mapping[str, str]:
    visit = found[number - 1].visit
    text = f"{presenters.long_date(visit.date_of_service)} · {presenters.discipline_name(visit.discipline)}"
    return {"href": url_for("review.show", launch_id=launch_id, position=number), "text": text}


def code_names(page: Page, reviewed: Review) -> dict[str, str]:
    """Our short names of the codes on the page."""
    table, on = page.here.library.codes, reviewed.visit.date_of_service
    found = {service.code: table.on(service.code, on) for service in page.prepared.visit.services}
    return {code: known.name for code, known in found.items() if known}


WAYS_SHOWN = 10  # more ways than these are not offered one by one: each code has a box instead


def _ties(reviewed: Review) -> Mapping[str, Any] | None:
    """The choice as the page puts it; kept on the page once chosen, so that it can be changed."""
    unsettled = reviewed.unsettled
    if unsettled is None:
        return None
    (tie,) = unsettled.ties
    given = units_of_day(unsettled)
    tied = [(code, given.get(code, 0)) for code in tie.billed_as]
    chosen = reviewed.answers.tie
    taken = sharing(unsettled, chosen) if chosen else None
    few = 0 < len(unsettled.lines_if) <= WAYS_SHOWN
    first = next(line for line in unsettled.lines if line.code == tie.codes[0])
    return {
        "codes": tie.billed_as,
        "units": tie.units,
        "because": first.because,  # the total, and what is left of this code and of its equals
        "options": [
            {
                "value": _tie_value(way),
                "units": [(code, way.get(code, 0), way.get(code, 0) > least) for code, least in tied],
                "chosen": chosen == way,
            }
            for way in (unsettled.lines_if if few else ())
        ],
        "open": _tie_value({code: units for code, units in given.items() if units} | dict(tied)),
        "boxes": [
            {"code": code, "units": least + 1, "chosen": taken is not None and code in taken}
            for code, least in (() if few else tied)
        ],
        "taken": len(taken or ()),
    }


def _tie_value(units: Mapping[str, int]) -> str:
    return " ".join(f"{code}={count}" for code, count in units.items())


def _compared(page: Page, reviewed: Review) -> Mapping[str, Any]:
    """A row a policy, the one in use first; where a policy gives a code other units, the cell says by how many."""
    used = reviewed.suggestion
    every = [other for other in reviewed.comparison if other.suggestion is not None]
    suggestions = [*([used] if used else []), *(other.suggestion for other in every if other.suggestion)]
    codes = list(dict.fromkeys(line.code for suggestion in suggestions for line in suggestion.lines))
    rows = [_row(page, reviewed, used, codes, {})] if used else []
    rows += [
        _row(page, reviewed, other.suggestion, codes, other.difference) for other in every if other.suggestion
    ]
    return {
        "codes": codes,
        "rows": [row for row in rows if not row["same"]],
        "same": [row["title"] for row in rows if row["same"]],
        "refused": [
            (page.here.library.policy(other.policy).title, other.refused)
            for other in reviewed.comparison
            if other.refused
        ],
    }


def _row(
    page: Page, reviewed: Review, suggestion: Suggestion, codes: list[str], difference: Mapping[str, int]
) -> Mapping[str, Any]:
    used = reviewed.suggestion
    total = suggestion.total_timed_units
    apart = None
    if used is not None and used is not suggestion and None not in {total, used.total_timed_units}:
        apart = (total or 0) - (used.total_timed_units or 0)
    open_codes = {code for tie in suggestion.ties for code in tie.codes}
    return {
        "title": page.here.library.policy(suggestion.policy).title,
        "used": suggestion is used,
        "secondary": suggestion.policy in reviewed.prepared.other_policies,
        "units": [
            (units, difference.get(code, 0) if code not in open_codes else 0)
            for code, units in zip(codes, _units_or_range(suggestion, codes), strict=True)
        ],
        "total": "?" if total is None else total,
        "apart": apart,
        # Nothing to look at, unless it was asked for or is the patient's own.
        "same": apart == 0
        and not any(difference.values())
        and suggestion.policy not in {reviewed.answers.beside, *reviewed.prepared.other_policies},
    }


def _units_or_range(suggestion: Suggestion, codes: list[str]) -> Iterator[str]:
    """Units of the day by code; "1 or 2" where a tie is open."""
    given = units_of_day(suggestion)
    tied = {code for tie in suggestion.ties for code in tie.billed_as}
    for code in codes:
        units = given.get(code, 0)
        yield f"{units} or {units + 1}" if code in tied else f"{units}"


def _said(reviewed: Review, choices: int, weighed: int, unchecked: int) -> str:
    """What a screen reader says after a recalculation."""
    if reviewed.suggestion is None:
        return f"{presenters.plural(choices, 'choice')} for you."
    return (
        f"{presenters.plural(reviewed.suggestion.total_timed_units, 'timed unit')}, "
        f"{presenters.plural(choices, 'choice')} for you, {weighed} to weigh, {unchecked} not checked."
    )
