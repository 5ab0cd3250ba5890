"""What leaves by each way, and how a charge is taken back by it."""

import csv
import io
from contextlib import closing
from dataclasses import replace

import hl7
import pytest
import requests
from fault_matrix import OUTS, _clear, job_for, some_charges, stored
from fhir.resources.R4B.claim import Claim
from writer_process import Steps, work

from quarterhour.fhir import errors
from quarterhour.fhir.charge_item import withdrawal_of
from quarterhour.fhir.charge_items import InOneTransaction, OneByOne
from quarterhour.fhir.claim import claim
from quarterhour.fhir.oracle_charge import OracleCharges
from quarterhour.fhir.server import Server
from quarterhour.fhir.way import Capabilities, WritingSettings, capabilities_of, way_for
from quarterhour.launch.errors import IssuersInvalid
from quarterhour.plugin.charge_files import csv_text
from quarterhour.plugin.dft import acknowledged, dft_p03
from quarterhour.plugin.installation import install
from quarterhour.plugin.outbox import Row, State
from quarterhour.plugin.sign_off import corrected
from quarterhour.sandbox.mllp import InterfaceFault

SETTINGS = WritingSettings.from_table({"receiving_application": "BILLING"})


@pytest.fixture
def http():
    with requests.Session() as session:
        yield session


def a_server(bench, http, peer="complete"):
    _clear(bench)
    return Server(bench.sandboxes[peer].fhir_url, "token", http, retries=0)


def taken_back(charge, written):
    return withdrawal_of(charge, written.reference, why="Units were wrong.", by="Practitioner/pr-reyes",
                         at=charge.entered_at)  # fmt: skip


# Choosing


@pytest.mark.parametrize(
    ("can", "way"),
    [
        (Capabilities(creates_charges=True, transactions=True), "transaction"),
        (Capabilities(creates_charges=True), "charge-item"),
        (Capabilities(), "ticket"),
        (Capabilities(unread="down"), "charge-item"),
    ],
)
def test_the_ehr_s_own_statement_chooses_where_the_site_does_not(can, way):
    assert way_for(WritingSettings(), can) == way
    assert way_for(WritingSettings(way="claim"), can) == "claim"


def test_a_statement_is_read_as_it_comes(bench, http):
    assert capabilities_of(a_server(bench, http)) == Capabilities(True, True, True, True)
    assert capabilities_of(Server("http://127.0.0.1:9", "t", http, retries=0)).unread


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"way": "fax"}, "way"),
        ({"search_lag": 5}, "search_lag"),
        ({"way": "dft"}, "host and port"),
        ({"way": "csv"}, "folder"),
        ({"way": "oracle", "bill_code_source": "https://x"}, "bill_code_schedules"),
        ({"search_lag_seconds": -1}, "search_lag_seconds"),
        ({"way": "csv", "folder": "x", "suggest": True}, "suggest needs a way that can update a charge"),
        ({"way": "claim", "suggest": True}, "and 'claim' cannot"),
    ],
)
def test_a_writing_table_that_does_not_fit_is_refused_by_name(table, named):
    with pytest.raises(ValueError, match=named):
        WritingSettings.from_table(table)


def test_a_request_may_be_under_way_for_as_long_as_we_wait_ourselves(settings):
    issuers = settings().issuers_file

    def installed_with(seconds):
        text = issuers.read_text().partition("[issuers.riverside.writing]")[0]
        issuers.write_text(f"{text}\n[issuers.riverside.writing]\nin_flight_seconds = {seconds}\n")
        with closing(install(settings())) as here:
            return here.writing["riverside"].in_flight_seconds

    assert installed_with(25) == 25  # 5 to connect, 20 to answer
    with pytest.raises(IssuersInvalid, match="less than the 25 seconds for which Quarterhour itself waits"):
        installed_with(24)


# FHIR


def test_one_by_one_a_charge_is_written_found_and_taken_back(bench, http):
    (charge,) = some_charges(bench, 1)
    way = OneByOne(a_server(bench, http), SETTINGS.wait)
    (written,) = way.write((charge,))
    assert way.find(charge) == replace(written, how="already-there")
    withdrawal = taken_back(charge, written)
    assert way.find(withdrawal) is None
    (done,) = way.write((withdrawal,))
    assert (done.how, way.find(withdrawal).how) == ("withdrawn", "withdrawn")
    (filed,) = bench.sandboxes["complete"].store.all("ChargeItem")
    assert (filed.resource["status"], filed.resource["note"][-1]["text"]) == ("aborted", "Units were wrong.")


