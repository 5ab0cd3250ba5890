"""Our own keys: made, published and used to prove who we are to a token endpoint.

https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

SigningAlg = Literal["RS384", "ES384"]
Key = RSAKey | ECKey

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LIFETIME = timedelta(minutes=4)  # SMART allows 5; a minute is left for a clock that is behind ours
RSA_BITS = 3072
RSA_MINIMUM_BITS = 2048


def generate_key(alg: SigningAlg) -> str:
    """A new private key as PEM (PKCS 8, not encrypted)."""
    key = RSAKey.generate_key(RSA_BITS) if alg == "RS384" else ECKey.generate_key("P-384")
    return key.as_pem(private=True).decode("ascii")


@lru_cache(maxsize=64)
def import_key(pem: str, kid: str | None = None) -> Key:
    """A private or public key from PEM; its kid is the given one, or the thumbprint of RFC 7638.

    Kept, since reading an RSA key costs more than signing. Raises ValueError for anything that is
    neither an RSA key of 2048 bits or more nor a key on P-384.
    """
    key: Key
    try:
        key = RSAKey.import_key(pem)
    except (JoseError, ValueError, TypeError):
        try:
            key = ECKey.import_key(pem)
        except (JoseError, ValueError, TypeError):
            raise ValueError("not the PEM of an RSA or EC key without a password") from None
    if isinstance(key, RSAKey) and key.raw_value.key_size < RSA_MINIMUM_BITS:
        raise ValueError(f"an RSA key of {key.raw_value.key_size} bits; 2048 is the least")
    if isinstance(key, ECKey) and key.curve_name != "P-384":
        raise ValueError(f"a key on {key.curve_name}; ES384 needs P-384")
    return type(key).import_key(pem, {"kid": kid or key.thumbprint()})


def alg_of(key: Key) -> SigningAlg:
    """RSA keys sign with RS384, EC keys with ES384: the two that SMART demands."""
    return "RS384" if isinstance(key, RSAKey) else "ES384"


def public_jwks(keys: Iterable[Key]) -> dict[str, list[dict[str, Any]]]:
    """What we publish: public members only, each kid once, old and new keys side by side."""
    return {
        "keys": list(
            {
                key.kid: {
                    **key.as_dict(private=False),
                    "use": "sig",
                    "alg": alg_of(key),
                    "key_ops": ["verify"],
                }
                for key in keys
            }.values()
        )
    }


def client_assertion(
    key: Key, *, client_id: str, token_endpoint: str, now: datetime, jku: str | None = None
) -> str:
    """A signed statement that we are ``client_id``, for one request: a retry needs a new one."""
    header = {"alg": alg_of(key), "kid": key.kid, "typ": "JWT"}
    if jku is not None:
        header["jku"] = jku
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": token_endpoint,
        "iat": int(now.timestamp()),
        "exp": int((now + ASSERTION_LIFETIME).timestamp()),
        "jti": secrets.token_urlsafe(32),
    }
    return jwt.encode(header, claims, key, algorithms=[alg_of(key)])
