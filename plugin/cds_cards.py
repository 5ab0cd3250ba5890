"""The cards themselves: what waits of a patient, and what is near or above a limit; from what is known here.

Nothing here asks an EHR or the database (https://cds-hooks.hl7.org/2.0/#card-attributes).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import msgspec

from ..core.codes import CodeTable
from ..core.findings import Severity
from ..core.policy import InForce, Term
from ..fhir.systems import APP
from ..launch.context import FHIR_ID, app_context
from .presenters import short_date
from .worklist import Standing, Summary, services_in

UNREVIEWED = "unreviewed-units"
KX = "kx-threshold"
AUTHORIZATION = "authorization-needed"

TOPICS = "https://quarterhour.org/cds/topic"
REASONS = "https://quarterhour.org/cds/override-reason"
MOST_LINKS = 5
NEAR = Decimal("0.8")  # of a threshold: from there on a card says how much is left
VISITS_LEFT = 2  # as many visits before an authorization is needed


class Coding(msgspec.Struct, frozen=True):
    system: str
    code: str
    display: str


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    label: str
    topic: Coding
    url: str | None = None


class Link(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    label: str
    url: str
    type: str
    app_context: str | None = None


class Card(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """https://cds-hooks.hl7.org/2.0/#card-attributes. ``indicator`` is never critical: no one is in danger."""

    uuid: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))
    summary: str
    indicator: str
    detail: str
    source: Source
    override_reasons: tuple[Coding, ...]
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """A card with the ids of the findings that it is about."""

    card: Card
    findings: tuple[str, ...]


def _reasons(*codes: tuple[str, str]) -> tuple[Coding, ...]:
    return tuple(Coding(REASONS, code, display) for code, display in codes)


NOT_NOW = (
    ("later", "Will be done later"),
    ("not-mine", "Somebody else does this"),
    ("not-right", "What the card says is not right"),
)
WHY_NOT_REVIEWED = _reasons(("charged-elsewhere", "Charged in another way"), *NOT_NOW)
WHY_NOT_HEEDED = _reasons(("taken-care-of", "Already taken care of"), *NOT_NOW)
KNOWN_REASONS = frozenset(reason.code for reason in (*WHY_NOT_REVIEWED, *WHY_NOT_HEEDED))


@dataclass(frozen=True, slots=True)
class Known:
    """A visit of the patient, as the worklist has it. ``waits``: nobody has signed what is suggested."""

    summary: Summary
    waits: bool = False
    late: bool = False


# --- units that nobody has reviewed -----------------------------------------------------------------------


def waiting_card(known: Iterable[Known], launch_url: str, encounter: str | None = None) -> list[Given]:
    """One card for all visits that wait, with a link to each, the visit that is open in the EHR first."""
    waiting = [one for one in known if one.waits]
    waiting.sort(key=lambda one: one.summary.encounter != f"Encounter/{encounter}")  # else as they were
    if not waiting:
        return []
    late = sum(one.late for one in waiting)
    findings = dict.fromkeys(finding for one in waiting for finding in one.summary.findings)
    visits = "1 visit has" if len(waiting) == 1 else f"{len(waiting)} visits have"
    summary = f"{visits} therapy units that nobody has reviewed" + (f", {late} of them late" if late else "")
    lines = [f"- {_told(one)}" for one in waiting[:MOST_LINKS]]
    if len(waiting) > MOST_LINKS:
        lines.append(f"- and {len(waiting) - MOST_LINKS} more, on Quarterhour's worklist")
    weighty = late or any(severity is not Severity.INFO for _, severity in findings)
    card = Card(
        summary=f"{summary}.",
        indicator="warning" if weighty else "info",
        detail="\n".join([*lines, "", "Nothing is charged before somebody signs it off."]),
        source=Source(APP, Coding(TOPICS, UNREVIEWED, "Units to review")),
        override_reasons=WHY_NOT_REVIEWED,
        links=tuple(_link(one.summary, launch_url) for one in waiting[:MOST_LINKS]),
    )
    return [Given(card, (UNREVIEWED, *dict.fromkeys(id_ for id_, _ in findings)))]


def _named(summary: Summary) -> str:
    day = short_date(summary.date_of_service) if summary.date_of_service else "a visit without a date"
    return f"{day}, {summary.discipline}" if summary.discipline else day


def _told(one: Known) -> str:
    units = one.summary.units
    said = "the policy is still to be chosen" if units is None else f"{_many(units, 'unit')} suggested"
    findings = f", {_many(len(one.summary.findings), 'finding')} to weigh" if one.summary.findings else ""
    return f"{_named(one.summary)}: {said}{findings}{', late' if one.late else ''}"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _link(summary: Summary, launch_url: str) -> Link:
    encounter = (summary.encounter or "").removeprefix("Encounter/")
    carried = app_context(encounter) if FHIR_ID.fullmatch(encounter) else None
    return Link(f"Review {_named(summary)}", launch_url, "smart", carried)


