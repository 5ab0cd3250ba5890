"""Every fault against every way out: what is written in the end, and what nobody can know.

Faults happen at the wire (the sandbox EHR, an HL7 interface, a folder that is emptied) or to the process
(SIGKILL). Afterwards the outbox is run again until nothing is left to do, and the other side is counted.
"""

from __future__ import annotations

import csv
import io
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import hl7
import requests
from cryptography.fernet import Fernet
from writer_process import SENT_AT, Job, Processes, Steps, work

from quarterhour.fhir.charge_item import Charge, identifier_for
from quarterhour.fhir.claim import CLAIM_CHARGE
from quarterhour.fhir.person import Person
from quarterhour.fhir.server import Server
from quarterhour.fhir.systems import APP, CHARGE_IDENTIFIER
from quarterhour.fhir.way import WritingSettings
from quarterhour.plugin import database, outbox, suggested
from quarterhour.plugin.charge_files import MARK
from quarterhour.plugin.database import open_database
from quarterhour.plugin.outbox import State
from quarterhour.plugin.vault import Vault
from quarterhour.plugin.ways import way_by
from quarterhour.sandbox.authorization import Authorized, Token
from quarterhour.sandbox.ehr import Sandbox, create_sandbox, running
from quarterhour.sandbox.faults import Fault, hang_up
from quarterhour.sandbox.mllp import Interface, InterfaceFault, running_interface
from quarterhour.sandbox.quirks import Quirks

SCOPES = "user/ChargeItem.cruds user/Claim.cruds user/Provenance.cu patient/*.rs"
CODES = ("97110", "97112", "97140", "97530")
LAG, IN_FLIGHT = 6, 20  # seconds, as the writing table would say; the peers keep to them, see Gate
TIMEOUT, DELAY = 0.15, 0.3  # seconds that are really waited
LEASE_OVER = 130

SOURCE = "https://fhir.cerner.com/synthetic"
ORACLE = {
    "bill_code_source": SOURCE,
    "bill_code_schedules": {"CPT": "615214", "HCPCS": "615215", "MODIFIER": "3692"},
}


@dataclass(frozen=True)
class Out:
    """A way, and the peer that it is tried against."""

    title: str
    way: str
    peer: str  # "complete", "bare" (no conditional create), "interface", "folder" or "none"
    over: bool = False  # signed in the place of a suggestion that stands in the EHR already

    @property
    def finds(self) -> bool:
        return self.way != "dft"


OUTS = (
    Out("ChargeItem", "charge-item", "complete"),
    Out("ChargeItem, no conditional create", "charge-item", "bare"),
    Out("ChargeItem transaction, no conditional create", "transaction", "bare"),
    Out("ChargeItem over a suggestion, no conditional create", "charge-item", "bare", over=True),
    Out("Transaction over a suggestion, no conditional create", "transaction", "bare", over=True),
    Out("Oracle $create", "oracle", "bare"),
    Out("Claim, no conditional create", "claim", "bare"),
    Out("DFT over MLLP", "dft", "interface"),
    Out("DFT as a file", "dft-file", "folder"),
    Out("CSV file", "csv", "folder"),
    Out("Charge ticket", "ticket", "none"),
)

