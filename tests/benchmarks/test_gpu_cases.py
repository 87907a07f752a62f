"""Every operator row of the GPU acceptance, at a tiny size on the CPU: inputs, agreement, measuring."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from gpu import race, timing
from gpu.agreement import all_equal, close_to, few_flipped, same_indices, same_selection
from gpu.arithmetic import CONTENDERS
from gpu.case import size_of, tensors_of
from gpu.operators import operator_cases
from gpu.stages import FAILED, NOTHING_OF_THAT_NAME, OK, Settings
from host_meter import HostMeter
from support import require_torchvision
from torch.autograd import DeviceType

CPU = torch.device("cpu")
TINY = operator_cases(tiny=True)
ONE_OF_EACH = list({case.op: case for case in TINY}.values())
over_cases = pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)


def first_ones(padded):
    """Of ``nms_padded`` what ``nms`` gives; other results stay as they are."""
    if isinstance(padded, tuple) and padded[1].dim() == 0:
        keep, count = padded
        return keep[: int(count)]
    return padded


# --- the definitions -------------------------------------------------------------------------------------------------


def test_full_and_tiny_rows_correspond():
    full = operator_cases()
    assert [(case.op, case.dtype, case.layout) for case in full if case.op != "nms"] == [
        (case.op, case.dtype, case.layout) for case in TINY if case.op != "nms"
    ]
    assert [case.shape for case in full if case.op == "nms"] == ["1000", "2000", "6000", "12000", "30000", "100000"]
    assert {case.op for case in full} >= {"anchors", "decode", "batched_nms", "roi_align", "roi_align backward"}
    assert {case.op for case in full} >= {"roi_align adaptive", "roi_pool", "roi_pool backward"}
    assert {case.op for case in full} >= {"generate_proposals", "select_detections", "match_boxes", "soft_nms"}
    assert {case.op for case in full} >= {"multi_scale_roi_align", "multi_scale_roi_align backward"}
    assert len({case.name for case in full}) == len(full)


@over_cases
def test_ours_agrees_with_the_reference(case):
    inputs = case.make(CPU, 5)
    found = case.ours(*inputs)
    case.agree(found, case.reference(*inputs))
    assert case.least_bytes(inputs, found) > size_of(found)
    if case.captured is not None:
        assert case.agree(first_ones(case.captured(*inputs)), found) == "equal"


@over_cases
def test_theirs_agrees(case):
    require_torchvision()
    timing.compare(case, case.make(CPU, 6))


@over_cases
def test_inputs_are_seeded_and_fresh(case):
    one, same, other = case.make(CPU, 1), case.make(CPU, 1), case.make(CPU, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    if case.op != "anchors":  # a constant of the architecture
        assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@over_cases
def test_layouts_are_those_named(case):
    maps = [tensor for tensor in tensors_of(case.make(CPU, 1)) if tensor.dim() == 4 and tensor.is_floating_point()]
    assert bool(maps) == bool(case.layout)
    for tensor in maps:
        assert tensor.is_contiguous() == (case.layout == "NCHW")
        assert tensor.is_contiguous(memory_format=torch.channels_last) == (case.layout == "NHWC")


# --- agreement -------------------------------------------------------------------------------------------------------


def test_disagreement_raises():
    one = torch.arange(4.0)
    assert all_equal(one, one.clone()) == "equal"
    assert close_to(0, 0.5)([one], [one + 0.25]) == "within 2.5e-01"
    for agree, found, expected in (
        (all_equal, one, one + 1e-6),
        (close_to(0, 0.5), one, one + 1),
        (close_to(0, 0.5), one, one.double()),
        (same_indices, torch.tensor([1, 2]), torch.tensor([2, 1])),
        (same_indices, torch.tensor([1, 2]), torch.tensor([1])),
    ):
        with pytest.raises(AssertionError):
            agree(found, expected)


def test_a_flipped_box_in_a_thousand_is_told():
    kept = torch.arange(1000)
    assert same_indices(kept, kept.clone()) == "equal"
    assert same_indices(kept[:-1], kept) == "1 of 1000 kept boxes differ"
    with pytest.raises(AssertionError, match="3 of 1000"):
        same_indices(kept[:-3], kept)


def selection(*rows: tuple[float, ...], slots: int):
    """(boxes, labels, scores, count) of one image, from rows of a score, a label and a left side."""
    table = torch.zeros(slots, 3)
    table[: len(rows)] = torch.tensor(rows).view(-1, 3)
    boxes = torch.nn.functional.pad(table[:, 2:], (0, 3), value=7.0)
    return boxes[None], table[None, :, 1].long(), table[None, :, 0], torch.tensor([len(rows)])


def test_selections_agree_whatever_the_order_of_equal_scores():
    agree = same_selection(score=1e-5, pixels=1e-2)
    one = selection((0.9, 1, 5.0), (0.5, 2, 6.0), (0.5, 3, 7.0), slots=4)
    assert agree(one, one) == "equal"
    assert agree(one, selection((0.9, 1, 5.0), (0.5, 3, 7.0), (0.5, 2, 6.0), slots=3)) == "equal"
    assert agree(one, [[tensor[0, :3]] for tensor in one[:3]]) == "equal"  # torchvision's form
    assert agree(one, selection((0.9, 1, 5.001), (0.5, 2, 6.0), (0.5, 3, 7.0), slots=4)) == "within 1.0e-03 px"
    assert agree(selection(slots=4), selection(slots=4)) == "equal"
    for other in (
        selection((0.9, 1, 5.0), (0.5, 2, 6.0), slots=4),
        selection((0.9, 1, 5.0), (0.5, 2, 6.0), (0.5, 2, 7.0), slots=4),
        selection((0.9, 1, 5.1), (0.5, 2, 6.0), (0.5, 3, 7.0), slots=4),
        selection((0.9, 1, 5.0), (0.5, 2, 6.0), (0.4999, 3, 7.0), slots=4),
    ):
        with pytest.raises(AssertionError, match="have no twin"):
            agree(one, other)
        with pytest.raises(AssertionError, match="have no twin"):
            agree(other, one)
    with pytest.raises(AssertionError, match="do not descend"):
        agree(selection((0.5, 1, 1.0), (0.9, 1, 2.0), slots=2), one)


def test_one_box_in_a_hundred_may_be_swapped():
    rows = [(1 - i / 200, 1.0, float(i)) for i in range(100)]
    one, swapped = selection(*rows, slots=100), selection(*rows[:-1], (rows[-1][0], 1.0, 555.0), slots=100)
    assert same_selection()(swapped, one) == "2 of 100 boxes have no twin"
    with pytest.raises(AssertionError, match="4 boxes of 100"):
        same_selection()(selection(*rows[:-2], (0.1, 1, 5.0), (0.1, 1, 555.0), slots=100), one)


def test_one_match_in_ten_thousand_may_differ():
    one = torch.zeros(10_000, dtype=torch.int64)
    other = one.clone()
    other[3] = -1
    assert few_flipped(one, one.clone()) == "equal"
    assert few_flipped(one, other) == "1 of 10000 matches differ"
    other[4] = -1
    with pytest.raises(AssertionError, match="2 of 10000"):
        few_flipped(one, other)


# --- measuring -------------------------------------------------------------------------------------------------------


def rows_of(tmp_path, l2_bytes: int, cases=TINY, **settings):
    meter = HostMeter(l2_bytes)
    code, content = race.measure_cases(
        cases, meter, Settings(out=tmp_path, card="A Card", seconds=0.001, **settings), None
    )
    return code, content, meter


@pytest.mark.parametrize(("l2_bytes", "rotates"), [(100, True), (10_000_000, False)])
def test_rows_from_end_to_end(tmp_path, l2_bytes, rotates):
    require_torchvision()
    code, content, meter = rows_of(tmp_path, l2_bytes, ONE_OF_EACH)
    assert code == OK, [row["error"] for row in content["rows"] if "error" in row]
    assert len(content["rows"]) == len(ONE_OF_EACH)
    assert meter.flushed > 0  # before the profiler's calls at least
    for case, row in zip(ONE_OF_EACH, content["rows"], strict=True):
        assert ("rotating" in row["cold_by"]) == rotates
        expected = {name for name in CONTENDERS if takes_part(case, *name.split("_"))}
        assert ("theirs_busy" in expected) == (case.theirs is not None and not case.theirs_in_graph)
        for state, there in (("cold", expected), ("warm", expected - {"theirs_busy"})):
            assert set(row[state]) == there | {"ratios"}
            assert all(row[state][name]["samples"] >= timing.LEAST_ROUNDS for name in there)
        assert row["bytes"] > 0
        assert row["percent_of_floor"] > 0
        assert bool(row["notes"]) == (expected != set(CONTENDERS) - {"theirs_busy"})
        assert timing.BY_EVENTS not in row["notes"]
    assert (tmp_path / "gpu_a_card_operators.json").exists()


def takes_part(case, side: str, kind: str) -> bool:
    call, in_graph = (case.ours, case.ours_in_graph) if side == "ours" else (case.theirs, case.theirs_in_graph)
    if kind == "busy":
        return call is not None and not in_graph
    return call is not None and (kind != "graph" or in_graph)


def test_a_profiler_that_says_nothing_is_noted(tmp_path, monkeypatch):
    """As without permission to read the card's counters: the row has event times all the same."""
    require_torchvision()
    monkeypatch.setattr(HostMeter, "busy", lambda meter, call: None)
    case = next(case for case in TINY if case.op == "batched_nms")
    code, content, _ = rows_of(tmp_path, 100, [case])
    (row,) = content["rows"]
    assert code == OK
    assert timing.BY_EVENTS in row["notes"]
    assert "theirs_busy" not in row["cold"]
    assert row["cold"]["ratios"]["busy"] is None
    assert row["cold"]["ratios"]["gpu"] > 0


