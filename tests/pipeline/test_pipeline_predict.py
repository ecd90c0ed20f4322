"""Rows of a CSV file as a model server takes them, and what is told of its answers."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.errors import RetrainError
from components.names import MISSING_INT, PREDICTIONS, SERVING_RAW
from pipeline.predict import Client, predict_file, read_instances
from serving.model_config import write_model_config

pytestmark = pytest.mark.xdist_group("pipeline-predict")

COLUMNS = {"n": int, "x": float, "word": str}
BIG = 2**53 + 1  # no double is this number


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "rows.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


Table = Callable[[str | bytes], Path]


# Reading.


def test_cells_get_the_types_of_the_model(table: Table) -> None:
    text = f"word,extra,n,x\nhi,?,3,0.5\n,,,\n nan ,,NaN,null\né,,-7.0, 1e-3\n{'0' * 9},,{BIG},-0\n"
    lines, instances, problems = zip(*read_instances(table(text), COLUMNS), strict=True)
    assert lines == (2, 3, 4, 5, 6) and not any(problems)
    assert instances[0] == {"n": 3, "x": 0.5, "word": "hi"}
    for missing in instances[1:3]:
        assert missing["n"] == MISSING_INT and math.isnan(missing["x"])
    assert [row["word"] for row in instances] == ["hi", "", " nan ", "é", "000000000"]
    assert instances[3] == {"n": -7, "x": 0.001, "word": "é"}
    assert instances[4]["n"] == BIG
    assert [type(value) for value in instances[3].values()] == [int, float, str]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ("three,0.5,a", "n: 'three' is not a whole number"),
        ("3.5,0.5,a", "n: '3.5' is not a whole number"),
        ("9223372036854775808,0.5,a", "n: '9223372036854775808' is not a whole number"),
        ("1_000,0.5,a", "n: '1_000' is not a whole number"),
        ("3,cheap,a", "x: 'cheap' is not a number"),
        ("3,inf,a", "x: 'inf' is not a number"),
        ("3,1e39,a", "x: '1e39' is not a number"),
        ("3,1.5", "not as many cells as the header, 3"),
        ("3,1.5,a,b", "not as many cells as the header, 3"),
        ("a,b,c", "n: 'a' is not a whole number; x: 'b' is not a number"),
    ],
)
def test_a_row_that_can_not_be_read_is_told_with_its_line(table: Table, cells: str, problem: str) -> None:
    rows = list(read_instances(table(f"n,x,word\n1,1.0,a\n{cells}\n2,2.0,b\n"), COLUMNS))
    assert rows == [
        (2, {"n": 1, "x": 1.0, "word": "a"}, ""),
        (3, None, problem),
        (4, {"n": 2, "x": 2.0, "word": "b"}, ""),
    ]


def test_a_cell_means_what_it_means_to_ingest(table: Table) -> None:
    import pyarrow as pa

    from components.ingest.cells import MISSING_TEXTS, parse_column

    texts = [
        *sorted(MISSING_TEXTS - {""}),
        "7",
        " 7\t",
        "+7",
        "7.0",
        "7e0",
        "7.5",
        "0x7",
        "seven",
        "1e20",
        "-inf",
    ]
    rows = list(
        read_instances(table("n,x\n" + "".join(f'"{t}","{t}"\n' for t in texts)), {"n": int, "x": float})
    )
    for kind, name in (("INT", "n"), ("FLOAT", "x")):
        values, bad = parse_column(pa.array(texts), kind)  # type: ignore[arg-type]
        for text, value, is_bad, (_, instance, problem) in zip(
            texts, values.to_pylist(), bad.to_pylist(), rows, strict=True
        ):
            assert (f"{name}: " in problem) == is_bad, text
            if instance is not None:
                missing = instance[name] == MISSING_INT if name == "n" else math.isnan(instance[name])
                assert missing if value is None else instance[name] == value, text


def test_a_byte_order_mark_windows_lines_and_quotes_are_no_trouble(table: Table) -> None:
    text = '\ufeffn,x,word\r\n1,2,"a, ""b""\r\nc"\r\n\r\n3,4,d\r\n'
    assert list(read_instances(table(text), COLUMNS)) == [
        (3, {"n": 1, "x": 2.0, "word": 'a, "b"\r\nc'}, ""),
        (5, {"n": 3, "x": 4.0, "word": "d"}, ""),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "n,words\n1,a\n",
            r"missing column x, word; the served version reads n, x, word, and the file has n, words",
        ),
        ("", r"missing column n, x, word; .* and the file has no header"),
        (b"n,x,word\n1,2,\xe9\n", r"not a CSV file in UTF-8 \(.*0xe9"),
        ('n,x,word\n1,2,"a\n', r"not a CSV file in UTF-8 \(unexpected end of data\)"),
    ],
)
def test_a_file_that_can_not_be_read(table: Table, content: str | bytes, said: str) -> None:
    path = table(content)
    with pytest.raises(RetrainError, match=said) as error:
        list(read_instances(path, COLUMNS))
    assert str(error.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RetrainError, match=r"gone\.csv: No such file or directory; name a CSV file"):
        list(read_instances(tmp_path / "gone.csv", COLUMNS))
    with pytest.raises(RetrainError, match=r"Is a directory; name a CSV file"):
        list(read_instances(tmp_path, COLUMNS))


# Against a server.


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of version 7 of `shop`, which answers how it understood a row, and of `plain`, not ours."""
    import tensorflow as tf

    from serving.server import ModelServer

    class Echo(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.int64, name="n"),
                tf.TensorSpec([None], tf.float32, name="x"),
                tf.TensorSpec([None], tf.string, name="word"),
            ]
        )
        def raw(self, n, x, word):  # type: ignore[no-untyped-def]
            none = tf.constant(-1, tf.int64)
            given_n = tf.where(n == MISSING_INT, none, n)
            given_x = tf.where(tf.math.is_nan(x), none, tf.cast(x * 4, tf.int64))
            length = tf.cast(tf.strings.length(word), tf.int64)
            return {PREDICTIONS: tf.stack([given_n, given_x, length], axis=1)}

    folder = tmp_path_factory.mktemp("served")
    echo = Echo()
    tf.saved_model.save(echo, str(folder / "shop" / "7"), signatures={SERVING_RAW: echo.raw})
    tf.saved_model.save(echo, str(folder / "plain" / "1"), signatures={"serving_default": echo.raw})
    write_model_config(folder / "models.config", "shop", "shop", [7])
    write_model_config(folder / "models.config", "plain", "plain", [1])
    with ModelServer(folder / "models.config", grpc_port=0, rest_port=0, poll_seconds=0.05) as server:
        for model in ("shop", "plain"):
            server.wait_until_available(model)
        yield f"http://127.0.0.1:{server.rest_port}"


