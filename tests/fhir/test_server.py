"""What goes over the wire, and what becomes of whatever comes back; by HTTP on loopback."""

import gzip
import json
import socket
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from quarterhour.fhir import errors
from quarterhour.fhir.server import Server, asked_to_wait, words_of

OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "details": {"text": "No such visit"}, "diagnostics": "HAPI-0302"}],
}
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Peer(ThreadingHTTPServer):
    """Answers each request with the next of its answers: status, headers, body, or a function."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = []
        self.requests = []
        self.base = f"http://127.0.0.1:{self.server_address[1]}/fhir"

    def handle_error(self, request, client_address):
        pass  # a client that gave up is what some tests are about


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, self.headers, body))
        answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        if callable(answer):
            answer(self)
            return
        status, headers, body = answer
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, *args):
        pass


@pytest.fixture
def peer():
    server = Peer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def waited():
    return []


@pytest.fixture
def ehr(peer, waited):
    """Build a Server for the peer, with times of our own."""

    def connect(**settings):
        with_times = {"clock": lambda: NOW, "sleep": waited.append, "jitter": lambda: 1.0, **settings}
        return Server(peer.base, "secret-token", requests.Session(), **with_times)

    return connect


def ok(**elements):
    return 200, {}, {"resourceType": "Encounter", "id": "E1", **elements}


def drop(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def truncate(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"resourceType":')
    drop(handler)


# What is sent


def test_a_read_carries_the_token_an_id_and_asks_for_fhir_json(peer, ehr):
    peer.answers = [ok()]
    assert json.loads(ehr().read("Encounter/E1"))["id"] == "E1"
    ((method, path, headers, _),) = peer.requests
    assert (method, path) == ("GET", "/fhir/Encounter/E1")
    assert headers["Authorization"] == "Bearer secret-token"
    assert headers["Accept"] == "application/fhir+json"
    assert len(headers["X-Request-Id"]) == len("6f1d4c0e-4f0b-4c57-9a1e-0d8f6f3a2b71")


def test_each_request_has_an_id_of_its_own(peer, ehr):
    peer.answers = [(503, {}, {}), ok()]
    ehr().read("Encounter/E1")
    assert len({headers["X-Request-Id"] for _, _, headers, _ in peer.requests}) == 2


def test_the_token_is_not_kept_on_the_shared_session_nor_shown(peer):
    peer.answers = [ok()]
    http = requests.Session()
    server = Server(peer.base, "secret-token", http)
    server.read("Encounter/E1")
    assert "Authorization" not in http.headers
    assert "secret-token" not in repr(server)


def test_a_netrc_password_does_not_take_the_tokens_place(peer, ehr, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    peer.answers = [ok()]
    ehr().read("Encounter/E1")
    assert peer.requests[0][2]["Authorization"] == "Bearer secret-token"


@pytest.mark.parametrize(
    "reference",
    ["https://elsewhere.example/fhir/Encounter/E1", "//elsewhere.example/E1", "Encounter/../E1", "E1", ""],
)
def test_only_references_on_this_server_are_read(peer, ehr, reference):
    with pytest.raises(errors.ForeignLink):
        ehr().read(reference)
    assert peer.requests == []


def test_several_threads_share_a_server_and_each_gets_its_own_answer(peer, ehr):
    def echo(handler):
        body = json.dumps({"resourceType": "Encounter", "id": handler.path.split("/")[-1]}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    peer.answers = [echo]
    server, got = ehr(), {}

    def read(name):
        got[name] = json.loads(server.read(f"Encounter/{name}"))["id"]

    threads = [threading.Thread(target=read, args=(f"E{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {f"E{number}": f"E{number}" for number in range(20)}


# What comes back wrong


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.Refused),
        (401, errors.NotAuthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.NotFound),
        (412, errors.Conflict),
        (418, errors.Refused),
        (422, errors.Unprocessable),
        (429, errors.RateLimited),
        (500, errors.ServerFailed),
        (503, errors.ServerFailed),
    ],
)
def test_each_status_is_its_own_error_with_the_ehrs_words_apart(peer, ehr, status, error):
    peer.answers = [(status, {}, OUTCOME)]
    with pytest.raises(errors.Refused) as raised:
        ehr(retries=0).read("Encounter/E1")
    assert type(raised.value) is error
    assert raised.value.status == status
    assert raised.value.words == ("No such visit", "HAPI-0302")
    assert raised.value.request_id == peer.requests[0][2]["X-Request-Id"]
    assert "No such visit" not in str(raised.value)  # they may name a patient; str goes to logs
    assert "E1" not in str(raised.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b'{"issue": 1}', b"[" * 100_000])
def test_words_of_anything_else_are_none(body):
    assert words_of(body) == ()


@pytest.mark.parametrize(
    "body", [b"<html>Sign in</html>", b"", b'{"resourceType": "Bundle"', b"[" * 100_000, b"\xff"]
)
def test_a_search_answered_with_anything_but_json_is_a_bad_answer(peer, ehr, body):
    peer.answers = [(200, {}, body)]
    with pytest.raises(errors.BadAnswer, match="tell your administrator"):
        ehr().search("Procedure", {})


def test_a_search_answered_with_another_resource_is_a_bad_answer(peer, ehr):
    peer.answers = [(200, {}, OUTCOME)]
    with pytest.raises(errors.BadAnswer) as raised:
        ehr().search("Procedure", {})
    assert raised.value.words == ("No such visit", "HAPI-0302")


def test_a_truncated_answer_is_read_again(peer, ehr):
    peer.answers = [truncate, ok()]
    assert ehr().read("Encounter/E1")
    assert len(peer.requests) == 2


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_over_the_limit_is_not_read_on_packed_or_not(peer, ehr, size, fits, packed):
    body = b" " * size
    headers = {"Content-Encoding": "gzip"} if packed else {}
    body = gzip.compress(body) if packed else body
    peer.answers = [(200, headers, body)]
    if fits:
        assert len(ehr(max_bytes=1000).read("Encounter/E1")) == size
    else:
        with pytest.raises(errors.BadAnswer, match="1,000 bytes"):
            ehr(max_bytes=1000).read("Encounter/E1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(peer, ehr, status):
    peer.answers = [(status, {"Location": f"{peer.base}/elsewhere"}, b"")]
    with pytest.raises(errors.ForeignLink, match="settings"):
        ehr().read("Encounter/E1")
    assert len(peer.requests) == 1


def test_an_ehr_that_does_not_answer_times_out_and_is_not_asked_again(peer, ehr):
    done = threading.Event()
    peer.answers = [lambda handler: done.wait(5)]
    with pytest.raises(errors.TimedOut):
        ehr(read_timeout=0.05).read("Encounter/E1")
    done.set()
    assert len(peer.requests) == 1


def test_an_answer_that_drips_is_cut_off_at_the_deadline(peer, ehr):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                done.wait(0.02)
        except OSError:
            pass

    done = threading.Event()
    ticks = iter(range(0, 100_000, 10))
    peer.answers = [drip]
    with pytest.raises(errors.TimedOut, match="in time"):
        ehr(monotonic=lambda: next(ticks), read_timeout=1, connect_timeout=1).read("Encounter/E1")
    done.set()


def test_nobody_at_the_address_is_unreachable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}/fhir"
    server = Server(base, "t", requests.Session(), sleep=lambda _: None)
    with pytest.raises(errors.Unreachable, match="nothing was sent"):
        server.read("Encounter/E1")
    with pytest.raises(errors.Unreachable):
        server.create({"resourceType": "ChargeItem"})


# Trying again: reads only, and not for ever


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_read_is_tried_again_twice_while_the_ehr_is_busy(peer, ehr, waited, status):
    peer.answers = [(status, {}, b""), (status, {}, b""), ok()]
    ehr().read("Encounter/E1")
    assert waited == [0.2, 0.4]


def test_after_the_third_time_it_is_enough(peer, ehr):
    peer.answers = [(503, {}, b"")]
    with pytest.raises(errors.ServerFailed):
        ehr().read("Encounter/E1")
    assert len(peer.requests) == 3


def test_a_dropped_read_is_tried_again(peer, ehr):
    peer.answers = [drop, drop, ok()]
    assert ehr().read("Encounter/E1")
    peer.answers = [drop]
    with pytest.raises(errors.Dropped):
        ehr().read("Encounter/E1")
    assert len(peer.requests) == 6


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_what_will_not_get_better_is_not_tried_again(peer, ehr, status):
    peer.answers = [(status, {}, b"")]
    with pytest.raises(errors.Refused):
        ehr().read("Encounter/E1")
    assert len(peer.requests) == 1


@pytest.mark.parametrize("after", ["3", "Fri, 20 Nov 2026 12:00:03 GMT"])
def test_the_ehr_says_how_long_to_wait(peer, ehr, waited, after):
    peer.answers = [(429, {"Retry-After": after}, b""), ok()]
    ehr().read("Encounter/E1")
    assert waited == [3.0]


@pytest.mark.parametrize(("after", "tries"), [("5", 3), ("6", 1)])
def test_a_person_is_not_kept_waiting_longer_than_five_seconds(peer, ehr, after, tries):
    peer.answers = [(429, {"Retry-After": after}, b"")]
    with pytest.raises(errors.RateLimited) as raised:
        ehr().read("Encounter/E1")
    assert raised.value.retry_after == float(after)
    assert len(peer.requests) == tries


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("3599", 3599.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("1764326400", 3600.0),  # the time of day as a number, which some gateways send
        ("1764326400000", 3600.0),
        ("9" * 5000, 3600.0),
        ("Fri, 20 Nov 2026 13:00:00 GMT", 3600.0),
        ("Fri, 20 Nov 2026 12:59:59 GMT", 3599.0),
        ("Fri, 20 Nov 9999 12:00:00 GMT", 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 3600.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),  # over already
        ("Fri, 20 Nov 2026 12:00:00 +99999999999999999999", None),
        ("Fri, 20 Nov 2026 12:00:00 +999999999", None),
        ("Fri, 20 Nov 2026 25:00:00 GMT", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_retry_after_is_believed_for_an_hour_at_most_and_is_never_an_error_of_ours(after, seconds):
    assert asked_to_wait(after, NOW) == seconds


@pytest.mark.parametrize("after", ["soon", "-1", "", "²"])
def test_a_retry_after_that_says_nothing_is_passed_over(peer, ehr, waited, after):
    peer.answers = [(503, {"Retry-After": after.encode("latin-1", "replace").decode("latin-1")}, b""), ok()]
    ehr().read("Encounter/E1")
    assert waited == [0.2]


@pytest.mark.parametrize("answer", [drop, truncate, (503, {}, b""), (429, {}, b"")])
def test_a_write_is_never_tried_again(peer, ehr, answer):
    peer.answers = [answer]
    with pytest.raises(errors.EhrError):
        ehr().create({"resourceType": "ChargeItem"})
    assert len(peer.requests) == 1


# Pages


def bundle(*ids, next_link=None):
    links = [{"relation": "self", "url": "x"}] + (
        [{"relation": "next", "url": next_link}] if next_link else []
    )
    entry = [{"resource": {"resourceType": "Procedure", "id": id_}} for id_ in ids]
    return 200, {}, {"resourceType": "Bundle", "link": links, "entry": entry}


def found(entries):
    return [json.loads(bytes(entry))["resource"]["id"] for entry in entries]


@pytest.mark.parametrize(
    "link", ["{base}?_getpages=1", "?_getpages=1", "Procedure?page=2", "{base}/Procedure?c=a%2Fb"]
)
def test_all_pages_are_read_in_order(peer, ehr, link):
    peer.answers = [bundle("a", "b", next_link=link.format(base=peer.base)), bundle("c")]
    assert found(ehr().search("Procedure", {"patient": "P1", "date": ["ge2026", "le2026"]})) == [
        "a",
        "b",
        "c",
    ]
    assert peer.requests[0][1] == "/fhir/Procedure?patient=P1&date=ge2026&date=le2026"


def test_a_search_without_entries_or_links_is_empty(peer, ehr):
    peer.answers = [(200, {}, {"resourceType": "Bundle", "total": 0})]
    assert ehr().search("Procedure", {}) == []


@pytest.mark.parametrize(
    "link",
    [
        "https://elsewhere.example/fhir/Procedure?page=2",
        "//elsewhere.example/fhir?page=2",
        "http://127.0.0.1/fhir?page=2",
        "{base}x/Procedure?page=2",
        "{base}/../admin",
        "{base}/%2e%2e/admin",
        "{base}/%252e%252e/admin",
        "/admin",
        "ftp://127.0.0.1/fhir",
        "http://127.0.0.1:port/fhir",
    ],
)
def test_no_page_elsewhere_is_read_and_the_token_stays_here(peer, ehr, link):
    peer.answers = [bundle("a", next_link=link.format(base=peer.base)), bundle("b")]
    with pytest.raises(errors.ForeignLink):
        ehr().search("Procedure", {})
    assert len(peer.requests) == 1


def test_a_name_and_password_in_a_link_are_refused(peer, ehr):
    port = peer.server_address[1]
    peer.answers = [bundle("a", next_link=f"http://someone@127.0.0.1:{port}/fhir?page=2"), bundle("b")]
    with pytest.raises(errors.ForeignLink):
        ehr().search("Procedure", {})


def test_pages_that_lead_back_are_an_error_and_not_half_a_list(peer, ehr):
    peer.answers = [bundle("a", next_link="Procedure?page=2"), bundle("b", next_link="Procedure?page=2")]
    with pytest.raises(errors.BadAnswer, match="does not end after 2 pages"):
        ehr().search("Procedure", {})


@pytest.mark.parametrize(("most", "enough"), [(3, True), (2, False)])
def test_more_pages_than_the_limit_are_an_error_and_not_half_a_list(peer, ehr, most, enough):
    peer.answers = [
        bundle("a", next_link="Procedure?p=2"),
        bundle("b", next_link="Procedure?p=3"),
        bundle("c"),
    ]
    if enough:
        assert found(ehr(max_pages=most).search("Procedure", {})) == ["a", "b", "c"]
    else:
        with pytest.raises(errors.BadAnswer):
            ehr(max_pages=most).search("Procedure", {})


@pytest.mark.parametrize(("bytes_less", "enough"), [(0, True), (1, False)])
def test_a_list_larger_than_the_limit_is_an_error_and_not_half_a_list(peer, ehr, bytes_less, enough):
    peer.answers = [
        bundle("a", next_link="Procedure?p=2"),
        bundle("b", next_link="Procedure?p=3"),
        bundle("c"),
    ]
    size = sum(len(json.dumps(body)) for _, _, body in peer.answers)
    server = ehr(max_bytes_of_search=size - bytes_less)
    if enough:
        assert found(server.search("Procedure", {})) == ["a", "b", "c"]
    else:
        with pytest.raises(errors.BadAnswer, match=r"is larger than .* Nothing was left out silently"):
            server.search("Procedure", {})


def test_a_list_that_grows_over_the_limit_is_not_read_on(peer, ehr):
    peer.answers = [
        bundle("a", next_link="Procedure?p=2"),
        bundle("b", next_link="Procedure?p=3"),
        bundle("c"),
    ]
    with pytest.raises(errors.BadAnswer):
        ehr(max_bytes_of_search=len(json.dumps(peer.answers[0][2])) + 1).search("Procedure", {})
    assert len(peer.requests) == 2


def test_page_by_page_a_list_may_be_as_large_as_it_is(peer, ehr):
    peer.answers = [bundle("a", next_link="Procedure?p=2"), bundle("b")]
    pages = ehr(max_bytes_of_search=1).pages("Procedure", {})
    assert [found(page.entries) for page in pages] == [["a"], ["b"]]


# Writes


def test_a_conditional_create_tells_where_it_is_and_which_version(peer, ehr):
    location = f"{peer.base}/ChargeItem/7/_history/1"
    peer.answers = [(201, {"Location": location, "ETag": 'W/"1"'}, {"resourceType": "ChargeItem", "id": "7"})]
    created = ehr().create({"resourceType": "ChargeItem"}, if_none_exist="identifier=s|v")
    assert (created.status, created.location, created.version) == (201, "ChargeItem/7", "1")
    method, path, headers, body = peer.requests[0]
    assert (method, path, body) == ("POST", "/fhir/ChargeItem", b'{"resourceType":"ChargeItem"}')
    assert headers["If-None-Exist"] == "identifier=s|v"
    assert headers["Content-Type"] == "application/fhir+json"


@pytest.mark.parametrize(
    ("headers", "location", "version"),
    [
        ({}, None, None),
        ({"Location": "ChargeItem/7"}, "ChargeItem/7", None),
        ({"Location": "ChargeItem/7/_history/2"}, "ChargeItem/7", "2"),
        ({"Location": "https://internal.example/r4/ChargeItem/7/_history/2/"}, "ChargeItem/7", "2"),
        ({"Location": "https://ehr.example/ChargeItem/$create"}, None, None),
        ({"ETag": '"3"'}, None, "3"),
        ({"ETag": "3"}, None, None),
    ],
)
def test_an_ehr_may_say_less(peer, ehr, headers, location, version):
    peer.answers = [(201, headers, b"")]
    created = ehr().create({"resourceType": "ChargeItem"})
    assert (created.location, created.version, created.body) == (location, version, b"")


def test_an_update_names_the_version_that_it_replaces(peer, ehr):
    peer.answers = [(200, {"ETag": 'W/"5"'}, {"resourceType": "ChargeItem", "id": "7"})]
    assert ehr().update({"resourceType": "ChargeItem", "id": "7"}, "4").version == "5"
    method, path, headers, _ = peer.requests[0]
    assert (method, path, headers["If-Match"]) == ("PUT", "/fhir/ChargeItem/7", 'W/"4"')


def test_an_update_over_a_newer_version_is_a_conflict(peer, ehr):
    peer.answers = [(412, {}, OUTCOME)]
    with pytest.raises(errors.Conflict, match="Reload"):
        ehr().update({"resourceType": "ChargeItem", "id": "7"}, "4")


def test_a_write_answered_with_a_web_page_is_a_bad_answer(peer, ehr):
    peer.answers = [(200, {}, b"<html>")]
    with pytest.raises(errors.BadAnswer, match="web page"):
        ehr().create({"resourceType": "ChargeItem"})
