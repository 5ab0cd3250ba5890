"""From every finding there is a way to the receipt: each is shown with its sentence, and what is asked can be done.

The visits are planted as if they had been read; the EHR does not answer, so that charges go on the ticket.
"""

import html
import re
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import responses
from cryptography.fernet import Fernet

from quarterhour import fhir
from quarterhour.core.findings import Finding, Severity, Status
from quarterhour.core.library import Library
from quarterhour.core.suggestion import CHECKS, suggest
from quarterhour.core.visit import (
    AlreadyCharged,
    Contract,
    Discipline,
    History,
    PhaseOfCare,
    Service,
    Setting,
    Visit,
)
from quarterhour.fhir.normalise import PreparedVisit
from quarterhour.fhir.person import Person
from quarterhour.launch.context import Identity, LaunchContext, Session
from quarterhour.launch.scopes import NEEDS
from quarterhour.plugin import database, flow
from quarterhour.plugin.app import create_app
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install
from quarterhour.plugin.review import Answers, Correction
from quarterhour.plugin.roles import Role

ISSUERS = """
[issuers.riverside]
iss = "https://ehr.example/fhir"
name = "Riverside"
time_zone = "America/New_York"
client_id = "quarterhour"
client_auth = "public"
[issuers.riverside.writing]
way = "ticket"
"""
SHIPPED = Library.load()
NOW = datetime(2026, 3, 3, 17, 0, tzinfo=UTC)
DAY = date(2026, 3, 2)
BASE = "https://units.example"
ISS = "https://ehr.example/fhir"


def at(time: str, day: int = 2) -> datetime:
    return datetime.fromisoformat(f"2026-03-0{day}T{time}").replace(tzinfo=ZoneInfo("America/New_York"))


def visit(*services: Service, discipline=Discipline.PT, **facts) -> Visit:
    numbered = (replace(each, reference=f"Procedure/{number}") for number, each in enumerate(services, 1))
    return Visit(DAY, discipline, tuple(numbered), **facts)


S = Service
A_LONG_DAY = (S("97110", 60), S("97140", 60), S("97530", 90), S("97112", 30))
THIRTY_EACH = dict.fromkeys(("97110", "97140", "97530", "97112"), Decimal(30))
FOURTEEN = [code.code for code in SHIPPED.codes if code.pools and code.valid_on(DAY)][:14]
VISITS = (
    visit(S("97110", 15), S("99999", 15)),
    visit(S("97110", 15), S("97001", 15), S("97150", 20), S("97799", 10)),
    visit(S("97110", 15), S("97140")),
    visit(S("97110", start=at("09:00"), end=at("09:20")), S("97140", start=at("09:10"), end=at("09:30"))),
    visit(
        S("97110", start=at("23:50"), end=at("23:59")), S("97140", start=at("09:10", 3), end=at("09:30", 3))
    ),
    visit(S("97110", 7)),
    visit(S("97110", 20), total_treatment_minutes=10),
    visit(S("G0283", 10), S("G0283", 10), S("97110", 15, units=3)),
    visit(S("97150", start=at("09:00"), end=at("09:30")), S("97110", start=at("09:10"), end=at("09:30"))),
    visit(S("97110", 27, assistant_minutes=3), S("97161", 20, assistant_minutes=5)),
    visit(S("97110", 12, assistant_minutes=13), discipline=Discipline.SLP),
    visit(S("97110", 15), already_charged=(AlreadyCharged("97110", 3),)),
    visit(S("97110", 15), history=History(therapy_amount=Decimal(5000))),
    visit(S("97110", 15), discipline=None),
    visit(S("97110", 15), modifiers={"97110": ("GO", "59", "KX", "XE", "XP")}),
    visit(S("97530", 15), S("97116", 15), S("97140", 15), S("97150", 20)),
    visit(S("97161", 20, units=4)),
    visit(
        *A_LONG_DAY,
        phase_of_care=PhaseOfCare.INITIAL,
        history=History(3, 30, 5, referral_on_file=False),
        contract=Contract(Decimal(50), THIRTY_EACH),
    ),
    visit(
        S("97110", 15, documentation=("type",)),
        S("97161", 15, condition="a"),
        S("97161", 15, condition="a"),
        history=History(3, 3, 5, referral_on_file=False),
    ),
    visit(*(S(code, 4) for code in FOURTEEN)),
    visit(S("97110", 15), S("97140", 15), setting=Setting.OUTPATIENT_HOSPITAL),
)


