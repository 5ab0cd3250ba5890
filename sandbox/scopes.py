"""SMART scopes, in the syntax of version 1 (``.read``) and of version 2 (``.rs``).

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

import re

from .quirks import Quirks

CONTEXT_SCOPES = (
    "openid",
    "fhirUser",
    "profile",
    "launch",
    "launch/patient",
    "launch/encounter",
    "online_access",
    "offline_access",
)
_DATA_SCOPE = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]+|\*)\.(read|write|\*|(?=[cruds])c?r?u?d?s?)")
_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}


def granted_scope(requested: str, quirks: Quirks, *, backend: bool = False) -> str:
    """What of a requested scope this EHR grants, in the order asked; empty when nothing is left.

    System scopes are a backend client's, and a backend client has no others.
    """
    return " ".join(
        scope
        for scope in requested.split()
        if scope.startswith("system/") == backend and _is_granted(scope, quirks)
    )


def permits(scope: str, resource_type: str, action: str) -> bool:
    """Whether a granted scope allows an action (one of c, r, u, d, s) on a type of resource."""
    matches = (_DATA_SCOPE.fullmatch(each) for each in scope.split())
    return any(
        match[2] in (resource_type, "*") and action in _VERSION_1.get(match[3], match[3])
        for match in matches
        if match
    )


def _is_granted(scope: str, quirks: Quirks) -> bool:
    if scope in quirks.withheld_scopes:
        return False
    if scope in CONTEXT_SCOPES:
        return True
    match = _DATA_SCOPE.fullmatch(scope)
    if match is None or (quirks.no_charge_item and match[2] == "ChargeItem"):
        return False
    is_version_1 = match[3] in _VERSION_1
    return quirks.scope_syntax == "both" or (quirks.scope_syntax == "v1") == is_version_1