_POST = {"method": "P[OU]*", "path": "/fhir*"}  # POST and PUT
_HTTP: dict[str, Fault] = {
    "time-out, then processed": Fault("delay", seconds=DELAY, **_POST),
    "processed, then time-out": Fault("delay", after=True, seconds=DELAY, **_POST),
    "dropped before processing": Fault("drop", **_POST),
    "dropped after processing": Fault("drop", after=True, **_POST),
    "409": Fault("status", status=409, **_POST),
    "412": Fault("status", status=412, **_POST),
    "422": Fault("status", status=422, **_POST),
    "429 with Retry-After": Fault("status", status=429, retry_after="7", **_POST),
    "500 before processing": Fault("status", status=500, **_POST),
    "500 after processing": Fault("status", status=500, after=True, **_POST),
    "503 before processing": Fault("status", status=503, **_POST),
    "503 after processing": Fault("status", status=503, after=True, **_POST),
    "truncated body": Fault("truncate", **_POST),
    "HTML instead of JSON": Fault("html", after=True, **_POST),
    "wrong patient in the answer": Fault("foreign", **_POST),
}
_MLLP: dict[str, InterfaceFault] = {
    "time-out, then processed": InterfaceFault("delay", seconds=DELAY),
    "processed, then time-out": InterfaceFault("delay", after=True, seconds=DELAY),
    "dropped before processing": InterfaceFault("drop"),
    "dropped after processing": InterfaceFault("drop", after=True),
    "409": InterfaceFault("answer", code="AE"),
    "412": InterfaceFault("answer", code="CE"),
    "422": InterfaceFault("answer", code="AR"),
    "429 with Retry-After": InterfaceFault("answer", code="CR"),
    "truncated body": InterfaceFault("truncate"),
    "HTML instead of JSON": InterfaceFault("html"),
    "wrong patient in the answer": InterfaceFault("foreign"),
}
# After a plain no it is tried again; where that one's answer is lost on a busy machine, two attempts are right.
ANSWERED_NO = frozenset({"connection refused", "409", "412", "422", "429 with Retry-After"})
PROCESS = ("killed before sending", "killed at a step", "killed awaiting the answer", "two workers at once")
FAULTS = ("connection refused", *_HTTP, *PROCESS, "search lags 0.5 to 5 s")


def applies(out: Out, fault: str) -> bool:  # noqa: PLR0911 - one reason after another
    """Whether this can happen on that way at all."""
    if fault in {"two workers at once", "killed at a step"}:
        return True
    if out.peer == "none":
        return False
    if fault == "killed before sending":
        return True
    if fault == "connection refused":
        return True
    if fault == "killed awaiting the answer":
        return out.peer != "folder"
    if out.peer == "interface":
        return fault in _MLLP
    return out.peer in {"complete", "bare"}


CELLS = tuple(
    (out, fault, lines) for out in OUTS for fault in FAULTS if applies(out, fault) for lines in (1, 3)
)


@dataclass
class Outcome:
    """What came of the runs of one cell; charges, except ``injected``."""

    runs: int = 0
    injected: int = 0
    charges: int = 0
    lost: int = 0
    doubled: int = 0
    unknown: int = 0

    def add(self, other: Outcome) -> None:
        for name in vars(other):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Clock:
    """Real time and an offset that both sides share."""

    offset: float = 0.0

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.offset)


class Gate:
    """Before the EHRs: it holds them to what a site's ``in_flight_seconds`` promises, however slow the machine.

    The clock jumps by minutes, while a request that its sender gave up may lie in a queue for as long as a busy
    machine pleases. So the clock jumps only while no request is being processed, and a write that reaches the
    EHR later after its sending than the promise allows is dropped, as the network of such a site would.
    """

    def __init__(self, clock: Clock) -> None:
        self.late = 0
        self._clock = clock
        self._change = threading.Condition()
        self._inside = 0
        self._closed = False

    def jump(self, seconds: float) -> None:
        """Moves the clock, between two requests."""
        with self._change:
            self._closed = True
            assert self._change.wait_for(lambda: not self._inside, timeout=300)
            self._clock.offset += seconds
            self._closed = False
            self._change.notify_all()

    def around(self, application):
        """The application behind this gate."""

        def gated(environ, start_response):
            with self._change:
                self._change.wait_for(lambda: not self._closed)
                sent_at = environ.get(_HEADER)
                if sent_at and self._clock().timestamp() - float(sent_at) > IN_FLIGHT:
                    self.late += 1
                    return hang_up(environ, start_response)
                self._inside += 1
            try:
                return application(environ, start_response)
            finally:
                with self._change:
                    self._inside -= 1
                    self._change.notify_all()

        return gated


_HEADER = "HTTP_" + SENT_AT.upper().replace("-", "_")


@contextmanager
def a_sandbox(gate: Gate, clock: Clock, quirks: Quirks) -> Iterator[Sandbox]:
    """An EHR behind the gate."""
    made = []

    def factory(base_url: str):
        made.append(
            create_sandbox(base_url=base_url, app_url="http://localhost:9", clock=clock, quirks=quirks)
        )
        return gate.around(made[0])

    with running(factory):
        yield made[0].extensions["sandbox"]


