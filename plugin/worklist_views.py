"""The worklist's pages: what waits, what is stuck, and the history of one visit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, TypeVar

from flask import Blueprint, abort, redirect, render_template, request, session, url_for
from sqlalchemy import select
from werkzeug.wrappers import Response

from ..core.visit import Discipline
from ..fhir.normalise import PreparedVisit
from . import database, flow, history, presenters, ways, worklist
from .installation import Installation
from .launch_views import browser_of
from .review_views import opened_here, page_of, with_operator_roles
from .rights import may_read_audit
from .sessions import Opened, opened
from .worklist import Filters, State, Weight

blueprint = Blueprint("worklist", __name__, url_prefix="/launches/<launch_id>")

STATE_WORDS = {
    State.WAITING: "To be signed",
    State.LATE: "Late to be signed",
    State.UNDOCUMENTED: "Not documented",
    State.UNEXPLAINED: "Charged, not documented",
    State.UNREAD: "Could not be read",
    State.STUCK: "Stuck",
    State.CHANGED: "Changed after signing",
    State.SIGNED: "Signed",
    State.CLOSED: "Closed",
}
WEIGHT_WORDS = {Weight.CRITICAL: "■ Critical", Weight.WARNING: "▲ Warning", Weight.NONE: "None"}

Word = TypeVar("Word", State, Weight, Discipline)


@blueprint.get("/worklist")
def show(launch_id: str) -> str:
    """The visits that this person may see, narrowed and paged as the address says."""
    here, launch = opened_here(launch_id)
    launch = with_operator_roles(launch)
    filters = filters_from(request.args)
    # Where "back to the worklist" leads from a visit; it tells of no patient.
    session["worklist"] = kept = {
        name: value for name, value in request.args.to_dict().items() if name in FILTERS and value
    }
    listed = worklist.found(here, launch, filters)
    page = min(max(1, filters.page), listed.pages)
    return render_template(
        "worklist.html",
        launch=launch,
        listed=listed,
        filters=filters,
        narrowed=any(name != "page" for name in kept),
        page=page,
        before=_page_link(launch_id, kept, page - 1) if page > 1 else None,
        after=_page_link(launch_id, kept, page + 1) if page < listed.pages else None,
        all_of_them=worklist.sees_all(launch),
        late_after=here.capturing[launch.issuer.id].late_after_days,
        administers=may_read_audit(launch.roles or frozenset()),
        states=STATE_WORDS,
        weights=WEIGHT_WORDS,
        disciplines=presenters.DISCIPLINES,
    )


FILTERS = ("state", "discipline", "weight", "therapist", "since", "until", "page")


def filters_from(given: Mapping[str, str]) -> Filters:
    """What the address narrows the list to; what cannot be read narrows nothing."""
    page = given.get("page", "")
    return Filters(
        state=_word(State, given.get("state")),
        discipline=_word(Discipline, given.get("discipline")),
        weight=_word(Weight, given.get("weight")),
        therapist=given.get("therapist") or None,
        since=_day(given.get("since")),
        until=_day(given.get("until")),
        page=int(page) if page.isascii() and page.isdigit() and len(page) < 6 else 1,  # noqa: PLR2004
    )


def _word(words: type[Word], given: str | None) -> Word | None:
    return words(given) if given in set(words) else None


def _day(given: str | None) -> date | None:
    try:
        return date.fromisoformat(given or "")
    except ValueError:
        return None


def _page_link(launch_id: str, kept: Mapping[str, str], page: int) -> str:
    values: dict[str, Any] = {**kept, "page": page}
    return url_for("worklist.show", launch_id=launch_id, **values)


@blueprint.get("/worklist/<visit>")
def opens(launch_id: str, visit: str) -> str | Response:
    """The visit's review, where this browser has it open; else its history."""
    here, launch = opened_here(launch_id)
    launch = with_operator_roles(launch)
    entry = worklist.entry_of(here, launch, visit)
    if entry is None:
        abort(404)
    place = _open_elsewhere(here, launch, visit)
    if place is not None and entry.state not in {State.SIGNED, State.CHANGED}:
        return redirect(url_for("review.show", launch_id=place[0], position=place[1]))
    return _history(here, launch, visit, entry=entry, review=place)


def _open_elsewhere(here: Installation, launch: Opened, visit: str) -> tuple[str, int] | None:
    """A launch of this browser that has this visit open, and its position there."""
    table = database.launch
    browser = browser_of() or ""
    query = select(table.c.id, table.c.chart).where(
        table.c.browser == here.vault.index("browser", browser),
        table.c.issuer == launch.issuer.iss,
        table.c.person == launch.person,
        table.c.chart.is_not(None),
    )
    with database.reading(here.engine) as connection:
        rows = connection.execute(query.order_by(table.c.seen_at.desc())).all()
    for row in rows:
        for number, prepared in enumerate(here.vault.open(row.chart, tuple[PreparedVisit, ...]), start=1):
            if flow.key_of(here, launch, prepared) == visit:
                opened(here, row.id, browser)  # raises where it has ended meanwhile
                return row.id, number
    return None


@blueprint.get("/visits/<int:position>/history")
def of_visit(launch_id: str, position: int) -> str:
    """Who decided what on the visit that is under review."""
    page = page_of(launch_id, position)
    return _history(page.here, page.launch, page.key, prepared=page.prepared, review=(launch_id, position))


def _history(
    here: Installation,
    launch: Opened,
    visit: str,
    *,
    review: tuple[str, int] | None,
    entry: worklist.Entry | None = None,
    prepared: PreparedVisit | None = None,
) -> str:
    return render_template(
        "history.html",
        launch=launch,
        entry=entry,
        prepared=prepared,
        decisions=history.decisions_on(here, visit),
        review=review,
        titles={id_: here.library.policy(id_).title for id_ in here.library.ids},
        standalone=_standalone(here, launch),
        state_says=ways.state_says,
        back=url_for("worklist.show", launch_id=launch.id, **session.get("worklist", {})),
    )


def _standalone(here: Installation, launch: Opened) -> bool:
    """Whether somebody can sign in from here; an EHR that has not been asked yet is not ruled out."""
    known = here.discovered.get(launch.issuer.id)
    return known is None or "launch-standalone" in known.capabilities
