"""Who performed a service: which discipline, therapist or assistant, and how we know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from ..core.visit import Discipline
from .chart import Chart
from .moments import outside
from .site import ChartSettings
from .systems import NUCC
from .views import CodeableConcept, PractitionerRole, ProcedurePerformer, name_of

LONGEST_NAME = 60

# NUCC Health Care Provider Taxonomy (https://taxonomy.nucc.org) by its first characters, longest first.
# UNVERIFIED: from the field notes, not compared with NUCC's current list. A specialised therapist's code
# (2251X0800X, orthopedic) begins like the general one.
_TAXONOMY: dict[str, tuple[Discipline, bool]] = {
    "2251": (Discipline.PT, False),
    "2252": (Discipline.PT, True),
    "225X": (Discipline.OT, False),
    "224Z": (Discipline.OT, True),
    "235Z": (Discipline.SLP, False),
}


@dataclass(frozen=True, slots=True)
class Performer:
    """``discipline`` and ``assistant`` are None where nothing says, or where the sources disagree.

    ``not_in_force`` are roles that would have said something else, and why each does not count for the day.
    """

    reference: str | None
    discipline: Discipline | None = None
    assistant: bool | None = None
    name: str | None = None  # as the chart shows it; for people, nothing is decided by it
    not_in_force: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """The name with the reference, the one of them that is known, or neither."""
        if self.name and self.reference:
            return f"{self.name} ({self.reference})"
        return self.name or self.reference or "a performer"


def performer_from(
    performer: ProcedurePerformer, chart: Chart, settings: ChartSettings, day: date
) -> Performer:
    """By the site's map, else by the function on the Procedure itself, else by PractitionerRole.

    A role counts on the days of its period: who was an assistant then may be a therapist now.
    """
    reference = chart.bare(performer.actor)
    name = _name_of(performer, reference, chart)
    facts = settings.practitioners.get(reference or "")
    if facts:
        return Performer(reference, facts.discipline, facts.assistant, name)
    known = by_taxonomy([performer.function] if performer.function else [])
    not_in_force: tuple[str, ...] = ()
    if not known:
        by_role = {
            role.reference: (by_taxonomy([*(role.code or ()), *(role.specialty or ())]), why_not)
            for role in chart.roles
            if role.active is not False and not role.may_mean_otherwise and _is_of(role, reference, chart)
            for why_not in [role_outside(role, day, settings.time_zone)]
        }
        known = {fact for facts, why_not in by_role.values() if why_not is None for fact in facts}
        not_in_force = tuple(
            f"{role} {why_not}" for role, (facts, why_not) in by_role.items() if why_not and facts - known
        )
    disciplines = {discipline for discipline, _ in known}
    assistants = {assistant for _, assistant in known}
    return Performer(
        reference,
        disciplines.pop() if len(disciplines) == 1 else None,
        assistants.pop() if len(assistants) == 1 else None,
        name,
        not_in_force,
    )


def role_outside(role: PractitionerRole, day: date, zone: ZoneInfo) -> str | None:
    """Why a role does not count for a day; None where it does. One whose period is not certain does not."""
    return outside(role.period.start, role.period.end, day, zone) if role.period else None


def _name_of(performer: ProcedurePerformer, reference: str | None, chart: Chart) -> str | None:
    """From where it was read anyway: the reference's own words, the visit's participants, the person signed in.

    A display is text of the EHR's for exactly this (https://hl7.org/fhir/R4/references.html#Reference).
    """
    seen = [performer.actor, *(one.individual for one in chart.encounter.participant or ())]
    words = [one.display for one in seen if one is not None and chart.bare(one) == reference]
    if chart.user is not None and reference == chart.user.reference:
        words.append(name_of(chart.user))
    if reference is None and performer.actor is not None:
        words.append(performer.actor.display)
    shown = ("".join(letter for letter in said or "" if letter.isprintable()) for said in words)
    return next((" ".join(said.split())[:LONGEST_NAME] for said in shown if said.strip()), None)


def _is_of(role: PractitionerRole, reference: str | None, chart: Chart) -> bool:
    return reference is not None and reference in {role.reference, chart.bare(role.practitioner)}


def by_taxonomy(concepts: Iterable[CodeableConcept]) -> set[tuple[Discipline, bool]]:
    """Discipline and whether an assistant, of each NUCC code that we know."""
    return {
        _TAXONOMY[coding.code[:4]]
        for concept in concepts
        for coding in concept.codings
        if coding.system in NUCC and coding.code and coding.code[:4] in _TAXONOMY
    }
