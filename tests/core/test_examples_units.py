"""The published examples of counting and of CQ and CO, and those that follow from the rules."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from quarterhour.core.visit import Discipline

EXAMPLES = Path(__file__).parent.parent / "examples"
UNITS = YAML(typ="safe").load(EXAMPLES / "units.yaml")
ASSISTANTS = YAML(typ="safe").load(EXAMPLES / "assistants.yaml")


def named(examples):
    return {"argvalues": examples, "ids": [example["id"] for example in examples]}


@pytest.mark.parametrize("example", **named(UNITS))
def test_minutes_make_the_units_of_the_example(example, suggested, units):
    documented = sum(minutes for _, minutes in example["minutes"])
    stated = example.get("treatment", documented)
    suggestion = suggested(*example["minutes"], policy=example["policy"], total_treatment_minutes=stated)
    if "either" in example:
        assert list(suggestion.lines_if) == example["either"]
    else:
        assert units(suggestion) == example["units"]
        assert suggestion.ties == ()
    if "total" in example:
        assert suggestion.total_timed_minutes == example["total"]["minutes"]
        assert suggestion.total_timed_units == example["total"]["units"]
    assert suggestion.total_treatment_minutes == stated


@pytest.mark.parametrize("example", **named([one for one in UNITS if "not_followed" in one]))
def test_a_published_slip_is_not_followed(example, suggested, units):
    suggestion = suggested(*example["minutes"], policy=example["policy"])
    ways = list(suggestion.lines_if) or [units(suggestion)]
    assert ways != [example["not_followed"]]


@pytest.mark.parametrize("example", **named([one for one in UNITS if "either" in one]))
def test_each_way_of_a_tie_can_be_chosen(example, suggested, units):
    for way in example["either"]:
        suggestion = suggested(*example["minutes"], policy=example["policy"], tie_choice=way)
        assert units(suggestion) == way
        assert (suggestion.ties, suggestion.lines_if) == ((), ())


def lines_of(example, suggested, on):
    suggestion = suggested(*example["minutes"], discipline=Discipline(example["discipline"]), on=on)
    return [
        [line.code, line.units, [modifier.code for modifier in line.modifiers]]
        for line in suggestion.lines
        if line.units
    ]


@pytest.mark.parametrize("example", **named(ASSISTANTS))
def test_the_assistants_units_are_those_of_the_example(example, suggested):
    lines = lines_of(example, suggested, date(2022, 3, 1))
    assert lines == example["from_2022"]
    assert lines != example.get("not_followed")


@pytest.mark.parametrize("example", **named([one for one in ASSISTANTS if "in_2021" in one]))
def test_before_2022_de_minimis_decided(example, suggested):
    assert lines_of(example, suggested, date(2021, 3, 1)) == example["in_2021"]


@pytest.mark.parametrize("example", **named(ASSISTANTS))
def test_before_2020_there_was_no_modifier_for_assistants(example, suggested):
    for _, _, modifiers in lines_of(example, suggested, date(2019, 12, 31)):
        assert not {"CQ", "CO"} & set(modifiers)