def test_a_billed_charge_is_never_touched(bench, http):
    (charge,) = some_charges(bench, 1)
    server = a_server(bench, http)
    way = OneByOne(server, SETTINGS.wait)
    (written,) = way.write((charge,))
    store = bench.sandboxes["complete"].store
    (filed,) = store.all("ChargeItem")
    store.put({**filed.resource, "status": "billed"})
    with pytest.raises(errors.OnRecord, match="no longer ours"):
        way.write((taken_back(charge, written),))
    (filed,) = store.all("ChargeItem")
    assert filed.resource["status"] == "billed"


def test_a_transaction_brings_all_charges_and_who_accepted_them(bench, http):
    charges = some_charges(bench, 3)
    way = InOneTransaction(a_server(bench, http), SETTINGS.wait)
    written = way.write(charges)
    store = bench.sandboxes["complete"].store
    assert [each.how for each in written] == ["created"] * 3
    (provenance,) = store.all("Provenance")
    assert [each["reference"] for each in provenance.resource["target"]] == [
        each.reference for each in written
    ]
    assert provenance.resource["agent"][0]["who"] == {"reference": "Practitioner/pr-reyes"}
    assert provenance.resource["entity"] == [{"role": "source", "what": {"reference": "Procedure/p1"}}]
    assert [each.how for each in way.write(charges)] == ["already-there"] * 3  # conditional create
    assert len(store.all("ChargeItem")) == 3


def test_a_transaction_with_one_bad_charge_writes_none(bench, http):
    good, bad = some_charges(bench, 2)
    way = InOneTransaction(a_server(bench, http), SETTINGS.wait)
    with pytest.raises(errors.Unprocessable):
        way.write((good, replace(bad, encounter="Encounter/none")))
    assert bench.sandboxes["complete"].store.all("ChargeItem") == []


def test_modifiers_go_in_medplum_s_form_where_the_site_says_so(bench, http):
    (charge,) = some_charges(bench, 1)
    way = OneByOne(a_server(bench, http), SETTINGS.wait, modifiers="medplum")
    way.write((replace(charge, modifiers=("GP", "59")),))
    (filed,) = bench.sandboxes["complete"].store.all("ChargeItem")
    assert [
        (each["url"].rpartition("/")[2], each["valueCodeableConcept"]["coding"][0]["code"])
        for each in filed.resource["extension"]
    ] == [("chargeitem-modifier", "GP"), ("chargeitem-modifier", "59")]


def test_oracle_takes_a_charge_without_an_id_and_shows_it_later(bench, http):
    (charge,) = some_charges(bench, 1)
    server = a_server(bench, http, "bare")
    schedules = {"CPT": "615214", "MODIFIER": "3692"}
    way = OracleCharges(server, SETTINGS.wait, "https://fhir.cerner.com/x", schedules)
    assert way.prepare((charge,)) == ()
    (written,) = way.write((charge,), ())
    assert written.how == "accepted"
    found = way.find(charge, ())
    assert (found.how, found.reference.startswith("ChargeItem/")) == ("created", True)
    assert way.find(charge, way.prepare((charge,))) is None  # was there before: not ours
    withdrawal = taken_back(charge, found)
    assert way.find(withdrawal, ()) is None
    assert way.write((withdrawal,), ())[0].how == "accepted"
    assert way.find(withdrawal, ()).how == "withdrawn"
    with pytest.raises(ValueError, match="HCPCS"):
        way.parameters(replace(charge, code="G0283"))


def test_a_claim_is_a_valid_draft_with_modifiers_in_their_order(bench):
    charges = some_charges(bench, 2)
    made = claim((replace(charges[0], modifiers=("GP", "KX")), charges[1]), "c")
    Claim.model_validate(made)
    assert (made["status"], made["use"]) == ("draft", "claim")
    assert [each["coding"][0]["code"] for each in made["item"][0]["modifier"]] == ["GP", "KX"]
    with pytest.raises(ValueError, match="coverage"):
        claim((replace(charges[0], coverage=None),), "c")


# HL7 v2 and files


def test_a_dft_message_says_what_billing_needs(bench):
    first, second = some_charges(bench, 2)
    first = replace(first, modifiers=("GP", "59"), account="Account/a1")
    message = hl7.parse(dft_p03((first, second), SETTINGS, "CONTROL-1"))
    header = message.segment("MSH")
    assert [str(header[field]) for field in (9, 10, 12, 18)] == [
        "DFT^P03^DFT_P03", "CONTROL-1", "2.5.1", "UNICODE UTF-8"
    ]  # fmt: skip
    patient = message.segment("PID")
    assert (str(patient[3]), str(patient[5]), str(patient[7]), str(patient[8]), str(patient[18])) == (
        "100001^^^^MR~pat-adams^^^^PI", "Adams^Ruth", "19510314", "F", "a1"
    )  # fmt: skip
    assert str(message.segment("PV1")[19]) == "enc-cms-ex1"
    charges = message.segments("FT1")
    assert [str(each[2]) for each in charges] == [first.identifier, second.identifier]
    assert (str(charges[0][4]), str(charges[0][6])) == ("20261120140000+0000^20261120141500+0000", "CG")
    assert (str(charges[0][7]), str(charges[0][10]), str(charges[0][26])) == ("97110^^C4", "1", "GP~59")


