"""The checks made on a visit once its units are counted.

A check takes the ``Day`` and gives ``None`` where the policy does not ask for it, an empty tuple where
it was made and found nothing, and findings otherwise: a failure, or that it could not be made and why.
Checks change no units and do not stop each other. ``suggestion`` joins the ``CHECKS`` of every
``checks_*`` module and makes them in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .findings import Finding
from .lines import Line
from .policy import InForce
from .visit import Service, Visit

if TYPE_CHECKING:
    from .assistants import Split
    from .codes import Code, CodeTable
    from .edits import Edits
    from .units import Count

Check = Callable[["Day"], tuple[Finding, ...] | None]


@dataclass(frozen=True, slots=True)
class Day:
    """What a check may look at: the visit, and what was counted from it.

    Mappings by code keep the order of first appearance. An add-on code that the counting gave units
    (97130 from the minutes of 97129) is among ``units`` and ``known`` though no service names it.
    """

    visit: Visit
    terms: InForce
    codes: CodeTable
    edits: Edits
    known: Mapping[str, Code | None]  # the table's entry on the date of service; None: not in the table
    services: Mapping[str, tuple[Service, ...]]  # as documented, by code
    lines: tuple[Line, ...]
    units: Mapping[str, int]  # the day's units by code, ties not yet placed
    minutes: Mapping[str, int | None]  # whole minutes by documented code, assistant's included; None: unknown
    assistant_minutes: Mapping[str, int]  # the assistant's alone, by documented code
    charged: Mapping[str, int]  # units that this group already charged on the date, by code
    tied: tuple[str, ...]  # the codes that share ``tied_units``
    tied_units: int
    timed_minutes: int | None  # of all codes timed by the day; None where some are unknown
    timed_units: int | None  # the same codes' units, ties included
    treatment_minutes: int | None  # as documented, else the sum of all services; None where unknown
    count: Count  # how the units came about
    splits: Mapping[str, Split]  # the units of each code that an assistant furnished in part
