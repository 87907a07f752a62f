"""tools/check_cuda_kernels.py must see what it is there to see. Needs nvcc, no card."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "check_cuda_kernels.py"

KERNEL = """
namespace frcnn {{
namespace {{
__global__ void __launch_bounds__(1024) planted(const float* in, float* out, int n) {{
{body}
}}
}}  // namespace
void launch(const float* in, float* out, int n) {{ planted<<<1, 1024>>>(in, out, n); }}
}}  // namespace frcnn
"""
CLEAN = """
  __shared__ float values[1024];
  values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = values[n - 1 - threadIdx.x];"""
WARNS = CLEAN + "\n  int unused;"
STACK = """
  float values[64];
  for (int i = 0; i < 64; ++i) values[i] = in[i * n + threadIdx.x];
  for (int i = 0; i < n; ++i) values[(i * n) % 64] += 1;
  out[threadIdx.x] = values[n % 64];"""
# 100 values alive at once, where 1024 threads leave 64 registers each.
SPILLS = """
  float values[100];
#pragma unroll
  for (int i = 0; i < 100; ++i) values[i] = in[i * n + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 100; ++i) out[i * n + threadIdx.x] = values[i] * values[(i * 37 + 11) % 100];"""


@pytest.fixture(scope="module")
def tool():
    if not TOOL.exists():
        pytest.skip("no tools/: not a source tree")
    spec = importlib.util.spec_from_file_location("check_cuda_kernels", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOL.parent))  # for what it imports from there
        spec.loader.exec_module(module)
    try:
        module.find_cuda_home()
    except SystemExit as why:
        pytest.skip(str(why))
    return module


def check(tool, tmp_path, monkeypatch, capsys, body: str, *options: str) -> tuple[int, str]:
    file = tmp_path / "planted_cuda.cu"
    file.write_text(KERNEL.format(body=body))
    monkeypatch.setattr(sys, "argv", ["check_cuda_kernels.py", "--arch", "90", *options, str(file)])
    status = tool.main()
    said = capsys.readouterr()
    return status, said.out + said.err


def test_clean_kernel(tool, tmp_path, monkeypatch, capsys):
    status, said = check(tool, tmp_path, monkeypatch, capsys, CLEAN)
    assert status == 0
    assert re.search(r"frcnn::planted +90 +\d+ +4096 +0 +0\n", said), said


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param(WARNS, r"planted_cuda.cu for sm_90:[^$]*unused", id="warning"),
        pytest.param(STACK, r"frcnn::planted on sm_90 has a stack frame of \d+ bytes", id="stack"),
        pytest.param(SPILLS, r"frcnn::planted on sm_90 spills \d+ bytes", id="spills"),
    ],
)
def test_planted_flaw(tool, tmp_path, monkeypatch, capsys, body, complaint):
    status, said = check(tool, tmp_path, monkeypatch, capsys, body)
    assert status == 1
    assert re.search(complaint, said), said


@pytest.fixture
def needs_nvdisasm(tool):
    try:
        tool.kernel_sass.find_nvdisasm(tool.find_cuda_home())
    except SystemExit as why:
        pytest.skip(str(why))


def test_local_memory_in_machine_code(needs_nvdisasm, tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(tool.EXPLAINED_STACK, "planted", "so that the machine code alone is left to complain")
    assert check(tool, tmp_path, monkeypatch, capsys, STACK)[0] == 0
    status, said = check(tool, tmp_path, monkeypatch, capsys, STACK, "--sass")
    assert status == 1
    assert re.search(r"frcnn::planted on sm_90 accesses local memory, \d+ instructions", said), said


WIDE = "  reinterpret_cast<float4*>(out)[threadIdx.x] = reinterpret_cast<const float4*>(in)[threadIdx.x];"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param(WIDE, None, id="wide"),
        pytest.param(CLEAN, r"frcnn::planted on sm_90 has no load of 128 bits, only \[32\]", id="narrow"),
    ],
)
def test_widths_in_machine_code(needs_nvdisasm, tool, tmp_path, monkeypatch, capsys, body, complaint):
    wide = {"planted": tool.kernel_sass.Wide((128,), (128,), every_store=True)}
    monkeypatch.setitem(tool.kernel_sass.WIDE_ACCESSES, "planted_cuda", wide)
    status, said = check(tool, tmp_path, monkeypatch, capsys, body, "--sass")
    assert status == (1 if complaint else 0), said
    assert complaint is None or re.search(complaint, said), said
