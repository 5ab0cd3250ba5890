"""What stops a launch, in words for the person in front of the page.

LaunchRefused               the launch cannot go on
├── BadRequest              a parameter is missing, doubled or malformed
├── UnknownIssuer           the EHR is not on the operator's list; nothing was requested
├── DiscoveryFailed         the EHR's SMART configuration is missing, unreadable or not acceptable
├── StateInvalid            the callback belongs to no launch of this browser, or to an old one
├── AuthorizationRefused    the EHR's authorization page answered with an error
├── TokenRefused            the token endpoint refused, or its answer cannot be used
├── IdentityInvalid         the id_token does not prove who signed in
├── SessionEnded            the tokens are spent; a new launch is needed
├── BackendMissing          the operator has set up no backend client for this EHR
└── EhrUnavailable          the EHR could not be reached, or failed

IssuersInvalid              the operator's issuers file has mistakes; raised at start, never at a launch
"""

from __future__ import annotations

from collections.abc import Iterable


class LaunchRefused(Exception):  # named for what happened
    """``message`` says what happened, ``advice`` what the person can do.

    Both may hold words that came from outside (an EHR's error text, an ``iss``): a page escapes them.
    They never hold a code, a state, a token, a secret or anything about a patient.
    ``status`` is the HTTP status of the page that shows it.
    """

    status = 400

    def __init__(self, message: str, *, advice: str) -> None:
        super().__init__(f"{message} {advice}")
        self.message = message
        self.advice = advice


class BadRequest(LaunchRefused):
    """A parameter of the launch or the callback is missing, doubled or malformed."""


class UnknownIssuer(LaunchRefused):
    """The issuer is not on the operator's list."""

    status = 403


class DiscoveryFailed(LaunchRefused):
    """The EHR's SMART configuration cannot be used."""

    status = 502


class StateInvalid(LaunchRefused):
    """The state is unknown, expired, already used, or another browser's."""


class AuthorizationRefused(LaunchRefused):
    """The EHR's error from its authorization page.

    ``error`` is its code (RFC 6749, section 4.1.2.1), or ``unknown`` if it was no code.
    """

    status = 403

    def __init__(self, message: str, *, advice: str, error: str) -> None:
        super().__init__(message, advice=advice)
        self.error = error


class TokenRefused(LaunchRefused):
    """The token endpoint's refusal (RFC 6749, section 5.2), or an answer that cannot be used."""

    status = 502

    def __init__(self, message: str, *, advice: str, error: str = "invalid_response") -> None:
        super().__init__(message, advice=advice)
        self.error = error


class IdentityInvalid(LaunchRefused):
    """The id_token is missing, or fails a check."""

    status = 403


class SessionEnded(LaunchRefused):
    """There is nothing left to work with but a new launch; a draft is kept by whoever keeps drafts."""

    status = 401


class BackendMissing(LaunchRefused):
    """Quarterhour has no access of its own to this EHR; nothing was requested."""

    status = 500


class EhrUnavailable(LaunchRefused):
    """No answer in time, a connection that failed, or an answer that says so (5xx, 429)."""

    status = 503


class IssuersInvalid(Exception):  # as above
    """Every mistake of the issuers file, by table and key: ``issuers.riverside.client_id: ...``."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
