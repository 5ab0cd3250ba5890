"""The site's own table in the issuers' file."""

import json
import re
import tomllib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from quarterhour.core.library import Library
from quarterhour.core.visit import Discipline, Setting
from quarterhour.fhir.site import ChartSettings

BOSTON = ZoneInfo("America/New_York")


def test_a_site_that_says_nothing_gets_the_specifications_ways():
    settings = ChartSettings.from_site({}, BOSTON)
    assert settings.time_zone is BOSTON
    assert settings.setting is Setting.PRACTITIONER
    assert settings.procedure_search == "date-and-encounter"
    assert settings.policies == ()


def test_a_whole_table_is_read():
    settings = ChartSettings.from_site(
        {
            "setting": "outpatient-hospital",
            "procedure_search": "date",
            "charge_search": "context",
            "look_back_days": 3,
            "codes": {"urn:local|EX": "97110"},
            "practitioners": {"Practitioner/a": {"discipline": "OT", "assistant": True}},
            "groups": {"Organization/o": {"tin": "12-3456789"}},
            "policies": [{"payer": "Organization/medicare", "policy": "cms-part-b"}],
        },
        BOSTON,
    )
    assert settings.setting is Setting.OUTPATIENT_HOSPITAL
    assert settings.practitioners["Practitioner/a"].discipline is Discipline.OT
    assert settings.policies[0].policy == "cms-part-b"