def _examples() -> dict[tuple[str, str], tuple[Visit, str]]:
    """A visit and policy for every finding of core, failed and not checked."""
    found: dict[tuple[str, str], tuple[Visit, str]] = {}
    for each in VISITS:
        for policy in ("cms-part-b", *SHIPPED.ids):
            for finding in suggest(each, SHIPPED.policy(policy), SHIPPED).findings:
                found.setdefault((finding.id, finding.status.value), (each, policy))
    return found


EXAMPLES = _examples()

# The ids that fhir and rights give, as they stand in the code.
NAMED = re.compile(r'(?:finding_of|left_out|Finding)\(\s*"([a-z-]+)"')
READ = sorted(
    {
        id_
        for folder in map(Path, fhir.__path__)
        for file in folder.glob("*.py")
        for id_ in NAMED.findall(file.read_text(encoding="utf-8"))
    }
)


def prepared(of: Visit, policy: str | None, *findings: Finding) -> PreparedVisit:
    return PreparedVisit(
        visit=of,
        findings=findings,
        patient="Patient/1",
        person=Person(name="Pat Synthetic", birth_date="1950-01-01", sex="female", record_number="1"),
        encounter="Encounter/1",
        policy_id=policy,
        policy_because="The coverage names it.",
        coverage=None,
        performers={},
        assistant_services=frozenset(),
        proposals={},
        versions={},
        charges=(),
        organization=None,
        account=None,
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("riverside")
    (folder / "issuers.toml").write_text(ISSUERS)
    settings = Settings(
        public_url=BASE,
        issuers_file=folder / "issuers.toml",
        secret_keys=Fernet.generate_key().decode(),
        database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
    )
    with closing(install(settings, lambda: NOW)) as installation:
        yield installation


@pytest.fixture(scope="module")
def app(here):
    made = create_app(here)
    made.config["WTF_CSRF_ENABLED"] = False  # the browser's tests have it on
    return made


class Reviewer:
    """Somebody with one visit open, who does what the page asks."""

    def __init__(self, app, here, read: PreparedVisit, number: int) -> None:
        self.client = app.test_client()
        self.launch = f"launch-{number}"
        session = Session(
            access_token="token",
            token_type="Bearer",
            expires_at=None,
            refresh_token=None,
            id=Identity("https://ehr.example/fhir", f"reviewer-{number}", "Practitioner/1", "Dana Synthetic"),
            context=LaunchContext(
                iss="https://ehr.example/fhir",
                patient=str(number),
                encounter=str(number),
                fhir_user="Practitioner/1",
                scopes=tuple(need.v2 for need in NEEDS),
                need_patient_banner=True,
            ),
            token_endpoint="https://ehr.example/token",
            revocation_endpoint=None,
        )
        # Each visit is a patient's of its own, or what is signed for one would come off the others.
        read = replace(read, patient=f"Patient/{number}", encounter=f"Encounter/{number}")
        self.here, self.session, self.read, self.person = here, session, read, f"person-{number}"
        with here.engine.begin() as connection:
            connection.execute(
                database.launch.insert().values(
                    id=self.launch,
                    browser=here.vault.index("browser", "b"),
                    issuer="https://ehr.example/fhir",
                    person=self.person,
                    session=here.vault.seal_bytes(session.to_json().encode()),
                    chart=here.vault.seal((read,)),
                    roles=here.vault.seal([Role.THERAPIST]),
                    started_at=NOW,
                    seen_at=NOW,
                )
            )
        with self.client.session_transaction(base_url=BASE) as cookie:
            cookie["browser"] = "b"

    def keep(self, answers: Answers) -> None:
        """A draft as it was kept some time ago."""
        opened = flow.Opened(self.launch, self.here.issuers.match(ISS), self.session, self.person)
        flow.keep_draft(self.here, opened, flow.key_of(self.here, opened, self.read), answers)

    def get(self, path: str = "") -> str:
        answer = self.client.get(f"/launches/{self.launch}/visits/1{path}", base_url=BASE)
        assert answer.status_code == 200, answer.text
        return answer.text

    def post(self, path: str = "", **entered: str) -> str:
        answer = self.client.post(
            f"/launches/{self.launch}/visits/1{path}", base_url=BASE, data=entered, follow_redirects=True
        )
        assert answer.status_code == 200, answer.text
        return answer.text

    def to_the_receipt(self) -> str:
        """Answers what the page asks until it can be signed, then signs."""
        for _ in range(4):
            page = self.get()
            if 'id="blocked"' not in page:
                break
            self.post(**self.answers_to(page))
        confirm = self.post(**fields_of(self.get()), go="sign")
        assert re.search(r"<button>Sign off \d+ charges?</button>", confirm), blocked(confirm)
        seen = re.search(r'name="seen" value="([0-9a-f]+)"', confirm)
        return self.post("/sign", seen=seen[1], visit=fields_of(confirm)["visit"])

    def answers_to(self, page: str) -> dict[str, str]:
        """What somebody would enter who reads what stands in the way."""
        entered = fields_of(page)
        for name, value in re.findall(r'<input type="radio" name="(\w+)"[^>]* value="([^"]*)"', page):
            entered.setdefault(name, html.unescape(value))
        if tied := re.search(r"Tick the (\d+) codes?", page):
            entered["tie-takes"] = re.findall(r'name="tie-takes" id="[^"]+" value="([^"]+)"', page)[
                : int(tied[1])
            ]
        for legend in re.findall(r'name="minutes:([^"]+)" id="minutes-asked', page):
            entered |= {f"minutes:{legend}": "15", f"why:{legend}": "Flow sheet"}
        for note in re.findall(r'Needs your reason before signing.*?name="note:([^"]+)"', page, re.DOTALL):
            entered[f"note:{note}"] = "Looked at the record."
        if "There is no unit to charge" in page:
            entered |= {"minutes:Procedure/1": "60", "why:Procedure/1": "Flow sheet"}
        return entered


def fields_of(page: str) -> dict[str, str]:
    """What the browser would send along unchanged."""
    boxes = re.findall(r'<input type="checkbox" name="([^"]+)"[^>]* value="([^"]*)" checked', page)
    offered = re.findall(r'<input type="hidden" name="(visit|offered:[^"]+|tie-open)" value="([^"]*)"', page)
    texts = re.findall(r'<input type="(?:text|number)"[^>]* name="([^"]+)"[^>]* value="([^"]*)"', page)
    chosen = re.findall(r'<input type="radio" name="(\w+)"[^>]* value="([^"]*)"[^>]* checked', page)
    entered: dict[str, list[str]] = {}
    for name, value in (*boxes, *offered, *texts, *chosen):
        entered.setdefault(name, []).append(html.unescape(value))
    return {name: values if len(values) > 1 else values[0] for name, values in entered.items()}


def blocked(page: str) -> str:
    found = re.search(r'<ul id="blocked".*?</ul>', page, re.DOTALL)
    return found[0] if found else page


_numbers = iter(range(1, 10_000))


@pytest.fixture
def reviewer(app, here):
    with responses.RequestsMock(assert_all_requests_are_fired=False) as ehr:
        ehr.get(re.compile("https://ehr.example/.*"), status=403)
        yield lambda read: Reviewer(app, here, read, next(_numbers))


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_every_finding_that_the_checks_can_give_has_an_example_here():
    assert {id_ for id_, _status in EXAMPLES} == {name for name, _check in CHECKS} | {"policy-unverified"}


@pytest.mark.parametrize(("id_", "status"), EXAMPLES)
def test_from_every_finding_of_a_check_a_way_leads_to_the_receipt(reviewer, id_, status):
    of, policy = EXAMPLES[id_, status]
    one = reviewer(prepared(of, policy))
    page = words(one.get())
    for finding in suggest(of, SHIPPED.policy(policy), SHIPPED).findings:
        if finding.id == id_ != "policy-unverified":
            assert " ".join(finding.message.split()) in page
    assert id_ not in page, "no id of ours in running text"
    assert "Signed off; not sent." in words(one.to_the_receipt())


@pytest.mark.parametrize("id_", READ)
@pytest.mark.parametrize("severity", [Severity.CRITICAL, Severity.INFO])
def test_from_everything_that_could_not_be_read_a_way_leads_to_the_receipt(reviewer, id_, severity):
    finding = Finding(id_, Status.FAIL, severity, "Something of the chart, in one sentence.", ("97110",))
    one = reviewer(prepared(visit(S("97110", 15)), "cms-part-b", finding))
    assert finding.message in words(one.get())
    assert "Signed off; not sent." in words(one.to_the_receipt())


def test_each_of_two_findings_of_one_kind_is_answered_by_itself_and_kept_with_its_sentence(reviewer):
    findings = tuple(
        Finding("wrong-patient", Status.FAIL, Severity.CRITICAL, f"Procedure/{number} is not this patient's.")
        for number in (7, 8)
    )
    one = reviewer(prepared(visit(S("97110", 15)), "cms-part-b", *findings))
    assert "2 critical findings need a reason." in blocked(one.get())
    page = one.post(**fields_of(one.get()) | {"note:wrong-patient Procedure/7": "Told the front desk."})
    assert "1 critical finding needs a reason." in blocked(page)
    one.post(**fields_of(page) | {"note:wrong-patient Procedure/8": "A twin's chart; told the therapist."})
    confirm = words(one.post(**fields_of(one.get()), go="sign"))
    assert "Procedure/7 is not this patient's. Reason: Told the front desk." in confirm
    one.to_the_receipt()
    history = words(one.get("/history"))
    assert "Procedure/7 is not this patient's. Reason: Told the front desk." in history
    assert "Procedure/8 is not this patient's. Reason: A twin's chart; told the therapist." in history


def test_one_reason_of_a_former_draft_for_two_findings_is_shown_and_answers_neither(reviewer):
    codes = ("97110", "97140")
    findings = tuple(
        Finding("left-out", Status.FAIL, Severity.CRITICAL, f"{code} was left out.", (code,))
        for code in codes
    )
    one = reviewer(prepared(visit(S("97110", 15)), "cms-part-b", *findings))
    one.keep(Answers(notes={"left-out": "Looked at both."}))
    page = one.get()
    assert "2 critical findings need a reason." in blocked(page)
    assert "Earlier you noted for all of these: “Looked at both.”" in words(page)
    own = {f"note:left-out {code}": f"Looked at {code}." for code in codes}
    page = one.post(**fields_of(page) | own)
    assert 'id="blocked"' not in page
    assert "Earlier you noted" not in words(page)


def test_a_policy_that_is_not_in_force_or_not_installed_is_asked_for_and_not_the_end(reviewer):
    for policy in ("cms-part-b", "gone"):
        read = prepared(replace(visit(S("97110", 15)), date_of_service=date(1999, 1, 1)), policy)
        page = reviewer(read).get()
        assert "Which policy are these charges counted under?" in page
        assert "Nothing is assumed" in page


# --- what each finding lets a person do -----------------------------------------------------------------------


def test_the_amount_of_the_year_is_entered_beside_the_check_that_lacks_it_and_then_weighed(reviewer):
    one = reviewer(prepared(visit(S("97110", 15)), "cms-part-b"))
    assert one.get().count('name="therapy_amount"') == 1  # two checks ask, one field answers
    page = words(one.post(**fields_of(one.get()) | {"therapy_amount": "$2,481.00"}))
    assert "This year's amount for PT and SLP together is 2,481.00" in page
    page = one.post(**fields_of(one.get()) | {"therapy_amount": "2450.00"})
    assert "30.00 are left of the KX threshold" in words(page)
    assert page.count('name="amount:97110"') == 1  # what today comes to can be entered there
    page = words(one.post(**fields_of(page) | {"amount:97110": "30.00"}))
    assert "What you added" in page
    assert "lines without KX are denied" not in page
    page = words(one.post(**fields_of(one.get()) | {"amount:97110": "30.01"}))
    assert "lines without KX are denied" in page


def test_kx_and_amounts_are_for_the_further_stretches_too(reviewer):
    """97129 of 30 minutes is 97129 and 97130, which no service of the chart names."""
    of = replace(
        visit(S("97129", 30), history=History(therapy_amount=Decimal(2500))), discipline=Discipline.OT
    )
    one = reviewer(prepared(of, "cms-part-b"))
    form = fields_of(one.get()) | {"therapy_amount": "2500", "putwhy:KX": "Documented.", "go": "put:KX"}
    page = one.post(**form)
    assert 'id="on-1-KX"' in page
    assert 'id="on-2-KX"' in page
    one = reviewer(prepared(replace(of, history=History()), "cms-part-b"))
    page = one.post(**fields_of(one.get()) | {"therapy_amount": "2000"})
    page = one.post(**fields_of(page) | {"amount:97129": "20", "amount:97130": "20.50"})
    assert 'value="20.50"' in page


def test_kx_is_put_on_only_with_a_reason_and_taken_off_again(reviewer):
    of = visit(S("97110", 15), S("97140", 15), history=History(therapy_amount=Decimal(2500)))
    one = reviewer(prepared(of, "cms-part-b"))
    asked = fields_of(one.get())
    refused = one.client.post(
        f"/launches/{one.launch}/visits/1", base_url=BASE, data=asked | {"go": "put:KX"}
    )
    assert refused.status_code == 422
    assert "KX attests something: give your reason" in words(refused.text)
    page = one.post(**asked | {"go": "put:KX", "putwhy:KX": "Regained gait after the fall, see note."})
    assert page.count(' value="KX" checked') == 2
    assert "you put it on, because: Regained gait" in words(page)
    assert "lines without KX are denied" not in words(page)
    without = fields_of(page)
    without["on:97110"] = "GP"
    page = one.post(**without)
    assert page.count(' value="KX" checked') == 1
    assert "lines without KX are denied" in words(page)


def test_a_pair_of_codes_is_answered_with_one_of_five_modifiers_none_of_them_chosen_before(reviewer):
    one = reviewer(prepared(visit(S("97113", 15), S("97110", 15)), "cms-part-b"))
    page = one.get()
    (options,) = re.findall(r'<select name="putwhat:([^"]+)"(.*?)</select>', page, re.DOTALL)
    assert " selected" not in options[1]
    values = [value for value in re.findall(r'value="([^"]*)"', options[1]) if value]
    assert {value.partition("@")[0] for value in values} == {"59", "XE", "XS", "XP", "XU"}
    page = one.post(
        **fields_of(page)
        | {
            "go": f"put:{options[0]}",
            f"putwhat:{options[0]}": values[0],
            f"putwhy:{options[0]}": "Apart by the clock: 9:00 and 9:30.",
        }
    )
    assert page.count(' value="59" checked') == 1
    assert "are an NCCI pair" not in words(page)
    assert "59 put on" in words(one.post(**fields_of(page) | {"go": "sign"}))


def test_checks_that_wait_for_one_thing_stand_together_under_it(reviewer):
    page = words(reviewer(prepared(visit(S("97110", 15), S("97140")), "cms-part-b")).get())
    assert page.count("waiting for the minutes of 97140") == 1
    assert page.count("KX threshold, medical review threshold: waiting for this year's amount so far") == 1


def test_what_the_payer_wants_documented_is_settled_by_hand_code_by_code(reviewer):
    one = reviewer(prepared(visit(S("97110", 15), S("97140", 15)), "hns"))
    assert "What is documented of 97110, 97140 is not known" in words(one.get())
    page = one.post(**fields_of(one.get()) | {"record:97110": "all"})
    assert "What is documented of 97140 is not known" in words(page)
    page = one.post(**fields_of(page) | {"record:97140": "part"})
    assert "What is documented of 97140 is not known" in words(page)  # until it is said what is lacking
    assert page.count('name="lacks:97140"') == 5
    page = one.post(**fields_of(page) | {"record:97140": "part", "lacks:97140": ["rationale", "minutes"]})
    assert "The documentation of 97140 lacks the rationale, the actual minutes." in words(page)
    assert page.count('name="lacks:97140"') == 5  # to be changed where it stands
    confirm = words(one.post(**fields_of(page), go="sign"))
    assert "What the payer wants documented of 97110: It is all there" in confirm
    assert "What the payer wants documented of 97140: not there: rationale, actual minutes" in confirm
    page = one.post(**fields_of(page) | {"record:97140": "all"})
    assert "The documentation of 97140 lacks" not in words(page)
    page = one.post(**fields_of(page) | {"record:97140": ""})
    assert "What is documented of 97140 is not known" in words(page)


@pytest.mark.parametrize(
    ("answer", "says"),
    [("yes", None), ("no", "2 initial evaluations (97161) for one condition"), ("", "is not known")],
)
def test_whether_two_evaluations_were_for_conditions_of_their_own_is_settled_by_hand(reviewer, answer, says):
    one = reviewer(prepared(visit(S("97161", 15), S("97161", 15), S("97110", 15)), "tufts-commercial-pt"))
    assert "The condition of 2 of 2 initial evaluations is not known." in words(one.get())
    page = one.post(**fields_of(one.get()) | {"separate_conditions": answer})
    said = " ".join(re.findall(r"[^.]*initial evaluations[^.]*", words(page)))
    assert (said == "") if says is None else (says in said)


def test_the_contracts_amounts_are_asked_one_after_the_other_and_then_weighed(reviewer):
    one = reviewer(prepared(visit(S("97110", 30), S("97140", 15)), "tufts-commercial-pt"))
    page = one.get()
    assert "The contract's daily payment maximum is not known." in words(page)
    assert 'name="amount:' not in page
    page = one.post(**fields_of(page) | {"daily_maximum": "100"})
    assert "The contract's amount for 97110, 97140 is not known." in words(page)
    page = one.post(**fields_of(page) | {"amount:97110": "$40.00", "amount:97140": "30"})
    assert "110.00 dollars fall under the daily maximum of 100.00 dollars; 10.00 dollars are above" in words(
        page
    )
    page = one.post(**fields_of(page) | {"amount:97110": "35"})
    assert "fall under the daily maximum" not in words(page)  # 2 x 35 + 30 = 100
    assert "The contract's amount for a unit of 97110, in dollars: 35" in words(
        one.post(**fields_of(page), go="sign")
    )


@pytest.mark.parametrize(("phase", "said"), [("initial", True), ("later", False)])
def test_the_phase_of_care_is_asked_and_decides_how_many_therapies_are_usual(reviewer, phase, said):
    many = visit(*(S(code, 15) for code in ("97110", "97140", "97530", "97112")))
    one = reviewer(prepared(many, "hns"))
    assert "The phase of care is not known, and 4 therapies were given." in words(one.get())
    page = words(one.post(**fields_of(one.get()) | {"phase_of_care": phase}))
    assert ("4 therapies or modalities in a visit of the initial phase" in page) is said
    assert "The phase of care is not known" not in page


def test_a_service_is_left_out_with_its_minutes_and_a_reason_and_taken_in_again(reviewer):
    one = reviewer(prepared(visit(S("97110", 23), S("97140", 15)), "cms-part-b"))
    assert "3 timed units" in words(one.get())  # 38 minutes
    page = one.post(**fields_of(one.get()) | {"out:Procedure/2": "Entered twice by mistake."})
    assert "2 timed units" in words(page)  # 23 minutes
    assert "97140: no clock times, 15 minutes, left out." in words(page)
    assert "Left out : Entered twice by mistake." in words(page)
    confirm = words(one.post(**fields_of(page), go="sign"))
    assert "97140 left out: Entered twice by mistake." in confirm
    assert "Sign off 1 charge" in confirm
    page = one.post(**fields_of(page) | {"out:Procedure/2": ""})
    assert "3 timed units" in words(page)


def test_a_draft_about_a_service_that_left_the_chart_stands_in_nobodys_way(reviewer):
    one = reviewer(prepared(visit(S("97110", 23)), "cms-part-b"))
    one.keep(
        Answers(
            minutes={"Procedure/8": Correction(20, "Flow sheet")},
            left_out={"Procedure/9": "Not furnished."},
            record={"97140": ()},
        )
    )
    confirm = words(one.post(**fields_of(one.get()), go="sign"))
    assert "Sign off 1 charge" in confirm
    assert "Flow sheet" not in confirm
    assert "Not furnished." not in confirm
    assert "Signed off; not sent." in words(one.to_the_receipt())


@pytest.mark.parametrize(("id_", "status"), EXAMPLES)
def test_beside_every_finding_stands_something_to_do(reviewer, id_, status):
    of, policy = EXAMPLES[id_, status]
    page = reviewer(prepared(of, policy)).get()
    elements = re.findall(r' id="([^"]+)"', page)
    assert len(elements) == len(set(elements)), "an element stands twice"
    for row in re.split(r'(?=<div role="group" class="find |<details id="find-unchecked-)', page)[1:]:
        if not row.startswith('<div role="group" class="find unchecked"'):  # that holds the rows that follow
            alone = row.partition('<details id="passed"')[0].partition("<h2")[0]
            assert re.search(r'<input type="text"|<select|<a href="#(?:ask|service)', alone), words(alone)


def test_minutes_of_therapist_and_assistant_are_corrected_and_the_charts_stay_beside_them(reviewer):
    of = visit(S("97110", start=at("09:00"), end=at("09:30")))
    one = reviewer(prepared(of, "cms-part-b"))
    entered = {"minutes:Procedure/1": "30", "assistant:Procedure/1": "15", "why:Procedure/1": "PTA took over"}
    page = words(one.post(**fields_of(one.get()) | entered))
    assert "9:00 to 9:30 30 min entered, 15 of them by an assistant: PTA took over" in page
    assert "97110: 9:00 to 9:30, 15 minutes as entered, assistant." in page
    assert "CQ" in page


@pytest.mark.parametrize(
    ("entered", "says"),
    [
        ({"minutes:Procedure/1": "1441", "why:Procedure/1": "x"}, "not whole minutes from 0 to 1440"),
        ({"minutes:Procedure/1": "ten", "why:Procedure/1": "x"}, "not whole minutes from 0 to 1440"),
        ({"minutes:Procedure/1": "10"}, "say where the 10 minutes are documented"),
        (
            {"minutes:Procedure/1": "10", "assistant:Procedure/1": "11", "why:Procedure/1": "x"},
            "the assistant's part is whole minutes from 0 to 10",
        ),
        ({"assistant:Procedure/1": "5"}, "enter the minutes in all"),
        ({"therapy_amount": "about 2000"}, "is not an amount like 1234.50"),
        ({"therapy_amount": "1.005"}, "is not an amount like 1234.50"),
        ({"total_treatment_minutes": "-5"}, "is not a whole number"),
    ],
)
def test_what_cannot_be_used_is_told_kept_in_its_field_and_counts_for_nothing(reviewer, entered, says):
    one = reviewer(prepared(visit(S("97110", 15)), "cms-part-b"))
    answer = one.client.post(
        f"/launches/{one.launch}/visits/1", base_url=BASE, data=fields_of(one.get()) | entered
    )
    assert answer.status_code == 422
    assert says in words(answer.text)
    for name, value in entered.items():
        assert re.search(
            rf'name="{re.escape(name)}"[^>]* value="{re.escape(html.escape(value))}"', answer.text
        )
    assert "15 timed minutes" in words(one.get())


def boxes(page: str) -> dict[str, bool]:
    """The codes that may take a tied unit, and whether they are ticked."""
    found = re.findall(r'<input type="checkbox" name="tie-takes"[^>]* value="([^"]+)"( checked)?', page)
    return {code: bool(ticked) for code, ticked in found}


def test_a_tie_of_more_than_a_thousand_ways_is_told_and_settled_code_by_code(reviewer):
    one = reviewer(prepared(visit(*(S(code, 4) for code in FOURTEEN)), "cms-part-b"))
    page = one.get()
    assert "4 units can go to these codes." in words(page)
    assert "in 1,001 ways, more than the 1,000 that are written out" in words(page)
    assert "56 timed minutes; 53 to 67 make 4 units." in words(page)
    assert boxes(page) == dict.fromkeys(FOURTEEN, False)
    for count, says in (
        (3, "3 codes are ticked: 1 more can take a unit."),
        (5, "5 codes are ticked: take 1 off."),
        (1, "1 code is ticked: 3 more can take a unit."),
    ):
        page = one.post(**fields_of(page) | {"tie-takes": FOURTEEN[:count], "go": "sign"})
        assert says in words(page)
        assert f"4 units are still to be placed. {plural(count)} chosen." in words(blocked(page))
        assert [code for code, ticked in boxes(page).items() if ticked] == FOURTEEN[:count]
        assert page.count('class="units">0') == 14
    page = one.post(**fields_of(page) | {"tie-takes": FOURTEEN[:4]})
    assert "to be placed" not in words(page)
    assert "1,001 ways" not in words(page)
    assert page.count('class="units one">1') == 4
    assert "The clinician chose: 97032 takes one of the tied units." in words(page)
    other = one.post(**fields_of(page) | {"tie-takes": FOURTEEN[10:]})  # it can be changed
    assert [code for code, ticked in boxes(other).items() if ticked] == FOURTEEN[10:]
    nothing = fields_of(other)
    del nothing["tie-takes"]
    assert "4 units are still to be placed." in words(blocked(one.post(**nothing)))
    assert "Signed off; not sent." in words(one.to_the_receipt())
    assert "exactly the same." in words(one.get("/history"))


def plural(count: int) -> str:
    return "1 code is" if count == 1 else f"{count} codes are"


@pytest.mark.parametrize(("minutes", "codes", "boxed"), [(5, 5, False), (5, 6, True)])  # 10 ways, 15 ways
def test_up_to_ten_ways_are_offered_one_by_one_and_more_by_a_box_for_each_code(
    reviewer, minutes, codes, boxed
):
    one = reviewer(prepared(visit(*(S(code, minutes) for code in FOURTEEN[:codes])), "cms-part-b"))
    page = one.get()
    assert len(boxes(page)) == (codes if boxed else 0)
    assert page.count('name="tie" ') == (0 if boxed else 10)
    assert "written out" not in words(page)
    assert "Signed off; not sent." in words(one.to_the_receipt())


def test_ticks_made_for_other_minutes_are_asked_again(reviewer):
    one = reviewer(prepared(visit(*(S(code, 4) for code in FOURTEEN)), "cms-part-b"))
    page = one.post(**fields_of(one.get()) | {"tie-takes": FOURTEEN[:4]})
    assert "to be placed" not in page
    corrected = {"minutes:Procedure/1": "20", "why:Procedure/1": "Flow sheet"}
    page = one.post(**fields_of(page) | corrected)
    assert "to be placed" in words(blocked(page))
    assert list(boxes(page).values()) == [False] * 13  # the corrected one has 5 minutes left, more than 4


def test_discipline_and_policy_can_be_changed_where_they_were_known(reviewer):
    one = reviewer(prepared(visit(S("97110", 16), S("97140", 22)), "cms-part-b"))
    assert "3 timed units" in words(one.get())
    page = words(one.post(**fields_of(one.get()) | {"policy": "ama-midpoint", "discipline": "OT"}))
    assert "2 timed units" in page
    assert "Occupational therapy" in page
    assert "You chose another one." in page


def test_another_policy_stands_beside_with_its_difference_marked(reviewer):
    one = reviewer(prepared(visit(S("97110", 16), S("97140", 22)), "cms-part-b"))
    page = one.get()
    assert '<span class="difference">-1</span>' in page
    page = words(one.post(**fields_of(page) | {"beside": "hns"}))
    assert page.count("HNS (Health Network Solutions), therapies and modalities") >= 2


def test_the_patients_other_coverage_is_compared_by_itself(reviewer):
    read = replace(prepared(visit(S("97110", 16)), "cms-part-b"), other_policies=("optum-0048",))
    assert "(the patient's other coverage)" in words(reviewer(read).get())
