import json
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2

from components.errors import RetrainError
from components.ingest import logic
from components.ingest.csv_file import CsvFile
from components.ingest.format import Block
from components.ingest.recipe import Source, make_recipe, match_header, read_spans

SOURCE = Source(span=3, path="/data/3/a.csv", name="a.csv", order=0)
LABEL = json.dumps({"name": "big", "expression": "x > n"})


def parse(schema, text, *, label=LABEL, eval_share=0.0, header="n,x,word", first_line=1, source=SOURCE):
    recipe = make_recipe(schema, label, eval_share)
    file = CsvFile(tuple(header.split(",")), compressed=True)
    block = Block(0, 0, first_line, text.encode())
    (rows,) = file.read(None, block, [column.name for column in recipe.columns])
    return logic.to_examples(recipe, source, rows)


def told(parsed):
    return [(row.line, row.reason, row.text) for rows in parsed.rejected.values() for row in rows]


def test_columns_of_good_rows(schema):
    parsed = parse(schema, '1,2.5,a\n3.0,2,\n-4,,"é, ""b"\n7,8,\n', label='{"name": "n"}')
    batch = parsed.batches["train"]
    ids = batch.column("example_id").to_pylist()
    assert batch.drop_columns(["example_id"]).to_pydict() == {
        "n": [[1], [3], [-4], [7]],
        "x": [[2.5], [2.0], None, [8.0]],
        "word": [[b"a"], None, ['é, "b'.encode()], None],
        "span": [[3]] * 4,
    }
    assert len({i for (i,) in ids}) == 4 and all(0 <= i < 2**63 for (i,) in ids)
    assert parsed.batches["eval"].num_rows == 0 and not parsed.rejected


def test_a_label_is_computed(schema):
    batch = parse(schema, "1,2,a\n2,1,a\n").batches["train"]
    assert batch.column("big").to_pylist() == [[1], [0]]


def test_a_computed_label_takes_the_type_that_the_schema_gives_it(schema):
    schema.feature.add(name="big", type=schema_pb2.FLOAT)
    assert parse(schema, "1,2,a\n").batches["train"].column("big").to_pylist() == [[1.0]]
    ratio = json.dumps({"name": "big", "expression": "x / n"})
    assert parse(schema, "4,2,a\n", label=ratio).batches["train"].column("big").to_pylist() == [[0.5]]


def test_every_kind_of_rejected_row(schema):
    text = '1,2,a\n1,2\n\nabc,2,"a\nb"\n1,1e39,a\n,2,a\n1,2,3,4\n0,zzz\n'
    parsed = parse(schema, text)
    assert sorted(told(parsed)) == [
        (3, "2 cells, and the header has 3", "1,2"),
        (5, "n: 'abc' is not an INT", 'abc,2,"a\nb"'),
        (7, "x: '1e39' is not a FLOAT", "1,1e39,a"),
        (8, "big: the label cannot be computed (n missing)", ",2,a"),
        (9, "4 cells, and the header has 3", "1,2,3,4"),
        (10, "2 cells, and the header has 3", "0,zzz"),
    ]
    assert parsed.by_reason == {
        "wrong number of cells": 3,
        "n: not an INT": 1,
        "x: not a FLOAT": 1,
        "big: the label cannot be computed": 1,
    }
    assert parsed.batches["train"].column("n").to_pylist() == [[1]]


def test_a_label_that_is_a_column_must_be_there(schema):
    parsed = parse(schema, "1,,a\n", label='{"name": "x"}')
    assert told(parsed) == [(2, "x: the label is missing", "1,,a")]


def test_a_division_by_zero_is_no_label(schema):
    parsed = parse(schema, "0,1,a\n", label=json.dumps({"name": "big", "expression": "x / n"}))
    assert told(parsed)[0][1].startswith("big: the label cannot be computed (a division by zero")


def test_rejected_rows_are_all_counted_and_a_few_kept(schema):
    parsed = parse(schema, "?,1," + "é" * 3000 + "\n" + "?,1,a\n" * 499)
    (kept,) = parsed.rejected.values()
    assert parsed.by_reason == {"n: not an INT": 500} and len(kept) == logic.QUARANTINE_ROWS_PER_REASON
    assert len(kept[0].text.encode()) in (2047, 2048) and kept[0].text.startswith("?,1,éé")


def test_all_rows_ragged(schema):
    parsed = parse(schema, "1\n2\n")
    assert parsed.by_reason == {"wrong number of cells": 2} and parsed.batches["train"].num_rows == 0


def test_not_utf8_is_named_by_its_line(schema):
    file = CsvFile(("n", "x", "word"), compressed=True)
    with pytest.raises(RetrainError, match=r"^not UTF-8 on line 3: byte 0xe9"):
        list(file.read(None, Block(0, 0, 1, b"1,2,a\n1,2,caf\xe9\n"), None))


