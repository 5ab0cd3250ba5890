"""How an EHR's visits are captured without anybody opening them: the table ``[issuers.NAME.capture]``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import msgspec

from ..launch.errors import IssuersInvalid
from ..launch.issuers import Issuer


class CaptureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Captured is only where the issuer has a ``backend`` table; the defaults ask an EHR for little."""

    # How often the EHR is asked what changed. Left out: never, where it tells us by itself (subscriptions).
    poll_minutes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # A visit costs about ten requests.
    visits_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 120
    # A visit that is not signed is read again so often, and listed as late after so many days.
    again_hours: Annotated[int, msgspec.Meta(ge=1)] = 24
    late_after_days: Annotated[int, msgspec.Meta(ge=1)] = 3

    @property
    def spacing(self) -> timedelta:
        """The shortest time between two visits."""
        return timedelta(minutes=1) / self.visits_per_minute


def capture_settings(issuer: Issuer) -> CaptureSettings:
    """The issuer's table. Raises ``IssuersInvalid`` for what does not fit, to be found at start."""
    where = f"issuers.{issuer.id}.capture"
    try:
        settings = msgspec.convert(issuer.capture, CaptureSettings)
    except msgspec.ValidationError as error:
        raise IssuersInvalid([f"{where}: {error}"]) from None
    if issuer.backend is None and issuer.capture.keys() - {"late_after_days"}:
        raise IssuersInvalid([f"{where}: nothing is captured without a table [issuers.{issuer.id}.backend]"])
    return settings
