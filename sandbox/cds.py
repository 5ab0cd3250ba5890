"""The EHR as a CDS client: what the chart page asks the app's service when it is opened, and the cards it shows.

https://cds-hooks.hl7.org/2.0/#calling-a-cds-service, with the token of #trusting-cds-clients.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests
from joserfc import jwt

from .authorization import signing_keys
from .scenarios import Scenario
from .store import Store

ALGORITHM = "ES384"
TOKEN_SECONDS = 300
TIMEOUT = 10  # seconds; a chart would not wait so long, a slow test machine has to
HOOK = "patient-view"


@dataclass(frozen=True)
class CdsClient:
    """``iss`` is the sandbox's own address, its keys are at ``{iss}/oauth/jwks``."""

    iss: str
    app_url: str
    fhir_url: str
    store: Store
    clock: Callable[[], datetime]

    def token(self, address: str) -> str:
        """A statement of who calls this address, good for one call."""
        key = signing_keys()[ALGORITHM]
        now = int(self.clock().timestamp())
        header = {"alg": ALGORITHM, "kid": key.kid, "typ": "JWT", "jku": f"{self.iss}/oauth/jwks"}
        claims = {"iss": self.iss, "aud": address, "iat": now, "exp": now + TOKEN_SECONDS}
        return jwt.encode(header, {**claims, "jti": secrets.token_urlsafe(24)}, key, algorithms=[ALGORITHM])

    def cards(self, scenario: Scenario, user: str) -> list[dict[str, Any]]:
        """What the app's ``patient-view`` services answer for this chart; none where the app has none or fails."""
        found: list[dict[str, Any]] = []
        with requests.Session() as http:
            http.trust_env = False
            try:
                offered = http.get(f"{self.app_url}/cds-services", timeout=TIMEOUT).json()["services"]
                for service in offered:
                    if service["hook"] == HOOK:
                        found += self._called(http, service, scenario, user)
            except (requests.RequestException, ValueError, KeyError, TypeError):
                return found
        return found

    def _called(
        self, http: requests.Session, service: dict[str, Any], scenario: Scenario, user: str
    ) -> list[dict[str, Any]]:
        address = f"{self.app_url}/cds-services/{service['id']}"
        answer = http.post(
            address,
            data=json.dumps(self._request(service, scenario, user)),
            headers={"Authorization": f"Bearer {self.token(address)}", "Content-Type": "application/json"},
            timeout=TIMEOUT,
        )
        cards: list[dict[str, Any]] = answer.json()["cards"]
        return cards

    def _request(self, service: dict[str, Any], scenario: Scenario, user: str) -> dict[str, Any]:
        return {
            "hook": HOOK,
            "hookInstance": str(uuid.uuid4()),
            "fhirServer": self.fhir_url,
            "context": {
                "userId": f"Practitioner/{user}",
                "patientId": scenario.patient,
                "encounterId": scenario.encounter,
            },
            "prefetch": {
                key: self._searched(query.partition("?")[0], scenario.patient)
                for key, query in service.get("prefetch", {}).items()
            },
        }

    def _searched(self, resource_type: str, patient: str) -> dict[str, Any]:
        """Every template of the app's is a search by patient."""
        found = self.store.searchable(resource_type, f"Patient/{patient}")
        entries = [{"resource": filed.resource, "search": {"mode": "match"}} for filed in found]
        return {"resourceType": "Bundle", "type": "searchset", "total": len(entries), "entry": entries}