class Profiler:
    """A pretended torch.profiler: a kernel, a gap, a copy; what the host did, and a span somebody named."""

    def __init__(self, events) -> None:
        self.found = events

    def __call__(self, activities):
        assert activities == [torch.profiler.ProfilerActivity.CUDA]
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def events(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def event(start: float, end: float, device=DeviceType.CUDA, named: bool = False):
    times = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(time_range=times, device_type=device, is_user_annotation=named)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event(0, 900, DeviceType.CPU), event(100, 130), event(0, 900, named=True), event(500, 502)], 32e-6),
        ([event(0, 900, DeviceType.CPU)], None),
        ([], None),
        (RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"), None),
    ],
)
def test_what_the_profiler_says(events, expected, monkeypatch):
    monkeypatch.setattr(torch.profiler, "profile", Profiler(events))
    meter, called = timing.Meter.__new__(timing.Meter), []
    meter.wait = lambda: None
    found = meter.busy(lambda: called.append(1))
    assert found == (None if expected is None else pytest.approx(expected))
    assert called == [1]


def test_events_of_the_real_profiler_have_what_is_read():
    """Here those of the CPU, of the same class."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(3).sum()
    found = profiler.events()
    assert found
    for one in found:
        assert one.device_type == DeviceType.CPU
        assert one.time_range.end >= one.time_range.start
        assert not one.is_user_annotation


def wrong(case):
    """The case with a rival whose results differ."""
    fields = {name: getattr(case, name) for name in case.__dataclass_fields__}
    return type(case)(**fields | {"theirs": lambda *inputs: [tensor + 1 for tensor in tensors_of(case.ours(*inputs))]})


def test_a_mismatch_fails_the_row_and_is_not_timed(tmp_path):
    case = wrong(TINY[0])
    code, content, _ = rows_of(tmp_path, 100, [case])
    assert code == FAILED
    (row,) = content["rows"]
    assert row["error"].startswith("AssertionError")
    assert "cold" not in row


def test_rows_beyond_the_limit_are_named(tmp_path):
    code, content, _ = rows_of(tmp_path, 100, limit=0.0)
    assert code == FAILED
    assert [row["error"] for row in content["rows"]] == ["not reached within the limit of time"] * len(TINY)


def test_only_some_rows(tmp_path):
    code, content, _ = rows_of(tmp_path, 100, only="batched", limit=0.0)
    assert [row["op"] for row in content["rows"]] == ["batched_nms"]
    code, content, _ = rows_of(tmp_path, 100, only="no such row")
    assert code == NOTHING_OF_THAT_NAME
    assert "no row has 'no such row' in its name" in content["error"]


def test_the_hosts_meter_is_used_as_the_cards():
    """So that what runs here can run there."""
    for name, method in inspect.getmembers(HostMeter, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(method).parameters) == list(
                inspect.signature(getattr(timing.Meter, name)).parameters
            )


def test_sets_turn_the_cache_over():
    for size in (1, 999, 1000, 10**9):
        assert (timing.sets_needed(size, 1000) - 1) * size > timing.L2_TURNOVER * 1000


def test_everybody_takes_turns():
    order = []
    taken = timing.in_turns({name: lambda name=name: order.append(name) or 1.0 for name in "abc"}, seconds=0)
    assert order[:6] == list("abccba")
    assert {name: len(samples) for name, samples in taken.items()} == dict.fromkeys("abc", timing.LEAST_ROUNDS)


def test_poison_reaches_the_first_result():
    results = []

    def call():
        results.append(torch.ones(3))
        return results[-1]

    assert torch.equal(timing.poisoned(call), torch.ones(3))
    assert results[0].isnan().all()