@pytest.mark.parametrize(
    ("site", "named"),
    [
        ({"procedure_serch": "date"}, "procedure_serch"),
        ({"policies": [{"policy": "x", "payr": "y"}]}, "payr"),
        ({"procedure_search": "guess"}, "procedure_search"),
        ({"practitioners": {"Practitioner/a": {"discipline": "MD"}}}, "discipline|practitioners"),
        ({"look_back_days": "14"}, "look_back_days"),
        ({"time_zone": "UTC"}, "time_zone"),
        ({"policies": [{"policy": "cms-part-b"}]}, "cms-part-b"),
        ({"codes": {"EX": "97110"}}, "EX"),
        ({"codes": {"urn:local|EX": "EX"}}, "codes"),
        ({"look_back_days": -1}, "look_back_days"),
        ({"page_size": 0}, "page_size"),
        ({"minutes_path": "Procedure.extension.where("}, "minutes_path: .* no FHIRPath"),
        ({"minutes_path": "Procedure.extension.value 60"}, "minutes_path: .* no FHIRPath"),
        ({"minutes_path": ""}, "minutes_path: .* no FHIRPath"),
        ({"minutes_path": "Procedure.lasted()"}, "minutes_path: .* cannot be evaluated"),
        ({"minutes_path": "%lasted"}, "minutes_path: .* cannot be evaluated"),
        ({"minutes_path": "15"}, "minutes_path: .* says nothing"),
        ({"minutes_path": "15 minutes"}, "minutes_path: .* says nothing"),
        ({"minutes_path": "Procedure"}, "minutes_path: .* says nothing"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(site, named):
    with pytest.raises(ValueError, match=named):
        ChartSettings.from_site(site, BOSTON)


# A ConceptMap file

SNOMED = "http://snomed.info/sct"


def concept_map(**changed):
    """Two codes of the site's and one of SNOMED's, each the same as a billing code."""
    return {
        "resourceType": "ConceptMap",
        "status": "active",
        "group": [
            {
                "source": "urn:local",
                "target": "http://www.ama-assn.org/go/cpt",
                "element": [
                    {"code": "EX", "target": [{"code": "97110", "equivalence": "equal"}]},
                    {"code": "MT", "target": [{"code": "97140", "equivalence": "equivalent"}]},
                ],
            },
            {
                "source": SNOMED,
                "target": "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets",
                "element": [{"code": "1", "target": [{"code": "G0283", "equivalence": "equal"}]}],
            },
        ],
        **changed,
    }


@pytest.fixture
def map_of(tmp_path):
    """The settings of a site whose concept_map is this file, beside the issuers' one."""

    def read(content, **site):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "codes.json").write_bytes(text)
        return ChartSettings.from_site({"concept_map": "codes.json", **site}, BOSTON, tmp_path)

    return read


def test_a_concept_map_beside_the_issuers_file_gives_its_codes(map_of):
    assert map_of(concept_map()).codes == {
        "urn:local|EX": "97110",
        "urn:local|MT": "97140",
        f"{SNOMED}|1": "G0283",
    }


def test_an_absolute_path_is_taken_as_it_is(map_of, tmp_path):
    map_of(concept_map())
    settings = ChartSettings.from_site({"concept_map": str(tmp_path / "codes.json")}, BOSTON)
    assert settings.codes["urn:local|EX"] == "97110"


def test_the_codes_table_stands_beside_the_map_and_may_repeat_but_not_contradict_it(map_of):
    codes = {"urn:local|EX": "97110", "urn:local|US": "97035"}
    assert map_of(concept_map(), codes=codes).codes["urn:local|US"] == "97035"
    with pytest.raises(ValueError, match=r"urn:local\|EX.*97112.*97110"):
        map_of(concept_map(), codes={"urn:local|EX": "97112"})


def element(**target):
    group = {**concept_map()["group"][0]}
    group["element"] = [{"code": "EX", "target": [{"code": "97110", "equivalence": "equal", **target}]}]
    return concept_map(group=[group])


def group(**changed):
    return concept_map(group=[{**concept_map()["group"][0], **changed}])


@pytest.mark.parametrize(
    "word",
    ["relatedto", "wider", "subsumes", "narrower", "specializes", "inexact", "unmatched", "disjoint"],
)
def test_codes_that_are_not_the_same_on_both_sides_are_mistakes_with_their_place(map_of, word):
    with pytest.raises(ValueError, match=rf"group\[0\]\.element\[0\]\.target\[0\]\.equivalence: '{word}'"):
        map_of(element(equivalence=word))


_EX = concept_map()["group"][0]["element"][0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        ([], "no ConceptMap"),
        ({"resourceType": "ValueSet", "status": "active"}, "no ConceptMap"),
        (concept_map(status=None), "status"),
        (concept_map(status="retired"), "status: 'retired'"),
        (concept_map(status="draft"), "status: 'draft'"),
        (concept_map(group=[]), "maps nothing"),
        (concept_map(implicitRules="urn:rules"), "implicitRules"),
        (concept_map(modifierExtension=[{"url": "urn:x", "valueBoolean": True}]), "modifierExtension"),
        (element(modifierExtension=[{"url": "urn:x", "valueBoolean": True}]), "modifierExtension"),
        (group(source=None), r"group\[0\]\.source"),
        (group(target=SNOMED), r"group\[0\]\.target: 'http://snomed"),
        (group(target=None), r"group\[0\]\.target"),
        (group(unmapped={"mode": "fixed", "code": "97110"}), r"group\[0\]\.unmapped"),
        (group(element=[]), "group"),
        (group(element=[{"code": "EX"}]), r"element\[0\]\.target: exactly one"),
        (group(element=[{**_EX, "target": _EX["target"] * 2}]), r"element\[0\]\.target: exactly one"),
        (group(element=[{**_EX, "code": None}]), r"element\[0\]\.code: missing"),
        (element(code="EX"), r"target\[0\]\.code: 'EX' is no"),
        (element(code=None), r"target\[0\]\.code"),
        (element(equivalence=None), "equivalence"),
        (element(equivalence=5), r"group\[0\]\.element\[0\]\.target\[0\]\.equivalence"),
        (element(dependsOn=[{"property": "urn:p", "value": "v"}]), "dependsOn"),
        (element(product=[{"property": "urn:p", "value": "v"}]), "product"),
    ],
)
def test_what_is_wrong_with_a_concept_map_is_named_with_its_place(map_of, content, named):
    with pytest.raises(ValueError, match=named):
        map_of(content)


def test_a_code_mapped_twice_may_repeat_but_not_contradict_itself(map_of):
    other = {"code": "EX", "target": [{"code": "97112", "equivalence": "equal"}]}
    assert map_of(group(element=[_EX, _EX])).codes == {"urn:local|EX": "97110"}
    with pytest.raises(ValueError, match=r"element\[1\].*97110 before"):
        map_of(group(element=[_EX, other]))


def test_every_mistake_is_named_at_once(map_of):
    with pytest.raises(ValueError, match=r"(?s)retired.*target\[0\]\.code.*'X'"):
        map_of({**element(code="X"), "status": "retired"})


def test_a_map_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        ChartSettings.from_site({"concept_map": "none.json"}, BOSTON, tmp_path)


# The example that operators start from

PLAIN = {"setting", "procedure_search", "charge_search", "look_back_days", "page_size"}
EXAMPLE = Path(__file__).parents[2] / "manifests" / "issuers.example.toml"


@pytest.fixture
def example(tmp_path):
    """The commented lines of the example's first site table, as if their comment signs were taken off."""
    text = EXAMPLE.read_text().partition("[issuers.riverside.site]\n")[2].partition("\n[")[0]
    shown = tomllib.loads("\n".join(re.findall(r"^#   (\w+ = .*)$", text, re.MULTILINE)))
    (tmp_path / shown["concept_map"]).write_text(json.dumps(concept_map()))
    return shown


def test_the_example_shows_every_key_and_no_other(example):
    assert example.keys() == set(ChartSettings.__struct_fields__) - {"time_zone"}


def test_the_example_can_be_taken_as_it_is(example, tmp_path):
    settings = ChartSettings.from_site(example, BOSTON, tmp_path)
    assert settings.practitioners["Practitioner/8"].assistant
    assert {rule.policy for rule in settings.policies} <= set(Library.load().ids)


def test_where_the_example_shows_a_choice_or_a_number_it_is_the_default(example):
    defaults = ChartSettings.from_site({}, BOSTON)
    plain = {key: value for key, value in example.items() if key in PLAIN}
    assert {key: getattr(defaults, key) for key in plain} == plain
