"""What became of cards: whether people acted on them or put them aside, and why; counted by finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from sqlalchemy import func, select, update

from ..launch.cds_client import Caller
from ..launch.issuers import Issuer
from . import audit, database
from .cds import read_body
from .cds_cards import KNOWN_REASONS, REASONS
from .installation import Installation

MOST_FEEDBACK = 100
LONGEST_COMMENT = 2000


class OverrideReason(msgspec.Struct, frozen=True, rename="camel"):
    """Why, by a code of ours or of the EHR's, or in the person's words."""

    reason: dict[str, Any] | None = None
    user_comment: str | None = None


class Told(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one card (https://cds-hooks.hl7.org/2.0/#feedback)."""

    card: str
    outcome: str
    override_reason: OverrideReason | None = None


class Feedback(msgspec.Struct, frozen=True):
    """What an EHR posts to ``/feedback``."""

    feedback: list[Told]


def take_feedback(here: Installation, caller: Caller, service: str, body: bytes) -> int:
    """Keeps what is told of cards that this EHR was given by this service; how many those were.

    The last word on a card counts. Raises ``msgspec.MsgspecError`` for what is no feedback.
    """
    told = read_body(body, Feedback).feedback[:MOST_FEEDBACK]
    table, now, kept = database.cds_card, here.clock(), 0
    with here.engine.begin() as connection:
        for one in told:
            if one.outcome not in {"accepted", "overridden"}:
                continue
            reason, words = _why(one.override_reason)
            changed = connection.execute(
                update(table)
                .where(
                    table.c.card == one.card,
                    table.c.issuer == caller.issuer.iss,
                    table.c.service == service,
                )
                .values(
                    outcome=one.outcome,
                    reason=reason,
                    sealed=here.vault.seal(words) if words else None,
                    told_at=now,
                )
            )
            if changed.rowcount:
                kept += 1
                audit.record(
                    connection,
                    here.vault,
                    now=now,
                    action="card-feedback",
                    who=caller.cds.iss,
                    issuer=caller.issuer.iss,
                    what={"card": one.card, "outcome": one.outcome, "why": words},
                )
    return kept


def _why(given: OverrideReason | None) -> tuple[str | None, dict[str, str] | None]:
    """One of our codes in clear, and everything that another wrote, which is kept sealed."""
    if given is None:
        return None, None
    reason = given.reason or {}
    system, code = reason.get("system"), reason.get("code")
    ours = system == REASONS and code in KNOWN_REASONS
    words = {
        "system": "" if ours else str(system or "")[:LONGEST_COMMENT],
        "code": "" if ours else str(code or "")[:LONGEST_COMMENT],
        "comment": (given.user_comment or "")[:LONGEST_COMMENT],
    }
    known = str(code) if ours else "other" if reason or given.user_comment else None
    return known, words if any(words.values()) else None


@dataclass(frozen=True, slots=True)
class Overridden:
    """How often cards about one finding were given, and what was heard of them. ``reasons``: code to number."""

    finding: str
    given: int
    accepted: int = 0
    overridden: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


def overridden(here: Installation, issuer: Issuer | None = None) -> tuple[Overridden, ...]:
    """By finding, of the last 90 days, the most often overridden first; of one EHR or of all."""
    table = database.cds_card
    query = select(table.c.finding, table.c.outcome, table.c.reason, func.count().label("number")).group_by(
        table.c.finding, table.c.outcome, table.c.reason
    )
    if issuer is not None:
        query = query.where(table.c.issuer == issuer.iss)
    found: dict[str, Overridden] = {}
    with database.reading(here.engine) as connection:
        for row in connection.execute(query):
            one = found.get(row.finding, Overridden(row.finding, 0))
            over = row.outcome == "overridden"
            reasons = dict(one.reasons)
            if over:
                reasons[row.reason or "none"] = reasons.get(row.reason or "none", 0) + row.number
            found[row.finding] = replace(
                one,
                given=one.given + row.number,
                accepted=one.accepted + (row.number if row.outcome == "accepted" else 0),
                overridden=one.overridden + (row.number if over else 0),
                reasons=reasons,
            )
    return tuple(sorted(found.values(), key=lambda one: (-one.overridden, one.finding)))
