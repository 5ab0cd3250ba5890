"""A visit: what was done for one patient on one date of service in one discipline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum


class Discipline(StrEnum):
    """The plan of care a service belongs to; each has its own modifier and its own minutes."""

    PT = "PT"
    OT = "OT"
    SLP = "SLP"


class Setting(StrEnum):
    """Which half of the edit files applies: the practitioner's or the outpatient hospital's."""

    PRACTITIONER = "practitioner"
    OUTPATIENT_HOSPITAL = "outpatient-hospital"


class PhaseOfCare(StrEnum):
    """Whether the visit falls into the initial phase of care, as some payers ask."""

    INITIAL = "initial"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Service:
    """One service as it was documented.

    Minutes are whole. A timed code with neither ``minutes`` nor ``start`` and ``end`` has unknown
    minutes, never zero. ``reference`` says where the service was read from; ``core`` only carries it.
    """

    code: str
    minutes: int | None = None  # the therapist's own
    assistant_minutes: int = 0  # by the assistant alone, on top of the therapist's
    concurrent_minutes: int = 0  # both together: these count as the therapist's
    units: int | None = None  # for an untimed service performed more than once
    start: datetime | None = None
    end: datetime | None = None
    performer: str | None = None
    condition: str | None = None
    documentation: tuple[str, ...] | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class AlreadyCharged:
    """Units charged on the same date before now; without a TIN and specialty, by this group."""

    code: str
    units: int
    tin: str | None = None
    specialty: str | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """The billing group: a payer may count by tax identification number and specialty."""

    tin: str | None = None
    specialty: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """This calendar year, as far as it is known. ``None`` is unknown, never zero."""

    evaluations: int | None = None
    treatment_visits: int | None = None
    treatment_visits_elsewhere: int | None = None
    referral_on_file: bool | None = None
    therapy_amount: Decimal | None = None  # allowed so far in this discipline's KX bucket


@dataclass(frozen=True, slots=True)
class Contract:
    """What only the provider agreement says; amounts in dollars."""

    daily_maximum: Decimal | None = None
    amounts: Mapping[str, Decimal] = field(default_factory=dict)  # allowed per unit, by code
    successors_of_deleted_codes: bool | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """One patient, one date of service, one discipline, one billing group."""

    date_of_service: date  # in the place of service
    discipline: Discipline | None  # None: not known, so nobody's modifier is put on
    services: tuple[Service, ...]  # every known service of the day, those already charged included
    id: str = ""
    setting: Setting = Setting.PRACTITIONER
    provider: Provider = Provider()
    already_charged: tuple[AlreadyCharged, ...] = ()
    phase_of_care: PhaseOfCare | None = None
    total_treatment_minutes: int | None = None
    history: History = History()
    contract: Contract = field(default_factory=Contract)
    modifiers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # already put on, by code
