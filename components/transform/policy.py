"""Whether the champion's transform graph is used again: what it was fitted on, held against new data.

A refit costs a pass over new and old rows, and moves everything that the model learned to read: terms,
scales, boundaries. So a graph is used again while it fits. New data is held against the spans that the graph
was fitted for, and not against all rows that it was fitted on: where these are mostly the buffer's, and of
another time, a refit would not bring it nearer to the new ones, and be asked for again in every run.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from components.features import Feature
from components.settings import Positive, Section, Share
from components.transform.measures import Column, Spread, oov_share, spread

Action = Literal["fitted", "refitted", "reused"]
Vocabularies = Mapping[str, Container[str]]  # feature -> its terms


class GraphPolicy(Section):
    """When the transform graph is fitted anew."""

    policy: Literal["auto", "reuse", "refit"] = Field(
        "auto",
        description="The transform graph of a warm start: the champion's while it fits, always the "
        "champion's, or always a new one. Where features, label, columns, code or classes have changed it is "
        "a new one in any case.",
    )
    max_oov_increase: Share = Field(
        0.02,
        description="`auto`: fit anew where the share of values out of a vocabulary has risen by more than "
        "this since the graph was fitted.",
    )
    max_out_of_range: Share = Field(
        0.05,
        description="`auto`: fit anew where a larger share of a number's values lies outside the range that "
        "the graph was fitted on, for certain: by whole pieces of TFDV's histograms.",
    )
    max_mean_shift: Annotated[float, Field(gt=0.0)] = Field(
        0.5,
        description="`auto`: fit anew where a number's mean has moved by more than so many standard "
        "deviations.",
    )
    max_scale_change: Annotated[float, Field(gt=1.0)] = Field(
        2.0,
        description="`auto`: fit anew where a number's standard deviation has grown or shrunk by more than "
        "this factor.",
    )
    max_reuses: Positive | None = Field(
        None, description="`auto`: fit anew after so many versions with the same graph in any case."
    )


@dataclass(frozen=True)
class Fit:
    """What a graph was fitted on, as far as new data is held against it.

    Attributes:
        definition: what made the graph beside the data: features, label, columns and code, as plain data.
        numbers: feature -> `mean` and `deviation` of the spans that it was fitted for, and `low` and `high`
            of all that its line was fitted on; none where there was no value.
        oov: feature -> the share of values out of its vocabulary, in the spans that it was fitted for.
    """

    definition: dict[str, Any]
    numbers: dict[str, dict[str, float]]
    oov: dict[str, float]


def describe(
    definition: dict[str, Any],
    features: Sequence[Feature],
    columns: Mapping[str, Column],
    vocabularies: Vocabularies,
    before: Fit | None,
) -> Fit:
    """What a new graph is fitted on.

    Args:
        definition: see `Fit`.
        features: the configured features.
        columns: column -> its statistics in the new spans.
        vocabularies: of the new graph.
        before: of the champion's graph, whose rows the buffer still holds.
    """
    known = before.definition["features"] if before else []
    numbers: dict[str, dict[str, float]] = {}
    oov = {}
    for feature in features:
        name, now = feature.name, spread(feature, columns)
        # Of a feature that is another now, the range is, too.
        old = before.numbers.get(name) if before and feature.model_dump(by_alias=True) in known else None
        if now:
            low, high = (
                (now.low, now.high) if not old else (min(now.low, old["low"]), max(now.high, old["high"]))
            )
            numbers[name] = {"mean": now.mean, "deviation": now.deviation, "low": low, "high": high}
        elif old:
            numbers[name] = old
        share = oov_share(feature, columns, vocabularies.get(name, ()))
        if share is not None:
            oov[name] = share
    return Fit(definition, numbers, oov)


@dataclass(frozen=True)
class Measure:
    """One way in which new data differs from what the graph was fitted on.

    Attributes:
        feature: its name.
        measure: `oov_increase`, `out_of_range`, `mean_shift` or `scale_change`.
        value: how far it differs.
        limit: the most that the graph is used again for.
        text: the same in words.
    """

    feature: str
    measure: str
    value: float
    limit: float
    text: str

    @property
    def room(self) -> float:
        """What is left of the limit, as a share of it."""
        same = 1.0 if self.measure == "scale_change" else 0.0  # what it is where nothing differs
        return (self.limit - self.value) / ((self.limit - same) or 1.0)


def measure(
    fit: Fit,
    features: Sequence[Feature],
    columns: Mapping[str, Column],
    vocabularies: Vocabularies,
    policy: GraphPolicy,
) -> list[Measure]:
    """Everything that can be told from statistics; nearest to its limit first.

    Args:
        fit: of the champion's graph.
        features: the configured features, which are the graph's.
        columns: column -> its statistics in the new spans.
        vocabularies: of the champion's graph.
        policy: has the limits.
    """
    found = []
    for feature in features:
        share = oov_share(feature, columns, vocabularies.get(feature.name, ()))
        if share is not None:
            found.append(_oov(feature.name, fit.oov.get(feature.name, 0.0), share, policy))
        now = spread(feature, columns)
        if now:
            found += _number(feature.name, fit.numbers.get(feature.name), now, policy)
    return sorted(found, key=lambda one: one.room)


def _oov(name: str, then: float, now: float, policy: GraphPolicy) -> Measure:
    text = f"{name}: {now:.1%} of the values are out of its vocabulary, {then:.1%} when the graph was fitted"
    return Measure(name, "oov_increase", max(now - then, 0.0), policy.max_oov_increase, text)


def _number(name: str, then: Mapping[str, float] | None, now: Spread, policy: GraphPolicy) -> list[Measure]:
    limit = policy.max_out_of_range
    if then is None:  # the graph makes nothing of them
        return [Measure(name, "out_of_range", 1.0, limit, f"{name}: had no value when the graph was fitted")]
    outside = now.outside(then["low"], then["high"])
    known = f"{then['low']:g} to {then['high']:g}, its range when the graph was fitted"
    text = f"{name}: at least {outside:.1%} of the values are outside of {known}"
    found = [Measure(name, "out_of_range", outside, limit, text)]
    if not then["deviation"]:  # all values were one, and others are out of range
        return found
    shift = abs(now.mean - then["mean"]) / then["deviation"]
    text = f"{name}: its mean has moved by {shift:.2f} standard deviations since the graph was fitted"
    found.append(Measure(name, "mean_shift", shift, policy.max_mean_shift, text))
    if now.deviation:
        ratio = now.deviation / then["deviation"]
        change = max(ratio, 1 / ratio)
        text = f"{name}: its standard deviation is {ratio:.2f} times that which the graph was fitted on"
        found.append(Measure(name, "scale_change", change, policy.max_scale_change, text))
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is different between what made two graphs; for these no graph is used again."""
    before, now = ({f["name"]: f for f in made["features"]} for made in (old, new))
    found = [f"the feature {name} is gone" for name in before if name not in now]
    found += [f"the feature {name} is new" for name in now if name not in before]
    found += [
        f"the feature {name} has changed" for name in now if name in before and now[name] != before[name]
    ]
    if not found and list(before) != list(now):  # numbers are columns of a matrix
        found.append("the order of the features has changed")
    found += [
        f"label.{key} has changed" for key, value in new["label"].items() if old["label"].get(key) != value
    ]
    types, were = new["columns"], old["columns"]
    found += [
        f"the column {name} was {were.get(name, 'none')} in the schema, is {types.get(name, 'none')}"
        for name in {**were, **types}
        if were.get(name) != types.get(name)
    ]
    if old["code"] != new["code"]:
        found.append("the code of the preprocessing has changed")
    return found


