import doctest
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import versions
from serving.model_config import VersionPolicy
from serving.versions import (
    Transition,
    aspired_versions,
    effective_labels,
    find_versions,
    fingerprint,
    missing_versions,
    plan,
)

ALL = VersionPolicy(latest=None)
numbers = st.sets(st.integers(0, 6))


def specific(*wanted: int) -> VersionPolicy:
    return VersionPolicy(latest=None, specific=wanted)


def test_examples_in_docstrings():
    assert doctest.testmod(versions).failed == 0


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VersionPolicy(latest=1), {10}),
        (VersionPolicy(latest=2), {9, 10}),
        (VersionPolicy(latest=9), {2, 9, 10}),
        (ALL, {2, 9, 10}),
        (specific(2, 7), {2}),
        (specific(), set()),
    ],
)
def test_aspired_versions(policy, expected):
    assert aspired_versions(policy, {2, 9, 10}) == expected


def test_missing_versions_are_those_a_policy_names():
    assert missing_versions(specific(2, 7), {2, 9}) == [7]
    assert missing_versions(ALL, {2}) == []


@pytest.mark.parametrize(
    ("aspired", "loaded", "failed", "held", "expected"),
    [
        ({1}, set(), set(), set(), Transition(load=(1,))),
        ({5}, {4}, set(), set(), Transition(load=(5,))),
        ({5}, {4, 5}, set(), set(), Transition(unload=(4,))),
        ({4}, {4, 5}, set(), set(), Transition(unload=(5,))),
        ({5}, {4}, {5}, set(), Transition()),
        (set(), {4}, set(), set(), Transition()),
        ({5, 6}, {4}, set(), set(), Transition(load=(6, 5))),
        ({5, 6}, {4, 6}, set(), {4}, Transition(load=(5,))),
    ],
)
def test_plan(aspired, loaded, failed, held, expected):
    assert plan(aspired, loaded, failed, held) == expected


@given(aspired=numbers, loaded=numbers, breaks=numbers, held=numbers)
def test_following_the_plan_never_leaves_nothing_and_ends_at_what_is_aspired(aspired, loaded, breaks, held):
    held &= loaded
    failed: set[int] = set()
    now = set(loaded)
    for _ in range(20):
        step = plan(aspired, now, failed, held)
        assert not set(step.unload) & (aspired | held)
        now -= set(step.unload)
        assert now or not loaded
        if not step.load:
            break
        (failed if step.load[0] in breaks - loaded else now).add(step.load[0])
    works = aspired - (breaks - loaded)
    assert now == (works | held if works else loaded)


@given(
    wanted=st.dictionaries(st.sampled_from("abc"), st.integers(0, 6)),
    current=st.dictionaries(st.sampled_from("abc"), st.integers(0, 6)),
    loaded=numbers,
)
def test_a_label_leads_only_to_what_is_loaded(wanted, current, loaded):
    labels = effective_labels(wanted, current, loaded)
    assert labels.keys() <= wanted.keys()
    assert set(labels.values()) <= loaded
    for label, version in wanted.items():
        if version in loaded:
            assert labels[label] == version


def test_find_versions_takes_integers_that_are_complete(tmp_path):
    for name in ["1", "007", "12", "half", "-3", "1.5", "٣", ".5"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "99").mkdir()
    (tmp_path / "98").touch()
    assert find_versions(tmp_path) == {1: tmp_path / "1", 7: tmp_path / "007", 12: tmp_path / "12"}


def test_find_versions_tells_a_missing_base_path_from_an_empty_one(tmp_path):
    assert find_versions(tmp_path) == {}
    assert find_versions(tmp_path / "nowhere") is None


def test_fingerprint_differs_when_any_file_does(tmp_path):
    (tmp_path / "variables").mkdir()
    file = tmp_path / "variables" / "data"
    file.write_bytes(b"abc")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    os.utime(file, ns=(1, 1))
    touched = fingerprint(tmp_path)
    (tmp_path / "new").touch()
    assert len({before, touched, fingerprint(tmp_path)}) == 3
