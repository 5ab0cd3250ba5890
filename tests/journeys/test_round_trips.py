"""How often the EHR is waited for, one time after another: told by what arrives there together, never by time."""

import threading
import time
from urllib.parse import urlsplit

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
