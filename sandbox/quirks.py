"""How this EHR differs from a complete one: each switch is something that real EHRs do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quirks:
    """Settings of one sandbox, fixed at its start.

    ``no_conditional_create`` ignores If-None-Exist without a word, as servers that lack it do. ``no_etag``
    sends none and ignores If-Match. ``search_lag_ms`` is how long a write stays invisible to searches,
    conditional create included. ``withheld_scopes`` are refused in silence: the grant lacks them.
    ``foreign_next_link`` is an origin that paging links lead to, which a careful client will not follow.
    ``subscriptions`` is which kinds of Subscription it takes: R4's criteria, the backported topic, or neither.
    """

    no_encounter_search: bool = False
    no_conditional_create: bool = False
    no_charge_item: bool = False
    no_transaction: bool = False
    no_etag: bool = False
    no_total: bool = False
    page_size: int = 50
    delay_ms: int = 0
    search_lag_ms: int = 0
    foreign_next_link: str | None = None
    subscriptions: Literal["both", "criteria", "topic", "none"] = "both"
    no_events_operation: bool = False

    no_encounter_context: bool = False
    no_patient_context: bool = False
    no_refresh_token: bool = False
    need_patient_banner: bool | None = True
    token_seconds: int = 3600
    scope_syntax: Literal["both", "v1", "v2"] = "both"
    withheld_scopes: tuple[str, ...] = ()
    id_token_alg: Literal["RS256", "RS384", "ES256", "ES384"] = "RS256"
    id_token_issuer: str | None = None
