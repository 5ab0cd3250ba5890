"""Lines and their modifiers: each modifier with a reason and a source, none put on in silence.

KX attests medical necessity, and 59 or X{EPSU} a separate service: those are the clinician's to put on.
Checks ask about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .assistants import AssistantRule, Split, by_unit, by_whole
from .lines import Line, Modifier, Reason
from .policy import InForce
from .units import Count, Documented, Family
from .visit import AlreadyCharged, Visit

if TYPE_CHECKING:
    from .codes import Code


def assistant_splits(
    visit: Visit, count: Count, services: Mapping[str, Documented], terms: InForce
) -> dict[str, Split]:
    """How the units of each code with an assistant's minutes split, where the policy asks for CQ or CO.

    Evaluations are the therapist's alone: they get no modifier, ``assistant-evaluation`` speaks of them.
    """
    if not any(service.assistant_minutes for service in services.values()):
        return {}
    if assistant_modifier(visit, terms) is None:
        return {}
    rule = AssistantRule(
        terms["assistant_method"].value,
        terms["assistant_de_minimis_percent"].value,
        terms["unit_minutes"].value,
        terms["minimum_minutes"].value,
    )
    splits: dict[str, Split] = {}
    for family in count.families.values():
        splits.update(_family_split(family, count, rule))
    for code, service in services.items():
        entry, units = service.entry, count.units[code]
        if not service.assistant_minutes or not units or entry is None or entry.kind == "evaluation":
            continue
        if entry.pools and service.therapist_minutes is not None:
            splits[code] = by_unit(units, service.therapist_minutes, service.assistant_minutes, rule)
        elif not entry.timed and service.therapist_minutes is not None:
            splits[code] = by_whole(units, service.therapist_minutes, service.assistant_minutes, rule)
        elif not entry.timed:
            lacking = (
                f"The therapist's minutes of {code} are not known, so the assistant's share is not either."
            )
            splits[code] = Split(units, 0, lacking, lacking)
    return splits


def _family_split(family: Family, count: Count, rule: AssistantRule) -> dict[str, Split]:
    therapist, assistant = count.family_minutes.get(family.first.code, (0, 0))
    units = {code: count.units.get(code, 0) for code in family.codes}
    total = sum(units.values())
    if not assistant or not total:
        return {}
    by_units = family.in_equal_units and family.base_minutes == rule.unit_minutes
    split = (by_unit if by_units else by_whole)(total, therapist, assistant, rule)
    doubt = split.doubt
    if not by_units and therapist:
        doubt = (
            f"No source says how units of {' and '.join(family.codes)} split; the whole time was compared."
        )
    elif split.without and split.assisted and family.addon is not None:
        doubt = f"No source says which of {' and '.join(family.codes)} the assistant's units are; they were put last."
    shared: dict[str, Split] = {}
    without = split.without
    for code, given in units.items():
        if given:
            plain = min(given, without)
            without -= plain
            shared[code] = Split(plain, given - plain, split.because, doubt, split.methods_differ)
    return shared


def assistant_modifier(visit: Visit, terms: InForce) -> str | None:
    """CQ or CO, or None where the policy asks for neither in this discipline on this date."""
    asked = terms.get("assistant_modifiers")
    if asked is None or visit.discipline is None:
        return None
    modifier: str | None = asked.value.get(visit.discipline)
    return modifier


def charged_by(visit: Visit) -> tuple[dict[str, int], list[AlreadyCharged]]:
    """Units that this group already charged on the date, by code; and charges that may be its own.

    A charge names the TIN and specialty of another group or none; where the visit does not name its own,
    they cannot be compared.
    """
    own: dict[str, int] = {}
    unclear: list[AlreadyCharged] = []
    for charge in visit.already_charged:
        same = [
            given is None or (mine is not None and given == mine)
            for given, mine in (
                (charge.tin, visit.provider.tin),
                (charge.specialty, visit.provider.specialty),
            )
        ]
        if all(same):
            own[charge.code] = own.get(charge.code, 0) + charge.units
        elif not _of_another(charge, visit):
            unclear.append(charge)
    return own, unclear


def _of_another(charge: AlreadyCharged, visit: Visit) -> bool:
    pairs = ((charge.tin, visit.provider.tin), (charge.specialty, visit.provider.specialty))
    return any(given is not None and mine is not None and given != mine for given, mine in pairs)


def lines_of(
    visit: Visit,
    count: Count,
    known: Mapping[str, Code | None],
    splits: Mapping[str, Split],
    charged: Mapping[str, int],
    terms: InForce,
) -> tuple[Line, ...]:
    """One line a code and set of modifiers, in order of first appearance; without the assistant's first.

    ``charged`` units are taken off, from the lines without CQ or CO before those with it: a charge made
    too low can be mended, one made too high has to be paid back.
    """
    lines: list[Line] = []
    for code, units in count.units.items():
        entry, split, minutes = known.get(code), splits.get(code), count.line_minutes[code]
        parts = [(units, False, minutes)]
        if split is not None and split.assisted:
            parts = [(split.assisted, True, minutes)]
            if split.without:
                assistant = _assistant_part(code, split, count, minutes)
                plain = None if minutes is None or assistant is None else minutes - assistant
                parts = [(split.without, False, plain), (split.assisted, True, assistant)]
        before = charged.get(code, 0)
        because = list(count.because[code])
        if split is not None:
            because.append(Reason(split.because, terms["assistant_method"].citation))
        if before:
            says = f"{units} for the day, {before} already charged: {max(0, units - before)} to charge now."
            because.append(Reason(says, terms["counting"].citation))
        for of_day, assisted, spent in parts:
            now = max(0, of_day - before)
            before = max(0, before - of_day)
            modifiers = _modifiers(visit, code, entry, split, assisted, terms) if of_day else ()
            lines.append(Line(code, now, of_day, spent, modifiers, tuple(because)))
    return tuple(lines)


def _assistant_part(code: str, split: Split, count: Count, minutes: int | None) -> int | None:
    """The assistant's minutes of a code that splits into two lines."""
    for family in count.families.values():
        if code in family.codes and minutes is not None:
            return min(minutes, split.assisted * family.base_minutes)
    return count.assistant_minutes.get(code)


def _modifiers(
    visit: Visit, code: str, entry: Code | None, split: Split | None, assisted: bool, terms: InForce
) -> tuple[Modifier, ...]:
    found: list[Modifier] = []
    assistants = assistant_modifier(visit, terms) if split is not None else None
    if assisted and assistants is not None and split is not None:
        found.append(Modifier(assistants, split.because, terms["assistant_method"].citation))
    asked = terms.get("discipline_modifiers")
    if asked is not None and visit.discipline is not None and entry is not None and entry.designation:
        modifier = asked.value.get(visit.discipline)
        if modifier is not None:
            reason = f"Under a {visit.discipline} plan of care; {code} is {entry.designation} therapy."
            found.append(Modifier(modifier, reason, asked.citation))
    for given in visit.modifiers.get(code, ()):
        on_the_other_line = (
            given == assistants and split is not None and bool(split.assisted) and not assisted
        )
        if not on_the_other_line and all(modifier.code != given for modifier in found):
            found.append(Modifier(given, "Put on by the clinician.", None))
    if len(found) > 1:
        order = terms.get("modifier_order")
        if order is not None:
            found.sort(key=lambda modifier: _place(modifier.code, order.value))
    return tuple(found)


def _place(modifier: str, order: Sequence[str]) -> int:
    return order.index(modifier) if modifier in order else len(order)
