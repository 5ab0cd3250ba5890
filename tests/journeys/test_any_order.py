"""Whatever people do with the two visits of a day, in whatever order and by whatever way: no unit leaves twice.

QUARTERHOUR_ORDERS sets how many orders are tried; some hundreds found what no test had thought of.
"""

import csv
import os
import re
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from quarterhour.plugin.charge_files import MARK
from quarterhour.plugin.worker import work_once
from quarterhour.sandbox.faults import Fault

ORDERS = int(os.environ.get("QUARTERHOUR_ORDERS", "8"))
VISITS = ("first-visit-charged", "second-visit")
DAY = {"97110": 1, "97140": 1}  # 23 and 10 minutes: two units
WAYS = ("charge-item", "transaction", "claim", "csv")
STEPS = st.one_of(
    st.tuples(st.just("confirm"), st.sampled_from(VISITS)),
    st.tuples(st.just("sign"), st.integers(0, 3)),
    st.tuples(st.just("sign"), st.integers(0, 3)),
    st.tuples(st.just("suggest"), st.sampled_from(VISITS)),
    st.tuples(st.just("leave by"), st.sampled_from(WAYS)),
    st.tuples(st.just("lose an answer"), st.sampled_from(["POST", "PUT"])),
    st.tuples(st.just("wait"), st.just(200)),
)


class Afternoon:
    """A clinic of which two visits of one day are still to be charged, and the pages that people have open."""

    def __init__(self, clinic, folder):
        self.clinic, self.folder = clinic, folder
        self.open = []
        for filed in list(clinic.sandbox.store.all("ChargeItem")):
            clinic.sandbox.store.remove("ChargeItem", filed.resource["id"])

    def do(self, what, which):
        getattr(self, what.replace(" ", "_"))(which)

    def confirm(self, visit):
        person = self.clinic.person()
        page = person.launch(visit)
        if has(page, "Sign off…"):
            page = person.press(page, "Sign off…")
        self.open.append((person, page))

    def sign(self, which):
        """On a page that is open, maybe since long ago, maybe signed already."""
        if self.open:
            person, page = self.open[which % len(self.open)]
            button = has(page, r"Sign off \d+ charges?")
            if button:
                assert person.press(page, button).status < 500

    def suggest(self, visit):
        person = self.clinic.person()
        page = person.launch(visit)
        if has(page, "Write as suggested"):
            person.press(page, "Write as suggested")

    def leave_by(self, way):
        """As a restart with this way would read it."""
        writing = self.clinic.installation.writing
        suggest = way in {"charge-item", "transaction"}
        writing["sandbox"] = type(writing["sandbox"])(way=way, folder=str(self.folder), suggest=suggest)

    def lose_an_answer(self, method):
        self.clinic.sandbox.faults.add(Fault("drop", method=method, path="/fhir/*", after=True))

    def wait(self, seconds):
        self.clinic.clock.forward(seconds=seconds)
        work_once(self.clinic.installation)

    def settle(self):
        self.clinic.sandbox.faults.clear()
        for _ in range(4):
            self.wait(400)

    def charged(self):
        """Units by code, wherever they went."""
        found = [
            (line["code"], int(line["units"]) * {"charge": 1, "credit": -1}[line["action"]])
            for path in self.folder.glob("*.csv")
            for line in csv.DictReader(path.read_text().splitlines())
        ]
        items = [
            item for visit in VISITS for item in self.clinic.written(visit) if item["status"] == "billable"
        ]
        found += [(item["code"]["coding"][0]["code"], item["quantity"]["value"]) for item in items]
        for filed in self.clinic.sandbox.store.all("Claim"):
            if filed.resource["status"] != "cancelled":
                found += [
                    (item["productOrService"]["coding"][0]["code"], item["quantity"]["value"])
                    for item in filed.resource["item"]
                ]
        return {code: sum(units for of, units in found if of == code) for code, _ in found}


def has(page, button):
    """The button of the page that reads so, if there is one."""
    said = [each for form in page.forms for each, _, _ in form["buttons"]]
    return next((each for each in said if re.fullmatch(button, each)), None)


@settings(
    max_examples=ORDERS, derandomize=True, deadline=None, database=None,
    phases=[Phase.generate],  # to make a failure shorter takes many minutes
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.sampled_from(WAYS), st.lists(STEPS, min_size=8, max_size=14))
def test_no_unit_leaves_twice_in_whatever_order(clinic_in, first_way, steps):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / MARK).touch()
        with clinic_in(folder) as clinic:
            afternoon = Afternoon(clinic, folder)
            afternoon.leave_by(first_way)
            for step in steps:
                afternoon.do(*step)
            afternoon.settle()
            charged = afternoon.charged()
    assert {code: units for code, units in charged.items() if units > DAY.get(code, 0)} == {}
