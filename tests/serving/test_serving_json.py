import base64
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.errors import Code, RequestError
from serving.predict_json import format_predictions, parse_predict
from serving.tensors import JSON_DTYPES, TensorSpec, to_array, to_json

RAW = {
    "x": TensorSpec("x", "float", (None, 1)),
    "company": TensorSpec("company", "string", (None, 1)),
}
ONE = {"examples": TensorSpec("examples", "string", (None,))}
NUMBER = {"n": TensorSpec("n", "int64", None)}


def parse(body, specs):
    return parse_predict(body if isinstance(body, bytes) else json.dumps(body).encode(), lambda name: specs)


def refusal(body, specs) -> str:
    with pytest.raises(RequestError) as error:
        parse(body, specs)
    assert error.value.code is Code.INVALID_ARGUMENT
    return error.value.message


def answer(outputs, by_row):
    return json.loads(format_predictions(outputs, by_row))


def test_rows_of_objects():
    parsed = parse(
        {
            "signature_name": "serving_raw",
            "instances": [{"x": [1], "company": ["é"]}, {"company": [{"b64": "/w=="}], "x": [2.5]}],
        },
        RAW,
    )
    assert (parsed.signature_name, parsed.by_row) == ("serving_raw", True)
    assert parsed.inputs["x"].dtype == np.float32
    assert parsed.inputs["x"].tolist() == [[1.0], [2.5]]
    assert parsed.inputs["company"].tolist() == [["é".encode()], [b"\xff"]]


def test_columns():
    parsed = parse({"inputs": {"x": [[1], [2]], "company": [["a"], ["b"]], "ignored": 1}}, RAW)
    assert (parsed.signature_name, parsed.by_row) == ("", False)
    assert parsed.inputs["x"].tolist() == [[1.0], [2.0]]
    assert parsed.inputs.keys() == RAW.keys()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"instances": ["a", {"b64": "Yg=="}]}, [b"a", b"b"]),
        ({"instances": [{"examples": "a"}]}, [b"a"]),
        ({"inputs": ["a"]}, [b"a"]),
        ({"inputs": {"examples": ["a"]}}, [b"a"]),
        ({"inputs": {"b64": "YQ"}}, b"a"),
        ({"inputs": []}, []),
    ],
)
def test_a_single_input_needs_no_name(body, expected):
    assert parse(body, ONE).inputs["examples"].tolist() == expected


def test_numbers_that_are_not_finite():
    values = parse(
        b'{"instances": [NaN, Infinity, -Infinity]}', {"x": TensorSpec("x", "float", None)}
    ).inputs["x"]
    assert math.isnan(values[0]) and values[1:].tolist() == [math.inf, -math.inf]
    assert b'"predictions":[NaN,Infinity,-Infinity]' in format_predictions({"y": values}, by_row=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The document is empty"),
        (b"{", "JSON Parse error"),
        (b"\xff", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        (b"[1]", "Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [], "inputs": []}, "only one of"),
        ({"signature_name": 1, "instances": []}, "'signature_name' key must be a string"),
        ({"instances": []}, "No values in 'instances'"),
        ({"instances": {"x": 1}}, "Expecting 'instances' to be a list"),
        ({"instances": [[1]]}, "list of objects as multiple input tensors required"),
        ({"instances": [{"x": [1], "company": ["a"]}, [1]]}, "got list at item 1"),
        ({"instances": [{"x": [1], "company": ["a"]}, {"x": [1]}]},
         "element: 1 .* keys must be equal to: company,x"),
        ({"instances": [{"x": [1], "company": ["a"], "z": 1}]},
         "element: 0 key: z .* does not have named input: z"),
        ({"instances": [{"x": [1], "company": ["a"]}, {"x": ["1"], "company": ["a"]}]},
         "element: 1 key: x .* \"1\" Type: String is not of expected type: float"),
        ({"instances": [{"x": [1], "company": ["a"]}, {"x": [None], "company": ["a"]}]},
         "element: 1 key: x .*Null"),
        ({"instances": [{"x": [1], "company": [2]}]}, "element: 0 key: company .*Number is not of .* string"),
        ({"instances": [{"x": [True], "company": ["a"]}]}, "element: 0 key: x .*True is not of .* float"),
        ({"instances": [{"x": [1], "company": ["a"]}, {"x": [1, 2], "company": ["a"]}]},
         r"element: 1 key: x .*Expecting shape \[1\] but got: \[2\]"),
        ({"instances": [{"x": [1], "company": ["a"]}, {"x": 1, "company": ["a"]}]},
         r"element: 1 key: x .*Expecting shape \[1\] but got: \[\]"),
        ({"instances": [{"x": [[1], [2, 3]], "company": ["a"]}]}, "element: 0 key: x .*unexpected size: 2"),
        ({"instances": [{"x": [[1], 2], "company": ["a"]}]}, "element: 0 key: x .*incorrect level"),
        ({"instances": [{"x": [1e39], "company": ["a"]}]}, "element: 0 key: x .*without loss of precision"),
        ({"instances": [{"x": [16777217], "company": ["a"]}]}, "16777217 to float without loss"),
        ({"instances": [{"x": [1], "company": [{"b64": "?"}]}]}, "Unable to base64 decode"),
        ({"instances": [{"x": [1], "company": [{"b46": "YQ=="}]}]}, "not formatted correctly for base64"),
        (b'{"instances": [{"x": [1], "company": ["\\ud800"]}]}', "not valid Unicode"),
        ({"inputs": [1]}, "expecting an object as multiple input tensors required"),
        ({"inputs": {"x": [[1]]}}, "Missing named input: company"),
        ({"inputs": {"x": [[1]], "company": [[1]]}}, "key: company"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body, message):
    assert re.search(message, refusal(body, RAW))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [1, {"n": 1}]}, "got object at item 1"),
        ({"instances": [1, 2.0]}, "element: 1 .* 2.0 Type: Number is not of expected type: int64"),
        ({"instances": [2**63]}, "9223372036854775808"),
        ({"instances": [1, [1]]}, "element: 1 "),
    ],
)
def test_what_is_wrong_with_a_plain_list_is_named(body, message):
    assert re.search(message, refusal(body, NUMBER))


