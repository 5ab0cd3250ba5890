"""What is charged for a visit's day already: taken off where it is certain, shown where it is not."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date

from ..core.findings import Finding, Severity, Status
from ..core.visit import AlreadyCharged, Discipline
from .chart import Chart, charged_day
from .procedures import Counted, finding_of
from .site import ChartSettings
from .systems import CHARGE_IDENTIFIER, CHARGED_STATUS, DISCIPLINE_MODIFIERS
from .views import ChargeItem


@dataclass(frozen=True, slots=True)
class ExistingCharge:
    """A ChargeItem that is in the EHR for this visit's day already, whoever entered it."""

    reference: str
    code: str | None
    units: int | None
    status: str | None
    counted: bool  # whether its units are in the visit's already_charged
    identifiers: tuple[str, ...] = ()  # those that only we give out


@dataclass(frozen=True, slots=True)
class Charged:
    """The day's charges: those taken off this visit's units, all that are shown, and what is doubtful."""

    already: tuple[AlreadyCharged, ...]
    shown: tuple[ExistingCharge, ...]
    findings: tuple[Finding, ...]


def charged_before(
    chart: Chart,
    settings: ChartSettings,
    *,
    day: date,
    discipline: Discipline | None,
    disciplines: Collection[Discipline | None],
    known: Collection[Discipline],
    of_day: Collection[Counted],
) -> Charged:
    """What is charged for one of a day's visits.

    ``disciplines`` are those of all its visits here, ``known`` all that the day is documented to have: a
    charge of one of these is that discipline's, and taken off there.
    """
    already: list[AlreadyCharged] = []
    shown: list[ExistingCharge] = []
    findings: list[Finding] = []
    for item in chart.charge_items:
        if item.is_suggestion:  # our own word, waiting for the very review that reads it here
            continue
        on = charged_day(item, settings.time_zone) or (chart.days[0] if len(chart.days) == 1 else None)
        if on not in {day, None}:
            continue
        charged_for = _discipline_of(item, chart, of_day)
        if is_another_disciplines(charged_for, discipline, known):
            continue
        codes = settings.codes_of(item.code)
        doubt = _doubt(item, codes, on, charged_for, disciplines)
        counted = doubt is None and item.status in CHARGED_STATUS
        if doubt and item.status in CHARGED_STATUS | {None}:
            findings.append(
                finding_of(
                    "already-charged",
                    Severity.CRITICAL,
                    f"{item.reference} is a charge of this day that {doubt}; it is not taken off. "
                    "Check in the EHR that nothing is charged twice.",
                    codes,
                    Status.NOT_CHECKED,
                )
            )
        if counted and item.units is not None:
            group = settings.groups.get(chart.bare(item.performing_organization) or "")
            tin, specialty = (group.tin, group.specialty) if group else (None, None)
            already.append(AlreadyCharged(codes[0], item.units, tin, specialty))
        shown.append(
            ExistingCharge(
                item.reference,
                codes[0] if len(codes) == 1 else None,
                item.units,
                item.status,
                counted,
                tuple(sorted(item.values_under(CHARGE_IDENTIFIER))),
            )
        )
    return Charged(tuple(already), tuple(shown), tuple(findings))


def is_another_disciplines(
    charged_for: Discipline | None, discipline: Discipline | None, known: Collection[Discipline]
) -> bool:
    """Whether a charge for one discipline is certainly not of the day's visit of this ``discipline``.

    Of a visit whose discipline is not known, only where the day has a visit of the charge's own (``known``).
    """
    another = charged_for is not None and charged_for != discipline
    return another and (discipline is not None or charged_for in known)


def _doubt(
    item: ChargeItem,
    codes: tuple[str, ...],
    on: date | None,
    charged_for: Discipline | None,
    disciplines: Collection[Discipline | None],
) -> str | None:
    """Why a charge cannot be taken off the units; None where it can."""
    if item.may_mean_otherwise:
        return "carries a qualification that we do not know"
    if len(codes) != 1:
        return "has no single billing code"
    if item.units is None or item.units < 0:
        return "has no whole number of units"
    if on is None:
        return "has no date"
    if charged_for is None and len(disciplines) > 1:
        return "does not say for which discipline it is"
    return None


def _discipline_of(item: ChargeItem, chart: Chart, of_day: Iterable[Counted]) -> Discipline | None:
    """By its modifier, else by the Procedures it names, else by those of its encounter."""
    for discipline, modifier in DISCIPLINE_MODIFIERS.items():
        if modifier in item.modifiers:
            return discipline
    services = {chart.bare(service) for service in item.service or ()}
    named = {one.discipline for one in of_day if one.procedure.reference in services}
    if len(named) == 1:
        return named.pop()
    context = chart.bare(item.context)
    of_encounter = {
        one.discipline for one in of_day if context and chart.bare(one.procedure.encounter) == context
    }
    return of_encounter.pop() if len(of_encounter) == 1 else None
