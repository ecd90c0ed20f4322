"""Rows of a file as a model server takes them, and what is told of its answers."""

from __future__ import annotations

import csv
import gzip
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from components.errors import RetrainError
from components.names import CLASSES, MISSING_INT, PREDICTIONS, SCORES, SERVING_RAW
from pipeline import request_rows
from pipeline.predict import Client, Served, check_output, predict_rows, write_answers
from pipeline.request_rows import Input, RowsFile
from serving.model_config import write_model_config

pytestmark = pytest.mark.xdist_group("pipeline-predict")

INPUTS = {
    "n": Input("n", "INT", False),
    "x": Input("x", "FLOAT", False),
    "word": Input("word", "BYTES", False),
}
LISTS = {
    "n": Input("n", "INT", True),
    "x": Input("x", "FLOAT", True),
    "word": Input("word", "BYTES", True),
}
BIG = 2**53 + 1  # no double is this number
NAN = math.nan

Table = Callable[[str | bytes], Path]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "rows"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    def write(**columns: Any) -> Path:
        pa.parquet.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=2)
        return tmp_path / "rows.parquet"

    return write


@pytest.fixture
def tfrecord(tmp_path: Path) -> Callable[..., Path]:
    """Writes records: tf.Examples by feature, or bytes as they are."""
    import tensorflow as tf

    def example(features: dict[str, list[Any]]) -> bytes:
        made = tf.train.Example()
        for name, values in features.items():
            kind = {int: "int64_list", float: "float_list", bytes: "bytes_list"}[type(values[0])]
            getattr(made.features.feature[name], kind).value.extend(values)
        return bytes(made.SerializeToString())

    def write(*records: Any, compression: str = "") -> Path:
        with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord"), compression) as writer:
            for record in records:
                writer.write(record if isinstance(record, bytes) else example(record))
        return tmp_path / "rows.tfrecord"

    return write


def read(path: Path, inputs: dict[str, Input] = INPUTS) -> tuple[list[int], list[Any], dict[int, str]]:
    """Lines and rows of what can be read, and what is wrong with the rest; nan as None, to compare."""
    lines: list[int] = []
    rows: list[Any] = []
    errors: dict[int, str] = {}
    columns = [given.column for given in inputs.values()]
    for request in RowsFile(path, columns).requests(inputs):
        lines += request.lines
        rows += zip(*(_plain(request.inputs[name]) for name in inputs), strict=True)
        assert not errors or not request.errors or max(errors) < min(request.errors)
        errors |= request.errors
    return lines, rows, errors


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# Reading.


def test_cells_get_the_types_of_the_model(table: Table) -> None:
    text = f"word,extra,n,x\nhi,?,3,0.5\n,,,\n nan ,,NaN,null\né,,-7.0, 1e-3\n{'0' * 9},,{BIG},-0\n"
    lines, rows, errors = read(table(text))
    assert (lines, errors) == ([2, 3, 4, 5, 6], {})
    assert rows == [
        (3, 0.5, "hi"),
        (MISSING_INT, None, ""),
        (MISSING_INT, None, " nan "),
        (-7, 0.001, "é"),
        (BIG, 0.0, "000000000"),
    ]
    assert [type(value) for value in rows[3]] == [int, float, str]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ("three,0.5,a", "n: 'three' is not an INT"),
        ("3.5,0.5,a", "n: '3.5' is not an INT"),
        ("9223372036854775808,0.5,a", "n: '9223372036854775808' is not an INT"),
        ("1_000,0.5,a", "n: '1_000' is not an INT"),
        ("3,cheap,a", "x: 'cheap' is not a FLOAT"),
        ("3,inf,a", "x: 'inf' is not a FLOAT"),
        ("3,1e39,a", "x: '1e39' is not a FLOAT"),
        ("3,1.5", "2 cells, and the header has 3"),
        ("3,1.5,a,b", "4 cells, and the header has 3"),
        ("a,b,c", "n: 'a' is not an INT; x: 'b' is not a FLOAT"),
    ],
)
def test_a_row_that_can_not_be_read_is_told_with_its_line(table: Table, cells: str, problem: str) -> None:
    path = table(f"n,x,word\n1,1.0,a\n{cells}\n2,2.0,b\n")
    assert read(path) == ([2, 4], [(1, 1.0, "a"), (2, 2.0, "b")], {3: problem})


