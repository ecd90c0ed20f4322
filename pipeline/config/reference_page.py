"""Writes docs/configuration.md: `python -m pipeline.config.reference_page > docs/configuration.md`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.config.reference import Entry, Part, reference

INTRODUCTION = """
# Configuration

One YAML file is one deployment. This page lists every key; it is written from the model that reads the
file (`make reference`), so it says what holds. `retrain config explain CONFIG` shows the same with the
values of a deployment, and `retrain config check CONFIG` holds a file against its schema and data
without running anything.

The least that a file must say:

```yaml
name: clicks
schema: ../schemas/clicks.pbtxt
state: ../state/clicks
data: {path: ../data/clicks}
label: {name: clicked}
preprocessing:
  features:
    price: {type: numeric, log: true}
    country: {type: categorical}
```

Relative paths start from the file's folder. Unknown keys are refused, and so are values of another
type: `5` is a number and `"5"` is text. Lists and mappings may be written as above or as indented
lines.
"""

EXAMPLES = {
    "numeric": """
price: {type: numeric, log: true}
""",
    "categorical": """
country: {type: categorical, min_count: 5}
genres: {type: categorical, separator: "|", top_k: 200}   # 'comedy|drama'
""",
    "identity": """
hour: {type: identity, max: 23}
rating: {type: identity, column: Star Rating, min: 1, max: 5}
""",
    "bucketized": """
age: {type: bucketized, buckets: 8}
""",
    "hashed": """
user: {type: hashed, column: user_id, buckets: 50000}
""",
    "cross": """
country_and_device: {type: cross, columns: [country, device], buckets: 5000}
""",
    "timestamp": """
clicked_at: {type: timestamp, parts: [hour, day_of_week, month]}
""",
    "text": """
title: {type: text, ngrams: 2, top_k: 20000}
""",
    "tensor": """
pixels: {type: tensor, shape: [28, 28, 1]}                     # a column of lists of 784 numbers
small: {type: tensor, shape: [1, 2, 1], columns: [left, right]}
""",
    "wide_and_deep": """
model: {type: wide_and_deep, hidden: [128, 64], dropout: 0.2}
""",
    "mlp": """
model: {type: mlp, hidden: [64, 32]}
""",
    "linear": """
model: {type: linear}
""",
    "two_tower": """
model:
  type: two_tower
  user: [user, country]
  item: [title, genres]
  negatives: in_batch
""",
    "cnn": """
model: {type: cnn, filters: [32, 64], kernel: 3}
""",
    "custom": """
model:
  type: custom
  module: shop.model
  params: {width: 128}
""",
}
"""Type of a feature or a model -> lines of a file."""


def page() -> str:
    """The reference of all keys, in Markdown."""
    parts = reference()
    lines = [INTRODUCTION.strip()]
    for part in parts:
        lines += ["", f"{'#' * min(len(part.keys) + 1, 3) if part.keys else '##'} {_title(part)}", ""]
        lines += [part.sentence]
        if part.kind:
            lines += ["", "```yaml", EXAMPLES[part.kind].strip(), "```"]
        if part.entries:
            lines += ["", "| key | value | default | meaning |", "|---|---|---|---|"]
            lines += [_row(entry, parts) for entry in part.entries]
    return "\n".join(lines) + "\n"


def _title(part: Part) -> str:
    if part.kind:
        return f"{'Feature' if part.keys[0] == 'preprocessing' else 'Model'} `{part.kind}`"
    return f"`{part.name}`" if part.keys else "The top of the file"


def _row(entry: Entry, parts: Sequence[Part]) -> str:
    allowed = entry.allowed
    if entry.below is not None:
        part = next(part for part in parts if part.keys[: len(entry.below)] == entry.below)
        anchor = re.sub(r"[^a-z0-9_ -]", "", _title(part).lower()).replace(" ", "-")
        allowed = f"[`{part.name}`](#{anchor})"
    is_code = entry.default and not re.fullmatch(r"required|none|.* .*name", entry.default)
    default = f"`{entry.default}`" if is_code else entry.default
    cells = (f"`{entry.key}`", allowed, default, entry.sentence)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
