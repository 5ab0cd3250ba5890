"""Vendor-like answers and the visits they give: see golden/README.md for what they are, and are not."""

import json
import re
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import pytest
import requests

from quarterhour.fhir.chart import ChartSettings, read_chart
from quarterhour.fhir.normalise import visits_from
from quarterhour.fhir.server import Server
from quarterhour.plugin.vendors import VENDORS

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())


class Recorded:
    """An EHR that gives the answers of an input.json, and 400 to whatever else it is asked."""

    def __init__(self, wire, given):
        self.base, self.answers = given["base"], given["answers"]
        self.asked = []
        wire.add_callback("GET", url=re.compile(re.escape(self.base) + "/.*"), callback=self._answer)

    def _answer(self, request):
        asked = unquote(str(request.url)).removeprefix(f"{self.base}/")
        self.asked.append(asked)
        answer = self.answers.get(asked)
        if answer is None:
            return 400, {}, json.dumps({"resourceType": "OperationOutcome", "issue": []})
        status = answer.get("status", 200) if "resourceType" not in answer else 200
        return status, {}, json.dumps(answer.get("body", answer))


def as_told(prepared):
    """What a visit says, as visits.json has it: nothing that is absent, and times as ISO 8601."""
    return json.loads(
        json.dumps(
            {
                "date_of_service": prepared.visit.date_of_service,
                "discipline": prepared.visit.discipline,
                "services": [_service(service) for service in prepared.visit.services],
                "assistant_services": sorted(prepared.assistant_services),
                "proposals": {key: each.minutes for key, each in prepared.proposals.items()},
                "policy": prepared.policy_id,
                "policy_because": prepared.policy_because,
                "already_charged": [[each.code, each.units] for each in prepared.visit.already_charged],
                "charges": [[each.reference, each.status, each.counted] for each in prepared.charges],
                "findings": [
                    f"{each.id} ({each.severity}, {each.status}): {each.message}"
                    for each in prepared.findings
                ],
                "versions": dict(prepared.versions),
            },
            default=lambda moment: moment.isoformat(),
        )
    )


def _service(service):
    names = ("reference", "code", "start", "end", "minutes", "performer", "condition")
    said = {name: getattr(service, name) for name in names}
    said |= {name: getattr(service, name) or None for name in ("assistant_minutes", "concurrent_minutes")}
    return {name: value for name, value in said.items() if value is not None}


@pytest.mark.parametrize("vendor", FOLDERS)
def test_a_vendors_answers_give_these_visits(vendor, wire):
    given = json.loads((GOLDEN / vendor / "input.json").read_text())
    ehr = Recorded(wire, given)
    settings = ChartSettings.from_site(given["site"], ZoneInfo(given["time_zone"]), GOLDEN / vendor)
    now = datetime.fromisoformat(given["now"])
    server = Server(ehr.base, "secret-token", requests.Session())
    chart = read_chart(server, settings=settings, now=now, **given["launch"])
    visits = [as_told(prepared) for prepared in visits_from(chart, settings, now)]
    assert visits == json.loads((GOLDEN / vendor / "visits.json").read_text())
    assert set(ehr.asked) == set(given["answers"]), "asked exactly what is recorded, and all of it"


@pytest.mark.parametrize("vendor", FOLDERS)
def test_the_searches_are_those_that_the_vendor_table_sets(vendor):
    (known,) = [each for each in VENDORS if each.id == vendor]
    site = json.loads((GOLDEN / vendor / "input.json").read_text())["site"]
    ways = {key: site[key] for key in ("procedure_search", "charge_search") if key in site}
    assert ways == known.site


@pytest.mark.parametrize("vendor", FOLDERS)
def test_nothing_in_the_answers_is_of_a_real_server(vendor):
    given = json.loads((GOLDEN / vendor / "input.json").read_text())
    assert urlsplit(given["base"]).hostname.endswith(".example")


def test_every_commercial_vendor_of_the_documents_is_here():
    assert set(FOLDERS) == {"athenahealth", "eclinicalworks", "epic", "meditech", "nextgen", "oracle"}
