from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from components.errors import RetrainError
from components.ingest import report
from components.ingest.logic import Rejected
from components.ingest.measures import Contents, Labels
from components.ingest.recipe import Source, make_recipe
from components.ingest.report import Shard, SpanCount, Summary


def rejected(span, file, line, reason="x: 'abc' is not a FLOAT"):
    return Rejected(span, file, line, reason, "raw,abc")


def part(span, kept, rows, unknown=(), problems=(), shards=()):
    by_reason = {"x: not a FLOAT": rows} if rows else {}
    count = SpanCount(
        Counter(kept),
        Counter({reason: len(rows) for reason, rows in by_reason.items()}),
        by_reason,
        Labels(sum(kept.values()), Counter({"1": sum(kept.values())})),
        Contents.of(np.arange(sum(kept.values()), dtype=np.uint64)),
    )
    return Summary({span: count}, Counter(unknown), list(problems), list(shards))


def parts():
    return [
        part(
            1,
            {"train": 3, "eval": 1},
            [rejected(1, "a", 2)],
            ["other"],
            [(4, "b")],
            [Shard((0, 0), "eval", "p")],
        ),
        part(1, {"train": 2}, [rejected(1, "a", 1), rejected(1, "b", 1)], [], [(2, "a")]),
        part(2, {"train": 1, "eval": 1}, [], ["other"]),
    ]


def test_the_sum_does_not_depend_on_the_order():
    sums = []
    for order in permutations(range(3)):
        total = Summary()
        for i in order:
            total.add(parts()[i])
        sums.append(total)
    assert all(total == sums[0] for total in sums)
    assert sums[0].problems == [(2, "a"), (4, "b")]
    assert [(row.file, row.line) for row in sums[0].spans[1].rows()] == [("a", 1), ("a", 2), ("b", 1)]
    assert Summary.from_json(sums[0].to_json()) == sums[0]


def test_columns_of_files_without_a_header_add_up(schema):
    sources = [Source(1, "/d/a", "a", 0), Source(1, "/d/b", "b", 1), Source(1, "/d/c", "c", 2)]
    for feature in schema.feature:
        feature.presence.min_count = 1
    recipe = make_recipe(schema, '{"name": "n"}', 0.3)
    total = Summary(names={0: {"n", "x"}}).add(Summary(names={0: {"word", "more"}, 1: {"n", "word"}}))
    assert Summary.from_json(total.to_json()) == total
    report.match_names(total, sources, recipe)
    assert total.unknown == {"more": 1}
    ((order, message),) = total.problems
    assert order == 1 and message.startswith("span 1, /d/b: 1 of the 3 columns") and "'x'" in message


def test_report_counts_everything():
    total = Summary()
    for each in parts():
        total.add(each)
    of_1 = {
        "rows_read": 9,
        "rows_kept": {"train": 5, "eval": 1},
        "quarantined": 3,
        "by_reason": {"x: not a FLOAT": 3},
        "labels": {"rows": 6, "classes": {"1": 6}},
        "repeated": 1 - 4 / 6,
    }
    of_2 = {
        "rows_read": 2,
        "rows_kept": {"train": 1, "eval": 1},
        "quarantined": 0,
        "by_reason": {},
        "labels": {"rows": 2, "classes": {"1": 2}},
        "repeated": 0.0,
    }
    assert report.to_report(total) == {
        "rows_read": 11,
        "rows_kept": {"train": 6, "eval": 2},
        "quarantined": 3,
        "by_reason": {"x: not a FLOAT": 3},
        "per_span": {"1": of_1, "2": of_2},
        "unknown_columns": {"other": 2},
    }


def test_stored_rows_are_bounded_and_counted_on():
    total = Summary()
    for block in range(4):
        rows = [rejected(1, "a", 100 * block + line) for line in range(60)]
        total.add(part(1, {}, rows))
    assert total.spans[1].quarantined == 240
    assert len(total.spans[1].rows()) == report.QUARANTINE_ROWS_PER_REASON


@pytest.mark.parametrize(
    ("bad", "good", "share", "stops"), [(1, 99, 0.01, False), (2, 98, 0.01, True), (0, 1, 0, False)]
)
def test_the_limit_is_a_share_of_the_rows_read(bad, good, share, stops):
    summary = part(5, {"train": good}, [rejected(5, "a", line) for line in range(bad)])
    if not stops:
        report.check_quarantine(summary, share, {})
        return
    with pytest.raises(RetrainError) as error:
        report.check_quarantine(summary, share, {5: "/q/5.jsonl"})
    facts = [
        "span 5: 2 of 100 rows (2.00%)",
        "allows 1.00%",
        "x: not a FLOAT (2 rows)",
        "a line 0",
        "'abc'",
        "/q/5.jsonl",
    ]
    assert all(fact in str(error.value) for fact in facts), str(error.value)


def test_a_span_without_a_good_row_stops_whatever_the_limit():
    with pytest.raises(RetrainError, match=r"1 of 1 rows .* none is left"):
        report.check_quarantine(part(5, {}, [rejected(5, "a", 1)]), 1.0, {})


def test_every_span_over_the_limit_is_told():
    both = part(1, {}, [rejected(1, "a", 1)]).add(part(2, {}, [rejected(2, "a", 1)]))
    with pytest.raises(RetrainError, match=r"(?s)span 1: .*span 2: "):
        report.check_quarantine(both, 0.5, {})


def test_files_with_problems():
    report.check_files(Summary())
    summary = Summary(problems=[(i, f"file {i}") for i in range(8)])
    with pytest.raises(RetrainError, match=r"(?s)file 0.*file 4\nand 3 more such files"):
        report.check_files(summary)
