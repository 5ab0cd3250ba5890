"""For administrators: issuers and their health, policies and their age, what is stuck, and the audit trail.

Everything is to be looked at; only a stuck charge can be tried again or settled by hand.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from sqlalchemy import select
from werkzeug.wrappers import Response

from ..launch.discovery import discover
from ..launch.errors import LaunchRefused
from ..launch.issuers import Issuer
from . import audit, database, jobs, outbox, sign_off, subscriptions, ways
from .cds_cards import WHY_NOT_HEEDED, WHY_NOT_REVIEWED
from .cds_feedback import overridden
from .installation import Installation
from .jobs import Kind
from .outbox import State
from .review_views import LONGEST_REASON, opened_here, with_operator_roles
from .rights import NotAllowed, may_read_audit
from .sessions import Opened, server_for

blueprint = Blueprint("administration", __name__, url_prefix="/launches/<launch_id>/administration")

PER_PAGE = 50
KINDS = {
    Kind.CAPTURE: "Visit",
    Kind.LOOK: "Looking for what changed",
    Kind.RANGE: "Looking for the visits of",
    Kind.CATCH_UP: "Looking for what was not told, subscription",
}
OLD_AFTER_DAYS = 365
CARD_REASONS = {
    **{reason.code: reason.display for reason in (*WHY_NOT_REVIEWED, *WHY_NOT_HEEDED)},
    "other": "Another reason",
    "none": "No reason given",
}


def administered(launch_id: str) -> tuple[Installation, Opened]:
    """Raises ``NotAllowed`` for everybody but administrators."""
    here, launch = opened_here(launch_id)
    launch = with_operator_roles(launch)
    if not may_read_audit(launch.roles or frozenset()):
        raise NotAllowed(
            "Administration is for administrators.",
            advice="Ask the administrator of Quarterhour to map you to the role administrator for "
            f"{launch.issuer.name}, then open Quarterhour again.",
        )
    return here, launch


@blueprint.get("/")
def show(launch_id: str) -> str:
    """What an operator looks at."""
    here, launch = administered(launch_id)
    asked = "check" in request.args
    with database.reading(here.engine) as connection:
        queue = jobs.queue(connection, here.clock(), launch.issuer.iss)
        given_up = jobs.given_up(connection, here.vault, launch.issuer.iss, PER_PAGE)
    return render_template(
        "administration.html",
        queue=queue,
        given_up=given_up,
        kinds=KINDS,
        launch=launch,
        ehr=_ehr(here, launch.issuer, asked=asked),
        policies=_policies(here),
        stuck=_stuck(here, launch),
        state_says=ways.state_says,
        subscriptions=subscriptions.known(here, launch.issuer),
        cards=overridden(here, launch.issuer),
        card_reasons=CARD_REASONS,
        now=here.clock(),
    )


def _ehr(here: Installation, issuer: Issuer, *, asked: bool) -> dict[str, Any]:
    """With its health where it was asked for: whether its configuration can be fetched and used."""
    health = "answers: its configuration was read" if issuer.id in here.discovered else "not asked yet"
    if asked:
        try:
            discover(issuer, here.connections.to(issuer), here.clock(), {}, listed=here.issuers)
            health = "answers: its configuration was read just now"
        except LaunchRefused as error:
            health = f"does not answer as it should. {error.message}"
    writing = here.writing[issuer.id].way
    return {"issuer": issuer, "health": health, "way": writing}


def _policies(here: Installation) -> list[dict[str, Any]]:
    """Every policy with the day its sources were read last and longest ago."""
    today = here.clock().date()
    found = []
    for id_ in here.library.ids:
        policy = here.library.policy(id_)
        read = [source.read_on for source in policy.sources.values()]
        oldest = min(read, default=None)
        found.append(
            {
                "policy": policy,
                "sources": len(read),
                "oldest": oldest,
                "newest": max(read, default=None),
                "unverified": sum(not source.verified for source in policy.sources.values()),
                "old": oldest is not None and (today - oldest).days > OLD_AFTER_DAYS,
            }
        )
    return found


def _stuck(here: Installation, launch: Opened) -> list[dict[str, Any]]:
    """The charges of this EHR that are not where they belong, the oldest first."""
    decision, charge = database.decision, database.charge
    with here.engine.begin() as connection:
        stuck = select(charge.c.decision).where(charge.c.state != State.CONFIRMED)
        decisions = connection.execute(
            select(decision.c.id, decision.c.way)
            .where(decision.c.issuer == launch.issuer.iss, decision.c.id.in_(stuck))
            .order_by(decision.c.signed_at)
        ).all()
        return [
            {"decision": one.id, "way": one.way, "row": row}
            for one in decisions
            for row in outbox.charges_of(connection, here.vault, one.id)
            if row.state is not State.CONFIRMED
        ]


@blueprint.post("/jobs")
def try_again(launch_id: str) -> Response:
    """Begins anew what was given up: one job, or all of this EHR."""
    here, launch = administered(launch_id)
    id_ = None if request.form.get("go") == "all" else request.form.get("job", "")
    now = here.clock()
    with here.engine.begin() as connection:
        count = jobs.try_again(connection, launch.issuer.iss, now, id_)
        if count:
            audit.record(
                connection,
                here.vault,
                now=now,
                action="jobs-tried-again",
                who=launch.who,
                issuer=launch.issuer.iss,
                what={"job": id_ or "all", "count": count},
            )
    return redirect(url_for("administration.show", launch_id=launch_id, _anchor="jobs"))


@blueprint.post("/charges/<identifier>")
def settle(launch_id: str, identifier: str) -> Response:
    """Tries a stuck charge again, or settles a doubtful one by what a person found on the other side."""
    here, launch = administered(launch_id)
    stuck = next((each for each in _stuck(here, launch) if each["row"].charge.identifier == identifier), None)
    why = " ".join(request.form.get("why", "").split())[:LONGEST_REASON]
    if stuck is not None and request.form.get("go") == "retry":
        way = sign_off.outgoing(here, launch.issuer, stuck["way"], server_for(here, launch), launch.session)
        outbox.send(here.outbox, way, stuck["decision"], who=launch.who, by_hand=True)
    elif stuck is not None and why:
        arrived = request.form.get("go") == "arrived"
        outbox.settle_by_hand(here.outbox, identifier, arrived=arrived, who=launch.who, why=why)
    return redirect(url_for("administration.show", launch_id=launch_id, _anchor="stuck"))


@blueprint.get("/audit")
def trail(launch_id: str) -> str:
    """The audit trail, searched and paged, the newest first; and whether it is whole."""
    here, launch = administered(launch_id)
    who, action = request.args.get("who", "").strip(), request.args.get("action", "")
    since, until = _day(request.args.get("since", "")), _day(request.args.get("until", ""))
    before = until.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1) if until else None
    fitting = audit.Asked(_readable(here, launch), action, who, since, before)
    with here.engine.begin() as connection:
        audit.record(
            connection,
            here.vault,
            now=here.clock(),
            action="trail-read",
            who=launch.who,
            issuer=launch.issuer.iss,
        )
    page = _number(request.args.get("page", ""))
    # It may take long where there are many, so it holds up nobody who signs off meanwhile.
    with database.reading(here.engine) as connection:
        entries, total = audit.found(
            connection, here.vault, fitting, first=(page - 1) * PER_PAGE, most=PER_PAGE
        )
        broken = audit.broken_at(connection, here.vault) if "verify" in request.args else None
        last = int(audit.head(connection).partition(":")[0])
        actions = audit.actions(connection, fitting.issuers)
    return render_template(
        "trail.html",
        launch=launch,
        entries=entries,
        total=total,
        page=page,
        pages=max(1, -(-total // PER_PAGE)),
        actions=actions,
        asked={"who": who, "action": action, **{n: request.args.get(n, "") for n in ("since", "until")}},
        verified="verify" in request.args,
        broken=broken,
        last=last,
    )


def _readable(here: Installation, launch: Opened) -> tuple[str | None, ...]:
    """Whose entries an administrator reads here: of their own EHR; what is no EHR's, where there is but one.

    The whole trail of several is the operator's: `quarterhour audit list`.
    """
    alone = len(tuple(here.issuers)) == 1
    return (launch.issuer.iss, None) if alone else (launch.issuer.iss,)


def _number(given: str) -> int:
    """The first page where it is no number that a page could have."""
    return max(1, int(given)) if re.fullmatch(r"[0-9]{1,7}", given) else 1


def _day(given: str) -> datetime | None:
    """A date as the form gives it; None for anything else, and for one that no trail has."""
    try:
        found = datetime.fromisoformat(given).replace(tzinfo=UTC)
    except ValueError:
        return None
    return found if 1900 < found.year < 9999 else None  # noqa: PLR2004 - a day more must still be a day
