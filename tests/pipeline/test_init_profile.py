import datetime

import numpy as np
import pyarrow as pa
import pytest

from components.errors import RetrainError
from pipeline.init.profile import TableScan, canonical
from pipeline.init.sample import Reservoir
from tests.pipeline.init_tables import column, scanned


@pytest.mark.parametrize(
    ("cells", "kind", "missing", "unreadable"),
    [
        (["1", "2", "3"] * 10, "INT", 0, 0),
        (["1", "2.5", "3"] * 10, "FLOAT", 0, 0),
        (["1.0", "2.0", "1e3"] * 10, "INT", 0, 0),
        (["a", "b", ""] * 10, "BYTES", 10, 0),
        (["1", "", "NA"] * 10, "INT", 20, 0),
        (["1", "NA", "word"] * 10, "BYTES", 0, 0),
        (["1"] * 99 + ["abc"], "INT", 0, 1),
        (["1.5"] * 99 + ["abc"], "FLOAT", 0, 1),
        (["1"] * 90 + ["abc"] * 10, "BYTES", 0, 0),
        (["00501", "90210"] * 10, "BYTES", 0, 0),
        (["true", "false"] * 10, "BYTES", 0, 0),
        ([""] * 30, "BYTES", 30, 0),
        (["NA"] * 30, "BYTES", 30, 0),
        (["1e39"] * 3 + ["1"] * 30, "BYTES", 0, 0),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_cells_of_text_are_what_ingest_will_read(cells, kind, missing, unreadable, pieces):
    found = column(cells, pieces=pieces)
    assert (found.kind, found.missing, found.unreadable) == (kind, missing, unreadable)
    assert found.rows == len(cells)
    assert len(found.values) == len(cells)


def test_a_fraction_outside_of_the_sample_makes_a_column_of_floats():
    cells = ["7"] * 5_000 + ["0.5"] + ["7"] * 5_000
    found = column(cells, pieces=10, sample=50)
    assert found.kind == "FLOAT"
    assert (found.low, found.high) == (0.5, 7.0)
    assert found.values.type == pa.float64() and len(found.values) == 50


def test_an_unreadable_cell_is_shown():
    assert column(["1"] * 99 + ["abc"]).example == "abc"


@pytest.mark.parametrize(
    ("values", "kind", "is_time"),
    [
        (pa.array([1, 2, None], pa.int8()), "INT", False),
        (pa.array([1.5, float("nan"), 2], pa.float32()), "FLOAT", False),
        (pa.array(["1", "2", None]), "BYTES", False),
        (pa.array([True, False, None]), "BYTES", False),
        (pa.array(["a", None, "b"]).dictionary_encode(), "BYTES", False),
        (pa.array([b"a", None, b"\xff"]), "BYTES", False),
        (pa.array([datetime.date(2020, 1, 1), None, datetime.date(2020, 1, 2)]), "INT", True),
        (pa.array([datetime.datetime(2020, 1, 1), None, datetime.datetime(2020, 1, 2)]), "INT", True),
        (pa.array([{"a": 1}, None, {"a": 2}]), None, False),
    ],
)
def test_typed_columns_keep_their_type(values, kind, is_time):
    found = column(values)
    assert (found.kind, found.is_time, found.listed) == (kind, is_time, False)
    assert found.missing == (1 if kind else 3)


def test_lists_are_lists_only_if_one_has_several_values():
    several = column(pa.array([[1, 2], [], None, [None, 3]]))
    assert (several.listed, several.missing, several.shortest, several.longest) == (True, 2, 1, 2)
    assert several.values.to_pylist() == [[1, 2], None, None, [3]]
    single = column(pa.array([[1], [], None, [3]]))
    assert (single.listed, single.missing, single.values.to_pylist()) == (False, 2, [1, None, None, 3])


def test_values_of_the_label_are_counted_over_all_rows():
    cells = ["1", "1.0", "2", "NA", ""] * 1_000
    profile = scanned({"x": cells, "y": cells}, pieces=7, sample=10)
    assert profile.label_counts == {"1": 2_000, "2": 1_000}
    assert scanned({"x": cells, "y": [f"u{i}" for i in range(5_000)]}).label_counts is not None
    many = [f"u{i}" for i in range(6_000)]
    assert scanned({"x": many, "y": many}).label_counts is None


def test_numbers_that_never_fall_are_seen():
    assert column([str(i) for i in range(100)], pieces=4).rising
    assert not column([str(i % 60) for i in range(100)], pieces=4).rising


def test_different_values_are_estimated_for_all_rows():
    rows = 60_000
    every_third = column([f"u{i % 20_000}" for i in range(rows)], sample=5_000)
    assert every_third.distinct_everywhere == pytest.approx(20_000, rel=0.15)
    unique = column([f"u{i}" for i in range(rows)], sample=5_000)
    assert unique.distinct_everywhere == pytest.approx(rows)


def test_a_column_has_one_type_in_all_files():
    scan = TableScan("y", 10)
    numbers = canonical(pa.array([1, 2]), False)
    scan.add({"y": numbers})
    scan.add({"y": canonical(pa.array([1.5]), False)})
    assert scan.finish().columns["y"].kind == "FLOAT"
    with pytest.raises(RetrainError, match=r"column 'y' is .*before it was"):
        scan.add({"y": canonical(pa.array(["a"]), False)})


def test_the_sample_is_uniform_and_keeps_the_order():
    counts = np.zeros(100)
    for seed in range(300):
        reservoir = Reservoir(10, 1 << 20, seed)
        for begin in range(0, 100, 7):
            reservoir.add(pa.table({"x": range(begin, min(begin + 7, 100))}))
        table, places = reservoir.rows()
        assert table.column("x").to_pylist() == places.tolist() == sorted(places)
        assert len(places) == 10
        counts[places] += 1
    # 30 expected each; five standard deviations of a binomial are 26.
    assert counts.min() > 4 and counts.max() < 56


def test_the_sample_of_large_rows_is_smaller():
    reservoir = Reservoir(10_000, 100_000)
    for _ in range(50):
        reservoir.add(pa.table({"x": ["a" * 1_000] * 40}))
    table, places = reservoir.rows()
    assert 10 < len(places) < 110
    assert table.nbytes <= 110_000
