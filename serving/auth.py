"""The token that requests bear."""

import hmac

HEADER = "authorization"
_SCHEME = "bearer "
REFUSAL = "this server wants a token: send the header `authorization: Bearer TOKEN`"


class Token:
    """A secret that both sides know."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def admits(self, header: bytes | str | None) -> bool:
        """Says whether the value of an `authorization` header bears it.

        How long that takes does not depend on how much of it is right.
        """
        if header is None:
            return False
        value = header.encode() if isinstance(header, str) else header
        if value[: len(_SCHEME)].lower() != _SCHEME.encode():
            return False
        return hmac.compare_digest(value[len(_SCHEME) :].strip(), self._secret)
