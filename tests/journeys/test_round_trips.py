"""How often the EHR is waited for, one time after another: told by what arrives there together, never by time."""

import threading
import time
from urllib.parse import urlsplit

import pytest

READS = (
    10  # Encounter, Patient, Procedures twice, Encounters, ChargeItems twice, Coverage, Practitioner, roles
)


class Together:
    """Around the EHR: once awake, a request that fits is not answered before all its company have arrived.

    Who asks for one after the other gets no answer, and fails.
    """

    def __init__(self, fits, company):
        self.fits = fits
        self.barrier = threading.Barrier(company)
        self.awake = False

    def __call__(self, application):
        def waiting(environ, start_response):
            if self.awake and self.fits(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
                self.barrier.wait(timeout=10)
            return application(environ, start_response)

        return waiting


def is_a_read(method, path):
    return method == "GET" and path.startswith("/fhir/") and not path.startswith("/fhir/.well-known/")


def is_token_or_keys(_method, path):
    return path in {"/oauth/token", "/oauth/jwks"}


def until_warm(clinic):
    """Waits for what /launch has begun in the background, as a person at the authorization page does."""
    (issuer,) = clinic.installation.issuers
    http = clinic.installation.connections.to(issuer)
    deadline = time.monotonic() + 10
    while not (http.signing_keys and http.are_open(issuer.iss, READS)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def asked_since(clinic, before):
    return [(entry.method, entry.path) for entry in clinic.sandbox.requests()[before:]]


def test_after_the_code_come_the_token_and_one_round_of_reads_on_connections_that_are_open(a_clinic, wire):
    reads = Together(is_a_read, company=READS)
    clinic = a_clinic(around_ehr=reads)
    person = clinic.person()
    callback = person.callback_of("cms-ex1")
    until_warm(clinic)
    before, reads.awake = len(clinic.sandbox.requests()), True
    with wire.watched():
        page = person.open(callback)
    assert "3 timed units" in page.text
    token, *rest = asked_since(clinic, before)
    assert token == ("POST", "/oauth/token")
    assert len(rest) == READS
    assert all(is_a_read(*asked) for asked in rest)
    assert urlsplit(clinic.ehr_url).port not in wire.ports


def test_a_process_without_connections_opens_them_and_asks_for_the_keys_beside_the_token(a_clinic):
    both = Together(is_token_or_keys, company=2)
    clinic = a_clinic(around_ehr=both)
    person = clinic.person()
    callback = person.callback_of("cms-ex1")
    until_warm(clinic)
    clinic.installation.connections.close()
    before, both.awake = len(clinic.sandbox.requests()), True
    page = person.open(callback)
    assert "3 timed units" in page.text
    until_warm(clinic)
    asked = asked_since(clinic, before)
    assert asked.count(("GET", "/oauth/jwks")) == 1
    assert asked.count(("GET", "/fhir/.well-known/smart-configuration")) == READS - 1, (
        "the token's own connection is the last"
    )
    assert len(asked) == 1 + 1 + (READS - 1) + READS


def test_an_ehr_that_was_just_launched_from_is_asked_for_nothing_at_the_next_launch(a_clinic):
    clinic = a_clinic()
    person = clinic.person()
    person.callback_of("cms-ex1")
    until_warm(clinic)
    before = len(clinic.sandbox.requests())
    person.callback_of("cms-ex3")
    until_warm(clinic)
    assert asked_since(clinic, before) == [("GET", "/oauth/authorize")]


def is_last(query):
    """Of the reads of a chart those that rarely bring anything: other encounters, charges, what has no date."""
    path, _, given = query.partition("?")
    return path in {"/fhir/ChargeItem", "/fhir/Encounter"} or (
        path == "/fhir/Procedure" and "encounter=" in given
    )


class InTurns:
    """Around the EHR: some reads of a chart are answered once all the others have been."""

    def __init__(self):
        self.answered = threading.Condition()
        self.first = None  # of a read: whether it is among those answered first
        self.left = 0  # how many of these are still to be answered

    def begin(self, first, of_first):
        self.first, self.left = first, of_first

    def __call__(self, application):
        def in_turns(environ, start_response):
            if self.first is None or not is_a_read(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
                return application(environ, start_response)
            if self.first(f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"):
                answer = list(application(environ, start_response))
                with self.answered:
                    self.left -= 1
                    self.answered.notify_all()
                return answer
            with self.answered:
                assert self.answered.wait_for(lambda: self.left <= 0, timeout=10)
            time.sleep(0.1)  # in which the page is worked out without them
            return application(environ, start_response)

        return in_turns


LAST = 4


@pytest.mark.parametrize(
    "scenario", ["cms-ex1", "second-visit", "two-disciplines-pt", "open-visit", "missing-minutes"]
)
def test_the_page_is_the_same_whatever_the_ehr_answers_last(a_clinic, scenario):
    turns = InTurns()
    person = a_clinic(around_ehr=turns).person()
    seen = []
    for first, of_first in ((lambda query: not is_last(query), READS - LAST), (is_last, LAST)):
        callback = person.callback_of(scenario)
        turns.begin(first, of_first)
        page = person.open(callback)
        assert turns.left <= 0  # a second round comes on top
        turns.first = None
        seen.append(page.text)
    seen.append(person.open(f"{page.url}?again=1").text)  # read as a whole before anything is made of it
    assert seen[0] == seen[1] == seen[2]
    assert "Minutes" in seen[0]