# --- thresholds and authorizations ------------------------------------------------------------------------


def kx_cards(known: Iterable[Known], terms: InForce) -> Iterator[Given]:
    """How much of a year's KX threshold is used, where somebody entered an amount: at or near it.

    An amount is as somebody knew it before a visit; later ones are not in it, and the card says so.
    """
    buckets, limit = terms.get("kx_buckets"), terms.get("kx_amount")
    if buckets is None or limit is None or buckets.value is None or limit.value is None:
        return
    newest: dict[str, Summary] = {}
    for summary in _of_year(known, terms.on):
        bucket = buckets.value.get(str(summary.discipline)) if summary.discipline else None
        if bucket is not None and summary.history.therapy_amount is not None:
            newest.setdefault(bucket, summary)
    for bucket, summary in newest.items():
        amount, day = summary.history.therapy_amount, summary.date_of_service
        if amount is None or day is None or amount < NEAR * limit.value:
            continue
        above = amount > limit.value
        where = "is above" if above else "is near"
        yield Given(
            Card(
                summary=f"{bucket}: {_dollars(amount)} this year {where} the KX threshold, "
                f"{_dollars(limit.value)}.",
                indicator="warning" if above else "info",
                detail=f"The amount was entered at the visit of {short_date(day)}; what was done since is not "
                "in it. Above the threshold lines without KX are denied; KX says that the services are "
                f"medically necessary.\n\n{_cited(limit)}",
                source=_source(limit, KX, "KX threshold"),
                override_reasons=WHY_NOT_HEEDED,
            ),
            (KX,),
        )


def authorization_card(
    known: Iterable[Known], terms: InForce, codes: CodeTable, booked: int
) -> Iterator[Given]:
    """Whether the visits to come need an authorization, by the treatment visits of this year so far."""
    free = terms.get("treatment_visits_without_authorization")
    if free is None or free.value is None:
        return
    year = _of_year(known, terms.on)
    days = sorted(
        {one.date_of_service for one in year if one.date_of_service and _is_treatment(one, terms, codes)}
    )
    entered = next((one for one in year if one.history.treatment_visits is not None), None)
    if entered is not None and entered.date_of_service is not None:
        before = (entered.history.treatment_visits or 0) + (entered.history.treatment_visits_elsewhere or 0)
        since = [day for day in days if day >= entered.date_of_service]
        so_far = before + len(since)
        counted = (
            f"{before} as entered at the visit of {short_date(entered.date_of_service)}, and "
            f"{len(since)} from then on."
        )
    else:
        so_far = len(days)
        counted = "Those that Quarterhour knows."
    if entered is None or entered.history.treatment_visits_elsewhere is None:
        counted += " Visits at other providers are not known, and count too."
    needed = so_far + booked > free.value
    if not needed and free.value - so_far > VISITS_LEFT:
        return
    then = "an authorization is needed" if needed else f"{free.value - so_far} left"
    coming = "with the next one" if booked == 1 else f"with the {booked} being booked"
    yield Given(
        Card(
            summary=f"{_many(so_far, 'treatment visit')} this year, {free.value} without authorization: "
            + (f"{coming} {then}." if needed else f"{then}."),
            indicator="warning" if needed else "info",
            detail=f"{counted}\n\n{_cited(free)}",
            source=_source(free, AUTHORIZATION, "Authorization"),
            override_reasons=WHY_NOT_HEEDED,
        ),
        (AUTHORIZATION,),
    )


def _of_year(known: Iterable[Known], on: date) -> list[Summary]:
    """The visits of the calendar year so far, the newest first, without those that are none any more."""
    return [
        one.summary
        for one in known
        if one.summary.date_of_service is not None
        and one.summary.date_of_service.year == on.year
        and one.summary.date_of_service <= on
        and one.summary.standing not in {Standing.GONE, Standing.UNREAD, Standing.UNDOCUMENTED}
    ]


def _is_treatment(summary: Summary, terms: InForce, codes: CodeTable) -> bool:
    """A visit with nothing but an initial evaluation is no treatment visit."""
    done = services_in(summary.chart)
    named = terms.get("initial_evaluation_codes")
    if named is not None:
        return not done or not set(done) <= set(named.value or ())
    known = [codes.on(code, terms.on) for code in done]
    return not done or any(code is None or code.kind != "evaluation" for code in known)


def _dollars(amount: Decimal) -> str:
    return f"${amount:,.2f}"


def _cited(term: Term) -> str:
    return f"[{term.citation.title}, {term.citation.section}]({term.citation.url})"


def _source(term: Term, topic: str, display: str) -> Source:
    return Source(APP, Coding(TOPICS, topic, display), term.citation.url)
