"""Names that more than one room must agree on."""

SPAN = "span"  # INT feature of every example: the span it came in
EXAMPLE_ID = "example_id"  # INT feature of every example: non-negative 63-bit stable id
BOOKKEEPING = frozenset({SPAN, EXAMPLE_ID})
LOGITS = "logits_when_learned"
"""FLOAT feature of training examples in the replay buffer: what the outputs of the model were when it had
learned them, one an output; absent in new examples, and where `regularization.dark_experience` is 0."""

# Signatures of every SavedModel, and the names of their outputs. Those of a multiclass model are TensorFlow
# Serving's for classification.
SERVING_DEFAULT = "serving_default"  # serialized tf.Examples in, as `examples`
SERVING_RAW = "serving_raw"  # one tensor a raw column in, under the column's name in a request
PREDICTIONS = "predictions"  # a probability, a class, or a number in the label's own unit; [batch]
CLASSES = "classes"  # multiclass: all classes, the same in every row; [batch, classes]
SCORES = "scores"  # multiclass: their probabilities; [batch, classes]
EMBEDDING = "embedding"  # of a tower, whose signature is `user_embedding` or `item_embedding`; [batch, dim]
# Signatures for TensorFlow Serving's Classify and Regress, which take serialized tf.Examples as `inputs`: of
# a binary task both (the classes are "0" and "1", the value is the probability of 1), of a multiclass one the
# first, of a regression the second.
CLASSIFY, REGRESS = "classify", "regress"

EXPECTED_ANSWERS = "expected_answers"
"""Beside a version's SavedModel, in its checkpoint: TFRecords of TF Serving's PredictionLog, uncompressed:
requests to every signature, made of held-out examples, and, where there is a response, what the model of the
training answered."""

SMOKE_FILE = "smoke.json"
"""What the smoke test found: in its `InfraBlessing`, and beside the verdict in the `ModelBlessing`."""

EDGE_MODEL, EDGE_FILE = "model.tflite", "edge.json"
"""In an `EdgeModel`: the TFLite model, and what is known of it."""

MISSING_INT = -(2**53)
"""What a missing INT column holds in a request to `SERVING_RAW`: exact as a double, so that clients
whose numbers are doubles can send it. A missing FLOAT is NaN there, and a missing text is empty."""
