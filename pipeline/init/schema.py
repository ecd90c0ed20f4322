"""The schema that TFDV infers, made fit for the data of tomorrow; and the drift that is ordinary today."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.init.profile import Column, Profile
from pipeline.init.roles import Role
from pipeline.init.target import Found

MAX_DOMAIN = 20  # values of a text that are listed
MIN_DOMAIN_MASS = 0.9  # share of values that must be among them
_SEEN_OFTEN = 5
_MAX_COMPARED = 1_000  # values of a category whose shares say something
_ALWAYS = 0.99  # required of a column that was never missing
_HEAD_ROOM = 1.5
_WIDE = 300  # columns
_SMALLEST_THRESHOLD = 0.02


def make_schema(
    profile: Profile, found: Found, roles: Sequence[Role], label: str, groups: Sequence[np.ndarray]
) -> Any:
    """A schema with drift comparators.

    Types and lists are those that `tfdv.infer_schema` finds. Not taken over from it are the limits that a
    sample cannot know: ranges of numbers, closed lists of all that was seen, exact lengths.

    Args:
        profile: of the table.
        found: what is predicted.
        roles: of its columns.
        label: the label's column.
        groups: places in the sample of the first spans, in order; see `drift_thresholds`.
    """
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0 import schema_pb2

    known = [role for role in roles if profile.columns[role.column].kind is not None]
    batch = _batch([profile.columns[role.column] for role in known])
    schema = tfdv.infer_schema(
        _statistics(batch, num_histogram_buckets=1, num_quantiles_histogram_buckets=1),
        infer_feature_shape=False,
        max_string_domain_size=MAX_DOMAIN,
    )
    domains = {domain.name for domain in schema.string_domain}
    features = {feature.name: feature for feature in schema.feature}
    ordered = []
    for role in known:
        column = profile.columns[role.column]
        feature = features.get(role.column) or schema_pb2.Feature(name=role.column, type=schema_pb2.BYTES)
        feature.ClearField("annotation")
        _loosen(feature, column, role, groups, domains)
        if role.column == label:
            _as_label(feature, found, domains)
        elif not role.used:
            feature.lifecycle_stage = schema_pb2.DEPRECATED
        ordered.append(feature)
    kept = [domain for domain in schema.string_domain if domain.name in domains]
    complete = schema_pb2.Schema(feature=ordered, string_domain=kept)
    complete.default_environment.extend(["TRAINING", "SERVING"])
    for name, (measure, threshold) in drift_thresholds(batch, complete, roles, profile, groups).items():
        comparator = next(f for f in complete.feature if f.name == name).drift_comparator
        getattr(comparator, measure).threshold = threshold
    return complete


def _loosen(
    feature: Any, column: Column, role: Role, groups: Sequence[np.ndarray], domains: set[str]
) -> None:
    """Takes back what is true of this data and need not be of the next."""
    from tensorflow_metadata.proto.v0 import schema_pb2

    if feature.type not in (schema_pb2.INT, schema_pb2.FLOAT):
        feature.type = schema_pb2.BYTES
    keeps_domain = role.role == "categorical" and _is_closed(column)
    if feature.HasField("domain") and not keeps_domain:
        domains.discard(feature.domain)
    if not (feature.HasField("domain") and keeps_domain):
        feature.ClearField("domain_info")
    else:
        feature.distribution_constraints.min_domain_mass = MIN_DOMAIN_MASS
    if feature.type == schema_pb2.INT and role.role in ("identity", "categorical", "hashed"):
        feature.int_domain.is_categorical = True
    feature.ClearField("value_count")
    feature.value_count.min = 1
    if not column.listed:
        feature.value_count.max = 1
    elif role.role == "tensor":
        feature.value_count.min = feature.value_count.max = column.longest
    feature.ClearField("presence")
    feature.presence.min_count = 0
    least = _least_share(column, groups)
    if least > 0.05:
        feature.presence.min_count = 1
        feature.presence.min_fraction = _ALWAYS if not column.missing else math.floor(80 * least) / 100


def _is_closed(column: Column) -> bool:
    """Whether the values look like all that there are: each was seen several times."""
    return column.distinct <= MAX_DOMAIN and bool(column.counts[1].min() >= _SEEN_OFTEN)


def _least_share(column: Column, groups: Sequence[np.ndarray]) -> float:
    """Of rows that have the column, in the whole and in each of the first spans."""
    there = column.values.is_valid().to_numpy(zero_copy_only=False)
    return min([column.share, *(float(there[group].mean()) for group in groups if len(group))])


def _as_label(feature: Any, found: Found, domains: set[str]) -> None:
    from tensorflow_metadata.proto.v0 import schema_pb2

    if feature.HasField("domain"):
        domains.discard(feature.domain)
    feature.ClearField("domain_info")
    feature.ClearField("distribution_constraints")
    feature.type = schema_pb2.FeatureType.Value(found.kind)
    feature.presence.min_fraction = 1.0  # rows without it are quarantined
    feature.presence.min_count = 1
    feature.not_in_environment.append("SERVING")


def drift_thresholds(
    batch: pa.RecordBatch, schema: Any, roles: Sequence[Role], profile: Profile, groups: Sequence[np.ndarray]
) -> dict[str, tuple[str, float]]:
    """How far apart consecutive groups of rows are, with head room, of each column that drift is seen in.

    Numbers are compared by Jensen-Shannon divergence, categories by L-infinity. Free text, lists and very
    many values are not compared: their most frequent values say little of them.

    Returns:
        Column -> (field of TFDV's comparator, threshold).
    """
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0 import schema_pb2

    compared = {
        role.column: "jensen_shannon_divergence" if role.role == "numeric" else "infinity_norm"
        for role in roles
        if _is_compared(role, profile.columns[role.column])
    }
    probe = schema_pb2.Schema()
    probe.CopyFrom(schema)
    for feature in probe.feature:
        if feature.name in compared:
            getattr(feature.drift_comparator, compared[feature.name]).threshold = 1.0
    if len(compared) > _WIDE:  # TFDV takes milliseconds a column and group
        groups = groups[:2]
    statistics = [_statistics(batch.take(pa.array(group)), schema=probe) for group in groups]
    found = dict.fromkeys(compared, 0.0)
    for before, after in itertools.pairwise(statistics):
        anomalies = tfdv.validate_statistics(after, probe, previous_statistics=before)
        for info in anomalies.drift_skew_info:
            name = info.path.step[0]
            found[name] = max(found[name], *(measured.value for measured in info.drift_measurements))
    return {name: (compared[name], _threshold(distance)) for name, distance in found.items()}


def _is_compared(role: Role, column: Column) -> bool:
    if column.listed or (role.settings or {}).get("separator"):
        return False
    return role.role == "numeric" or (
        role.role in ("categorical", "identity") and column.distinct <= _MAX_COMPARED
    )


def _threshold(distance: float) -> float:
    """The distance with head room, of two digits, rounded up; 1 is as far as two distributions can be."""
    wanted = max(distance * _HEAD_ROOM, _SMALLEST_THRESHOLD)
    return min(math.ceil(wanted * 100) / 100, 0.95)


def _statistics(batch: pa.RecordBatch, **options: Any) -> Any:
    from tensorflow_data_validation.statistics import stats_impl, stats_options

    return stats_impl.generate_statistics_in_memory(batch, stats_options.StatsOptions(**options))


def _batch(columns: Iterable[Column]) -> pa.RecordBatch:
    """Columns as TFDV takes them, which are the lists that tf.Examples have: int64, float32 or bytes."""
    arrays = {column.name: _as_examples(column) for column in columns}
    return pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))


def _as_examples(column: Column) -> pa.Array:
    kinds: Mapping[str, pa.DataType] = {"INT": pa.int64(), "FLOAT": pa.float32(), "BYTES": pa.binary()}
    kind = kinds[column.kind or "BYTES"]
    if column.listed:
        return column.values.cast(pa.list_(kind))
    there = column.values.is_valid().to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(there)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, column.values.drop_null().cast(kind), mask=pa.array(~there))


def text(schema: Any) -> str:
    """The schema as a file, with a head for who reads it."""
    from google.protobuf import text_format

    head = (
        "# Written by `retrain init`; yours to change. TFDV's schema: what a span must look like to be\n"
        "# learned.\n"
        "# drift_comparator: how far a column may move before that is drift: L-infinity for categories,\n"
        "# Jensen-Shannon divergence for numbers. DEPRECATED columns are left out of everything.\n"
    )
    body: str = text_format.MessageToString(schema, as_utf8=True)
    return head + body