@dataclass(frozen=True)
class Decision:
    """What becomes of the transform graph.

    Attributes:
        action: `fitted`, without a champion; `refitted`; `reused`.
        reasons: of the action, for a person.
        measures: how far new data differs from what the champion's graph was fitted on.
        reuses: how many versions in a row have used the graph again, this one included.
    """

    action: Action
    reasons: list[str]
    measures: Sequence[Measure] = ()
    reuses: int = 0

    def to_json(self) -> dict[str, Any]:
        measures = [
            {key: value for key, value in asdict(one).items() if key != "text"} for one in self.measures
        ]
        return {
            "action": self.action,
            "reasons": self.reasons,
            "measures": measures,
            "reuses": self.reuses,
        }


def decide(policy: GraphPolicy, changed: Sequence[str], measures: Sequence[Measure], reuses: int) -> Decision:
    """What becomes of the champion's graph.

    Args:
        policy: what is configured.
        changed: reasons for which it cannot be used again, whatever is configured.
        measures: as `measure` gives them.
        reuses: how many versions in a row have used it again.
    """
    if changed:
        return Decision("refitted", list(changed), measures)
    if policy.policy == "refit":
        return Decision("refitted", ["transform.policy is refit"], measures)
    if policy.policy == "reuse":
        return Decision("reused", ["transform.policy is reuse"], measures, reuses + 1)
    beyond = [
        f"{one.text} (transform.max_{one.measure} {one.limit:g})" for one in measures if one.value > one.limit
    ]
    if beyond:
        return Decision("refitted", beyond, measures)
    if policy.max_reuses is not None and reuses >= policy.max_reuses:
        used = f"{reuses} version{'s' * (reuses > 1)} have used the graph again (transform.max_reuses)"
        return Decision("refitted", [used], measures)
    nearest = f"; nearest to its limit: {measures[0].text}" if measures else ""
    return Decision("reused", [f"the champion's graph fits{nearest}"], measures, reuses + 1)
