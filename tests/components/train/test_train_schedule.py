import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.train.model.schedule import RunSchedule


def rates(schedule, first=0):
    return np.asarray(schedule(first + np.arange(schedule.steps)))


def test_it_rises_to_the_peak_and_falls_to_its_share():
    r = rates(RunSchedule(peak=0.8, first_step=0, steps=100, warmup=0.1, final=0.25))
    np.testing.assert_allclose(r[:10], 0.08 * np.arange(1, 11), rtol=1e-5)
    assert (np.diff(r[10:]) < 0).all()
    assert r.max() == pytest.approx(0.8) and 0.2 < r[-1] < 0.201
    assert r[55] == pytest.approx(0.5 * (0.8 + 0.2), rel=1e-5)  # half of the way down


def test_after_its_run_it_stays_at_the_end():
    schedule = RunSchedule(1.0, 5, 10, 0.0, 0.1)
    assert [float(schedule(step)) for step in (15, 1000)] == pytest.approx([0.1, 0.1])


def test_it_can_be_constant():
    np.testing.assert_allclose(rates(RunSchedule(0.3, 0, 50, 0.0, 1.0)), 0.3, rtol=1e-6)


# Beyond 2**24 a float32 does not count in ones.
@pytest.mark.parametrize("first", [1, 1234, 2**24 + 1, 2**40 + 1])
def test_it_counts_from_the_runs_first_step(first):
    fresh = RunSchedule(1.0, 0, 40, 0.2, 0.1)
    later = RunSchedule(1.0, first, 40, 0.2, 0.1)
    np.testing.assert_array_equal(rates(later, first), rates(fresh))
    step = keras.Variable(first + 7, dtype="int64", trainable=False)
    assert float(later(step)) == float(fresh(7))


@given(
    peak=st.floats(1e-6, 10.0),
    steps=st.integers(0, 30),
    warmup=st.floats(0.0, 1.0),
    final=st.floats(0.0, 1.0),
)
def test_it_never_leaves_zero_to_peak(peak, steps, warmup, final):
    r = rates(RunSchedule(peak, 0, steps, warmup, final))
    assert (r >= 0).all() and (r <= peak * (1 + 1e-5)).all() and r[0] > 0


def test_it_survives_serialization():
    schedule = RunSchedule(0.5, 17, 30, 0.1, 0.2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert isinstance(again, RunSchedule) and again.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(again, 17), rates(schedule, 17))
    optimizer = keras.optimizers.Adam.from_config(keras.optimizers.Adam(schedule).get_config())
    optimizer.build([keras.Variable([0.0])])
    assert float(optimizer.learning_rate) == float(schedule(0))
