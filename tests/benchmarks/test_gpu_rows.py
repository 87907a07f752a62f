"""Rows of the GPU acceptance: saved one by one, and not measured twice."""

from __future__ import annotations

import pytest
from gpu import report, rows
from gpu.rows import NOT_REACHED, Task
from gpu.stages import FAILED, OK, Settings


class Bench:
    """Tasks that count how often they are measured; those in ``broken`` fail."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.measured: list[str] = []
        self.broken: set[str] = set()

    def task(self, name: str, needs: float = 0.0) -> Task:
        def measure(number: int) -> dict:
            self.measured.append(name)
            if name in self.broken:
                raise AssertionError("results differ")
            return {"match": "equal", "number": number}

        return Task(name, {"op": name[0]}, measure, needs)

    def run(self, *names: str, common=None, commit: str = "abc", **settings):
        tasks = [self.task(name) for name in names]
        every = Settings(out=self.folder, card="A Card", commit=commit, **settings)
        return rows.measure_all("operators", tasks, every, common or {})

    def saved(self) -> dict:
        return report.load(self.folder / "gpu_a_card_operators.json")


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def test_what_is_measured_is_kept(bench, capsys):
    assert bench.run("a1", "a2", only="1")[0] == OK
    assert bench.run("a1", "a2")[0] == OK
    assert bench.measured == ["a1", "a2"]
    expected = [{"name": name, "op": "a", "match": "equal", "number": i} for i, name in enumerate(("a1", "a2"))]
    assert bench.saved()["rows"] == expected
    assert "[1/2, " in capsys.readouterr().out


def test_again(bench):
    bench.run("a1")
    bench.run("a1", again=True)
    assert bench.measured == ["a1", "a1"]


def test_a_failed_row_is_tried_again_and_others_go_on(bench):
    bench.broken = {"a1"}
    assert bench.run("a1", "a2")[0] == FAILED
    assert bench.saved()["rows"][0]["error"] == "AssertionError: results differ"
    bench.broken = set()
    assert bench.run("a1", "a2")[0] == OK
    assert bench.measured == ["a1", "a2", "a1"]


def test_order_is_that_of_the_table(bench):
    bench.run("b", "a", only="a")
    bench.run("b", "a")
    assert [row["name"] for row in bench.saved()["rows"]] == ["b", "a"]


@pytest.mark.parametrize("second", [{"commit": "abd"}, {"common": {"floors_from": "elsewhere"}}])
def test_rows_of_other_code_are_dropped(bench, second):
    bench.run("a1", "a2", only="1")
    bench.run("a1", "a2", only="2", **second)
    assert [row["name"] for row in bench.saved()["rows"]] == ["a2"]


@pytest.mark.parametrize("commit", ["unknown", "abc-dirty"])
def test_code_that_cannot_be_told_is_measured_anew(bench, commit):
    bench.run("a1", commit=commit)
    bench.run("a1", commit=commit)
    assert bench.measured == ["a1", "a1"]


def test_rows_out_of_time_are_named_and_done_next_time(bench):
    code, content = bench.run("a1", limit=0.0)
    assert (code, content["rows"][0]["error"]) == (FAILED, NOT_REACHED)
    assert bench.run("a1")[0] == OK


def test_a_long_row_is_not_begun_late(bench):
    tasks = [bench.task("a1"), bench.task("a2", needs=1e6)]
    settings = Settings(out=bench.folder, card="A Card", commit="abc")
    code, content = rows.measure_all("operators", tasks, settings, {})
    assert (code, bench.measured) == (FAILED, ["a1"])
    assert content["rows"][1]["error"] == NOT_REACHED


def test_time_out_of_a_repetition_keeps_the_row(bench):
    bench.run("a1")
    assert bench.run("a1", again=True, limit=0.0)[0] == OK
    assert bench.saved()["rows"][0]["match"] == "equal"


def test_nothing_of_that_name(bench):
    code, content = bench.run("a1", only="zebra")
    assert code == FAILED
    assert "no row has 'zebra' in its name:\n  a1" in content["error"]
