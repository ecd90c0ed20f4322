"""Reads a YAML file of plain values, strictly, and says where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from components.errors import RetrainError


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a file of `key: value` lines.

    Raises:
        RetrainError: it cannot be read, is no such file, or gives a key twice; with the place.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise RetrainError(
            f"no such file: {path}; name a deployment's YAML file, such as configs/NAME.yaml"
        ) from None
    except IsADirectoryError:
        raise RetrainError(f"{path} is a folder; name a deployment's YAML file in it") from None
    except OSError as error:
        raise RetrainError(
            f"{path} cannot be read ({error.strerror}); name a deployment's YAML file"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise RetrainError(
            f"{path}, line {line}: byte {byte:#04x} is not UTF-8 text; save the file as UTF-8"
        ) from None
    except yaml.constructor.ConstructorError as error:
        raise RetrainError(f"{_place(path, error)}: {error.problem}; only plain values are read") from None
    except (yaml.scanner.ScannerError, yaml.parser.ParserError) as error:
        raise RetrainError(
            f"{_place(path, error)}: not valid YAML: {error.problem}; indent with spaces, not tabs, and "
            "quote text that holds any of : { } [ ] # ` @ *"
        ) from None
    except yaml.MarkedYAMLError as error:
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise RetrainError(f"{_place(path, error)}: {reason}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RetrainError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise RetrainError(f"{path}: got {shown(content)}, expected `key: value` lines; see configs/")
    return content


def shown(seen: Any) -> str:
    """A value as a YAML file has it."""
    if isinstance(seen, bool) or seen is None:
        return {True: "true", False: "false", None: "nothing"}[seen]
    if not isinstance(seen, dict | list):
        return repr(seen) if isinstance(seen, str) else str(seen)
    kind = "list" if isinstance(seen, list) else "mapping"
    return f"a {kind}" if seen else f"an empty {kind}"


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML would silently take the last, and
    reads 1e-3 as the number that it is everywhere but in YAML 1.1."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add((key.tag, str(key.value)))
        return node


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _place(path: Path, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    return f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