def test_the_client_learns_of_the_model(url: str) -> None:
    client = Client(f"{url}/", "shop")
    assert client.answers() and client.served() == 7
    assert client.columns() == COLUMNS


def test_every_row_gets_its_own_answer_in_order(url: str, table: Table) -> None:
    count = 1200  # more than two requests
    text = "x,word,n\n" + "".join(
        f"{'' if i % 3 == 0 else i / 4},{'w' * (i % 5)},{'bad' if i % 7 == 0 else '' if i % 2 else i}\n"
        for i in range(count)
    )
    rows = list(predict_file(Client(url, "shop"), table(text)))
    assert [row["line"] for row in rows] == list(range(2, count + 2))
    for i, row in enumerate(rows):
        if i % 7 == 0:
            assert row == {"line": i + 2, "prediction": None, "error": "n: 'bad' is not a whole number"}
        else:
            assert row["error"] is None
            assert row["prediction"] == [-1 if i % 2 else i, -1 if i % 3 == 0 else i, i % 5]


def test_a_file_of_bad_rows_asks_for_nothing(url: str, table: Table) -> None:
    rows = list(predict_file(Client(url, "shop"), table("n,x,word\na,1,b\n")))
    assert [row["error"] for row in rows] == ["n: 'a' is not a whole number"]
    assert list(predict_file(Client(url, "shop"), table("n,x,word\n"))) == []


def test_a_model_that_is_not_there_or_not_ours(url: str) -> None:
    client = Client(url, "other")
    assert not client.answers()
    with pytest.raises(RetrainError, match=r"/v1/models/other/metadata: 404: .*other"):
        client.served()
    with pytest.raises(RetrainError, match="no signature serving_raw; only models that this"):
        Client(url, "plain").columns()


def test_the_command(url: str, fresh: Any, retrain: Callable[..., Any], table: Table) -> None:
    file = table("n,x,word\n1,0.5,abc\nx,1,a\n,,\n")
    result = retrain("predict", fresh.config, file, "--url", url)
    assert (result.code, result.out) == (0, "line,prediction\n2,[1, 2, 3]\n3,\n4,[-1, -1, 0]\n")
    assert result.err.splitlines() == [
        "line 3: n: 'x' is not a whole number",
        f"predicted by version 7 of {url}/v1/models/shop; 1 rows could not be read",
    ]
    result = retrain("predict", fresh.config, file, "--url", url, "--json")
    assert (result.code, result.err) == (0, "")
    assert [json.loads(line) for line in result.out.splitlines()] == [
        {"line": 2, "prediction": [1, 2, 3], "error": None, "version": 7},
        {"line": 3, "prediction": None, "error": "n: 'x' is not a whole number", "version": 7},
        {"line": 4, "prediction": [-1, -1, 0], "error": None, "version": 7},
    ]


def test_the_command_without_a_server_and_without_a_model(
    fresh: Any, retrain: Callable[..., Any], table: Table
) -> None:
    # No free port is asked for, so no server that runs here by chance can answer.
    fresh.config.write_text(fresh.config.read_text() + "serving: {rest_port: 0}\n")
    result = retrain("predict", fresh.config, table("n\n1\n"))
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"error: predict: no version is served yet; `retrain run {fresh.config}` makes the first one\n"
    )
    assert not fresh.state.exists()


# What answers is no model server.


def test_nothing_answers() -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{taken.getsockname()[1]}", "shop")
        assert not client.answers()
        with pytest.raises(
            RetrainError, match=r"/metadata: no answer \(.*refused.*\); is `retrain serve` running\?"
        ):
            client.served()


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
            Client(f"http://127.0.0.1:{server.server_port}", "shop").served()
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
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "shop").served()


@pytest.mark.parametrize("url", ["127.0.0.1:8501", "grpc://127.0.0.1:8500", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(RetrainError, match="no answer"):
        Client(url, "shop").served()