@dataclass
class Bench:
    """Both sides, running."""

    url: str
    vault: Vault
    key: str
    engine: object
    clock: Clock
    gate: Gate
    sandboxes: dict[str, Sandbox]
    interface: Interface
    folder: Path
    chance: random.Random
    taken: list[str] = field(default_factory=list)  # the contents of files that were fetched
    processes: Processes | None = None

    def outbox(self) -> outbox.Outbox:
        return outbox.Outbox(self.engine, self.vault, self.clock)

    def rows(self, decision: str) -> tuple[outbox.Row, ...]:
        with self.engine.begin() as connection:
            return outbox.charges_of(connection, self.vault, decision)


@contextmanager
def a_bench(url: str, folder: Path, seed: int = 20261121) -> Iterator[Bench]:
    """A database at ``url``, two EHRs, an interface and a folder."""
    clock = Clock()
    key = Fernet.generate_key().decode()
    vault = Vault((key,))
    engine = open_database(url, vault)
    (folder / "charges").mkdir(exist_ok=True)
    (folder / "charges" / MARK).touch()
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        gate = Gate(clock)
        kinds = {"complete": Quirks(), "bare": Quirks(no_conditional_create=True)}
        sandboxes = {
            name: stack.enter_context(a_sandbox(gate, clock, quirks)) for name, quirks in kinds.items()
        }
        for sandbox in sandboxes.values():
            sandbox.smart.issued.tokens["token"] = Token(
                "token", None, "test", SCOPES,
                Authorized("Practitioner/pr-reyes", "Patient/pat-adams", "Encounter/enc-cms-ex1"),
                "family", datetime(9000, 1, 1, tzinfo=UTC),
            )  # fmt: skip
        processes = Processes()
        stack.callback(processes.close)
        yield Bench(
            url, vault, key, engine, clock, gate, sandboxes,
            stack.enter_context(running_interface()), folder / "charges", random.Random(seed),
            processes=processes,
        )  # fmt: skip


def some_charges(bench: Bench, lines: int, codes: tuple[str, ...] = CODES) -> tuple[Charge, ...]:
    """Charges that never were before."""
    run = bench.chance.getrandbits(60)
    start = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
    return tuple(
        Charge(
            identifier=identifier_for(
                "https://ehr.example/fhir", patient="Patient/pat-adams", encounter="Encounter/enc-cms-ex1",
                date_of_service=date(2026, 11, 20), code=code, modifiers=("GP",), sequence=run,
            ),
            patient="Patient/pat-adams",
            encounter="Encounter/enc-cms-ex1",
            date_of_service=date(2026, 11, 20),
            code=code,
            units=1 + place,
            modifiers=("GP",),
            services=("Procedure/p1",),
            performers=("Practitioner/pr-reyes",),
            enterer="Practitioner/pr-reyes",
            entered_at=bench.clock(),
            rationale="A synthetic charge.",
            start=start,
            end=start + timedelta(minutes=15),
            coverage="Coverage/c1",
            person=Person("Ruth Adams", "1951-03-14", "female", "100001", "Adams", "Ruth"),
        )
        for place, code in enumerate(codes[:lines])
    )  # fmt: skip


def stored(bench: Bench, out: Out, charges: tuple[Charge, ...]) -> str:
    """A decision with these charges, as sign-off stores it; its id."""
    decision = uuid.uuid4().hex
    now = bench.clock()
    with bench.engine.begin() as connection:
        connection.execute(
            database.decision.insert().values(
                id=decision, visit=uuid.uuid4().hex, revision=1, issuer="https://ehr.example/fhir",
                person="p", signed_at=now, way=out.way, sealed=bench.vault.seal({}),
            )
        )  # fmt: skip
        outbox.intend(connection, bench.vault, decision, charges, now)
    return decision


