"""What can go wrong, in the words of TF Serving."""

import enum

# Bytes that TF Serving cuts its gRPC messages to. They travel in a header, whose size clients limit.
MESSAGE_LIMIT = 1024


class Code(enum.IntEnum):
    """The canonical status codes: the same numbers in gRPC, in TensorFlow and in model status replies."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServerError(Exception):
    """The server cannot start or reach a state. The message says what was seen, needed, and what to do."""


class ModelConfigError(ServerError):
    """A model config file cannot be read, or what it says cannot be served."""


class RequestError(Exception):
    """A request, or the load of a version, that ends with a status other than OK."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RequestError:
    """Returns the error for a request that its sender must change."""
    return RequestError(Code.INVALID_ARGUMENT, message)


def shorten(message: str) -> str:
    """Cuts a message as TF Serving does before it sends one."""
    content = message.encode(errors="replace")
    if len(content) <= MESSAGE_LIMIT:
        return message
    return content[:MESSAGE_LIMIT].decode(errors="ignore") + "...TRUNCATED"
