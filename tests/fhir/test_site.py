"""The site's own table in the issuers' file."""

from zoneinfo import ZoneInfo

import pytest

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
    ],
)
def test_what_does_not_fit_is_refused_by_name(site, named):
    with pytest.raises(ValueError, match=named):
        ChartSettings.from_site(site, BOSTON)
