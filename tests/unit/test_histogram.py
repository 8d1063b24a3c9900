"""Histograms: what a bucket counts, and what is estimated from buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver.histogram import BOUNDS, BUCKETS, Histogram, bucket_of


def of(*lengths: float) -> Histogram:
    counts = [0] * BUCKETS
    for seconds in lengths:
        counts[bucket_of(seconds)] += 1
    return Histogram(counts=counts, seconds=sum(lengths))


def test_a_bound_belongs_to_the_bucket_that_it_ends() -> None:
    assert [bucket_of(bound) for bound in BOUNDS] == list(range(len(BOUNDS)))
    assert bucket_of(0) == 0
    assert bucket_of(BOUNDS[-1] + 1) == BUCKETS - 1


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    halves = of(*[0.15] * 10, *[7.0] * 10)
    assert halves.quantile(0.25) == pytest.approx(0.15)
    assert halves.quantile(0.5) == pytest.approx(0.2)
    assert halves.quantile(0.75) == pytest.approx(7.5)
    assert of(0.0005).quantile(0.5) == pytest.approx(0.0005)


def test_of_nothing_there_is_no_quantile_and_beyond_the_last_bound_only_that() -> None:
    assert Histogram().quantile(0.5) is None
    assert of(90_000).quantile(0.5) == BOUNDS[-1]


@given(st.lists(st.floats(0, 3600), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(lengths: list[float], share: float) -> None:
    true = sorted(lengths)[math.ceil(share * len(lengths) - 1e-9) - 1]
    bucket = bucket_of(true)
    found = of(*lengths).quantile(share)
    assert found is not None
    assert (BOUNDS[bucket - 1] if bucket else 0) <= found <= BOUNDS[bucket]


@given(st.lists(st.floats(0, 9999), max_size=9), st.lists(st.floats(0, 9999), max_size=9))
def test_histograms_of_parts_add_up_to_that_of_the_whole(
    one: list[float], other: list[float]
) -> None:
    total, whole = of(*one) + of(*other), of(*one, *other)
    assert (list(total.counts), total.seconds) == (whole.counts, pytest.approx(whole.seconds))
