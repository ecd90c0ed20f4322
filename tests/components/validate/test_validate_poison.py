"""What a new span is measured by before it is remembered."""

import json

import pytest

from components.validate import poison
from components.validate.poison import Measure


def classes(**rows):
    return {"rows": sum(rows.values()), "classes": rows}


def moments(rows, mean, deviation):
    return {"rows": rows, "mean": mean, "deviation": deviation}


STEADY = classes(no=8000, yes=2000)
LIMITS = {"max_label_shift": 0.2, "max_duplicates": 0.1}


def measured(labels=STEADY, repeated=0.0, reference=STEADY, **limits):
    spans = {7: {"labels": labels, "repeated": repeated}}
    return poison.measure(spans, reference, **LIMITS | limits)


def reasons(*measures, released=()):
    return poison.guilty(measures, released)


def test_the_same_labels_have_not_shifted():
    shift, duplicates = measured()
    assert (shift.measure, shift.value) == ("label_shift", 0.0)
    assert (duplicates.measure, duplicates.value) == ("duplicates", 0.0)
    assert reasons(shift, duplicates) == {}


def test_flipped_labels_are_told_with_numbers():
    shift, _ = measured(classes(no=2000, yes=8000))
    assert shift.value == pytest.approx(0.6) and shift.exceeded
    assert reasons(shift) == {
        7: "the share of label 'no' went from 80.0% to 20.0% "
        "(poisoning.max_label_shift is 0.2, and 0.017 of 0.600 may be chance)"
    }


def test_the_class_that_moved_most_counts_a_new_one_too():
    shift, _ = measured(classes(no=7000, yes=500, maybe=2500))
    assert shift.value == pytest.approx(0.25) and "'maybe' went from 0.0% to 25.0%" in shift.what


@pytest.mark.parametrize(("rows", "caught"), [(10, False), (1000, True)])
def test_chance_puts_no_small_span_into_quarantine(rows, caught):
    # 25 points more than before: of ten rows that is likely, of a thousand it is not.
    shift, _ = measured(classes(no=round(rows * 0.55), yes=round(rows * 0.45)))
    assert shift.value > 0.2 and shift.exceeded == caught


def test_a_number_shifts_by_standard_deviations():
    shift, _ = measured(moments(10_000, 12.0, 2.0), reference=moments(10_000, 10.0, 4.0), max_label_shift=0.4)
    assert shift.value == pytest.approx(0.5)
    assert reasons(shift)[7].startswith(
        "the mean of the label, as it is learned, went from 10 to 12: by 0.50 standard deviations"
    )
    assert not measured(moments(9, 12.0, 2.0), reference=moments(10_000, 10.0, 4.0), max_label_shift=0.4)[
        0
    ].exceeded


def test_a_label_that_was_constant_is_measured_by_the_new_deviation():
    constant = moments(100, 5.0, 0.0)
    assert measured(constant, reference=constant)[0].value == 0.0
    assert measured(moments(100, 7.0, 0.5), reference=constant)[0].value == pytest.approx(4.0)
    assert measured(moments(100, 7.0, 0.0), reference=constant)[0].exceeded


@pytest.mark.parametrize(
    ("labels", "reference"),
    [(STEADY, None), (STEADY, moments(9, 1.0, 1.0)), ({"rows": 9}, STEADY), (STEADY, {"rows": 9})],
    ids=["cold start", "another task", "too many classes", "too many classes before"],
)
def test_what_cannot_be_compared_is_not_judged(labels, reference):
    shift, _ = measured(labels, reference=reference)
    assert shift.value is None and not shift.exceeded and "compared" in shift.what


def test_duplicates_are_judged_without_a_reference():
    found = measured(repeated=0.5, reference=None)
    assert reasons(*found) == {
        7: "50.0% of its rows repeat another one of it (poisoning.max_duplicates is 0.1)"
    }
    assert reasons(*measured(repeated=0.1)) == {}  # at the limit


def test_without_a_limit_it_is_measured_and_not_judged():
    found = measured(classes(yes=10_000), 0.9, max_label_shift=None, max_duplicates=None)
    assert [one.value for one in found] == [0.8, 0.9] and reasons(*found) == {}
    assert json.loads(json.dumps([one.to_json() for one in found]))[1]["limit"] is None


def test_only_the_guilty_span_is_named_with_all_its_reasons():
    spans = {
        2: {"labels": classes(yes=10_000), "repeated": 0.5},
        10: {"labels": STEADY, "repeated": 0.0},
        9: {"labels": STEADY, "repeated": 0.2},
    }
    found = poison.measure(spans, STEADY, **LIMITS)
    assert [one.span for one in found] == [2, 2, 9, 9, 10, 10]
    guilty = poison.guilty(found, [])
    assert list(guilty) == [2, 9] and "'no' went" in guilty[2] and "; 50.0% of its rows" in guilty[2]
    assert list(poison.guilty(found, released=[2])) == [9]


def test_as_data():
    assert Measure(7, "duplicates", 0.5, 0.0, 0.1, "half").to_json() == {
        "span": 7,
        "measure": "duplicates",
        "value": 0.5,
        "error": 0.0,
        "limit": 0.1,
        "what": "half",
        "exceeded": True,
    }
