"""Asks a model server over gRPC, with tf.Examples as the training data had them."""

import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def example(row):
    """A tf.Example of a row; a value may be a list, and what is missing is left out."""
    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], str):
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode() for v in values]))
        elif isinstance(values[0], float):
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        features[name] = feature
    return tf.train.Example(features=tf.train.Features(feature=features))


def predict(address, model, rows):
    """The outputs of the served version by name, as arrays, one entry a row."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    serialized = [example(row).SerializeToString() for row in rows]
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(serialized))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=10)
    return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}


if __name__ == "__main__":
    by_card = {"fare": 12.25, "trip_miles": 3.1, "trip_seconds": 840, "payment_type": "Credit Card"}
    in_cash = {**by_card, "payment_type": "Cash"}
    print(predict(sys.argv[1], "taxi", [by_card, in_cash])["predictions"])