def signed_over(bench: Bench, out: Out, charges: tuple[Charge, ...]) -> str:
    """A decision with these charges, where a suggestion was written before; its id.

    Suggested were the first one with other units, and a line that is not signed; the others are new.
    """
    visit, before, decision = uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex
    (extra,) = some_charges(bench, 1, CODES[-1:])
    suggested_lines = tuple(
        replace(charge, status="planned", suggested=True, enterer=APP)
        for charge in (replace(charges[0], units=charges[0].units + 1), extra)
    )
    for revision, name in enumerate((before, decision)):
        with bench.engine.begin() as connection:
            connection.execute(
                database.decision.insert().values(
                    id=name, visit=visit, revision=revision, issuer="https://ehr.example/fhir",
                    person="p", signed_at=bench.clock(), way=out.way, sealed=bench.vault.seal({}),
                )
            )  # fmt: skip
            if name == before:
                outbox.intend(connection, bench.vault, before, suggested_lines, bench.clock())
            else:
                suggested.take_over(connection, bench, visit, decision, charges, "Practitioner/pr-reyes",
                                    bench.clock())  # fmt: skip
        if name == before:
            _write(bench, out, job_for(bench, out, before))
            _until_it_is_over(bench, out, before)
    bench.sandboxes[out.peer].requests.clear()
    return decision


def job_for(bench: Bench, out: Out, decision: str) -> Job:
    writing = {"way": out.way, "search_lag_seconds": LAG, "in_flight_seconds": IN_FLIGHT, **ORACLE}
    writing |= {"host": "127.0.0.1", "port": bench.interface.port, "folder": str(bench.folder)}
    peer = bench.sandboxes.get(out.peer)
    base = f"{peer.fhir_url}/" if peer else "http://127.0.0.1:9/"
    return Job(
        bench.url, bench.key, bench.vault._index_key, base, "token", out.way, writing, decision,
        bench.clock.offset, TIMEOUT,
    )  # fmt: skip


def run(bench: Bench, out: Out, fault: str, lines: int, *, naive: bool = False) -> Outcome:
    """One decision, this fault, and then whatever it takes until nothing is left to do."""
    _clear(bench)
    charges = some_charges(bench, lines)
    decision = (signed_over if out.over else stored)(bench, out, charges)
    injected = _attempt(bench, out, fault, decision, charges if naive else None)
    if not naive:
        _until_it_is_over(bench, out, decision)
    bench.gate.jump(LEASE_OVER)  # whatever is still under way comes too late
    _fetch_files(bench, out)
    if not fault.startswith("killed") and out.peer in {*bench.sandboxes, "interface"}:
        injected -= _not_yet_injected(bench, out)
    attempts = 2 if fault in ANSWERED_NO else 1
    return _judged(bench, out, decision, charges, injected, attempts=attempts, naive=naive)


def _until_it_is_over(bench: Bench, out: Out, decision: str) -> None:
    for _ in range(12):
        if _is_over(bench, out, decision):
            break
        bench.gate.jump(LEASE_OVER)
        _write(bench, out, job_for(bench, out, decision))


def _not_yet_injected(bench: Bench, out: Out) -> int:
    return (
        len(bench.interface.faults) if out.peer == "interface" else bench.sandboxes[out.peer].faults.waiting
    )


def _attempt(bench: Bench, out: Out, fault: str, decision: str, naively: tuple[Charge, ...] | None) -> int:
    """The first try, with its fault. How many faults happen, unless nothing comes for them to happen to."""
    job = job_for(bench, out, decision)
    peer = bench.sandboxes.get(out.peer)
    if fault == "connection refused":
        dead = {**job.writing, "port": 9, "folder": str(bench.folder / "missing")}
        _write(bench, out, replace(job, base_url="http://127.0.0.1:9/fhir/", writing=dead), naively)
        if naively:
            _write(bench, out, job, naively)
        return 1
    if fault == "search lags 0.5 to 5 s":
        assert peer is not None
        peer.store.search_lag = timedelta(seconds=bench.chance.uniform(0.5, 5))
        lost = bench.chance.choice(["dropped after processing", "500 after processing", "truncated body"])
        peer.faults.add(_HTTP[lost])
        _write(bench, out, job, naively)
        for seconds in (0.4, 1.5):  # impatient: while the search still says nothing
            if naively:
                continue
            bench.gate.jump(seconds)
            _write(bench, out, job_for(bench, out, decision))
        return 2
    if fault in PROCESS:
        return _process_fault(bench, out, fault, job, naively)
    if out.peer == "interface":
        bench.interface.faults.append(_MLLP[fault])
    else:
        assert peer is not None
        peer.faults.add(_HTTP[fault])
    _write(bench, out, job, naively)
    if "time-out" in fault and out.peer == "interface":
        time.sleep(DELAY)
    return 1