def test_lists_nested_beyond_any_tensor_are_refused():
    assert "unexpected level" in refusal(b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", NUMBER)


def test_a_dtype_without_a_json_form_is_unimplemented():
    with pytest.raises(RequestError) as error:
        parse({"instances": [1]}, {"x": TensorSpec("x", "complex64", None)})
    assert error.value.code is Code.UNIMPLEMENTED


def test_one_output_is_bare_and_several_are_objects():
    score, label = np.array([[0.2], [3]], np.float32), np.array([b"no", b"yes"], np.object_)
    assert answer({"score": score}, by_row=True) == {"predictions": [[0.2], [3.0]]}
    assert answer({"score": score}, by_row=False) == {"outputs": [[0.2], [3.0]]}
    assert answer({"score": score, "label": label}, by_row=True) == {
        "predictions": [{"score": [0.2], "label": "no"}, {"score": [3.0], "label": "yes"}]
    }
    assert answer({"score": score, "label": label}, by_row=False) == {
        "outputs": {"score": [[0.2], [3.0]], "label": ["no", "yes"]}
    }


def test_outputs_named_bytes_go_in_base64():
    raw = np.array([[b"\xff"], [b""]], np.object_)
    assert answer({"raw_bytes": raw}, by_row=True) == {"predictions": [[{"b64": "/w=="}], [{"b64": ""}]]}
    with pytest.raises(RequestError, match="name the output raw_bytes"):
        format_predictions({"raw": raw}, by_row=True)


def test_rows_need_one_batch_size():
    with pytest.raises(RequestError, match="no shape"):
        format_predictions({"y": np.float32(1).reshape(())}, by_row=True)
    with pytest.raises(RequestError, match="inconsistent batch size: 3 expecting: 2"):
        format_predictions({"a": np.zeros(2), "b": np.zeros(3)}, by_row=True)
    assert answer({"y": np.float32(1).reshape(())}, by_row=False) == {"outputs": 1.0}


shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(sorted(JSON_DTYPES)))
    if dtype != "string":
        return dtype, draw(hnp.arrays(JSON_DTYPES[dtype], draw(shapes)))
    shape = draw(shapes)
    size = math.prod(shape)
    array = np.empty(size, np.object_)
    array[:] = draw(st.lists(st.binary(max_size=8), min_size=size, max_size=size))
    return dtype, array.reshape(shape)


@given(tensors())
def test_any_array_survives_json(tensor):
    dtype, array = tensor
    back = to_array(json.loads(json.dumps(to_json("y_bytes", array))), TensorSpec("y", dtype, None))
    assert back.dtype == array.dtype
    if dtype == "string" or array.size == 0:  # Lists cannot tell (0, 2) from (0,).
        assert back.tolist() == array.tolist()
    else:
        np.testing.assert_array_equal(back, array)


@given(st.lists(st.text(), min_size=1))
def test_any_text_survives_json(texts):
    array = to_array(json.loads(json.dumps(texts)), ONE["examples"])
    assert answer({"y": array}, by_row=True) == {"predictions": texts}


@given(st.lists(st.binary(), min_size=1))
def test_any_bytes_come_in_by_base64(values):
    body = {"instances": [{"b64": base64.b64encode(value).decode()} for value in values]}
    assert parse(body, ONE).inputs["examples"].tolist() == values


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "company", "b64"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name"]), json_values))
def test_any_json_is_parsed_or_refused(document):
    for specs in (RAW, ONE, NUMBER):
        try:
            parsed = parse(document, specs)
        except RequestError as error:
            assert error.code is Code.INVALID_ARGUMENT
        else:
            assert parsed.inputs.keys() == specs.keys()
