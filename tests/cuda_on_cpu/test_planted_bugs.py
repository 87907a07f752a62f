"""Is the harness able to find anything? Every planted bug must be found, in the modes and words given here."""

from __future__ import annotations

import re

import pytest
from cuda_on_cpu.building import HERE, MODES, build, run, why_not

ORDER = r"differs from that in forward order"
RACE = r"ThreadSanitizer: data race"
DIVERGENT = r"(?s)divergent barrier.*planted_bugs\.cpp:\d+"
UNNAMED = r"mask does not name.*planted_bugs\.cpp:\d+"

# name -> mode -> what it must say. Where a mode is not listed it may find the bug or not.
FOUND = {
    "missing_syncthreads": {"tsan": RACE},
    "missing_syncwarp": {"tsan": RACE},
    "missing_second_syncthreads": {"plain": ORDER, "asan": ORDER, "tsan": RACE},
    "missing_threadfence": {"tsan": RACE},
    "static_shared_overflow": {"asan": r"AddressSanitizer: global-buffer-overflow"},
    "dynamic_shared_overflow": {"asan": r"AddressSanitizer: heap-buffer-overflow"},
    "global_overflow": {"asan": r"AddressSanitizer: heap-buffer-overflow"},
    "misaligned_pack": {"asan": r"runtime error: .*misaligned address"},
    "uninitialised_shared": {"plain": ORDER, "asan": ORDER, "tsan": ORDER},
    "unwritten_output": {"plain": ORDER, "asan": ORDER, "tsan": ORDER},
    "thread_order": {"plain": ORDER, "asan": ORDER, "tsan": ORDER},
    "block_order": {"plain": ORDER, "tsan": RACE},
    "block_race": {"tsan": RACE},
    "divergent_syncthreads": {"plain": DIVERGENT, "asan": DIVERGENT, "tsan": DIVERGENT},
    "return_before_barrier": {"plain": DIVERGENT, "asan": DIVERGENT, "tsan": DIVERGENT},
    "absent_lane": {"plain": DIVERGENT, "asan": DIVERGENT, "tsan": DIVERGENT},
    "unnamed_shuffle_source": {"plain": UNNAMED, "asan": UNNAMED, "tsan": UNNAMED},
    "int_overflow": {"asan": r"runtime error: signed integer overflow"},
    "float_to_int": {"asan": r"runtime error: .* is outside the range of representable values"},
}
# Their results are right in every order, so that only ThreadSanitizer stands between them and a card.
RIGHT_BY_CHANCE = ("missing_syncthreads", "missing_syncwarp", "missing_threadfence", "block_race")
SOURCE = HERE / "planted_bugs.cpp"

pytestmark = pytest.mark.xdist_group("planted_bugs")  # one process compiles the program


def run_cases(mode_name: str, *cases: str):
    mode = MODES[mode_name]
    if why_not(mode):
        pytest.skip(why_not(mode))
    return run(build(SOURCE, mode), mode, *cases)


def test_table_is_complete():
    cases = set(re.findall(r"^(?:CASE|PLANTED)\((\w+?)(?:_bug|_fixed)?[,)]", SOURCE.read_text(), re.MULTILINE))
    assert cases == set(FOUND)


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name in FOUND for mode in FOUND[name]])
def test_bug_is_found(name, mode):
    said = run_cases(mode, f"{name}_bug")
    assert said.returncode != 0
    assert re.search(FOUND[name][mode], said.stdout + said.stderr), said.stdout + said.stderr


@pytest.mark.parametrize("name", RIGHT_BY_CHANCE)
def test_result_is_right_by_chance(name):
    said = run_cases("plain", f"{name}_bug")
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("mode", MODES)
def test_corrected_twins_pass(mode):
    said = run_cases(mode, *(f"{name}_fixed" for name in FOUND))
    assert said.returncode == 0, said.stdout + said.stderr
