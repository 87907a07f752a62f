"""Command line and stages of the GPU acceptance, as far as they go without a card."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import gpu_acceptance
import pytest
import support
import torch
from gpu import graphs, report, stages
from host_meter import HostMeter
from torch.utils._python_dispatch import TorchDispatchMode

import fasterrcnn
from fasterrcnn.build import SYSTEMS
from fasterrcnn_ops import _library

_library.load()
ROOT = Path(__file__).resolve().parents[2]
STAGES = ("build", "tests", "sanitizer", "ceilings", "operators", "models", "compiled", "graphs", "goals")


@pytest.fixture
def settings(tmp_path) -> stages.Settings:
    return stages.Settings(out=tmp_path, card="A Card", limit=60)


@pytest.fixture
def pretended_card(monkeypatch) -> None:
    monkeypatch.setattr(gpu_acceptance, "card_name", lambda: ("A Card", ""))


def returning(code: int, content: dict):
    return lambda settings: (code, content | {"limit": settings.limit, "seconds_a_row": settings.seconds})


# --- command line ----------------------------------------------------------------------------------------------------


def test_stage_list():
    assert tuple(stages.STAGES) == STAGES
    assert set(gpu_acceptance.SHARES) == set(STAGES)
    for stage in (*STAGES, "all"):
        assert f"gpu_acceptance.py {stage} " in gpu_acceptance.__doc__


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("stage", [*STAGES[:-1], "all"])
def test_without_a_card_every_stage_says_so(stage, tmp_path, capsys):
    assert gpu_acceptance.main([stage, "--out", str(tmp_path)]) == 2
    assert f"{stage}: no CUDA device: torch {torch.__version__} sees no" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_process_exits_with_2_without_a_card(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_acceptance.py"), "ceilings", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["fly"], ["build", "--limit", "soon"]),
        *(["all", "--stages", "build,fly"], ["all", "--stages", ""], ["build", "--stages", "build"]),
    ],
)
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu_acceptance.main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.usefixtures("pretended_card")
@pytest.mark.parametrize("code", [0, 1, 3])
def test_exit_code_and_file_tell_the_same(code, tmp_path, monkeypatch):
    monkeypatch.setitem(stages.STAGES, "tests", returning(code, {"found": 1}))
    arguments = ["tests", "--out", str(tmp_path), "--limit", "9", "--seconds", "2", "--seed", "4", "--commit", "abc"]
    assert gpu_acceptance.main(arguments) == code
    saved = report.load(tmp_path / "gpu_a_card_checks.json")["tests"]
    assert (saved["exit"], saved["found"], saved["limit"], saved["seconds_a_row"]) == (code, 1, 9.0, 2.0)
    assert (saved["stage"], saved["seed"], saved["facts"]["commit"]) == ("tests", 4, "abc")
    assert saved["facts"]["torch"]


@pytest.mark.usefixtures("pretended_card")
def test_seeds_are_fresh_unless_given(tmp_path, monkeypatch):
    monkeypatch.setitem(stages.STAGES, "tests", returning(0, {}))
    seeds = set()
    for _ in range(3):
        gpu_acceptance.main(["tests", "--out", str(tmp_path)])
        seeds.add(report.load(tmp_path / "gpu_a_card_checks.json")["tests"]["seed"])
    assert len(seeds) == 3


# --- running programs ------------------------------------------------------------------------------------------------


def test_run_keeps_output_and_code(tmp_path):
    script = "import os, sys; print(os.environ['WORD'], os.getcwd()); print('bad', file=sys.stderr); sys.exit(5)"
    done = stages.run([sys.executable, "-c", script], tmp_path, 60, WORD="good")
    assert done.code == 5
    assert "bad" in done.output
    assert f"good {tmp_path}" in done.output
    assert done.facts()["exit"] == 5


def test_run_ends_a_program_and_its_children_when_time_is_up(tmp_path):
    started = time.monotonic()
    script = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    done = stages.run([sys.executable, "-c", script], tmp_path, 1)
    assert done.code is None
    assert done.output == "begun\n\nstopped after 1 s"
    assert time.monotonic() - started < 30


def test_results_do_not_name_the_machines_folders():
    said = f"{ROOT}/tests/a.py ../..{ROOT}/tests/b.py:3 {ROOT}: {sys.prefix}/bin/x /other"
    assert stages.Run(0, said, 1.0).facts()["output"] == "./tests/a.py ./tests/b.py:3 .: <python>/bin/x /other"


def test_junit_counts():
    junit = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="3"/></testsuites>'
    assert stages.test_counts(junit) == {"passed": 4, "failed": 2, "skipped": 3}


def test_operators_without_cuda_kernel_are_listed():
    """Of this build: all of them, or none."""
    done = support.run_python("-c", stages.LIST_MISSING)
    assert done.returncode == 0, done.stderr
    has_cuda = torch._C._dispatch_has_kernel_for_dispatch_key("fasterrcnn_ops::nms", "CUDA")
    assert done.stdout.strip() == ("[]" if has_cuda else str(list(stages.OPERATORS)).replace("'", '"'))


def test_every_operator_is_known():
    defined = {
        name.removeprefix("fasterrcnn_ops::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("fasterrcnn_ops::") and "." not in name
    }
    assert set(stages.OPERATORS) == defined


# --- stages ----------------------------------------------------------------------------------------------------------


def test_failed_build_is_reported(settings, monkeypatch):
    monkeypatch.setattr(stages, "run", lambda *_, **__: stages.Run(1, "no compiler", 2.0))
    code, content = stages.build(settings)
    assert code == stages.FAILED
    assert content["install"] == {"exit": 1, "seconds": 2.0, "output": "no compiler"}


@pytest.mark.parametrize(("missing", "code"), [("[]", stages.OK), ('["nms"]', stages.FAILED)])
def test_build_wants_every_operator(settings, monkeypatch, missing, code):
    monkeypatch.setattr(stages, "run", lambda *_, **__: stages.Run(0, "noise\n" + missing, 2.0))
    assert stages.build(settings)[0] == code


def test_build_keeps_time_for_its_checks(settings, monkeypatch):
    """However long pip takes, all three end within the limit."""
    clock, limits = [settings.began], []

    def run(command, cwd, limit, **_):
        limits.append(limit)
        clock[0] += limit
        return stages.Run(0, "[]", limit)

    monkeypatch.setattr(stages, "run", run)
    monkeypatch.setattr(stages.time, "monotonic", lambda: clock[0])
    assert stages.build(settings)[0] == stages.OK
    assert limits == pytest.approx([60 - stages.CHECKS, stages.CHECKS / 2, stages.CHECKS / 2])


@pytest.mark.parametrize("there", [True, False])
def test_groups_of_tests_are_kept_together(there, settings, monkeypatch):
    commands = []
    monkeypatch.setattr(stages, "run", lambda command, *_: commands.append(command) or stages.Run(0, "", 1.0))
    monkeypatch.setattr(stages.importlib.util, "find_spec", lambda name: there or None)
    stages.tests(settings)
    assert ["--dist loadgroup" in " ".join(command) for command in commands] == [there, there]


def test_tests_that_all_skip_do_not_pass(settings, monkeypatch):
    def run(command, cwd, limit, **_):
        Path(command[command.index("--junitxml") + 1]).write_text('<testsuite tests="3" skipped="3"/>')
        return stages.Run(0, "3 skipped", 1.0)

    monkeypatch.setattr(stages, "run", run)
    code, content = stages.tests(settings)
    assert code == stages.FAILED
    assert content["ops"]["counts"] == {"passed": 0, "failed": 0, "skipped": 3}


def sanitizer_with(monkeypatch, run) -> tuple[int, dict]:
    monkeypatch.setattr(stages, "find_sanitizer", lambda: "compute-sanitizer")
    monkeypatch.setattr(stages, "run", run)
    return stages.sanitizer(stages.Settings(out=Path(), card="A Card"))


def test_missing_sanitizer_is_said(settings, monkeypatch):
    monkeypatch.setattr(stages, "find_sanitizer", lambda: None)
    code, content = stages.sanitizer(settings)
    assert (code, content["unavailable"]) == (stages.UNAVAILABLE, "compute-sanitizer is not installed")


def test_refusing_machine_is_said(monkeypatch):
    """Under the tool nothing runs, without it all is well."""

    def run(command, cwd, limit, **_):
        return stages.Run(1, "Device not supported\n", 1) if command[0] == "compute-sanitizer" else stages.Run(0, "", 1)

    code, content = sanitizer_with(monkeypatch, run)
    assert code == stages.UNAVAILABLE
    assert content["unavailable"].endswith("refuses this machine: Device not supported")


def test_broken_machine_is_not_the_sanitizers_fault(monkeypatch):
    assert sanitizer_with(monkeypatch, lambda *_, **__: stages.Run(1, "broken", 1.0))[0] == stages.FAILED


@pytest.mark.parametrize(("exit_code", "expected"), [(0, stages.OK), (86, stages.FAILED), (None, stages.FAILED)])
def test_each_tool_is_asked(monkeypatch, exit_code, expected):
    def run(command, cwd, limit, **environment):
        assert environment == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        racing = "racecheck" in command
        return stages.Run(exit_code if racing else 0, "========= ERROR SUMMARY: 0 errors\n", 1.0)

    code, content = sanitizer_with(monkeypatch, run)
    assert code == expected
    assert set(stages.SANITIZERS) < set(content)
    assert content["memcheck"]["summary"] == "ERROR SUMMARY: 0 errors"


def test_ceilings_compile(tmp_path):
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    source = ROOT / "benchmarks" / "gpu" / "ceilings.cu"
    command = [nvcc, "-std=c++17", "-Werror", "all-warnings", "-arch=sm_90", str(source), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ceilings_are_read(settings, monkeypatch):
    monkeypatch.setattr(stages.shutil, "which", lambda name: name)
    monkeypatch.setattr(stages, "run", lambda *_, **__: stages.Run(0, '{"l2_bytes": 7}', 1.0))
    assert stages.ceilings(settings) == (stages.OK, {"ceilings": {"l2_bytes": 7}})


@pytest.mark.parametrize("stage", ["operators", "models", "compiled"])
def test_rivals_need_torchvision(stage, settings, monkeypatch):
    monkeypatch.setattr(stages.importlib.util, "find_spec", lambda name: None)
    code, content = stages.STAGES[stage](settings)
    assert code == stages.UNAVAILABLE
    assert "torchvision" in content["unavailable"]


class Called(TorchDispatchMode):
    """The names of our operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fasterrcnn_ops":
            self.names.add(func._schema.name.removeprefix("fasterrcnn_ops::"))
        return func(*args, **(kwargs or {}))


