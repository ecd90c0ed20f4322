"""Classify, Regress and MultiInference over gRPC: classifier.cc, regressor.cc and multi_inference.cc."""

import re

import grpc
import pytest
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from tests.serving.conformance.calc_requests import example, examples, fill_spec, refusal

pytestmark = pytest.mark.xdist_group("conformance")

CLASSIFY, REGRESS, PREDICT = (f"tensorflow/serving/{name}" for name in ("classify", "regress", "predict"))
TWO = examples(example(x=1.5), example(x=-2.0, plus=1))


def classification(given=TWO, signature="classify", **spec):
    request = classification_pb2.ClassificationRequest(input=given)
    fill_spec(request.model_spec, signature, **spec)
    return request


def regression(given=TWO, signature="regress", **spec):
    request = regression_pb2.RegressionRequest(input=given)
    fill_spec(request.model_spec, signature, **spec)
    return request


def multi(*tasks, given=TWO):
    request = inference_pb2.MultiInferenceRequest(input=given)
    for signature, method, spec in tasks:
        task = request.tasks.add(method_name=method)
        fill_spec(task.model_spec, signature, **spec)
    return request


def classes(result):
    return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]


def values(result):
    return [row.value for row in result.regressions]


def test_classify(target):
    response = target.predictions.Classify(classification())
    assert classes(response.result) == [[("low", -3.0), ("high", 3.0)], [("low", 3.0), ("high", -3.0)]]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("calc", 2, "classify")


def test_classify_of_scores_alone_has_no_labels(target):
    response = target.predictions.Classify(classification(signature="scores"))
    assert classes(response.result) == [[("", 3.0)], [("", -3.0)]]


def test_regress(target):
    response = target.predictions.Regress(regression())
    assert values(response.result) == [3.0, -3.0]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("calc", 2, "regress")


@pytest.mark.parametrize(("spec", "value"), [({"version": 1}, 1.5), ({"label": "stable"}, 3.0)])
def test_a_version_or_a_label(target, spec, value):
    given = examples(example(x=1.5))
    assert values(target.predictions.Regress(regression(given, **spec)).result) == [value]
    response = target.predictions.Classify(classification(given, **spec))
    assert classes(response.result)[0][1] == ("high", value)


def test_a_context_goes_to_every_example_which_may_say_otherwise(target):
    context = example(x=10.0, name="ab")
    given = examples(example(), example(x=1.0), example(plus=5), context=context)
    assert values(target.predictions.Regress(regression(given)).result) == [22.0, 4.0, 27.0]
    response = target.predictions.Classify(classification(given))
    assert [row[1][1] for row in classes(response.result)] == [22.0, 4.0, 27.0]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (classification(signature="nope"), "INVALID_ARGUMENT", "No signature was found with the name: nope"),
        (classification(signature=""), "INVALID_ARGUMENT",
         f"Expected classification signature method_name to be {CLASSIFY}. Was: {PREDICT}"),
        (classification(signature="regress"), "INVALID_ARGUMENT",
         f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}"),
        (classification(examples()), "INVALID_ARGUMENT", "Input is empty."),
        (classification(examples(context=example(x=1.0))), "INVALID_ARGUMENT", "Input is empty."),
        (classification(model="nope"), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (classification(version=9), "NOT_FOUND", "Servable not found for request: Specific(calc, 9)"),
        (classification(label="x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (classification_pb2.ClassificationRequest(input=TWO), "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
)  # fmt: skip
def test_classify_says_what_it_refuses(target, request_, code, message):
    assert refusal(target.predictions.Classify, request_) == (code, message)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (regression(signature="nope"), "INVALID_ARGUMENT", "No signature was found with the name: nope"),
        (regression(signature="classify"), "INVALID_ARGUMENT",
         f"Expected regression signature method_name to be {REGRESS}. Was: {CLASSIFY}"),
        (regression(examples()), "INVALID_ARGUMENT", "Input is empty."),
        (regression(model=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (regression_pb2.RegressionRequest(input=TWO), "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
)  # fmt: skip
def test_regress_says_what_it_refuses(target, request_, code, message):
    assert refusal(target.predictions.Regress, request_) == (code, message)


def test_a_signature_without_the_outputs_of_a_classification_is_refused(target):
    code, message = refusal(target.predictions.Classify, classification(signature="other"))
    assert code == "FAILED_PRECONDITION"
    assert message.startswith(
        'Expected classification signature outputs to contain at least one of "classes" or "scores".'
    )


@pytest.mark.parametrize("ask", ["Classify", "Regress"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (example(plus=1), r"Feature: x \(data type: float\) is required but could not be found\."),
        (example(x=1), r"Key: x,.* Data types don't match\. Data type: int64 but expected type: float"),
        (example(x=1.0, plus="a"), r"Key: plus,.* Data types don't match\. Data type: string"),
    ],
)
def test_a_feature_that_is_missing_or_of_another_type_is_named(target, ask, given, message):
    request = {"Classify": classification, "Regress": regression}[ask](examples(example(x=1.0), given))
    code, said = refusal(getattr(target.predictions, ask), request)
    assert code == "INVALID_ARGUMENT" and re.search(message, said), said


def test_multi_inference_of_one_task(target):
    response = target.predictions.MultiInference(multi(("regress", REGRESS, {})))
    (result,) = response.results
    assert values(result.regression_result) == [3.0, -3.0]
    assert (result.model_spec.version.value, result.model_spec.signature_name) == (2, "regress")


def test_multi_inference_of_several(target):
    tasks = [("classify", CLASSIFY, {"version": 1}), ("regress", REGRESS, {"version": 1})]
    if not target.embedded:
        # Each signature of TensorFlow 2 has an input tensor of its own, which TF Serving may refuse.
        try:
            target.predictions.MultiInference(multi(*tasks))
        except grpc.RpcError as error:
            assert error.details() == "Input tensor must be the same for all Signatures."
            pytest.skip("this server takes several signatures only if they share their input tensor")
    response = target.predictions.MultiInference(multi(*tasks))
    first, second = response.results
    assert classes(first.classification_result)[0] == [("low", -1.5), ("high", 1.5)]
    assert values(second.regression_result) == [1.5, -1.0]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (multi(("regress", REGRESS, {}), ("regress", REGRESS, {})), "INVALID_ARGUMENT",
         "Duplicate evaluation of signature: regress"),
        (multi(("regress", REGRESS, {}), ("classify", CLASSIFY, {"model": "other"})), "INVALID_ARGUMENT",
         "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        (multi(("nope", REGRESS, {})), "INVALID_ARGUMENT",
         "Requested signature not found in model graph: nope"),
        (multi(("serving_default", PREDICT, {})), "UNIMPLEMENTED",
         f"Unsupported signature method_name: {PREDICT}"),
        (multi(("classify", REGRESS, {})), "INVALID_ARGUMENT",
         f"Expected regression signature method_name to be {REGRESS}. Was: {CLASSIFY}"),
        (multi(("regress", REGRESS, {}), given=examples()), "INVALID_ARGUMENT", "Input is empty."),
        (multi(("regress", REGRESS, {"version": 9})), "NOT_FOUND",
         "Servable not found for request: Specific(calc, 9)"),
        (multi(), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ],
)  # fmt: skip
def test_multi_inference_says_what_it_refuses(target, request_, code, message):
    assert refusal(target.predictions.MultiInference, request_) == (code, message)