def test_a_byte_order_mark_windows_lines_and_quotes_are_no_trouble(table: Table) -> None:
    text = '\ufeffn,x,word\r\n1,2,"a, ""b""\r\nc"\r\n\r\n3,4,d\r\n'
    assert read(table(text)) == ([2, 5], [(1, 2.0, 'a, "b"\r\nc'), (3, 4.0, "d")], {})


def test_gzip_is_read_whatever_its_name(table: Table) -> None:
    assert read(table(gzip.compress(b"n,x,word\n1,2,a\n", mtime=0))) == ([2], [(1, 2.0, "a")], {})


def test_a_cell_is_a_list_of_one_where_lists_are_taken(table: Table) -> None:
    path = table("n,x,word\n1,2,a\n,,\n")
    assert read(path, LISTS)[1] == [([1], [2.0], ["a"]), ([MISSING_INT], [None], [""])]


def test_a_column_may_have_another_name_in_a_request(table: Table) -> None:
    lines, rows, _ = read(table("Trip Seconds\n7\n"), {"Trip_Seconds": Input("Trip Seconds", "INT", False)})
    assert (lines, rows) == ([2], [(7,)])


def test_lists_of_a_parquet_file_are_padded_with_what_is_missing(parquet: Callable[..., Path]) -> None:
    path = parquet(
        n=pa.array([[1, None, 2], [], [3]], pa.list_(pa.int32())),
        x=pa.array([[0.5], None, [1.0, 2.0]], pa.large_list(pa.float64())),
        word=pa.array([["a", "b"], ["c"], []], pa.list_(pa.string())),
        extra=[1, 2, 3],
    )
    lines, rows, errors = read(path, LISTS)
    missing = MISSING_INT
    assert (lines, errors) == ([1, 2, 3], {})
    assert [[value for value in n if value != missing] for n, _, _ in rows] == [[1, 2], [], [3]]
    assert [[value for value in x if value is not None] for _, x, _ in rows] == [[0.5], [], [1.0, 2.0]]
    assert [[value for value in word if value] for _, _, word in rows] == [["a", "b"], ["c"], []]
    firsts = [(1, 0.5, "a"), (missing, None, "c"), (3, 1.0, "")]
    assert read(path) == ([1, 2, 3], firsts, {})


def test_lists_of_a_request_have_one_length(parquet: Callable[..., Path]) -> None:
    path = parquet(word=[["a"] * size for size in (1, 3)])
    (request,) = RowsFile(path, ["word"]).requests({"word": LISTS["word"]})
    assert request.inputs["word"] == [["a", "", ""], ["a", "a", "a"]]


def test_typed_columns_are_read_as_ingest_reads_them(parquet: Callable[..., Path]) -> None:
    path = parquet(
        n=pa.array([1.0, 2.5, NAN, None]),
        x=pa.array([1, 2, 3, 4], pa.int8()),
        word=pa.array([datetime(2013, 3, 9, 12), None, None, datetime(2013, 3, 10)], pa.timestamp("us")),
    )
    lines, rows, errors = read(path)
    assert lines == [1, 3, 4] and list(errors) == [2]
    assert errors[2].startswith("n: ") and errors[2].endswith("is not an INT")
    assert rows == [
        (1, 1.0, "2013-03-09T12:00:00"),
        (MISSING_INT, 3.0, ""),
        (MISSING_INT, 4.0, "2013-03-10T00:00:00"),
    ]


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_records_are_rows_by_number(tfrecord: Callable[..., Path], compression: str) -> None:
    path = tfrecord(
        {"n": [1], "x": [0.5], "word": [b"a", b"b"]},
        b"no example",
        {"n": [2], "word": [b"\xff"]},
        compression=compression,
    )
    lines, rows, errors = read(path)
    assert (lines, errors) == ([1, 3], {2: "the record is not a tf.Example"})
    assert rows == [(1, 0.5, "a"), (2, None, {"b64": "/w=="})]
    assert read(path, LISTS)[1][0][2] == ["a", "b"]


def test_a_request_holds_so_many_rows_and_so_many_values(
    parquet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_rows, "ROWS_AT_ONCE", 2)
    path = parquet(x=[[1.0]] * 3 + [[1.0, 2.0]] * 2)
    sizes = [len(request.lines) for request in RowsFile(path, ["x"]).requests({"x": LISTS["x"]})]
    assert sum(sizes) == 5 and max(sizes) == 2
    monkeypatch.setattr(request_rows, "VALUES_AT_ONCE", 1)
    assert [len(r.lines) for r in RowsFile(path, ["x"]).requests({"x": LISTS["x"]})] == [1] * 5


