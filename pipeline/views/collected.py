"""What `retrain gc` removed."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from pipeline.gc import Collected


def collected_table(collected: Collected) -> Group:
    """What was removed, or would be, and what was kept."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column()
    made.add_column(justify="right")
    for number, bytes_ in collected.versions.items():
        made.add_row(f"version {number}", _readable(bytes_))
    for what, bytes_ in (
        ("what no version refers to", collected.others),
        ("logs and interrupted trainings", collected.remains),
    ):
        if bytes_:
            made.add_row(what, _readable(bytes_))
    kept = ", ".join(f"{number} ({why})" for number, why in collected.kept.items()) or "none"
    if not collected.total and not collected.versions:
        return Group(f"nothing to remove; kept: version {kept}")
    done = "would be removed" if collected.dry_run else "removed"
    return Group(made, f"{_readable(collected.total)} {done}; kept: version {kept}")


def _readable(count: int) -> str:
    """Bytes, for a person.

    >>> _readable(512), _readable(2_500_000)
    ('512 B', '2.5 MB')
    """
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