def test_a_credit_repeats_the_transaction_id(bench):
    (charge,) = some_charges(bench, 1)
    credit = withdrawal_of(charge, None, why="Wrong | units", by="Practitioner/t", at=charge.entered_at)
    segment = hl7.parse(dft_p03((credit,), SETTINGS, "C")).segment("FT1")
    assert (str(segment[2]), str(segment[6])) == (charge.identifier, "CR")
    assert str(segment[9]) == r"Wrong \F\ units"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("a|b", r"a\F\b"), ("a^b", r"a\S\b"), ("a&b", r"a\T\b"), ("a~b", r"a\R\b"), ("a\\b", r"a\E\b"),
     ("a\rPID|x", r"a\X0D\PID\F\x"), ("ü", "ü")],
)  # fmt: skip
def test_what_would_break_the_message_is_escaped(bench, text, escaped):
    (charge,) = some_charges(bench, 1)
    charge = replace(charge, person=replace(charge.person, family=text))
    assert f"|{escaped}^Ruth|" in dft_p03((charge,), SETTINGS, "C")


@pytest.mark.parametrize("answer", [b"", b"<html>", b"MSH|^~\\&|x\r", b"MSH|^~\\&|x\rMSA|AA|OTHER\r",
                                    b"MSH|^~\\&|x\rMSA|ZZ|C\r"])  # fmt: skip
def test_what_is_no_acknowledgement_of_this_message_says_nothing(answer):
    with pytest.raises(errors.Unknown):
        acknowledged(answer, "C")


def test_an_interface_that_says_no_has_filed_nothing_and_its_words_are_shown(bench):
    out = next(out for out in OUTS if out.way == "dft")
    _clear(bench)
    bench.interface.faults.append(InterfaceFault("answer", code="AR"))
    decision = stored(bench, out, some_charges(bench, 1))
    work(job_for(bench, out, decision), Steps())
    (row,) = bench.rows(decision)
    assert row.state is State.REFUSED
    assert "(AR)" in row.problem
    assert bench.interface.charges() == []


def test_a_table_has_a_line_a_charge_and_no_formulas(bench):
    (charge,) = some_charges(bench, 1)
    charge = replace(charge, person=replace(charge.person, name="=cmd()"))
    (line,) = csv.DictReader(io.StringIO(csv_text((charge,))))
    assert (line["action"], line["units"], line["modifier_1"]) == ("charge", "1", "GP")
    assert line["name"] == "'=cmd()"
    with pytest.raises(ValueError, match="a line takes four"):
        csv_text((replace(charge, modifiers=("GP", "59", "KX", "CQ", "XU")),))


# Corrections


def test_a_correction_takes_back_what_differs_and_leaves_the_rest(bench):
    same, other, gone = some_charges(bench, 3)

    def row(charge):
        return Row(
            charge, State.CONFIRMED, "created", f"ChargeItem/{charge.code}", None, 1, (), None, bench.clock()
        )

    wanted = (same, replace(other, identifier="new", units=other.units + 1))
    changes = corrected((row(same), row(other), row(gone)), wanted, "Miscounted.", bench.clock())
    assert [(each.withdraws, each.identifier == "new") for each in changes] == [
        (other.identifier, False), (gone.identifier, False), (None, True)
    ]  # fmt: skip
    assert changes[2].replaces == other.identifier
    assert {each.rationale for each in changes[:2]} == {"Miscounted."}


def test_corrected_charges_replace_the_old_ones_on_every_way_that_can_say_so(bench):
    for out in OUTS:
        if out.peer in {"none", "interface", "folder"}:
            continue
        _clear(bench)
        (charge,) = some_charges(bench, 1)
        decision = stored(bench, out, (charge,))
        for _ in range(3):
            work(job_for(bench, out, decision), Steps())
            bench.gate.jump(130)
        (row,) = bench.rows(decision)
        assert row.state is State.CONFIRMED, out.title
        (more,) = some_charges(bench, 1)
        more = replace(more, units=3)
        changes = corrected((row,), (more,), "Miscounted.", bench.clock())
        again = stored(bench, out, changes)
        for _ in range(5):
            work(job_for(bench, out, again), Steps())
            bench.gate.jump(130)
        assert [each.state for each in bench.rows(again)] == [State.CONFIRMED] * 2, (
            out.title,
            [each.problem for each in bench.rows(again)],
        )
