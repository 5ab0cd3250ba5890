"""What a FHIR server says when it refuses (https://hl7.org/fhir/R4/operationoutcome.html)."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A request that ends in an OperationOutcome; ``code`` is from the issue-type value set."""

    def __init__(
        self, status: int, code: str, diagnostics: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(diagnostics)
        self.status = status
        self.code = code
        self.diagnostics = diagnostics
        self.headers = headers or {}

    def outcome(self) -> dict[str, Any]:
        return {
            "resourceType": "OperationOutcome",
            "issue": [{"severity": "error", "code": self.code, "diagnostics": self.diagnostics}],
        }
