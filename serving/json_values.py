"""Parsed JSON: what is in a request's body, by the rules of TF Serving."""

import base64
import binascii
import json
from typing import Any

from serving.errors import invalid

_JSON_TYPES = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}
_SHOWN = 200  # characters of a value in a message


def json_type(value: Any) -> str:
    """Returns TF Serving's name of the type of parsed JSON; True and False are two."""
    return str(value) if isinstance(value, bool) else _JSON_TYPES[type(value)]


def parse_object(body: bytes) -> tuple[dict[str, Any], str]:
    """Parses the body of a request, which is an object, and the `signature_name` in it, else empty.

    Args:
      body: JSON, in UTF-8. NaN, Infinity and -Infinity are numbers.

    Raises:
      RequestError: INVALID_ARGUMENT, with what is wrong.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {show(document)} Is not object")
    signature_name = document.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid(
            f"JSON Value: {show(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return document, signature_name


def is_base64(value: Any) -> bool:
    """Says whether parsed JSON is one value in base64, rather than an object with named values."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def text_bytes(text: str) -> bytes:
    """Returns parsed JSON text in UTF-8.

    Raises:
      RequestError: INVALID_ARGUMENT for a lone surrogate, which JSON can spell and UTF-8 cannot.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"JSON Value: {show(text)} is not valid Unicode: {error}") from error


def base64_bytes(value: dict[str, Any]) -> bytes:
    """Returns the bytes of `{"b64": ...}`, of which the padding may be missing.

    Raises:
      RequestError: INVALID_ARGUMENT if it is not base64.
    """
    text = value["b64"].rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"Unable to base64 decode JSON Value: {show(value)}") from error


def show(value: Any) -> str:
    """Returns parsed JSON as text for a message, cut if long."""
    text = ""
    try:
        for part in json.JSONEncoder().iterencode(value):
            text += part
            if len(text) > _SHOWN:
                return text[:_SHOWN] + "..."
    except RecursionError:
        return "(nested too deeply to show)"
    return text
