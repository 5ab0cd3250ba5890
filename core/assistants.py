"""Which of a code's units an assistant furnished in part: modifiers CQ and CO.

By unit, not by code or by day. From 2022 on a therapist who furnishes enough of the last unit for it to
count alone needs no modifier; before, the ten percent of de minimis decided (42 CFR 410.59(a)(4) and
410.60(a)(4), as CMS, AOTA and others explain them; the policies name the pages).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AssistantRule:
    """The terms of a policy that decide about CQ and CO."""

    method: str  # "therapist-eight-minutes" (from 2022) or "de-minimis"
    de_minimis_percent: int
    unit_minutes: int
    minimum_minutes: int


@dataclass(frozen=True, slots=True)
class Split:
    """A code's units without and with the assistant's modifier, why, and what a reviewer should weigh."""

    without: int
    assisted: int
    because: str
    doubt: str | None = None  # why another careful reader may come to another answer
    methods_differ: bool = False  # the doubt is that the two methods of de minimis disagree


def by_unit(units: int, therapist: int, assistant: int, rule: AssistantRule) -> Split:
    """The units of a timed code, from whole minutes of the therapist and of the assistant alone.

    Full units are whoever's minutes fill them. Of what is left, from 2022: two units are one each; one
    unit is the therapist's where the therapist's rest makes a unit by itself, else the assistant's where
    the assistant's does, else de minimis decides. In 2020 and 2021 de minimis decided in every case.
    """
    therapist_units, therapist_rest = divmod(therapist, rule.unit_minutes)
    assistant_units, assistant_rest = divmod(assistant, rule.unit_minutes)
    left = units - therapist_units - assistant_units
    full = f"{therapist} minutes by the therapist, {assistant} by the assistant alone"
    if left == 0:
        return Split(therapist_units, assistant_units, f"{full}: full units are theirs who furnished them.")
    rests = f"{full}; {therapist_rest} and {assistant_rest} remain"
    if rule.method == "de-minimis":
        share = by_whole(left, therapist_rest, assistant_rest, rule)
        doubt = share.doubt
        if left > 1 and share.assisted:
            doubt = "Before 2022 no source says how two last units are split; the modifier is on both."
        return Split(
            therapist_units + share.without,
            assistant_units + share.assisted,
            f"{rests}: {share.because}",
            doubt,
            share.methods_differ,
        )
    if left > 1:
        least, most = rule.minimum_minutes + 1, rule.unit_minutes - 1
        named = least <= therapist_rest <= most and least <= assistant_rest <= most
        return Split(
            therapist_units + 1,
            assistant_units + 1,
            f"{rests}: two units are left, one with the modifier and one without.",
            None
            if named
            else f"The rule for two last units speaks of {least} to {most} minutes by each; here "
            f"{therapist_rest} by the therapist and {assistant_rest} by the assistant.",
        )
    if therapist_rest >= rule.minimum_minutes:
        because = f"{rests}: the therapist's {therapist_rest} make the last unit without the assistant's."
        return Split(therapist_units + 1, assistant_units, because)
    if assistant_rest >= rule.minimum_minutes:
        because = (
            f"{rests}: the assistant's {assistant_rest} make the last unit, "
            f"the therapist's {therapist_rest} would not."
        )
        return Split(therapist_units, assistant_units + 1, because)
    share = by_whole(1, therapist_rest, assistant_rest, rule)
    return Split(
        therapist_units + share.without,
        assistant_units + share.assisted,
        f"{rests}: {share.because}",
        share.doubt,
        share.methods_differ,
    )


def by_whole(units: int, therapist: int, assistant: int, rule: AssistantRule) -> Split:
    """Units taken together, as those of an untimed code: with the modifier where the assistant's share is
    more than de minimis.
    """
    total = therapist + assistant
    assisted = assistant * 100 > rule.de_minimis_percent * total
    compared = "more than" if assisted else "not more than"
    because = (
        f"{assistant} of {total} minutes are the assistant's, {compared} {rule.de_minimis_percent} percent."
    )
    percentage, simple = methods_say(assistant, total, rule.de_minimis_percent)
    doubt = None
    if not assisted == percentage == simple:
        says = {True: "asks for the modifier", False: "does not"}
        doubt = (
            f"{assistant} of {total} minutes are the assistant's, {compared} "
            f"{rule.de_minimis_percent} percent; the method by percentage {says[percentage]}, "
            f"the simple method {says[simple]}."
        )
    share = (0, units) if assisted else (units, 0)
    return Split(*share, because, doubt, methods_differ=doubt is not None)


def methods_say(assistant: int, total: int, percent: int) -> tuple[bool, bool]:
    """Whether the method by percentage and the simple method ask for the modifier.

    By percentage: the share rounded to a whole percent is above ten. Simple: a tenth of the minutes,
    rounded, and one more is the least that needs the modifier. Both are from memory, halves rounded up;
    they only serve to say where they disagree.
    """
    by_percentage = (200 * assistant + total) // (2 * total) > percent if total else False
    tenth = (2 * total * percent + 100) // 200
    return by_percentage, assistant >= tenth + 1