def test_column_order_and_other_columns_change_nothing(schema):
    a = parse(schema, "1,2,a\n3,4,b\n", eval_share=0.5).batches
    b = parse(schema, "a,?,2,1\nb,?,4,3\n", eval_share=0.5, header="word,more,x,n").batches
    assert a == b


def test_split_is_a_function_of_the_row_and_meets_the_share(schema):
    lines = [f"{n},1,a" for n in range(4000)]
    first = parse(schema, "\n".join(lines), eval_share=0.3).batches["eval"].column("n").to_pylist()
    other = Source(span=9, path="/b.csv", name="b.csv", order=5)
    again = parse(schema, "\n".join(reversed(lines)), eval_share=0.3, source=other).batches["eval"]
    assert sorted(first) == sorted(again.column("n").to_pylist())
    assert 0.27 < len(first) / 4000 < 0.33
    more = parse(schema, "\n".join(lines), eval_share=0.6).batches["eval"].column("n").to_pylist()
    assert {n for (n,) in first} < {n for (n,) in more}


def test_example_ids_differ_by_span_file_and_line():
    lines = np.arange(1000)
    ids = [logic.example_ids(span, name, lines) for span in (1, 2) for name in ("a", "b")]
    assert len(set(np.concatenate(ids).tolist())) == 4000
    assert min(map(min, ids)) >= 0
    # Stable for good: replay buffers and predictions refer to them.
    assert logic.example_ids(1, "a.csv", np.array([1])).tolist() == [2100400790847239184]


cells = st.sampled_from(["", "1", "2.0", "2.5", "abc", "nan", '"x\ny"', '"a,b"', "é"])


@given(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=12), st.floats(0, 1))
def test_every_row_ends_exactly_once_in_train_eval_or_quarantine(table, share):
    schema = schema_pb2.Schema()
    for name, kind in [("n", schema_pb2.INT), ("x", schema_pb2.FLOAT), ("word", schema_pb2.BYTES)]:
        schema.feature.add(name=name, type=kind)
    rows = [",".join(row) for row in table if row != [""]]  # a blank line is no row
    lines, line = [], 1
    for row in rows:
        lines.append(line + 1)
        line += 1 + row.count("\n")
    parsed = parse(schema, "".join(row + "\n" for row in rows), eval_share=share)
    ids = dict(zip(logic.example_ids(3, "a.csv", np.array(lines) - 1).tolist(), lines, strict=True))
    kept = [ids[i] for batch in parsed.batches.values() for (i,) in batch.column("example_id").to_pylist()]
    assert Counter(kept + [line for line, _, _ in told(parsed)]) == Counter(lines)
    assert all(text == rows[lines.index(line)] for line, _, text in told(parsed))


@pytest.mark.parametrize(
    ("label", "facts"),
    [
        ("late", ["label: required is JSON"]),
        ('{"expression": "n > 1"}', ["label: required is JSON"]),
        ('{"name": "span", "expression": "n > 1"}', ["'span'", "every example already has"]),
        ('{"name": "N"}', ["'N' is no column", "did you mean 'n'?", "n, word, x"]),
        ('{"name": "y", "expression": "nn > 1"}', ["'nn' is no column", "did you mean 'n'?"]),
        ('{"name": "y", "expression": "word > 1"}', ["compares a text with a number"]),
        ('{"name": "x", "expression": "x > 1"}', ["label's own name 'x'"]),
        ('{"name": "n", "expression": "x + 1"}', ["gives FLOAT", "'n' is INT"]),
    ],
)
def test_labels_that_cannot_be(schema, label, facts):
    with pytest.raises(RetrainError) as error:
        make_recipe(schema, label, 0.3)
    assert all(fact in str(error.value) for fact in facts), str(error.value)


def test_what_the_schema_does_not_expect_of_training_data_is_not_read(schema):
    schema.default_environment.extend(["TRAINING", "SERVING"])
    schema.feature.add(name="old", type=schema_pb2.INT, lifecycle_stage=schema_pb2.DEPRECATED)
    schema.feature.add(name="later", type=schema_pb2.INT, not_in_environment=["TRAINING"])
    schema.feature.add(name="new", type=schema_pb2.INT, lifecycle_stage=schema_pb2.PRODUCTION)
    recipe = make_recipe(schema, LABEL, 0.3)
    assert [column.name for column in recipe.columns] == ["n", "x", "word", "new"]
    assert match_header(["old", "later", "n", "x", "word", "new", "other"], recipe) == ["other"]