def _process_fault(bench: Bench, out: Out, fault: str, job: Job, naively: tuple[Charge, ...] | None) -> int:
    if fault == "two workers at once":
        if naively:
            with ThreadPoolExecutor(2) as clicks:
                list(clicks.map(lambda _: _write(bench, out, job, naively), range(2)))
        else:
            bench.processes.run((job, None, False), (job, None, False))
        return 1
    during = fault == "killed awaiting the answer"
    peer = bench.sandboxes.get(out.peer)
    if during and out.peer == "interface":
        bench.interface.faults.append(InterfaceFault("delay", after=True, seconds=0.1))
    elif during and peer:
        peer.faults.add(Fault("delay", after=True, seconds=0.1, **_POST))
    if naively:  # a server that dies while it waits, and a person who presses again
        _write(bench, out, job, naively, die_after=bench.chance.randrange(len(naively)))
        _write(bench, out, job, naively)
        return 1
    most = _STEPS.get(out.way, 20)
    at = bench.chance.randint(1, most) if fault == "killed at a step" else "send"
    (code,) = bench.processes.run((job, at, during))
    if during:
        if out.peer == "interface":
            time.sleep(0.12)
        bench.interface.faults.clear()
        if peer:
            peer.faults.clear()
    return int(code == -9)


# As many steps as three lines take without a fault; one line takes fewer, and then nothing is killed.
_STEPS = {"charge-item": 36, "oracle": 42}


def _write(
    bench: Bench, out: Out, job: Job, naively: tuple[Charge, ...] | None = None, die_after: int | None = None
) -> None:
    if naively is None:
        work(job, Steps())
    else:
        _naive(job, naively, die_after)


def _naive(job: Job, charges: tuple[Charge, ...], die_after: int | None) -> None:
    """Sends each charge, tries again three times whatever went wrong, and remembers nothing."""
    with requests.Session() as http:
        server = Server(job.base_url, job.token, http, connect_timeout=1, read_timeout=job.timeout, retries=0)
        settings = WritingSettings.from_table(job.writing)
        way = way_by(job.way, settings, server, provenance=False, timeout=job.timeout)
        groups = (charges,) if way.together else tuple((charge,) for charge in charges)
        for number, group in enumerate(groups):
            for _ in range(3):
                try:
                    way.write(group, way.prepare(group))
                    break
                except Exception:  # noqa: BLE001 - that is what naive means
                    continue
            if number == die_after:
                return


def _is_over(bench: Bench, out: Out, decision: str) -> bool:
    done = {State.CONFIRMED} if out.finds else {State.CONFIRMED, State.UNKNOWN}
    return all(row.state in done for row in bench.rows(decision))


def _clear(bench: Bench) -> None:
    for sandbox in bench.sandboxes.values():
        sandbox.faults.clear()
        sandbox.store.search_lag = timedelta()
        for kind in ("ChargeItem", "Claim", "Provenance"):
            sandbox.store._filed.pop(kind, None)
        sandbox.requests.clear()
    bench.interface.faults.clear()
    bench.interface.messages.clear()
    bench.taken.clear()
    for path in bench.folder.iterdir():
        if path.name != MARK:
            path.unlink()


def _fetch_files(bench: Bench, out: Out) -> None:
    """What fetches files takes them away; never the hidden ones."""
    if out.peer == "folder":
        for path in sorted(bench.folder.glob("[!.]*")):
            bench.taken.append(path.read_bytes().decode())  # line ends as they are
            path.unlink()


