"""Remembering what Beam looks up must change nothing but the time."""

import base64
import bz2
import functools
import gc
import inspect
import re

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions, TypeOptions
from apache_beam.portability import python_urns
from apache_beam.transforms import core
from apache_beam.typehints import decorators

from components.beam_memory import remembered

RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"


class Mean(beam.CombineFn):
    """The mean, with a side input added to it."""

    def create_accumulator(self, **_):
        return 0.0, 0

    def add_input(self, accumulator, value: float, **_):
        return accumulator[0] + value, accumulator[1] + 1

    def merge_accumulators(self, accumulators, **_):
        sums, counts = zip(*accumulators, strict=True)
        return sum(sums), sum(counts)

    def extract_output(self, accumulator, more=0.0) -> float:
        return accumulator[0] / accumulator[1] + more


@beam.typehints.with_input_types(int)
@beam.typehints.with_output_types(tuple[str, float])
class KeyByParity(beam.DoFn):
    def __init__(self, names):
        self._names = names

    def process(self, number, window=beam.DoFn.WindowParam, scale=1.0):
        yield self._names[number % 2], number * scale


class Name:
    """Two of a kind, whose bound methods are the same function."""

    def __init__(self, prefix):
        self._prefix = prefix

    def of(self, item: tuple[str, float]) -> str:
        return f"{self._prefix} {item[0]} {item[1]:g}"


def clip(number: int, low: int, high: int = 100) -> int:
    return min(max(number, low), high)


def build(pipeline):
    """Combiners, side inputs of every kind, type hints and annotations; every way to give a callable."""
    numbers = pipeline | beam.Create(list(range(-3, 10)), reshuffle=False)
    largest = numbers | "Largest" >> beam.CombineGlobally(max)
    clipped = numbers | beam.Map(functools.partial(clip, low=0)) | "Again" >> beam.Map(clip, low=1)
    keyed = clipped | beam.ParDo(KeyByParity(("even", "odd")), scale=beam.pvalue.AsSingleton(largest))
    means = keyed | beam.CombinePerKey(Mean(), more=0.5)
    counts = keyed | beam.combiners.Count.PerKey()
    joined = {"means": means, "counts": counts} | beam.CoGroupByKey()
    texts = [
        means | "A" >> beam.Map(Name("a").of),
        counts | "B" >> beam.Map(Name("b").of),
        joined | beam.MapTuple(lambda key, found: f"{key} {found}"),
        numbers
        | beam.Map(str)
        | beam.Filter(str.isdigit)
        | beam.combiners.Sample.FixedSizeGlobally(99)
        | beam.FlatMap(sorted).with_output_types(str),
        keyed
        | beam.Keys()
        | beam.Map(lambda key, known: known[key], known=beam.pvalue.AsDict(counts))
        | "Text" >> beam.Map(str),
    ]
    return texts | beam.Flatten() | beam.combiners.ToList() | beam.Map(sorted)


def proto(pipeline):
    """The pipeline as runners get it, without the random names that pickled local classes have."""
    proto = pipeline.to_runner_api()
    for transform in proto.components.transforms.values():
        if transform.spec.urn == python_urns.PICKLED_TRANSFORM:
            pickled = bz2.decompress(base64.b64decode(transform.spec.payload))
            transform.spec.payload = re.sub(rb"[0-9a-f]{32}", b"", pickled)
    return proto


def proto_and_result(path):
    pipeline = beam.Pipeline(options=PipelineOptions([RUNNER]))
    lines = build(pipeline)
    made = proto(pipeline)
    _ = lines | beam.Map("\n".join) | beam.io.WriteToText(str(path), num_shards=1, shard_name_template="")
    pipeline.run().wait_until_finish()
    return made, path.read_text().splitlines()