def test_environments(schema):
    schema.default_environment.append("SERVING")
    schema.feature.add(name="y", type=schema_pb2.INT, in_environment=["TRAINING"])
    recipe = make_recipe(schema, '{"name": "y"}', 0.3)
    assert [column.name for column in recipe.columns] == ["y"]


def test_a_feature_that_no_cell_can_be(schema):
    schema.feature.add(name="deep", type=schema_pb2.STRUCT)
    with pytest.raises(RetrainError, match="'deep' has the type STRUCT"):
        make_recipe(schema, LABEL, 0.3)


@pytest.mark.parametrize(
    ("header", "facts"),
    [
        (["n", "X", "word"], ["1 of the 3 columns", "'x' (did you mean 'X'?)", "'word'"]),
        (
            ["n", "words", "z"],
            ["2 of the 3", "'word' (did you mean 'words'?)", "unknown to the schema: 'words', 'z'"],
        ),
        (["n;x;word"], ["3 of the 3", "separated by ';'"]),
        (["n", "x", "word", "n"], ["'n' more than once"]),
        (["n", "", " ", "\ufeffx", "word"], ["'x' (did you mean '\\ufeffx'?)", "2 without a name"]),
        ([f"c{i}" for i in range(5000)], ["'c0', 'c1'", "and 4980 more"]),
    ],
)
def test_headers_that_do_not_fit(schema, header, facts):
    with pytest.raises(RetrainError) as error:
        match_header(header, make_recipe(schema, LABEL, 0.3))
    assert all(fact in str(error.value) for fact in facts), str(error.value)


def test_columns_without_a_name_are_unknown_ones(schema):
    recipe = make_recipe(schema, LABEL, 0.3)
    assert match_header(["", "n", " ", "", "x", "word"], recipe) == ["", " ", ""]


def test_thousands_of_columns_are_matched_in_no_time():
    schema = schema_pb2.Schema()
    names = [f"column_{i}" for i in range(20_000)]
    for name in names:
        schema.feature.add(name=name, type=schema_pb2.INT)
    recipe = make_recipe(schema, '{"name": "column_7"}', 0.3)
    begun = time.process_time()
    assert match_header([*reversed(names), "more"], recipe) == ["more"]
    assert time.process_time() - begun < 1  # 400 million comparisons take more


def test_further_keys_of_the_label_are_for_others(schema):
    label = json.dumps({"name": "n", "task": "regression", "log": True})
    assert make_recipe(schema, label, 0.3).label == "n"


def test_spans():
    text = '[{"span": 10, "files": ["/d/10/a.csv", "/d/10/m/b.csv"]}, {"span": 2, "files": ["/d/2/a.csv"]}]'
    assert read_spans(text) == [
        Source(10, "/d/10/a.csv", "a.csv", 0),
        Source(10, "/d/10/m/b.csv", "m/b.csv", 1),
        Source(2, "/d/2/a.csv", "a.csv", 2),
    ]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("nothing", "JSON list"),
        ("[]", "nothing to ingest"),
        ("[3]", "JSON list"),
        ('[{"span": "3", "files": ["a"]}]', "JSON list"),
        ('[{"span": 3, "files": "a"}]', "JSON list"),
        ('[{"span": -1, "files": ["a"]}]', "negative"),
        ('[{"span": 3, "files": ["a"]}, {"span": 3, "files": ["b"]}]', "span 3 is negative or comes twice"),
        ('[{"span": 3, "files": []}]', "span 3 has no file"),
        ('[{"span": 3, "files": ["a", "a"]}]', "one twice"),
    ],
)
def test_spans_that_cannot_be(text, fact):
    with pytest.raises(RetrainError, match=fact):
        read_spans(text)


@pytest.mark.parametrize(
    ("label", "reasons"),
    [
        ({"name": "n", "task": "binary"}, {"n: not 0 or 1": 2}),
        ({"name": "n", "task": "regression"}, {}),
        ({"name": "n", "task": "regression", "log": True}, {"n: not more than -1, as label.log wants it": 1}),
        ({"name": "n", "task": "regression", "example_weight": "x"}, {"x: not a weight of 0 or more": 2}),
    ],
    ids=["binary", "regression", "logarithm", "weight"],
)
def test_what_a_label_and_a_weight_may_be(schema, label, reasons):
    parsed = parse(schema, "0,1,a\n1,0.5,a\n-1,-0.5,a\n3,,a\n", label=json.dumps(label))
    assert parsed.by_reason == reasons
    assert parsed.batches["train"].num_rows == 4 - sum(reasons.values())


def test_a_weight_is_a_number(schema):
    with pytest.raises(RetrainError, match="the weight 'word' is no column of numbers"):
        parse(schema, "1,2,a\n", label=json.dumps({"name": "n", "example_weight": "word"}))