def _judged(
    bench: Bench,
    out: Out,
    decision: str,
    charges: tuple[Charge, ...],
    injected: int,
    *,
    attempts: int = 1,
    naive: bool,
) -> Outcome:
    outcome = Outcome(runs=1, injected=injected, charges=len(charges))
    rows = {row.charge.identifier: row for row in bench.rows(decision)}
    for charge in charges:
        there = _count(bench, out, charge)
        row = rows[charge.identifier]
        unknown = not naive and row.state is State.UNKNOWN and not out.finds
        outcome.doubled += there > 1 or (unknown and row.attempts > attempts)
        outcome.unknown += unknown
        outcome.lost += there == 0 and not unknown
        if not naive and row.state is not State.CONFIRMED and not unknown:
            outcome.lost += there > 0  # there, but we do not know it: as bad
    if out.over:
        _judge_places(bench, out, rows, outcome)
    return outcome


def _judge_places(bench: Bench, out: Out, rows: dict[str, outbox.Row], outcome: Outcome) -> None:
    """Each record says what was signed, and what was suggested beside it stands for nothing."""
    for filed in bench.sandboxes[out.peer].store.all("ChargeItem"):
        item = filed.resource
        row = rows[item["identifier"][0]["value"]]
        wanted = (row.charge.status, row.charge.units)
        outcome.lost += (item["status"], item["quantity"]["value"]) != wanted


def _count(bench: Bench, out: Out, charge: Charge) -> int:  # noqa: PLR0911 - one peer after another
    """How often the other side has this charge."""
    if out.peer == "none":
        return 1  # it is on the ticket as soon as it is signed
    if out.peer == "interface":
        return sum(identifier == charge.identifier for identifier, _, _ in bench.interface.charges())
    if out.way == "csv":
        lines = [line for text in bench.taken for line in csv.DictReader(io.StringIO(text))]
        return sum(line["identifier"] == charge.identifier for line in lines)
    if out.way == "dft-file":
        found = [str(each[2]) for text in bench.taken for each in hl7.parse(text).segments("FT1")]
        return found.count(charge.identifier)
    store = bench.sandboxes[out.peer].store
    if out.way == "oracle":
        return sum(
            filed.resource["code"]["coding"][0]["code"] == charge.code for filed in store.all("ChargeItem")
        )
    if out.way == "claim":
        return sum(
            extension.get("valueIdentifier", {}).get("value") == charge.identifier
            for filed in store.all("Claim")
            for item in filed.resource.get("item", [])
            for extension in item.get("extension", [])
            if extension["url"] == CLAIM_CHARGE
        )
    return sum(
        {"system": CHARGE_IDENTIFIER, "value": charge.identifier} in filed.resource.get("identifier", [])
        for filed in store.all("ChargeItem")
    )


def many_visits(bench: Bench, visits: int, users: int) -> tuple[int, int]:
    """Visits signed off and sent by so many users at once, against an EHR without conditional create.

    How many charges were lost, and how many doubled.
    """
    out = OUTS[1]
    _clear(bench)
    signed = [some_charges(bench, 2) for _ in range(visits)]
    signed = [
        tuple(replace(charge, encounter="Encounter/enc-cms-ex1") for charge in charges) for charges in signed
    ]

    def sign_and_send(charges: tuple[Charge, ...]) -> str:
        decision = stored(bench, out, charges)
        work(job_for(bench, out, decision), Steps())
        return decision

    with ThreadPoolExecutor(users) as clicks:
        decisions = list(clicks.map(sign_and_send, signed))
    for decision in decisions:  # whoever found the encounter being written comes again
        for _ in range(20):
            if _is_over(bench, out, decision):
                break
            bench.gate.jump(LEASE_OVER)
            work(job_for(bench, out, decision), Steps())
    there = Counter(
        identifier["value"]
        for filed in bench.sandboxes["bare"].store.all("ChargeItem")
        for identifier in filed.resource["identifier"]
    )
    wanted = [charge.identifier for charges in signed for charge in charges]
    return sum(there[name] == 0 for name in wanted), sum(there[name] > 1 for name in wanted)


__all__ = ["CELLS", "FAULTS", "OUTS", "Outcome", "a_bench", "applies", "many_visits", "run"]
