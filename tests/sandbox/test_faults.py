"""Faults that a test orders: each looks to the client as it would in a hospital's network."""

import time

import pytest
import requests

from quarterhour.sandbox.faults import Fault


def post(app, token, charge):
    return app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr), headers={"X-Request-Id": "the-id"})


@pytest.mark.parametrize(("after", "filed"), [(False, 0), (True, 1)])
def test_a_connection_drops_before_or_after_the_charge_was_filed(app, charge, after, filed):
    token = app.token()
    app.ehr.faults.add(Fault("drop", "POST", "/fhir/ChargeItem", after=after))
    with pytest.raises(requests.ConnectionError):
        post(app, token, charge)
    assert len(app.ehr.charge_items("cms-ex1")) == filed
    assert app.ehr.requests("POST", "/fhir/ChargeItem")[-1].status == 0
    assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == 200


@pytest.mark.parametrize(("after", "filed"), [(False, 0), (True, 1)])
def test_a_status_hides_whether_the_charge_was_filed(app, charge, after, filed):
    token = app.token()
    app.ehr.faults.add(Fault("status", "POST", after=after, status=503, retry_after="7"))
    answer = post(app, token, charge)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert len(app.ehr.charge_items("cms-ex1")) == filed


@pytest.mark.parametrize(("after", "filed"), [(False, 0), (True, 1)])
def test_a_proxy_answers_with_html(app, charge, after, filed):
    token = app.token()
    app.ehr.faults.add(Fault("html", "POST", after=after))
    answer = post(app, token, charge)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert len(app.ehr.charge_items("cms-ex1")) == filed


def test_a_body_breaks_off_in_the_middle(app):
    token = app.token()
    app.ehr.faults.add(Fault("truncate"))
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        app.fhir(token, "GET", "/Procedure?patient=pat-adams")


@pytest.mark.parametrize(("after", "filed_meanwhile"), [(False, 0), (True, 1)])
def test_an_answer_comes_too_late(app, charge, after, filed_meanwhile):
    token = app.token()
    app.ehr.faults.add(Fault("delay", "POST", "/fhir/ChargeItem", after=after, seconds=2.0))
    with pytest.raises(requests.ReadTimeout):
        app.fhir(token, "POST", "/ChargeItem", json=charge(app.ehr), timeout=1.0)
    assert len(app.ehr.charge_items("cms-ex1")) == filed_meanwhile
    deadline = time.monotonic() + 5
    while not app.ehr.charge_items("cms-ex1") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(app.ehr.charge_items("cms-ex1")) == 1


def test_a_fault_comes_as_often_as_ordered_and_only_where_ordered(app):
    token = app.token()
    app.ehr.faults.add(Fault("status", "GET", "/fhir/Procedure*", times=2, status=500))
    procedures = [app.fhir(token, "GET", "/Procedure?patient=pat-adams").status_code for _ in range(3)]
    assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == 200
    assert procedures == [500, 500, 200]
    assert app.ehr.faults.waiting == 0


def test_faults_can_be_called_off(app):
    app.ehr.faults.add(Fault("drop", times=5))
    assert app.ehr.faults.waiting == 5
    app.ehr.faults.clear()
    assert app.fhir(None, "GET", "/metadata").status_code == 200


def test_the_token_endpoint_can_fail_too(app):
    code = app.code()
    app.ehr.faults.add(Fault("status", "POST", "/oauth/token", status=500))
    assert app.exchange(code).status_code == 500
    assert app.exchange(code).status_code == 200


def test_the_log_keeps_no_bodies_and_no_tokens(app, charge):
    token = app.token()
    post(app, token, charge)
    logged = repr(app.ehr.requests())
    assert "the-id" in logged
    assert token["access_token"] not in logged
    assert "quantity" not in logged


def test_every_answer_can_be_slow(start):
    with start(delay_ms=80) as app:
        before = time.monotonic()
        app.fhir(None, "GET", "/metadata")
        assert time.monotonic() - before >= 0.08
