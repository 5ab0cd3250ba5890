"""The patient's recent encounters, for a launch that came without one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from .moments import moment
from .server import Server
from .site import ChartSettings
from .views import Encounter, bare, resources

BACK = timedelta(days=30)  # a visit is charged within days; an older one is opened from the EHR
MOST = 25
_NO_VISIT = frozenset({"planned", "cancelled", "entered-in-error"})


@dataclass(frozen=True, slots=True)
class RecentEncounter:
    """One encounter to choose. ``at`` is its start in the zone of the place of service, if it says a time."""

    id: str
    day: date | None
    at: datetime | None
    people: tuple[str, ...]  # who took part, as the EHR displays them


@dataclass(frozen=True, slots=True)
class RecentEncounters:
    """Newest first, those without a time last. ``left_out`` could not be read, or are not the patient's."""

    encounters: tuple[RecentEncounter, ...]
    left_out: int


def recent_encounters(
    server: Server, *, patient: str, settings: ChartSettings, now: datetime
) -> RecentEncounters:
    """What can be chosen from. ``patient`` is an id. Raises ``EhrError``.

    Searched by patient and date, which every EHR of the vendor table can; sorted here, which not every can.
    """
    today = now.astimezone(settings.time_zone).date()
    dates = [f"ge{today - BACK}", f"le{today + timedelta(days=1)}"]
    asked = {"patient": patient, "date": dates, "_count": str(settings.page_size)}
    found, unread = resources(server.search("Encounter", asked), Encounter)
    theirs = [each for each in found if bare(each.subject, server.base_uri) == f"Patient/{patient}"]
    choices = sorted(
        (_choice(each, settings) for each in theirs if each.status not in _NO_VISIT),
        key=lambda each: (each.day or date.min, each.at.timestamp() if each.at else 0.0),
        reverse=True,
    )
    return RecentEncounters(tuple(choices[:MOST]), left_out=len(unread) + len(found) - len(theirs))


def _choice(encounter: Encounter, settings: ChartSettings) -> RecentEncounter:
    started = moment(encounter.period.start if encounter.period else None, settings.time_zone)
    people = (each.individual.display for each in encounter.participant or () if each.individual)
    return RecentEncounter(
        id=(encounter.reference or "").removeprefix("Encounter/"),
        day=started.day if started else None,
        at=started.at.astimezone(settings.time_zone) if started and started.at else None,
        people=tuple(dict.fromkeys(name for name in people if name)),
    )
