"""What is counted for operators, in Prometheus' form: never a patient, a person or an id.

Two kinds. What happens is counted where it happens, by each process for itself, from its start: add up the
processes. What stands in the database (queues, charges, cards) is read when somebody asks, and every process
says the same: take any one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import requests
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, Select, case, func, select

from ..core.findings import Finding
from . import database
from .jobs import Kind
from .outbox import State

FIRST_SIGNED = 1  # revision 0 is a suggestion: suggested.py
# Medical necessity, and a separate service: a person's to say.
ATTESTATIONS = frozenset({"KX", "59", "XE", "XS", "XP", "XU"})
# Half a second is what a page or card may take in all; an EHR may take up to a minute.
SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._suggestions = Counter(
            "quarterhour_suggestions",
            "Visits that came onto the worklist, captured or opened",
            ["issuer", "way"],
            registry=self.registry,
        )
        self._findings = Counter(
            "quarterhour_findings",
            "Outcomes of checks on visits that came onto the worklist",
            ["finding", "outcome"],
            registry=self.registry,
        )
        self._sign_offs = Counter(
            "quarterhour_sign_offs",
            "Decisions signed, by the way that their charges leave",
            ["issuer", "way", "kind"],
            registry=self.registry,
        )
        self._signed_over = Counter(
            "quarterhour_findings_signed_over",
            "Findings that failed on visits that were signed; answered: with a reason",
            ["finding", "answered"],
            registry=self.registry,
        )
        self._attested = Counter(
            "quarterhour_modifiers_attested",
            "Modifiers that a person put on at sign-off",
            ["modifier"],
            registry=self.registry,
        )
        self._ehr = Histogram(
            "quarterhour_ehr_seconds",
            "Requests to EHRs, answered or not",
            ["issuer"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._ehr_errors = Counter(
            "quarterhour_ehr_errors",
            "Requests to EHRs that failed, or were answered with an error",
            ["issuer", "why"],
            registry=self.registry,
        )
        self._cds = Histogram(
            "quarterhour_cds_seconds",
            "Calls of CDS services that were answered",
            ["service", "outcome"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._cds_refused = Counter(
            "quarterhour_cds_refused",
            "Calls of CDS services whose token proved nothing",
            ["service"],
            registry=self.registry,
        )

    def known(
        self, issuer: str, findings: Iterable[Finding], passed: Iterable[str], *, captured: bool
    ) -> None:
        """A visit that was not on the worklist before."""
        self._suggestions.labels(issuer, "captured" if captured else "opened").inc()
        for id_, status in {(finding.id, str(finding.status)) for finding in findings}:
            self._findings.labels(id_, status).inc()
        for check in passed:
            self._findings.labels(check, "passed").inc()

    def signed(
        self,
        issuer: str,
        way: str,
        *,
        corrects: bool,
        failed: Iterable[str],
        answered: Iterable[str],
        attested: Iterable[str],
    ) -> None:
        """A decision. ``failed`` and ``answered`` are finding ids, ``attested`` modifiers."""
        self._sign_offs.labels(issuer, way, "correction" if corrects else "first").inc()
        with_reason = set(answered)
        for finding in set(failed):
            self._signed_over.labels(finding, "yes" if finding in with_reason else "no").inc()
        for modifier in attested:
            self._attested.labels(modifier if modifier in ATTESTATIONS else "other").inc()

    def watching(self, issuer: str) -> Callable[[int | requests.RequestException, float], None]:
        """For ``launch.http.Http.watch``: every request to this EHR."""
        took = self._ehr.labels(issuer)

        def watch(outcome: int | requests.RequestException, seconds: float) -> None:
            took.observe(seconds)
            why = _why(outcome)
            if why is not None:
                self._ehr_errors.labels(issuer, why).inc()

        return watch

    def cds_answered(self, service: str, outcome: str, seconds: float) -> None:
        """A call of a CDS service. ``outcome``: answered, no-cards, unreadable or failed."""
        self._cds.labels(service, outcome).observe(seconds)

    def cds_refused(self, service: str) -> None:
        """One whose token proved nothing."""
        self._cds_refused.labels(service).inc()


def _why(outcome: int | requests.RequestException) -> str | None:
    """A handful of words for what can go wrong; None: nothing did."""
    if isinstance(outcome, requests.Timeout):
        return "timeout"
    if isinstance(outcome, requests.ConnectionError):
        return "connection"
    if isinstance(outcome, requests.RequestException):
        return "unreadable"
    if outcome == requests.codes.too_many_requests:
        return "429"
    return None if outcome < requests.codes.bad_request else f"{outcome // 100}xx"


def text_of(metrics: Metrics, engine: Engine, now: datetime) -> bytes:
    """Everything, as Prometheus reads it."""
    whole = CollectorRegistry()
    whole.register(_Stored(engine, now))
    return bytes(generate_latest(metrics.registry) + generate_latest(whole))


class _Stored(Collector):
    """What stands in the database, counted by it: nothing sealed is opened."""

    def __init__(self, engine: Engine, now: datetime) -> None:
        self._engine = engine
        self._now = now

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        with database.reading(self._engine) as connection:
            jobs = connection.execute(self._jobs()).all()
            charges = connection.execute(self._charges()).all()
            cards = connection.execute(self._cards()).all()
        yield from self._job_metrics(jobs)
        yield from self._charge_metrics(charges)
        shown = GaugeMetricFamily(
            "quarterhour_cds_cards",
            "Cards of the last 90 days by finding, and what became of them",
            labels=["finding", "outcome"],
        )
        for row in cards:
            shown.add_metric([row.finding, row.outcome or "unheard"], row.number)
        yield shown

    def _jobs(self) -> Select[Any]:
        job = database.job
        given_up = job.c.given_up_at.is_not(None)
        due = case((~given_up & (job.c.due_at <= self._now), job.c.due_at))
        return select(
            job.c.kind,
            func.count(case((~given_up, 1))).label("waiting"),
            func.count(case((given_up, 1))).label("given_up"),
            func.min(due).label("oldest"),
        ).group_by(job.c.kind)

    def _charges(self) -> Select[Any]:
        charge, decision = database.charge, database.decision
        return (
            select(
                decision.c.way,
                charge.c.state,
                func.count().label("number"),
                func.min(decision.c.signed_at).label("oldest"),
            )
            .join(decision, decision.c.id == charge.c.decision)
            .where(decision.c.revision >= FIRST_SIGNED)
            .group_by(decision.c.way, charge.c.state)
        )

    def _cards(self) -> Select[Any]:
        card = database.cds_card
        return select(card.c.finding, card.c.outcome, func.count().label("number")).group_by(
            card.c.finding, card.c.outcome
        )

    def _job_metrics(self, rows: Iterable[Any]) -> Iterator[Metric]:
        length = GaugeMetricFamily("quarterhour_jobs", "Jobs by kind and state", labels=["kind", "state"])
        age = GaugeMetricFamily(
            "quarterhour_jobs_oldest_seconds", "How long the oldest job that is due has been", labels=["kind"]
        )
        found = {row.kind: row for row in rows}
        for kind in Kind:
            row = found.get(kind)
            length.add_metric([kind, "waiting"], row.waiting if row else 0)
            length.add_metric([kind, "given-up"], row.given_up if row else 0)
            age.add_metric([kind], self._age(row.oldest if row else None))
        yield length
        yield age

    def _charge_metrics(self, rows: Iterable[Any]) -> Iterator[Metric]:
        signed = GaugeMetricFamily(
            "quarterhour_charges",
            "Signed charges by the way they leave and where they are",
            labels=["way", "state"],
        )
        oldest: dict[str, datetime] = {}
        for row in rows:
            signed.add_metric([row.way, row.state], row.number)
            if row.state != State.CONFIRMED:
                oldest[row.way] = min(row.oldest, oldest.get(row.way, row.oldest))
        yield signed
        age = GaugeMetricFamily(
            "quarterhour_outbox_oldest_seconds",
            "How long ago the oldest charge was signed that is not where it belongs",
            labels=["way"],
        )
        for way, signed_at in oldest.items():
            age.add_metric([way], self._age(signed_at))
        yield age

    def _age(self, since: datetime | None) -> float:
        return 0.0 if since is None else max(0.0, (self._now - since).total_seconds())
