"""Rows of the GPU table: percentiles, floors, ratios."""

from __future__ import annotations

import pytest
from gpu.arithmetic import busy_seconds, finish_row, floor_us, percentile, ratios, summary


def test_percentiles_by_hand():
    samples = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert percentile(samples, 0.5) == 3
    assert percentile(samples, 0) == 1
    assert percentile(samples, 1) == 5
    assert percentile(samples, 0.1) == pytest.approx(1.4)
    assert percentile([7.0], 0.9) == 7
    assert percentile([1.0, 2.0], 0.5) == 1.5


@pytest.mark.parametrize(("samples", "share"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_percentiles_of_nothing_raise(samples, share):
    with pytest.raises(ValueError, match="percentile"):
        percentile(samples, share)


def test_summary_is_in_microseconds():
    assert summary([1e-6, 2e-6, 3e-6]) == pytest.approx({"median": 2, "p10": 1.2, "p90": 2.8, "samples": 3})


def test_floor_is_the_longest_of_three():
    assert floor_us(86_000_000, bytes_per_second=4.3e12) == pytest.approx(20)
    assert floor_us(1000, pairs=72_000_000) == pytest.approx(36)
    assert floor_us(1000, pairs=10, launch_us=1.7) == 1.7


def test_ratios_need_both_sides():
    times = {"theirs_gpu": {"median": 30.0}, "ours_gpu": {"median": 10.0}, "ours_graph": {"median": 5.0}}
    assert ratios(times) == {"gpu": 3.0, "wall": None, "graph": None, "busy": None}
    assert ratios({**times, "theirs_busy": {"median": 25.0}})["busy"] == 2.5  # over our GPU time


def test_busy_time_leaves_gaps_out_and_counts_nothing_twice():
    assert busy_seconds([(10, 12), (0, 3), (11, 15), (12, 13), (20, 20.5)]) == pytest.approx(8.5e-6)
    assert busy_seconds([]) == 0


def row_of(samples):
    return finish_row({"op": "nms"}, samples, least_bytes=4_300_000, pairs=0, launch_us=0.5, bytes_per_second=4.3e12)


def test_row():
    seconds = {"theirs_gpu": [30e-6] * 3, "ours_gpu": [10e-6] * 3, "theirs_graph": []}
    row = row_of({"cold": seconds, "warm": {"ours_gpu": [4e-6]}})
    assert row["op"] == "nms"
    assert row["floor_us"] == pytest.approx(1)
    assert row["percent_of_floor"] == pytest.approx(10)  # of the cold GPU time
    assert row["cold"]["ratios"]["gpu"] == pytest.approx(3)
    assert row["cold"]["theirs_gpu"]["samples"] == 3
    assert "theirs_graph" not in row["cold"]
    assert row["warm"]["ratios"] == dict.fromkeys(("gpu", "wall", "graph", "busy"))


def test_row_without_our_time_has_no_share_of_the_floor():
    assert row_of({"cold": {}, "warm": {}})["percent_of_floor"] is None