def test_rows_without_a_place_stay_in_order(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_rows, "ROWS_AT_ONCE", 2)
    text = "n\n" + "".join("1,1\n" if line % 3 == 0 else f"{line}\n" for line in range(2, 20))
    lines, rows, errors = read(table(text), {"n": INPUTS["n"]})
    assert list(errors) == [3, 6, 9, 12, 15, 18]
    assert [n for (n,) in rows] == lines == [line for line in range(2, 20) if line % 3]
    only_bad = table("n\n1,1\n2,2\n")
    assert read(only_bad, {"n": INPUTS["n"]})[0::2] == (
        [],
        dict.fromkeys((2, 3), "2 cells, and the header has 1"),
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "n,words\n1,a\n",
            r"missing column word \(did you mean 'words'\?\), x; the file has n, words, and the",
        ),
        ("n,x,x,word\n1,2,3,4\n", "column x comes twice; name every column once"),
        (b"n,x,word\n1,2,\xe9\n", r"not UTF-8 on line 2: byte 0xe9"),
        ('n,x,word\n1,2,"a\n', r"the row on line 2 does not end"),
        (gzip.compress(b"n,x,word\n1,2,a\n" * 999, mtime=0)[:-9], "the gzip file is truncated"),
    ],
)
def test_a_file_that_can_not_be_read(table: Table, content: str | bytes, said: str) -> None:
    path = table(content)
    with pytest.raises(RetrainError, match=said) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")


