"""What reaches the log of a running installation of other people's code: that it spoke, and none of its words."""

import json
import socket
import subprocess
import sys
import threading

import pytest

READS = """
import logging, sys
from quarterhour.fhir.server import Server
from quarterhour.launch.http import open_http
from quarterhour.launch.issuers import Issuer
from quarterhour.plugin.cli_serve import log_as_json

log_as_json()
logging.basicConfig()  # as waitress does
issuer = Issuer(
    id="a", iss=sys.argv[1], name="A", time_zone="America/New_York", client_id="q", client_auth="public",
    allow_http=True, allow_private_addresses=True,
)
print(Server(issuer.base, "token-secret", open_http(issuer)).search("Procedure", {"patient": "patient-secret"}))
"""

SPEAKS = """
import logging, sys
from quarterhour.plugin.cli_serve import log_as_json

log_as_json()
logging.basicConfig()
logger = logging.getLogger(sys.argv[1])
logger.warning("GET /Procedure?patient=%s", "patient-secret", extra={"address": "patient-secret"})
try:
    raise ValueError("patient-secret")
except ValueError:
    logger.exception("Exception while serving /visits/patient-secret")
"""


def run(program, argument):
    done = subprocess.run(
        [sys.executable, "-c", program, argument], capture_output=True, text=True, timeout=60, check=True
    )
    assert "secret" not in done.stderr
    return done.stdout, [json.loads(line) for line in done.stderr.splitlines()]


def test_an_answer_with_a_header_that_cannot_be_read_leaves_no_address_and_no_header_in_the_log():
    body = b'{"resourceType": "Bundle"}'
    answer = (
        b"HTTP/1.1 200 OK\r\nX-Patient secret header\r\nX-Other: secret\r\nContent-Length: %d\r\n"
        b"Connection: close\r\n\r\n%s" % (len(body), body)
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        printed, logged = run(READS, f"http://127.0.0.1:{listening.getsockname()[1]}/fhir")
        thread.join()
    assert printed == "[]\n"
    assert logged == []


@pytest.mark.parametrize(
    "logger", ["waitress", "requests", "fhirclient", "authlib", "sqlalchemy.engine", "flask.app", "any.other"]
)
def test_of_what_a_library_says_the_log_has_who_and_where_only(logger):
    _, logged = run(SPEAKS, logger)
    assert [(line["event"], line["logger"], line["severity"], line["why"]) for line in logged] == [
        ("library", logger, "warning", None),
        ("library", logger, "error", "ValueError"),
    ]
    assert {line["where"] for line in logged} == {"<string>:8", "<string>:12"}


@pytest.mark.parametrize("logger", ["urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry"])
def test_urllib3_says_nothing_at_all(logger):
    assert run(SPEAKS, logger) == ("", [])


FAILS = """
import sys, threading
from quarterhour.plugin.cli_serve import log_as_json, thread_failed

log_as_json()
threading.excepthook = thread_failed
thread = threading.Thread(target=lambda: int(sys.argv[1]))
thread.start()
thread.join()
"""


def test_a_thread_that_fails_leaves_its_kind_of_failure_only():
    _, logged = run(FAILS, "patient-secret")
    assert [(line["event"], line["why"]) for line in logged] == [("thread_failed", "ValueError")]
