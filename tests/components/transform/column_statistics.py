"""Statistics of columns as TFDV writes them, made by hand."""

import math

from tensorflow_metadata.proto.v0 import statistics_pb2

from components.transform.measures import by_name


def number(name, buckets, mean=math.nan, deviation=math.nan, wide=((-1e6, 1e6, 1),)):
    """A column of numbers as TFDV describes it; a bucket: from, to, how many."""
    column = statistics_pb2.FeatureNameStatistics(type=statistics_pb2.FeatureNameStatistics.FLOAT)
    column.path.step.append(name)
    column.num_stats.mean, column.num_stats.std_dev = mean, deviation
    for kind, pieces in (("STANDARD", wide), ("QUANTILES", buckets)):
        histogram = column.num_stats.histograms.add(type=statistics_pb2.Histogram.HistogramType.Value(kind))
        for low, high, count in pieces:
            histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
    return column


def text(name, counts):
    column = statistics_pb2.FeatureNameStatistics(type=statistics_pb2.FeatureNameStatistics.STRING)
    column.path.step.append(name)
    column.string_stats.unique = len(counts)
    for term, count in counts.items():
        column.string_stats.rank_histogram.buckets.add(label=term, sample_count=count)
    return column


def of(*columns):
    return by_name(statistics_pb2.DatasetFeatureStatistics(features=columns))
