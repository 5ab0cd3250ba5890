"""The rules stated another way: every way to hand out units is tried, and those kept that the texts allow."""

from __future__ import annotations

import itertools
import random
from datetime import date
from fractions import Fraction

import pytest

from quarterhour.core.assistants import AssistantRule, by_unit
from quarterhour.core.policy import Citation
from quarterhour.core.units import UnitTerms, by_code, by_total

SOURCE = Citation("a manual", "a section", "https://example.org", date(2026, 1, 1), verified=True)
TERMS = UnitTerms(15, 8, SOURCE)
CODES = ["97110", "97112", "97116", "97124", "97140", "97530", "97535", "97542"]

# The manual's chart, as far as it is printed, and the pattern after it.
CHART = {
    (8, 22): 1,
    (23, 37): 2,
    (38, 52): 3,
    (53, 67): 4,
    (68, 82): 5,
    (83, 97): 6,
    (98, 112): 7,
    (113, 127): 8,
}


def chart(total):
    if total < 8:
        return 0
    steps = 0
    while total > 127:
        total, steps = total - 15, steps + 1
    return steps + next(units for (least, most), units in CHART.items() if least <= total <= most)


def at_least(minutes):
    """Performed for 15 minutes: at least one unit; for 30: at least two; and so on."""
    return sum(1 for block in range(15, minutes + 1, 15) if block)


def kept(minutes):
    """Every way to hand out the chart's units that the manual's sentences allow, as tuples of units."""
    total = chart(sum(minutes))
    floors = [at_least(spent) for spent in minutes]
    ways = handed_out(floors, total - sum(floors))
    return {way for way in ways if bills_the_larger(minutes, way)}


def handed_out(floors, more):
    if len(floors) == 1:
        return [(floors[0] + more,)]
    return [
        (floors[0] + given, *rest)
        for given in range(more + 1)
        for rest in handed_out(floors[1:], more - given)
    ]


def bills_the_larger(minutes, way):
    """No unit stands for fewer minutes than another service has unbilled, nor for none at all."""
    unbilled = max(spent - 15 * units for spent, units in zip(minutes, way, strict=True))
    return all(
        spent - 15 * (units - 1) > 0 and min(15, spent - 15 * (units - 1)) >= min(15, unbilled)
        for spent, units in zip(minutes, way, strict=True)
        if units
    )


def engine(minutes):
    """Every way that the engine leaves open, as tuples of units."""
    codes = CODES[: len(minutes)]
    allocation = by_total(dict(zip(codes, minutes, strict=True)), TERMS)
    return {
        tuple(allocation.units[code] + (code in chosen) for code in codes)
        for chosen in itertools.combinations(allocation.tied, allocation.tied_units)
    }


@pytest.mark.parametrize("services", [1, 2, 3])
def test_every_combination_of_up_to_three_codes_of_0_to_60_minutes(services):
    for minutes in itertools.combinations_with_replacement(range(61), services):
        assert engine(minutes) == kept(minutes), minutes


def test_the_order_of_three_codes_does_not_matter():
    chance = random.Random(3)
    for _ in range(3_000):
        minutes = [chance.randrange(61) for _ in range(3)]
        for order in itertools.permutations(range(3)):
            turned = {tuple(way[place] for place in order) for way in engine(minutes)}
            assert engine([minutes[place] for place in order]) == turned


def test_a_large_sample_of_up_to_eight_codes_of_0_to_240_minutes():
    chance = random.Random(20261121)
    for _ in range(4_000):
        minutes = [chance.randrange(241) for _ in range(chance.randrange(1, 9))]
        assert engine(minutes) == kept(minutes), minutes


def test_a_large_sample_of_many_ties():
    chance = random.Random(7)
    for _ in range(2_000):
        minutes = [chance.choice([4, 7, 8, 19, 22, 34, 37]) for _ in range(chance.randrange(1, 9))]
        assert engine(minutes) == kept(minutes), minutes


def test_each_code_alone_is_the_chart_of_that_code():
    for minutes in range(241):
        assert by_code({"97110": minutes}, TERMS).units == {"97110": chart(minutes)}


# ---- CQ and CO -----------------------------------------------------------------------------------


def splits_kept(units, therapist, assistant, from_2022):
    """How many of the units may carry the modifier: every number is tried against the sentences."""
    return {
        marked
        for marked in range(units + 1)
        if marked >= at_least(assistant)
        and units - marked >= at_least(therapist)
        and last_units_allow(units, marked, therapist, assistant, from_2022)
    }


def last_units_allow(units, marked, therapist, assistant, from_2022):
    marked_left = marked - at_least(assistant)
    left = units - at_least(therapist) - at_least(assistant)
    therapist_rest, assistant_rest = (
        therapist - 15 * at_least(therapist),
        assistant - 15 * at_least(assistant),
    )
    if left == 2 and from_2022:
        return marked_left == 1
    more_than_a_tenth = bool(assistant_rest) and Fraction(
        assistant_rest, therapist_rest + assistant_rest
    ) > Fraction(1, 10)
    alone_enough = from_2022 and therapist_rest >= 8
    return marked_left == (left if more_than_a_tenth and not alone_enough else 0)


@pytest.mark.parametrize("from_2022", [True, False])
def test_every_split_of_0_to_60_minutes_each(from_2022):
    rule = AssistantRule("therapist-eight-minutes" if from_2022 else "de-minimis", 10, 15, 8)
    for therapist, assistant in itertools.product(range(61), repeat=2):
        total = therapist + assistant
        # By itself, and beside other codes with one unit fewer or more.
        for units in {chart(total), at_least(total), at_least(total) + (total % 15 > 0)}:
            split = by_unit(units, therapist, assistant, rule)
            allowed = splits_kept(units, therapist, assistant, from_2022)
            assert allowed == {split.assisted}, (therapist, assistant, units)
            assert split.without + split.assisted == units


def test_a_large_sample_of_splits_of_0_to_240_minutes():
    chance = random.Random(11)
    for _ in range(20_000):
        therapist, assistant = chance.randrange(241), chance.randrange(241)
        from_2022 = chance.random() < 0.5
        rule = AssistantRule("therapist-eight-minutes" if from_2022 else "de-minimis", 10, 15, 8)
        units = chance.choice([chart(therapist + assistant), at_least(therapist + assistant)])
        split = by_unit(units, therapist, assistant, rule)
        assert splits_kept(units, therapist, assistant, from_2022) == {split.assisted}