def test_the_sanitizers_calls_run():
    """Here on the CPU against itself: the calls and their arguments are good, and every kernel's operator is called."""
    spec = stages.importlib.util.spec_from_file_location("sanitizer_calls", stages.HERE / "sanitizer_calls.py")
    module = stages.importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with Called() as called:
        module.operators(torch.device("cpu"))
    assert called.names >= set(stages.OPERATORS)


# --- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:CudaGraphed:RuntimeWarning")
def test_a_row_of_the_graphs_stage():
    """On the CPU, where both sides are plain calls: in turns, medians, results compared."""
    model = fasterrcnn.build("resnet50_c4", num_classes=3, backbone="tiny", min_size=None, max_size=None).eval()
    taken = []

    def wall(call):
        call()
        taken.append(len(taken) + 1.0)
        return taken[-1]

    row = graphs.measure(model, (1, 64, 64), wall, rounds=5)
    assert (row["plain_ms"], row["graph_ms"]) == (5000.0, 6000.0)


def graph_rows(folder, **settings) -> tuple[int, dict]:
    asked = stages.Settings(out=folder, card="A Card", commit="abc", **settings)
    options = {"backbone": "tiny", "min_size": None, "max_size": None}
    return graphs.measure_systems({"resnet50_c4": (1, 64, 64)}, HostMeter(), asked, **options)


@pytest.mark.filterwarnings("ignore:CudaGraphed:RuntimeWarning")
def test_rows_of_the_graphs_stage_are_saved_and_picked(tmp_path, capsys):
    assert graph_rows(tmp_path, only="xyz")[0] == stages.NOTHING_OF_THAT_NAME
    assert graph_rows(tmp_path, only="bfloat16", limit=0.0)[0] == stages.FAILED
    code, content = graph_rows(tmp_path)
    assert (code, len(content["rows"])) == (stages.OK, 2)
    assert report.load(tmp_path / "gpu_a_card_graphs.json")["rows"] == content["rows"]
    assert content["rows"][0]["name"] == "resnet50_c4 1x64x64 float32"
    graph_rows(tmp_path)
    assert capsys.readouterr().out.count("measured earlier") == 2


def test_graphs_are_measured_at_multiples_of_the_stride():
    assert set(graphs.SHAPES) <= set(SYSTEMS)
    assert all(side % 16 == 0 for shape in graphs.SHAPES.values() for side in shape[1:])
