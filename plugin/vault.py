"""What is stored about patients and sessions is stored sealed; rows are found by keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, TypeVar, overload

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

Value = TypeVar("Value")


class SealBroken(Exception):
    """A stored value cannot be opened: the key it was sealed with is no longer configured."""


class Vault:
    """Seals values as JSON under the newest key, opens them under any configured key.

    Fernet (https://github.com/fernet/spec): AES-128-CBC with HMAC-SHA-256; keys rotate by being listed.
    ``index`` makes lookup keys that say nothing without the index key, which is itself stored sealed.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._keys = keys
        self._index_key = b""

    def seal(self, value: Any) -> bytes:
        """The value as sealed JSON. Anything msgspec encodes: dataclasses, dates, decimals."""
        return self.seal_bytes(msgspec.json.encode(value))

    def seal_bytes(self, plain: bytes) -> bytes:
        """These bytes, sealed."""
        return self._fernet.encrypt(plain)

    @overload
    def open(self, sealed: bytes) -> Any: ...
    @overload
    def open(self, sealed: bytes, as_type: type[Value]) -> Value: ...
    def open(self, sealed: bytes, as_type: Any = Any) -> Any:
        """The value again, checked against its type. Raises ``SealBroken``."""
        return msgspec.json.decode(self.open_bytes(sealed), type=as_type)

    def open_bytes(self, sealed: bytes) -> bytes:
        """The bytes again. Raises ``SealBroken``."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise SealBroken(
                "A stored value cannot be opened with the configured keys. "
                "Put the key it was sealed with back into QUARTERHOUR_SECRET_KEYS."
            ) from None

    def reseal(self, sealed: bytes) -> bytes:
        """The same value under the newest key."""
        return self._fernet.rotate(sealed)

    def use_index_key(self, key: bytes) -> None:
        """The key of ``index``: one an installation, for ever, so that rows are found after rotation."""
        self._index_key = key

    def index(self, *parts: str) -> str:
        """A lookup key for these parts: the same each time, and no way back to them."""
        if not self._index_key:
            raise SealBroken("The index key is not loaded; open the database first.")
        # The lengths keep ("ab", "c") and ("a", "bc") apart.
        message = b"".join(b"%d:%s" % (len(part.encode()), part.encode()) for part in parts)
        return hmac.new(self._index_key, message, hashlib.sha256).hexdigest()

    def cookie_key(self) -> bytes:
        """What signs the browser's cookie: derived, so that an installation has one kind of secret."""
        return _cookie_key(self._keys[0])

    def older_cookie_keys(self) -> list[bytes]:
        """What signed cookies before a rotation: nobody is thrown out by one."""
        return [_cookie_key(key) for key in self._keys[1:]]


def _cookie_key(key: str) -> bytes:
    return hmac.new(key.encode(), b"cookie signature", hashlib.sha256).digest()
