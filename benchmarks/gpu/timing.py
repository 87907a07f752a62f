"""Timing one row: results compared first, then both sides in turns, caches cold and warm.

* GPU time: events around a batch of calls, per call. A delay enqueued first lets the host run ahead, so that the card
  never waits for it; what waits for the card inside (torchvision's NMS) is measured with that wait.
* busy time: for rivals that wait like that, what the profiler says of one call with cold caches: kernels, copies and
  fills alone, without the gaps in which the card had nothing to do.
* wall time: host clock from the call until the card is idle again, once.
* graph: events around the replay of a graph that holds the batch, per call.
* cold: every call has inputs that more than three times L2 of other inputs came after. Where 64 sets of inputs are not
  enough for that, one call at a time is timed and three times L2 written before each.
* warm: the same inputs again and again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType

from .arithmetic import busy_seconds, finish_row
from .case import Case, Inputs, size_of, tensors_of

L2_TURNOVER = 3
MOST_SETS = 64
LEAST_ROUNDS, MOST_ROUNDS = 5, 200
BUSY_SAMPLES = 7
BY_EVENTS = "theirs: nothing from the profiler, so its GPU time is by events, host gaps included"
Call = Callable[[], Any]


class Meter:
    """The clocks of one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self._scratch = torch.empty(L2_TURNOVER * self.l2_bytes, dtype=torch.uint8, device=device)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cycles_per_second = self._measure_delay()

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)

    def flush(self) -> None:
        """Puts other data in all of L2."""
        self._scratch.fill_(1)

    def gpu(self, calls: Sequence[Call], head_start: float = 0.0) -> float:
        """Seconds of the card per call; ``head_start`` seconds of delay go first."""
        self._delay(head_start)
        self._start.record()
        for call in calls:
            call()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) * 1e-3 / len(calls)

    def busy(self, call: Call) -> float | None:
        """Seconds of one call during which the card worked; None where the profiler may not or cannot tell."""
        self.wait()
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                call()
                self.wait()
            events = profiler.events()
        except Exception:  # whatever of the profiler's: the call has been made before
            return None
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in events
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation
        ]
        return busy_seconds(spans) if spans else None

    def wall(self, call: Call) -> float:
        """Seconds on the host until the card is idle."""
        self.wait()
        started = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - started

    def allocated(self) -> int:
        """Bytes in tensors."""
        return torch.cuda.memory_allocated(self.device)

    def peak(self, call: Call) -> int:
        """Most bytes in tensors while it ran."""
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device)

    def capture(self, calls: Sequence[Call]) -> Call:
        """A replay of ``calls``, results kept."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for call in calls[:1]:
                call()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = [call() for call in calls]

        def replay() -> list[Any]:
            graph.replay()
            return results

        return replay

    def _delay(self, seconds: float) -> None:
        if seconds > 0:
            torch.cuda._sleep(int(seconds * self._cycles_per_second))

    def _measure_delay(self) -> float:
        cycles = 10_000_000
        torch.cuda._sleep(cycles)
        self._start.record()
        torch.cuda._sleep(cycles)
        self._end.record()
        self._end.synchronize()
        return cycles / (self._start.elapsed_time(self._end) * 1e-3)


def poisoned(call: Call) -> Any:
    """The result of a second call, whose memory is likely that of the first, overwritten in between."""
    for tensor in tensors_of(call()):
        tensor.fill_(float("nan") if tensor.is_floating_point() else -77)
    return call()


def compare(case: Case, inputs: Inputs) -> str:
    """Runs ours and theirs, or the reference where there is no such thing, on poisoned memory; how they match.

    Raises:
        AssertionError: they do not.
    """
    rival = case.theirs or case.reference
    found, expected = poisoned(lambda: case.ours(*inputs)), poisoned(lambda: rival(*inputs))
    match = case.agree(found, expected)
    if case.exact and match != "equal":
        on_cpu = case.ours(*(tensor.cpu() for tensor in inputs))
        for one, other in zip(tensors_of(found), tensors_of(on_cpu), strict=True):
            assert torch.equal(one.cpu(), other), "ours on the card differs from ours on the CPU"
        match += "; ours equals ours on the CPU"
    return match


def sets_needed(bytes_per_set: int, l2_bytes: int) -> int:
    """Sets of inputs so that the others turn L2 over; more than ``MOST_SETS`` means that they cannot."""
    return L2_TURNOVER * l2_bytes // max(bytes_per_set, 1) + 2


def in_turns(samplers: dict[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """Samples of each, round by round, every other round backwards: all see the same drifts of clocks and load."""
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    deadline = time.perf_counter() + seconds
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        order = list(samplers) if done % 2 == 0 else list(reversed(samplers))
        for name in order:
            taken[name].append(samplers[name]())
    return taken


def measure(
    case: Case, meter: Meter, *, seed: int, seconds: float, launch_us: float, bytes_per_second: float
) -> dict[str, Any]:
    """One row, see ``finish_row``.

    Args:
        case: What to measure.
        meter: The device's clocks.
        seed: Of the first set of inputs; the others follow.
        seconds: Rough time to spend on sampling.
        launch_us, bytes_per_second: Ceilings, for the floor.

    Raises:
        AssertionError: Results do not match; nothing is timed then.
    """
    first = case.make(meter.device, seed)
    needed = sets_needed(size_of(first), meter.l2_bytes)
    rotates = needed <= MOST_SETS
    sets = [first] + [case.make(meter.device, seed + i) for i in range(1, needed if rotates else 4)]
    match = compare(case, first)
    result_bytes = case.least_bytes(first, case.ours(*first))

    notes = []
    samplers: dict[str, dict[str, Callable[[], float]]] = {"cold": {}, "warm": {}}
    for side, eager, captured in (
        ("theirs", case.theirs, case.theirs if case.theirs_in_graph else None),
        ("ours", case.ours, (case.captured or case.ours) if case.ours_in_graph else None),
    ):
        if eager is None:
            notes.append("theirs: torchvision has no such operator; results are compared with the reference's")
            continue
        calls = [lambda inputs=inputs, eager=eager: eager(*inputs) for inputs in sets]
        for call in calls[:3]:
            call()
        typical = min(meter.wall(calls[0]) for _ in range(3))
        samplers["cold"] |= _eager_samplers(side, calls, meter, typical, rotates)
        samplers["warm"] |= _eager_samplers(side, [calls[0]] * min(len(calls), 8), meter, typical, True)
        if captured is None:
            notes.append(f"{side}: waits for the card or the host, cannot be captured")
            continue
        to_capture = [lambda inputs=inputs, captured=captured: captured(*inputs) for inputs in sets]
        try:
            samplers["cold"] |= _graph_samplers(side, to_capture, meter, rotates)
            samplers["warm"] |= _graph_samplers(side, [to_capture[0]] * 8, meter, True)
        except RuntimeError as error:
            if side == "ours":
                raise
            notes.append(f"{side}: cannot be captured: {str(error).splitlines()[0]}")
    samples = {state: in_turns(contenders, seconds / 2) for state, contenders in samplers.items()}
    if case.theirs is not None and "theirs_graph" not in samples["cold"]:
        # Last, so that the profiler is not in the way of the clocks.
        samples["cold"]["theirs_busy"] = _busy_samples(case.theirs, sets, meter)
        notes += [] if samples["cold"]["theirs_busy"] else [BY_EVENTS]
    cold_by = f"rotating over {len(sets)} sets of inputs" if rotates else "writing 3 times L2 before each call"
    return finish_row(
        case.labels | {"match": match, "cold_by": cold_by, "notes": notes, "seed": seed},
        samples,
        least_bytes=result_bytes,
        pairs=case.pairs,
        launch_us=launch_us,
        bytes_per_second=bytes_per_second,
    )


def _busy_samples(call: Call, sets: list[Inputs], meter: Meter) -> list[float]:
    """Of calls with cold caches; none where the profiler says nothing."""
    taken = []
    for i in range(1 + BUSY_SAMPLES):  # a first profile may miss what ran while it was set up
        meter.flush()
        taken.append(meter.busy(functools.partial(call, *sets[i % len(sets)])))
    return [seconds for seconds in taken[1:] if seconds is not None]


def _eager_samplers(
    side: str, calls: list[Call], meter: Meter, typical: float, rotates: bool
) -> dict[str, Callable[[], float]]:
    turn = 0

    def next_call() -> Call:
        nonlocal turn
        turn += 1
        return calls[turn % len(calls)]

    def gpu() -> float:
        if rotates:
            return meter.gpu(calls, head_start=min(2 * typical * len(calls), 0.05))
        meter.flush()
        return meter.gpu([next_call()], head_start=min(2 * typical, 0.05))

    def wall() -> float:
        if not rotates:
            meter.flush()
        return meter.wall(next_call())

    return {f"{side}_gpu": gpu, f"{side}_wall": wall}


def _graph_samplers(side: str, calls: list[Call], meter: Meter, rotates: bool) -> dict[str, Callable[[], float]]:
    if rotates:
        replay = meter.capture(calls)
        return {f"{side}_graph": lambda: meter.gpu([replay], head_start=1e-4) / len(calls)}
    replay = meter.capture(calls[:1])

    def one() -> float:
        meter.flush()
        return meter.gpu([replay], head_start=1e-4)

    return {f"{side}_graph": one}
