"""From minutes to units: the counting rules, each as its policy words it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

from .lines import Reason
from .policy import Citation, InForce
from .visit import Service, Visit

if TYPE_CHECKING:
    from .codes import Code, CodeTable

MINUTE = timedelta(minutes=1)
NO_TIME = timedelta()

TOGETHER = "total-timed-minutes"  # the word of the rule under which one code's minutes touch another's units
RULES = {TOGETHER: "cms-8-minute", "each-code-alone": "ama-midpoint"}
"""The public name of each word that a policy's ``counting`` may have."""

WAYS_LISTED = 1000
"""More ways than these to settle a tie are not written out one by one; the tie itself always is."""


# ---- minutes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Documented:
    """What a visit documents for one code, all its services of the day together."""

    code: str
    entry: Code | None  # None: not in the table
    services: tuple[Service, ...]
    therapist_minutes: int | None  # minutes with the assistant at the same time included; None: unknown
    assistant_minutes: int

    @property
    def minutes(self) -> int | None:
        """All minutes, or None where some of them are not known."""
        return None if self.therapist_minutes is None else self.therapist_minutes + self.assistant_minutes


def documented(visit: Visit, codes: CodeTable) -> dict[str, Documented]:
    """The visit's services by code, in order of first appearance.

    Times are added to the second and made whole minutes once a code, downwards. A service with neither
    minutes nor both times leaves the minutes of its code unknown.
    """
    by_code: dict[str, list[Service]] = {}
    for service in visit.services:
        by_code.setdefault(service.code, []).append(service)
    on = visit.date_of_service
    found: dict[str, Documented] = {}
    for code, services in by_code.items():
        therapist, assistant = _minutes_of(services, on)
        found[code] = Documented(code, codes.on(code, on), tuple(services), therapist, assistant)
    return found


def _minutes_of(services: Iterable[Service], on: date) -> tuple[int | None, int]:
    """Whole minutes by the therapist, or None where some are not known, and by the assistant alone."""
    therapist, assistant, by_clock, known = 0, 0, NO_TIME, True
    for service in services:
        assistant += service.assistant_minutes
        therapist += service.concurrent_minutes
        if service.minutes is not None:
            therapist += service.minutes
            continue
        time = clock_time(service, on)
        if time is None:
            known = False
        else:
            by_clock += time
    if not known:
        return None, assistant
    return therapist + by_clock // MINUTE, assistant


def clock_time(service: Service, on: date) -> timedelta | None:
    """The time from start to end that lies on the date of service; None where a time is missing.

    The offset of a time is taken for the place of service's, so that what lies before or after midnight
    belongs to another calendar day. Times in UTC say nothing about the place: they are taken whole, and
    ``outside-date-of-service`` says that the day could not be checked.
    """
    start, end = service.start, service.end
    if start is None or end is None:
        return None
    # Two times of one zone subtract by the clock on the wall, which is an hour wrong on two days a year.
    first, last = start.astimezone(UTC), end.astimezone(UTC)
    if last < first:
        return None
    if start.date() == on == end.date():
        return last - first
    if not in_utc(start) and not in_utc(end):
        midnight = datetime.combine(on, datetime.min.time())
        first = max(first, midnight.replace(tzinfo=start.tzinfo).astimezone(UTC))
        last = min(last, (midnight + timedelta(days=1)).replace(tzinfo=end.tzinfo).astimezone(UTC))
    return max(last - first, NO_TIME)


def in_utc(time: datetime) -> bool:
    """Whether a time is written without saying where: at no offset from UTC."""
    return not time.utcoffset()


# ---- units ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnitTerms:
    """How many minutes a unit has, how many the last one needs, and who says so."""

    unit_minutes: int
    minimum_minutes: int
    source: Citation


def units_in(minutes: int, terms: UnitTerms) -> int:
    """A unit for every full 15 minutes, and one more for a remainder of 8 or over.

    Medicare Claims Processing Manual chapter 5 §20.2.C; the 15 and the 8 are the policy's.
    """
    full_units, remainder = divmod(minutes, terms.unit_minutes)
    return full_units + (remainder >= terms.minimum_minutes)


