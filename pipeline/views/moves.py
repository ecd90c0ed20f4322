"""Moves of aliases, for machines and for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from components.promote.registry import Move
from pipeline.champion import open_registry
from pipeline.config import Deployment
from pipeline.views.text import make_table, when


def moves(deployment: Deployment) -> tuple[list[dict[str, Any]], Any]:
    """Every move of an alias, oldest first: as data, and as a table."""
    found = open_registry(deployment).moves()
    if not found:
        return [], "no alias was moved yet"
    return [move_data(move) for move in found], moves_table(found, f"moves of {deployment.name}")


def move_data(move: Move) -> dict[str, Any]:
    """A move as plain data."""
    return {
        "when": move.when,
        "alias": move.alias,
        "from": move.from_,
        "to": move.to,
        "by": move.by,
        "why": move.why,
    }


def moves_table(found: Sequence[Move], title: str) -> Table:
    """Moves, one a row."""
    table = make_table(title, "when", "alias", "from", "to", "by", "why", whole="alias")
    for move in found:
        ends = ("-" if end is None else str(end) for end in (move.from_, move.to))
        table.add_row(when(move.when), move.alias, *ends, move.by, move.why)
    return table
