"""Names that more than one room must agree on."""

SPAN = "span"  # INT feature of every example: the span it came in
EXAMPLE_ID = "example_id"  # INT feature of every example: non-negative 63-bit stable id
BOOKKEEPING = frozenset({SPAN, EXAMPLE_ID})

# Signatures of every SavedModel, and the name of their one output.
SERVING_DEFAULT = "serving_default"  # serialized tf.Examples in, as `examples`
SERVING_RAW = "serving_raw"  # one tensor a raw feature in, under the feature's name
PREDICTIONS = "predictions"

MISSING_INT = -(2**53)
"""What a missing INT column holds in a request to `SERVING_RAW`: exact as a double, so that clients
whose numbers are doubles can send it. A missing FLOAT is NaN there, and a missing text is empty."""
