"""What stages left on disk: TFX's folders, `ROOT/NODE/OUTPUT/EXECUTION`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_SYSTEM = Path(".system", "executor_execution")  # of TFX itself, below a node's folder


@dataclass(frozen=True)
class Execution:
    """All outputs of one execution of a stage, which stay or go together: TFX's cache takes them all or none.

    Attributes:
        node: the stage.
        number: of the execution; the later one has the higher.
        folders: one an output.
    """

    node: str
    number: int
    folders: tuple[Path, ...]


def executions(root: Path) -> Iterator[Execution]:
    """What there is below a folder, stage by stage."""
    for node in sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith(".")):
        outputs = [path for path in node.iterdir() if path.is_dir() and not path.name.startswith(".")]
        found: dict[int, list[Path]] = {}
        for output in [*sorted(outputs), node / _SYSTEM]:
            for path in output.glob("*"):
                if path.name.isdecimal():
                    found.setdefault(int(path.name), []).append(path)
        for number, folders in sorted(found.items()):
            yield Execution(node.name, number, tuple(folders))


def maker(root: Path, uri: str) -> tuple[str, int] | None:
    """The stage and the execution that made an artifact; None: it does not lie below the folder."""
    path, root = Path(uri).resolve(), root.resolve()
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    return (parts[0], int(parts[2])) if len(parts) > 2 and parts[2].isdecimal() else None


def size(paths: Iterable[Path]) -> int:
    """Bytes of files and of all that is in folders; what is not there has none."""
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.lstat().st_size for file in files if file.is_file())