@dataclass(frozen=True, slots=True)
class Allocation:
    """Units by code; those that the rule leaves to the professional are ``tied``, and not among them."""

    units: dict[str, int]
    tied: tuple[str, ...]
    tied_units: int
    because: dict[str, list[Reason]]

    def settled(self, chosen: Collection[str]) -> Allocation:
        """The allocation with the tied units given to the codes that the clinician chose."""
        units = {code: given + (code in chosen) for code, given in self.units.items()}
        because = dict(self.because)
        for code in self.tied:
            took = "takes one of the tied units" if code in chosen else "takes none of the tied units"
            reasons = because[code]
            because[code] = [*reasons, Reason(f"The clinician chose: {code} {took}.", reasons[-1].source)]
        return Allocation(units, (), 0, because)


def by_total(minutes: Mapping[str, int], terms: UnitTerms) -> Allocation:
    """The total of timed minutes decides how many units; full units first, then the largest remainders.

    Where remainders are equal the manual says to bill either: that is a tie, never a sort order
    (Medicare Claims Processing Manual chapter 5 §20.2.C, examples 1 to 4).
    """
    total_minutes = sum(minutes.values())
    total = units_in(total_minutes, terms)
    full = {code: spent // terms.unit_minutes for code, spent in minutes.items()}
    remainder = {code: spent % terms.unit_minutes for code, spent in minutes.items()}
    left = total - sum(full.values())
    last = sorted(remainder.values(), reverse=True)[left - 1] if left else 0
    winners = [code for code in remainder if left and remainder[code] > last]
    level = [code for code in remainder if left and remainder[code] == last]
    open_units = left - len(winners)
    if len(level) == open_units:
        winners, level, open_units = winners + level, [], 0
    units = {code: full[code] + (code in winners) for code in minutes}
    sums = Reason(_total_says(list(minutes.values()), total_minutes, total, terms), terms.source)
    because = {
        code: [
            sums,
            Reason(
                _share_says(code, minutes[code], remainder, winners, level, open_units, terms), terms.source
            ),
        ]
        for code in minutes
    }
    return Allocation(units, tuple(level), open_units, because)


def by_code(minutes: Mapping[str, int], terms: UnitTerms) -> Allocation:
    """Each code by its own minutes, from the midpoint of a unit on; what remains is not combined."""
    units = {code: units_in(spent, terms) for code, spent in minutes.items()}
    because = {
        code: [Reason(f"{_minutes(spent)} of {code} alone; {_range_says(units[code], terms)}.", terms.source)]
        for code, spent in minutes.items()
    }
    return Allocation(units, (), 0, because)


COUNTING: Mapping[str, Callable[[Mapping[str, int], UnitTerms], Allocation]] = {
    TOGETHER: by_total,
    "each-code-alone": by_code,
}


# ---- codes that are not plain 15 minutes -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Family:
    """A first code and its add-on, or a single code, counted by thresholds of its own."""

    first: Code
    addon: Code | None

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes that its units are spread over."""
        return (self.first.code,) if self.addon is None else (self.first.code, self.addon.code)

    @property
    def base_minutes(self) -> int:
        """Minutes of the first unit."""
        return self.first.base_minutes or 0

    @property
    def addl_minutes(self) -> int | None:
        """Minutes of each further unit; None where there is only one."""
        return self.addon.base_minutes if self.addon is not None else self.first.addl_minutes

    @property
    def first_needs(self) -> int:
        """Minutes from which there is a first unit; all of them where no source gives a threshold."""
        return self.first.minimum_minutes or self.base_minutes

    @property
    def further_needs(self) -> int | None:
        """Minutes beyond full units from which there is one more; None where there is only one unit."""
        addl = self.addl_minutes
        if self.addon is None:
            return None if addl is None else self.first.minimum_minutes or addl
        known = self.addon.minimum_minutes
        return addl if known is None else known - self.base_minutes

    @property
    def monthly(self) -> bool:
        """Whether its minutes are those of the calendar month rather than the day."""
        return self.first.kind == "monthly-time"

    @property
    def in_equal_units(self) -> bool:
        """Whether first and further units have the same length, so that only the code differs."""
        return self.base_minutes == self.addl_minutes

    def units_in(self, minutes: int) -> int:
        """The first unit from its threshold, each further one from its own."""
        if minutes < self.first_needs:
            return 0
        addl, needs = self.addl_minutes, self.further_needs
        further = minutes - self.base_minutes
        if addl is None or needs is None or further < 0:
            return 1
        full, remainder = divmod(further, addl)
        return 1 + full + (remainder >= needs)

    def units_at_midpoint(self, minutes: int) -> int:
        """What the general midpoint rule of CPT would give where no threshold of its own is known."""
        if 2 * minutes <= self.base_minutes:
            return 0
        addl, further = self.addl_minutes, minutes - self.base_minutes
        if addl is None or further < 0:
            return 1
        full, remainder = divmod(further, addl)
        return 1 + full + (2 * remainder > addl)

    @property
    def threshold_known(self) -> bool:
        """Whether a source gives the minutes at which a started unit counts."""
        return self.first.minimum_minutes is not None

    def spread(self, units: int) -> dict[str, int]:
        """The units of its codes: one for the first, the rest for the add-on."""
        if self.addon is None:
            return {self.first.code: units}
        return {self.first.code: min(1, units), self.addon.code: max(0, units - 1)}


def family_of(entry: Code, codes: CodeTable, on: date) -> Family:
    """The family that a timed code belongs to whose units are not plain ones."""
    first = codes.on(entry.addon_of, on) if entry.addon_of else None
    if first is None:
        first = entry
    addon = codes.on(first.addon_code, on) if first.addon_code else None
    return Family(first, addon)


# ---- a visit -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """The day's units by code, and what was left open.

    ``units`` holds every documented code and every add-on that was given units; ``line_minutes`` shares
    a family's minutes among its codes. Families are by their first code.
    """

    units: dict[str, int]
    line_minutes: dict[str, int | None]
    because: dict[str, list[Reason]]
    families: dict[str, Family]
    family_minutes: dict[str, tuple[int, int]]  # by the therapist, by the assistant
    assistant_minutes: dict[str, int]  # by documented code
    tied: tuple[str, ...]
    tied_units: int
    timed_minutes: int | None
    timed_units: int | None
    pooled_minutes: int | None  # those that the counting rule took together or one code at a time
    pooled_units: int | None

    @property
    def ways_in_all(self) -> int:
        """How many ways there are to settle the tie, written out or not; 1 where nothing is tied."""
        return comb(len(self.tied), self.tied_units)

    def ways(self) -> tuple[dict[str, int], ...]:
        """Every way to settle the tie: the day's units of each code that has any.

        Empty where nothing is tied, and where there are more than ``WAYS_LISTED``.
        """
        if not self.tied or self.ways_in_all > WAYS_LISTED:
            return ()
        return tuple(
            {code: units for code, units in self._with(chosen).items() if units}
            for chosen in combinations(self.tied, self.tied_units)
        )

    def billed_as(self, code: str) -> str:
        """The code that a tied code's unit would stand under: a pair's add-on once the first has its unit."""
        return next(
            billed for billed, units in self._with((code,)).items() if units != self.units.get(billed, 0)
        )

    def chosen_by(self, choice: Mapping[str, int]) -> tuple[str, ...]:
        """The tied codes that take one of the units, as the clinician chose.

        ``choice`` gives the day's units of the tied codes, and may give those of others.
        Raises ``ValueError`` where it is none of the ways.
        """
        given = tuple(code for code in self.tied if self._chosen(code, choice))
        units = self._with(given)
        wrong = [code for code, wanted in choice.items() if units.get(code, 0) != wanted]
        if wrong or len(given) != self.tied_units:
            among = ", ".join(self.tied) or "no code"
            raise ValueError(
                f"{self.tied_units} tied units are to be shared among {among}, one each at most."
            )
        return given

    def _chosen(self, code: str, choice: Mapping[str, int]) -> bool:
        members = self.families[code].codes if code in self.families else (code,)
        return sum(choice.get(member, 0) for member in members) > sum(
            self.units.get(member, 0) for member in members
        )

    def _with(self, chosen: tuple[str, ...]) -> dict[str, int]:
        units = dict(self.units)
        for code in chosen:
            family = self.families.get(code)
            if family is None:
                units[code] += 1
            else:
                units.update(family.spread(1 + sum(units.get(member, 0) for member in family.codes)))
        return units


def count(
    visit: Visit,
    services: Mapping[str, Documented],
    terms: InForce,
    codes: CodeTable,
    chosen: Collection[str] | None = None,
) -> Count:
    """The day's units of every code, counted as the policy says.

    ``chosen`` are the tied codes that take a unit, where the clinician settled the tie.
    Raises ``NotInForce`` where the policy has no counting rule on the date of service.
    """
    on = visit.date_of_service
    counting = terms["counting"]
    rule = UnitTerms(terms["unit_minutes"].value, terms["minimum_minutes"].value, counting.citation)
    plain: dict[str, int] = {}
    families: dict[str, Family] = {}
    unknown: list[str] = []
    for code, service in services.items():
        entry = service.entry
        if entry is None or not entry.timed:
            continue
        family = None if entry.pools else family_of(entry, codes, on)
        if family is not None:
            families[family.first.code] = family
        if service.minutes is None:
            unknown.append(code)
        elif family is None:
            plain[code] = service.minutes
    counts = _Counts(services, rule, terms, together=counting.value == TOGETHER)
    counts.add_families(families, plain)
    allocation = COUNTING[counting.value](plain, rule)
    if chosen is not None:
        allocation = allocation.settled(chosen)
    counts.add_plain(allocation, plain)
    counts.add_others(unknown)
    return counts.result(allocation, plain, unknown)


class _Counts:
    """A ``Count`` being made."""

    def __init__(
        self, services: Mapping[str, Documented], rule: UnitTerms, terms: InForce, *, together: bool
    ) -> None:
        self.services = services
        self.rule = rule
        self.terms = terms
        self.together = together
        self.units: dict[str, int] = {}
        self.line_minutes: dict[str, int | None] = {}
        self.because: dict[str, list[Reason]] = {}
        self.families: dict[str, Family] = {}
        self.pooled: dict[str, Family] = {}  # by their first code, under a policy that pools them
        self.family_minutes: dict[str, tuple[int, int]] = {}
        self.own_minutes = 0  # of families counted by the day
        self.own_units = 0

    def add_families(self, families: Mapping[str, Family], plain: dict[str, int]) -> None:
        """Counts families by their own thresholds; those that the policy pools join ``plain``."""
        for first, family in families.items():
            self.families[first] = family
            parts = [self.services[code] for code in family.codes if code in self.services]
            therapist, assistant = 0, 0
            for part in parts:
                if part.therapist_minutes is None:
                    break
                therapist += part.therapist_minutes
                assistant += part.assistant_minutes
            else:
                self.family_minutes[first] = (therapist, assistant)
                if self._pools(family):
                    plain[first] = therapist + assistant
                    self.pooled[first] = family
                else:
                    self._add_family(family, therapist + assistant)

    def _pools(self, family: Family) -> bool:
        if not family.in_equal_units or family.base_minutes != self.rule.unit_minutes:
            return False
        pooled = self.terms.get("pooled_time_families")
        return pooled is not None and family.first.code in pooled.value

    def _add_family(self, family: Family, minutes: int) -> None:
        units = family.units_in(minutes)
        self._place(
            family, units, minutes, [Reason(_family_says(family, minutes, units), family.first.citation)]
        )
        if not family.monthly:
            self.own_minutes += minutes
            self.own_units += units

    def _place(self, family: Family, units: int, minutes: int, because: list[Reason]) -> None:
        placed = {
            code: given
            for code, given in family.spread(units).items()
            if given or code in self.services or code in self.pooled
        }
        as_documented = all(code in self.services for code in placed)
        for code, given in placed.items():
            self.units[code] = given
            self.because[code] = because
            if as_documented:
                self.line_minutes[code] = self.services[code].minutes
            elif code == family.first.code:
                self.line_minutes[code] = min(minutes, family.base_minutes)
            else:
                self.line_minutes[code] = max(0, minutes - family.base_minutes)

    def add_plain(self, allocation: Allocation, plain: Mapping[str, int]) -> None:
        """Takes over what the counting rule gave."""
        for code, given in allocation.units.items():
            family = self.pooled.get(code)
            if family is not None:
                self._place(family, given, plain[code], allocation.because[code])
                continue
            sums = _sum_says(self.services[code], plain[code])
            reasons = allocation.because[code]
            self.units[code] = given
            self.line_minutes[code] = plain[code]
            self.because[code] = [Reason(sums, self.rule.source), *reasons] if sums else reasons

    def add_others(self, unknown: list[str]) -> None:
        """Untimed codes, codes whose minutes are not known, and codes that are not in the table."""
        for code, service in self.services.items():
            if code in self.units:
                continue
            self.line_minutes[code] = service.minutes
            entry = service.entry
            if entry is None:
                self.units[code] = 0
                self.because[code] = [Reason(f"{code} is not in the table of codes: not counted.", None)]
            elif entry.timed:
                self.units[code] = 0
                lacking = ", ".join(other for other in unknown if other in self._kin(entry))
                self.because[code] = [
                    Reason(f"The minutes of {lacking} are not known: not counted.", self.rule.source)
                ]
            else:
                self._add_untimed(code, service)

    def _counts_with_others(self, code: str) -> bool:
        """Whether the counting rule takes the code's minutes, rather than a rule of its own."""
        entry = self.services[code].entry
        if entry is None or entry.pools:
            return entry is not None
        return any(code in family.codes and self._pools(family) for family in self.families.values())

    def _kin(self, entry: Code) -> tuple[str, ...]:
        for family in self.families.values():
            if entry.code in family.codes:
                return family.codes
        return (entry.code,)

    def _add_untimed(self, code: str, service: Documented) -> None:
        units, times = untimed_units(service.services)
        self.units[code] = units
        says = f"{code} is not billed by time: once a date, whatever the minutes."
        if times is not None:
            says = f"{code} is not billed by time; documented as performed {_times(times)}."
        once = self.terms.get("untimed_units_per_day")
        source = once.citation if once is not None else service.entry.citation if service.entry else None
        self.because[code] = [Reason(says, source)]

    def result(self, allocation: Allocation, plain: Mapping[str, int], unknown: list[str]) -> Count:
        """The finished count, in order of first appearance."""
        lacking = [code for code in unknown if self._counts_with_others(code)]
        if lacking and self.together:
            says = f"The minutes of {', '.join(lacking)} are not known; these units may change."
            for code in plain:
                self.because[code] = [*self.because[code], Reason(says, self.rule.source)]
        order = _in_order(self.services, self.families, self.units)
        monthly = [code for family in self.families.values() if family.monthly for code in family.codes]
        known = not any(code not in monthly for code in unknown)
        pooled_minutes = sum(plain.values())
        pooled_units = sum(allocation.units.values()) + allocation.tied_units
        return Count(
            units={code: self.units[code] for code in order},
            line_minutes={code: self.line_minutes[code] for code in order},
            because={code: self.because[code] for code in order},
            families=self.families,
            family_minutes=self.family_minutes,
            assistant_minutes={code: service.assistant_minutes for code, service in self.services.items()},
            tied=allocation.tied,
            tied_units=allocation.tied_units,
            timed_minutes=pooled_minutes + self.own_minutes if known else None,
            timed_units=pooled_units + self.own_units if known else None,
            pooled_minutes=None if lacking else pooled_minutes,
            pooled_units=None if lacking else pooled_units,
        )


def untimed_units(services: Iterable[Service]) -> tuple[int, int | None]:
    """Units of a code that is not billed by time, and how often the record says it was performed, if it does.

    Once a date, unless the record says otherwise: units are not cut, a check asks about them.
    """
    times = [service.units for service in services if service.units is not None]
    return (sum(times), sum(times)) if times else (1, None)


def _in_order(
    services: Mapping[str, Documented], families: Mapping[str, Family], units: Mapping[str, int]
) -> list[str]:
    order = list(services)
    for family in families.values():
        for code in family.codes:
            if code in units and code not in services:
                (kin,) = (member for member in family.codes if member in services)
                order.insert(order.index(kin) + 1, code)
    return order


# ---- in a coder's words --------------------------------------------------------------------------


def _units(number: int) -> str:
    return "1 unit" if number == 1 else f"{number} units"


def _minutes(number: int) -> str:
    return "1 minute" if number == 1 else f"{number} minutes"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _range_says(units: int, terms: UnitTerms) -> str:
    if units == 0:
        return f"fewer than {terms.minimum_minutes} make no unit"
    fewest = (units - 1) * terms.unit_minutes + terms.minimum_minutes
    return f"{fewest} to {fewest + terms.unit_minutes - 1} make {_units(units)}"


def _total_says(parts: list[int], total_minutes: int, total: int, terms: UnitTerms) -> str:
    sums = f"{' + '.join(map(str, parts))} = {total_minutes}" if len(parts) > 1 else str(total_minutes)
    noun = "timed minute" if total_minutes == 1 else "timed minutes"
    return f"{sums} {noun}; {_range_says(total, terms)}."


def _share_says(
    code: str,
    spent: int,
    remainder: Mapping[str, int],
    winners: list[str],
    level: list[str],
    open_units: int,
    terms: UnitTerms,
) -> str:
    full, rest = divmod(spent, terms.unit_minutes)
    if full:
        own = f"{full * terms.unit_minutes} of {spent} minutes make {_units(full)}; {rest} remain."
    else:
        own = f"{_minutes(spent)} of {code}: no full unit."
    if code in winners:
        return f"{own} A remainder of {rest} takes one more unit."
    if code in level:
        among = f"{', '.join(level[:-1])} and {level[-1]}"
        return f"{own} {among} have {rest} left each; the clinician chooses who takes {_units(open_units)}."
    if rest and (winners or level):
        least = min(remainder[other] for other in (*winners, *level))
        return f"{own} Larger remainders, of {least} and over, take the units that are left."
    if rest:
        return f"{own} The total allows no further unit."
    return own


def _sum_says(service: Documented, minutes: int) -> str | None:
    if service.assistant_minutes:
        return (
            f"{service.therapist_minutes} by the therapist + {service.assistant_minutes} by the assistant "
            f"alone = {_minutes(minutes)} of {service.code}."
        )
    if len(service.services) == 1:
        return None
    return f"{len(service.services)} services of {service.code} on this date: {_minutes(minutes)} together."


def _family_says(family: Family, minutes: int, units: int) -> str:
    name = " with ".join(family.codes)
    when = " of the calendar month, as documented" if family.monthly else ""
    first = f"{family.base_minutes} minutes make the first unit"
    if family.first_needs < family.base_minutes:
        first += f" (from {family.first_needs})"
    says = f"{name} by a rule of its own: {_minutes(minutes)}{when}; {first}"
    if family.addl_minutes is not None and family.further_needs is not None:
        says += f", each further {family.addl_minutes} one more"
        if family.further_needs < family.addl_minutes:
            says += f" (from {family.further_needs})"
    return f"{says}: {_units(units)}."
