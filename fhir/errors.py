"""What can go wrong between us and the EHR.

EhrError                  anything below
├── Unreachable           no connection was made; nothing was sent
│   └── Busy              too many wait for a slow EHR already; nothing was sent
├── TimedOut              the EHR did not answer in time; a write may have been carried out
├── Dropped               the connection broke before the answer was whole; the same holds
├── BadAnswer             an answer that is no FHIR JSON, is cut short, is too large, or contradicts itself
│   └── ForeignLink       a link or redirect that leads away from the configured FHIR server
├── WrongPatient          data of another patient than the launch's
├── NoDate                a visit without a day: no policy can be chosen for it
├── Unknown               a write of which nobody can say yet whether it was carried out
└── Refused               an HTTP status of 400 or over, with the words of its OperationOutcome
    ├── NotAuthorized     401
    ├── Forbidden         403
    ├── NotFound          404, 410
    ├── Conflict          409, 412
    │   └── OnRecord      what is on record under our identifier is not what we wrote, or is there twice
    ├── Unprocessable     422
    ├── RateLimited       429
    └── ServerFailed      500 and over

``str(error)`` is for a person, ends in what the person can do, and is safe in a log: the EHR's own
words, which may name a patient, stand apart in ``words``.
"""

from __future__ import annotations


class EhrError(Exception):
    """Something between us and the EHR stopped us."""

    def __init__(self, message: str, *, request_id: str | None = None, words: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.request_id = request_id  # the X-Request-Id sent, for the EHR's support
        self.words = words  # the EHR's own; for the page, not for logs


class Unreachable(EhrError):
    """No connection could be made; nothing was sent."""


class Busy(Unreachable):
    """As many as may are waiting already, for this EHR or for all together; nothing was sent."""

    def __init__(self, *, request_id: str | None = None) -> None:
        super().__init__(
            "Too many wait for a slow EHR already, so nothing was sent. Try again in a minute.",
            request_id=request_id,
        )


class TimedOut(EhrError):
    """The EHR did not answer in time. A write may have been carried out all the same."""


class Dropped(EhrError):
    """The connection broke before the answer was whole. A write may have been carried out."""


class BadAnswer(EhrError):
    """The answer is no FHIR JSON, is cut short, is too large, or contradicts itself."""


class ForeignLink(BadAnswer):
    """A link or redirect that leads away from the configured FHIR server; it was not followed."""


class WrongPatient(EhrError):
    """The EHR gave data of another patient than the launch's."""


class NoDate(EhrError):
    """Neither the Encounter nor any Procedure of it says on which day it was."""


class Unknown(EhrError):
    """A write of which nobody can say yet whether it was carried out: search before any second try."""


class Refused(EhrError):
    """The EHR answered with an HTTP status of 400 or over (or of 300 to 399 for a write)."""

    def __init__(
        self,
        message: str,
        status: int,
        words: tuple[str, ...] = (),
        *,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id, words=words)
        self.status = status
        self.retry_after = retry_after  # seconds, where the EHR said so


class NotAuthorized(Refused):
    """401: the access token is missing, expired or revoked."""


class Forbidden(Refused):
    """403: the token does not cover this."""


class NotFound(Refused):
    """404 or 410: there is no such resource, or the EHR does not offer this kind."""


class Conflict(Refused):
    """409 or 412: somebody else was there first."""


class OnRecord(Conflict):
    """What the EHR has under our identifier differs from what we wrote, or is there several times."""

    def __init__(self, message: str, *, words: tuple[str, ...] = ()) -> None:
        super().__init__(message, 409, words)


class Unprocessable(Refused):
    """422: the EHR's own rules turned the resource down."""


class RateLimited(Refused):
    """429: too many requests; ``retry_after`` says for how many seconds, where the EHR does."""


class ServerFailed(Refused):
    """500 and over. A write may have been carried out all the same."""


_BY_STATUS: dict[int, tuple[type[Refused], str]] = {
    401: (NotAuthorized, "The EHR no longer accepts our access. Open Quarterhour again from the chart."),
    403: (
        Forbidden,
        "The EHR does not allow us to use {what}. Ask your administrator to grant Quarterhour this access.",
    ),
    404: (NotFound, "The EHR has no such {what}. Check the visit in the chart and open Quarterhour again."),
    410: (NotFound, "The EHR has deleted this {what}. Check the visit in the chart."),
    409: (Conflict, "The EHR has a newer version of this {what}. Reload the page and compare."),
    412: (Conflict, "The EHR has another version of this {what} than expected. Reload the page and compare."),
    422: (
        Unprocessable,
        "The EHR's own rules turned the {what} down. Correct what it names below, or enter it in the EHR.",
    ),
    429: (RateLimited, "The EHR asks us to slow down. Wait a minute and try again."),
}


def refusal(
    status: int,
    what: str,
    words: tuple[str, ...],
    *,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> Refused:
    """The error for an HTTP status. ``what`` is a resource type, never an id."""
    if status >= 500:  # noqa: PLR2004 - the class of statuses, as RFC 9110 section 15.6 numbers it
        kind: type[Refused] = ServerFailed
        message = "The EHR failed (HTTP {status}). Try again in a few minutes."
    else:
        kind, message = _BY_STATUS.get(
            status,
            (
                Refused,
                "The EHR refused our request for {what} (HTTP {status}). Tell your administrator.",
            ),
        )
    return kind(
        message.format(what=what, status=status),
        status,
        words,
        request_id=request_id,
        retry_after=retry_after,
    )
