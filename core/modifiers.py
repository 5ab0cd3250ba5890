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
    for first, (therapist, assistant) in count.family_minutes.items():
        if assistant:
            splits.update(_family_split(count.families[first], therapist, assistant, count, rule))
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


def _family_split(
    family: Family, therapist: int, assistant: int, count: Count, rule: AssistantRule
) -> dict[str, Split]:
    units = {code: count.units.get(code, 0) for code in family.codes}
    total = sum(units.values())
    by_units = family.in_equal_units and family.base_minutes == rule.unit_minutes
    split = (by_unit if by_units else by_whole)(total, therapist, assistant, rule)
    doubt = split.doubt
    if not by_units and therapist:
        doubt = (
            f"No source says how units of {' and '.join(family.codes)} split; the whole time was compared."
        )
    elif split.without and split.assisted and family.addon is not None:
        doubt = (
            f"No source says which of {' and '.join(family.codes)} the assistant's units are; "
            "they were put last."
        )
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
    if asked is None:
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
            given in {None, mine}
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
    asked = terms.get("discipline_modifiers")
    discipline: str | None = None if asked is None else asked.value.get(visit.discipline)
    assistants = assistant_modifier(visit, terms)
    lines: list[Line] = []
    for code, units in count.units.items():
        entry, split, because = known.get(code), splits.get(code), count.because[code]
        basic: list[Modifier] = []
        if discipline is not None and asked is not None and entry is not None and entry.designation:
            reason = f"Under a {visit.discipline} plan of care; {code} is {entry.designation} therapy."
            basic.append(Modifier(discipline, reason, asked.citation))
        given = visit.modifiers.get(code, ())
        before = charged.get(code, 0)
        if split is None and not before:
            modifiers = _ordered([*basic, *_clinicians(given, basic)], terms) if units else ()
            lines.append(Line(code, units, units, count.line_minutes[code], modifiers, tuple(because)))
            continue
        because = list(because)
        if split is not None:
            because.append(Reason(split.because, terms["assistant_method"].citation))
        if before:
            says = f"{units} for the day, {before} already charged: {max(0, units - before)} to charge now."
            because.append(Reason(says, terms["counting"].citation))
        for of_day, assisted, spent in _parts(code, units, split, count):
            put = list(basic)
            if assisted and assistants is not None and split is not None:
                put.insert(0, Modifier(assistants, split.because, terms["assistant_method"].citation))
            ours = split is not None and split.assisted  # then the split says where CQ or CO stands
            put.extend(_clinicians([one for one in given if not (ours and one == assistants)], put))
            modifiers = _ordered(put, terms) if of_day else ()
            lines.append(Line(code, max(0, of_day - before), of_day, spent, modifiers, tuple(because)))
            before = max(0, before - of_day)
    return tuple(lines)


def _parts(code: str, units: int, split: Split | None, count: Count) -> list[tuple[int, bool, int | None]]:
    """A code's lines: units of the day, whether with the assistant's modifier, and minutes."""
    minutes = count.line_minutes[code]
    if split is None or minutes is None or not split.assisted:  # unknown minutes are never split
        return [(units, False, minutes)]
    if not split.without:
        return [(split.assisted, True, minutes)]
    assistant = _assistant_part(code, split, count, minutes)
    return [(split.without, False, minutes - assistant), (split.assisted, True, assistant)]


def _assistant_part(code: str, split: Split, count: Count, minutes: int) -> int:
    """The assistant's minutes of a code that splits into two lines."""
    for family in count.families.values():
        if code in family.codes:
            return min(minutes, split.assisted * family.base_minutes)
    return count.assistant_minutes[code]


def _clinicians(given: Sequence[str], put: Sequence[Modifier]) -> list[Modifier]:
    """What the clinician put on beyond what stands there already."""
    there = {modifier.code for modifier in put}
    return [
        Modifier(one, "Put on by the clinician.", None) for one in dict.fromkeys(given) if one not in there
    ]


def _ordered(modifiers: list[Modifier], terms: InForce) -> tuple[Modifier, ...]:
    if len(modifiers) > 1:
        order = terms.get("modifier_order")
        if order is not None:
            modifiers.sort(key=lambda modifier: _place(modifier.code, order.value))
    return tuple(modifiers)


def _place(modifier: str, order: Sequence[str]) -> int:
    return order.index(modifier) if modifier in order else len(order)