def test_columns_are_asked_for_before_any_row_is_read(table: Table, parquet: Callable[..., Path]) -> None:
    with pytest.raises(RetrainError, match="missing column x"):
        RowsFile(table("n,word\n1,2\n"), ["n", "x"])
    with pytest.raises(RetrainError, match=r"missing column x; the file has n, and the model reads 2"):
        RowsFile(parquet(n=[1]), ["n", "x"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(RetrainError) as error:
            RowsFile(path, ["n"])
        assert str(path) in str(error.value)


# Against a server.

REQUESTED = {"n": "n", "x": "x", "word": "word"}
KINDS = ["maybe, later", "no", "yes"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of version 7 of `shop`, which answers how it understood a row; of `kinds`, whose classes
    have the scores x, x / 2 and nan; and of `plain`, not ours."""
    import tensorflow as tf

    from serving.server import ModelServer

    n = tf.TensorSpec([None], tf.int64, name="n")
    x = tf.TensorSpec([None], tf.float32, name="x")
    words = tf.TensorSpec([None, None], tf.string, name="word")

    class Echo(tf.Module):
        @tf.function(input_signature=[n, x, words])
        def raw(self, n, x, word):  # type: ignore[no-untyped-def]
            number = tf.where(n == MISSING_INT, "-", tf.strings.as_string(n))
            price = tf.strings.as_string(x, precision=2)
            return {PREDICTIONS: tf.strings.join([number, price, tf.strings.reduce_join(word, 1)], "|")}

        @tf.function(input_signature=[n, x, words])
        def kinds(self, n, x, word):  # type: ignore[no-untyped-def]
            classes = tf.constant(KINDS)
            best = tf.repeat(classes[0], tf.size(x))
            scores = tf.stack([x, x / 2, x * math.nan], axis=1)
            return {
                PREDICTIONS: best,
                CLASSES: tf.repeat(classes[tf.newaxis], tf.size(x), axis=0),
                SCORES: scores,
            }

    folder = tmp_path_factory.mktemp("served")
    echo = Echo()
    tf.saved_model.save(echo, str(folder / "shop" / "7"), signatures={SERVING_RAW: echo.raw})
    tf.saved_model.save(echo, str(folder / "kinds" / "2"), signatures={SERVING_RAW: echo.kinds})
    tf.saved_model.save(echo, str(folder / "plain" / "1"), signatures={"serving_default": echo.raw})
    for model, version in (("shop", 7), ("kinds", 2), ("plain", 1)):
        write_model_config(folder / "models.config", model, model, [version])
    with ModelServer(folder / "models.config", grpc_port=0, rest_port=0, poll_seconds=0.05) as server:
        for model in ("shop", "kinds", "plain"):
            server.wait_until_available(model)
        yield f"http://127.0.0.1:{server.rest_port}"


def predict(url: str, model: str, path: Path) -> list[dict[str, Any]]:
    client = Client(url, model)
    served = client.served(REQUESTED)
    answers = predict_rows(client, served, RowsFile(path, list(REQUESTED)))
    return [answer.to_json(served) for some in answers for answer in some]


def test_the_client_learns_of_the_model(url: str) -> None:
    client = Client(f"{url}/", "shop")
    taken = {**INPUTS, "word": LISTS["word"]}
    assert client.answers()
    assert client.served(REQUESTED) == Served(7, taken, multiclass=False)
    assert client.served({"Unit Price": "x"}).inputs["x"] == Input("Unit Price", "FLOAT", False)
    assert Client(url, "kinds").served(REQUESTED) == Served(2, taken, multiclass=True)


def test_every_row_gets_its_own_answer_in_order(url: str, table: Table) -> None:
    count = 1200  # more than two requests
    text = "x,word,n\n" + "".join(
        f"{'' if i % 3 == 0 else i / 4},{'w' * (i % 5)},{'bad' if i % 7 == 0 else '' if i % 2 else i}\n"
        for i in range(count)
    )
    rows = predict(url, "shop", table(text))
    assert [row["line"] for row in rows] == list(range(2, count + 2))
    for i, row in enumerate(rows):
        if i % 7 == 0:
            assert (row["prediction"], row["error"]) == (None, "n: 'bad' is not an INT")
        else:
            price = "nan" if i % 3 == 0 else f"{i / 4:.2f}"
            assert (row["prediction"], row["error"]) == (
                f"{'-' if i % 2 else i}|{price}|{'w' * (i % 5)}",
                None,
            )


def test_every_format_gets_the_same_answers(
    url: str, table: Table, parquet: Callable[..., Path], tfrecord: Callable[..., Path]
) -> None:
    wanted = ["1|0.50|a", "-|nan|bc"]
    assert [row["prediction"] for row in predict(url, "shop", table("n,x,word\n1,.5,a\n,,bc\n"))] == wanted
    columnar = parquet(n=[1, None], x=[0.5, None], word=[["a"], ["b", "c"]])
    assert [row["prediction"] for row in predict(url, "shop", columnar)] == wanted
    records = tfrecord({"n": [1], "x": [0.5], "word": [b"a"]}, {"word": [b"b", b"c"]})
    assert [row["prediction"] for row in predict(url, "shop", records)] == wanted


def test_classes_come_with_their_scores(url: str, table: Table) -> None:
    rows = predict(url, "kinds", table("n,x,word\n1,0.5,a\nx,1,a\n"))
    assert rows == [
        {
            "line": 2,
            "prediction": "maybe, later",
            "error": None,
            "scores": {"maybe, later": 0.5, "no": 0.25, "yes": None},
            "version": 2,
        },
        {"line": 3, "prediction": None, "error": "n: 'x' is not an INT", "scores": None, "version": 2},
    ]


def test_a_file_of_bad_rows_asks_for_nothing(url: str, table: Table) -> None:
    assert [row["error"] for row in predict(url, "shop", table("n,x,word\na,1,b\n"))] == [
        "n: 'a' is not an INT"
    ]
    assert predict(url, "shop", table("n,x,word\n")) == []


def test_a_served_version_may_read_more_than_the_configuration(url: str, table: Table) -> None:
    client, rows = Client(url, "shop"), RowsFile(table("n,x\n1,2\n"), ["n", "x"])
    with pytest.raises(RetrainError, match="missing column word; the file has n, x, and"):
        list(predict_rows(client, client.served({}), rows))


def test_a_model_that_is_not_there_or_not_ours(url: str) -> None:
    client = Client(url, "other")
    assert not client.answers()
    with pytest.raises(RetrainError, match=r"/v1/models/other/metadata: 404: .*other"):
        client.served({})
    with pytest.raises(RetrainError, match=r"no signature serving_raw .*; only models that this"):
        Client(url, "plain").served({})


ROWS = "n,x,word\n1,0.5,abc\nx,1,a\n,,\n"


def test_the_command(url: str, fresh: Any, retrain: Callable[..., Any], table: Table) -> None:
    file = table(ROWS)
    result = retrain("predict", fresh.config, file, "--url", url)
    assert (result.code, result.out) == (0, "line,prediction\n2,1|0.50|abc\n3,\n4,-|nan|\n")
    assert result.err.splitlines() == [
        "line 3: n: 'x' is not an INT",
        f"predicted by version 7 of {url}/v1/models/shop; 1 of 3 rows could not be read",
    ]
    result = retrain("predict", fresh.config, file, "--url", url, "--json")
    assert (result.code, result.err) == (0, "")
    assert [json.loads(line) for line in result.out.splitlines()] == [
        {"line": 2, "prediction": "1|0.50|abc", "error": None, "version": 7},
        {"line": 3, "prediction": None, "error": "n: 'x' is not an INT", "version": 7},
        {"line": 4, "prediction": "-|nan|", "error": None, "version": 7},
    ]


def test_the_command_prints_a_class_and_its_score(
    url: str, fresh: Any, retrain: Callable[..., Any], table: Table
) -> None:
    fresh.config.write_text(fresh.config.read_text().replace("name: shop", "name: kinds"))
    result = retrain("predict", fresh.config, table(ROWS), "--url", url)
    assert result.out == 'line,prediction,score\n2,"maybe, later",0.5\n3,,\n4,"maybe, later",\n'


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_the_command_writes_a_file(
    url: str, fresh: Any, retrain: Callable[..., Any], table: Table, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "answers" / name
    out.parent.mkdir()
    out.write_text("old")
    arguments = ("predict", fresh.config, table(ROWS), "--url", url, "--output", out)
    result = retrain(*arguments)
    assert (result.code, result.err) == (0, "")
    by = f"predicted by version 7 of {url}/v1/models/shop; 1 of 3 rows could not be read"
    assert result.out == f"{out}: 3 rows, {by}\n"
    assert [path.name for path in out.parent.iterdir()] == [name]
    if name.endswith(".csv"):
        with open(out, newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[1] == {"line": "3", "prediction": "", "error": "n: 'x' is not an INT"}
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows[1] == {"line": 3, "prediction": None, "error": "n: 'x' is not an INT", "version": 7}
    assert [row["prediction"] for row in rows[::2]] == ["1|0.50|abc", "-|nan|"]
    told = json.loads(retrain(*arguments, "--json").out)
    assert told == {"output": str(out), "rows": 3, "unreadable": 1, "version": 7}


def test_answers_that_end_in_an_error_leave_what_was_there(tmp_path: Path) -> None:
    def answers() -> Iterator[Any]:
        yield []
        raise RetrainError("the server is gone")

    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(RetrainError, match="the server is gone"):
        write_answers(out, Served(1, {}, multiclass=False), answers())
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_where_nothing_can_be_written_is_told_first(tmp_path: Path, table: Table) -> None:
    file = table("n\n1\n")
    for path, said in [
        (tmp_path, "is a folder"),
        (tmp_path / "gone" / "out.csv", "gone is no folder"),
        (file, "the file with the rows"),
    ]:
        with pytest.raises(RetrainError, match=said):
            check_output(path, file)
    check_output(tmp_path / "out.csv", file)


def test_the_command_without_a_server_and_without_a_model(
    fresh: Any, retrain: Callable[..., Any], table: Table
) -> None:
    # No free port is asked for, so no server that runs here by chance can answer.
    fresh.config.write_text(fresh.config.read_text() + "serving: {rest_port: 0}\n")
    result = retrain("predict", fresh.config, table("n,x,word\n1,2,a\n"))
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"error: predict: no version is served yet; `retrain run {fresh.config}` makes the first one\n"
    )
    assert not fresh.state.exists()


def test_a_column_that_is_missing_is_told_before_any_server_is_asked(
    fresh: Any, retrain: Callable[..., Any], table: Table
) -> None:
    result = retrain("predict", fresh.config, table("n,x,wort\n1,2,a\n"), "--url", "http://127.0.0.1:1")
    assert result.code == 1
    assert "missing column word (did you mean 'wort'?)" in result.err


# What answers is no model server.


def test_nothing_answers() -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{taken.getsockname()[1]}", "shop")
        assert not client.answers()
        with pytest.raises(
            RetrainError, match=r"/metadata: no answer \(.*refused.*\); is `retrain serve` running\?"
        ):
            client.served({})


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, *args: Any) -> None:
        pass


def test_a_web_page_answers() -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RetrainError, match=r"no answer of a model server's REST port .*http://HOST:PORT"):
            Client(f"http://127.0.0.1:{server.server_port}", "shop").served({})
        server.shutdown()


def test_another_protocol_answers() -> None:
    def greet(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"\x00\x00\x12\x04 not HTTP\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, args=[listener], daemon=True).start()
        with pytest.raises(RetrainError, match=r"no answer of a model server's REST port"):
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "shop").served({})


@pytest.mark.parametrize("url", ["127.0.0.1:8501", "grpc://127.0.0.1:8500", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(RetrainError, match="no answer"):
        Client(url, "shop").served({})
