"""What status, history and show tell: read from the registry and the disk, with nothing heavy imported."""

from pipeline.views.moves import moves
from pipeline.views.runs import decision_view, outcomes_table
from pipeline.views.status import late_lines, status
from pipeline.views.versions import history, show

__all__ = ["decision_view", "history", "late_lines", "moves", "outcomes_table", "show", "status"]
