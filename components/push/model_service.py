"""A model server over TF Serving's gRPC protocol: what it serves, and what it is to serve."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from components.errors import RetrainError
from components.push.messages import MESSAGES

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    # A server that comes back is seen within a second, and an earlier channel's failures do not count.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
AVAILABLE, END = 30, 50
"""Of ModelVersionStatus.State."""
_COMING = (10, 20)  # START, LOADING


class CallError(Exception):
    """A request that a server did not answer, or answered with an error.

    Attributes:
        code: of gRPC, such as UNAVAILABLE.
        details: what the server, or gRPC, says.
    """

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}" if details else code)
        self.code, self.details = code, details


@dataclass(frozen=True)
class VersionStatus:
    """How far a server is with a version.

    Attributes:
        state: as in ModelVersionStatus.State.
        error: why it could not be loaded; empty: it could, or is not loaded yet.
    """

    state: int
    error: str = ""

    @property
    def available(self) -> bool:
        return self.state == AVAILABLE

    @property
    def coming(self) -> bool:
        """Whether it is being loaded."""
        return self.state in _COMING


@dataclass(frozen=True)
class Access:
    """What a server asks for before it answers.

    Attributes:
        tls: whether it speaks TLS.
        ca: what signed its certificate (PEM); None: one of the authorities that gRPC knows.
        token_env: environment variable with the token that requests bear; None: there is none.
    """

    tls: bool = False
    ca: Path | None = None
    token_env: str | None = None

    def channel(self, address: str) -> Any:
        """A channel to HOST:PORT; nothing is connected to before it is used.

        Raises:
            RetrainError: the file of the authority cannot be read.
        """
        if not self.tls:
            return grpc.insecure_channel(address, _OPTIONS)
        try:
            authority = self.ca.read_bytes() if self.ca else None
        except OSError as error:
            raise RetrainError(
                f"serving.tls.ca: got {self.ca} ({error.strerror}), expected the certificates (PEM) that the "
                "servers' are signed with"
            ) from None
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), _OPTIONS)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each request.

        Raises:
            RetrainError: the environment variable of the token is not set.
        """
        if self.token_env is None:
            return ()
        if not os.environ.get(self.token_env):
            raise RetrainError(f"serving.token_env: the environment variable {self.token_env} is not set")
        return (("authorization", f"Bearer {os.environ[self.token_env]}"),)


class Client:
    """One model server.

    Args:
        address: HOST:PORT of its gRPC protocol.
        access: how to get in.

    Raises:
        RetrainError: the token or the certificate is not there.
    """

    def __init__(self, address: str, access: Access) -> None:
        self._metadata = access.metadata()
        self._channel = access.channel(address)
        self._status = self._method("ModelService/GetModelStatus", "GetModelStatusResponse")
        self._reload = self._method("ModelService/HandleReloadConfigRequest", None)
        self._described = self._method("PredictionService/GetModelMetadata", "GetModelMetadataResponse")

    def close(self) -> None:
        """Ends the connection, and every request that waits for an answer, with CANCELLED."""
        self._channel.close()

    def versions(self, model: str, timeout: float) -> dict[int, VersionStatus]:
        """Version -> its status, of all that the server knows of; none: it does not know the model.

        Args:
            model: its name.
            timeout: seconds.

        Raises:
            CallError: it did not say.
        """
        request = MESSAGES["GetModelStatusRequest"]()
        request.model_spec.name = model
        try:
            answer = self._status(request, timeout)
        except CallError as error:
            if error.code == "NOT_FOUND":
                return {}
            raise
        return {
            entry.version: VersionStatus(entry.state, _error(entry.status))
            for entry in answer.model_version_status
        }

    def labelled(self, model: str, label: str, timeout: float) -> int | None:
        """The version that a label leads to; None: none that answers.

        Raises:
            CallError: the server did not say.
        """
        # TF Serving's GetModelStatus takes no notice of a label (get_model_status_impl.cc).
        request = MESSAGES["GetModelMetadataRequest"](metadata_field=["signature_def"])
        request.model_spec.name, request.model_spec.version_label = model, label
        try:
            return int(self._described(request, timeout).model_spec.version.value)
        except CallError as error:
            if error.code in ("INVALID_ARGUMENT", "NOT_FOUND"):
                return None
            raise

    def reload(self, config: Any, timeout: float) -> None:
        """Tells the server to serve what a ModelServerConfig says, and nothing else.

        Raises:
            CallError: it refused, or did not answer.
        """
        self._reload(MESSAGES["ReloadConfigRequest"](config=config), timeout)

    def _method(self, name: str, answer: str | None) -> Callable[[Any, float], Any]:
        call = self._channel.unary_unary(
            f"/tensorflow.serving.{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=MESSAGES[answer].FromString if answer else None,
        )

        def explained(request: Any, timeout: float) -> Any:
            try:
                return call(request, timeout=timeout, metadata=self._metadata)
            except grpc.RpcError as error:
                raise CallError(error.code().name, (error.details() or "").strip()) from error

        return explained


def _error(status: Any) -> str:
    if not status.error_code:
        return ""
    return f"{_CODES.get(status.error_code, status.error_code)}: {status.error_message}"
