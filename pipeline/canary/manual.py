"""What a person wants of a controller that another process may be: left in a file, taken at its next look."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

_FILE = "request.json"
Action = Literal["advance", "abort"]


@dataclass(frozen=True)
class Wish:
    """What is wanted.

    Attributes:
        action: to the next step, or back to the champion.
        reason: kept in the history.
        by: who.
        id: tells it from every other.
    """

    action: Action
    reason: str
    by: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


def leave(folder: Path, wish: Wish) -> None:
    """Leaves a wish for the controller, in place of one that it has not taken yet."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{_FILE}.{wish.id}"
    aside.write_text(json.dumps(asdict(wish)))
    aside.replace(folder / _FILE)


def left(folder: Path) -> Wish | None:
    """The wish that waits."""
    file = folder / _FILE
    return Wish(**json.loads(file.read_text())) if file.exists() else None


def done(folder: Path, wish: Wish | None) -> None:
    """Takes away the wish, if it is still that one."""
    waiting = left(folder)
    if wish and waiting and waiting.id == wish.id:
        (folder / _FILE).unlink(missing_ok=True)