def test_pipelines_are_the_same(tmp_path):
    plain = proto_and_result(tmp_path / "plain")
    with remembered():
        first = proto_and_result(tmp_path / "first")
        second = proto_and_result(tmp_path / "second")
    assert first[1] == second[1] == plain[1]
    assert {"a odd 29.5", "b odd 9", "even {'means': [45.5], 'counts': [4]}"} <= set(plain[1])
    assert len(plain[0].components.transforms) > 50
    assert first[0] == plain[0] and second[0] == plain[0]


class Options(PipelineOptions):
    @classmethod
    def _add_argparse_args(cls, parser):
        parser.add_argument("--word", default="none")
        parser.add_argument("--item", action="append", default=None)


def test_views_of_one_set_of_options_share_its_values():
    with remembered():
        options = PipelineOptions(["--word=a", "--item=1", "--streaming"])
        view = options.view_as(Options)
        assert (view.word, view.item) == ("a", ["1"]) and options.view_as(StandardOptions).streaming
        view.word = "b"
        view.item.append("2")
        assert options.view_as(Options).word == "b" and options.view_as(Options).item == ["1", "2"]
        through_another = options.view_as(StandardOptions).view_as(Options)
        assert through_another.word == "b"
        through_another.word = "c"
        assert view.word == "c" and options.get_all_options()["word"] == "c"
        assert options.view_as(TypeOptions).pipeline_type_check is True
        options.view_as(TypeOptions).pipeline_type_check = False
    assert view.word == "c" and options.view_as(TypeOptions).pipeline_type_check is False


def test_sets_of_options_do_not_meet():
    with remembered():
        for i in range(40):  # memory of a set that is gone is given to the next one
            options = PipelineOptions([f"--word={i}"])
            assert options.view_as(Options).word == str(i)
            assert options.view_as(SetupOptions).sdk_location == "default"
            copy = PipelineOptions.from_dictionary(options.get_all_options() | {"word": "copy"})
            assert copy.view_as(Options).word == "copy" and options.view_as(Options).word == str(i)
            del options, copy
            gc.collect(0)


def taking(a: int, *, b: str = "x") -> float:
    """Hinted."""


class Callable:
    """Equal to all of its kind, and yet not the same: its signature is not its class's."""

    __hash__ = None

    def __init__(self, names):
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names]
        )

    def __eq__(self, other):
        return isinstance(other, Callable)

    def __call__(self, **_):
        """Whatever its signature says."""


CALLABLES = {
    "function": taking,
    "lambda": lambda x, y=1: x,
    "method": Name("a").of,
    "another object's": Name("b").of,
    "unbound": Name.of,
    "class": Name,
    "partial": functools.partial(taking, 1),
    "another partial": functools.partial(taking, b="y"),
    "type": int,
    "builtin": len,
    "no signature": max,
    "descriptor": str.strip,
    "not hashable": Callable("ab"),
    "not hashable either": Callable("cd"),
    "class method": Options.from_dictionary,
}


def test_signatures_are_those_of_beam():
    plain = {name: decorators.get_signature(of) for name, of in CALLABLES.items()}
    with remembered():
        for _ in range(2):
            assert {name: decorators.get_signature(of) for name, of in CALLABLES.items()} == plain
            assert {name: core.get_signature(of) for name, of in CALLABLES.items()} == plain


def patched():
    return decorators.get_signature, core.get_signature, PipelineOptions.view_as


def test_what_was_there_before_is_there_afterwards():
    before = patched()
    with remembered():
        inside = patched()
        with remembered():
            assert PipelineOptions(["--word=a"]).view_as(Options).word == "a"
        assert patched() == inside
    assert patched() == before
    assert all(a is not b for a, b in zip(before, inside, strict=True))


def fail_in_the_middle():
    with remembered(), beam.Pipeline(options=PipelineOptions([RUNNER])) as pipeline:
        _ = pipeline | beam.Create([1]) | beam.Map(str)
        raise RuntimeError("in the middle")


def test_an_exception_in_a_pipeline_leaves_nothing_behind():
    before = patched()
    with pytest.raises(RuntimeError, match="in the middle"):
        fail_in_the_middle()
    assert patched() == before
