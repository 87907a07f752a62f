"""tools/kernel_sass.py on listings written by hand: it must see what it is there to see. Needs no toolkit."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "kernel_sass.py"

LISTING = """
	.target	sm_90
//--------------------- .nv.info.one --------------------------
	.section	.nv.info.one,"",@"SHT_CUDA_INFO"
        /*0000*/ 	.byte	0x04, 0x2f, 0x08, 0x00
//--------------------- .text.one --------------------------
	.section	.text.one,"ax",@progbits
one:
.text.one:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
.L_x_0:
        /*0020*/               @P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x10] ;
        /*0030*/              @!P1 STG.E.U16 desc[UR4][R2.64], R4 ;
        /*0040*/             @!UP0 STL.64 [R1], R4 ;
        /*10050*/                  EXIT ;
//--------------------- .text.two --------------------------
	.section	.text.two,"ax",@progbits
two:
        /*0000*/                   EXIT ;
	.section	.nv.shared.two,"aw",@nobits
        /*0000*/                   LDL R0, [R1] ;
"""


@pytest.fixture(scope="module")
def sass():
    if not TOOL.exists():
        pytest.skip("no tools/: not a source tree")
    spec = importlib.util.spec_from_file_location("kernel_sass", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_opcodes_of_a_listing(sass):
    one = {"LDC": 1, "LDG.E.128.CONSTANT": 2, "STG.E.U16": 1, "STL.64": 1, "EXIT": 1}
    assert sass.opcodes_in(LISTING) == {"one": Counter(one), "two": Counter(EXIT=1)}


GOOD = Counter({"LDG.E.128.CONSTANT": 2, "LDG.E": 5, "STG.E.128": 1, "LDS.64": 3, "EXIT": 1})


def complaints(sass, monkeypatch, functions) -> list[str]:
    wide = {"pool<float, 4": sass.Wide((128,), (128,), every_store=True)}
    monkeypatch.setitem(sass.WIDE_ACCESSES, "pool_cuda", wide)
    return sass.failures("pool_cuda", "90", functions)


@pytest.mark.parametrize("rest", [">", ", frcnn::Map<float> >"])
def test_nothing_to_complain_of(sass, monkeypatch, rest):
    functions = {
        f"frcnn::pool<float, 4{rest}": GOOD,
        "frcnn::pool<float, 1>": Counter({"LDG.E": 1, "STG.E": 1}),  # not in the table
        "cub::sort<int>": Counter({"LDL": 4}),  # not ours
    }
    assert complaints(sass, monkeypatch, functions) == []


@pytest.mark.parametrize(
    ("instead", "complaint"),
    [
        ({"LDL.LU": 1, "STL.128": 2}, "frcnn::pool<float, 4> on sm_90 accesses local memory, 3 instructions"),
        ({"LDG.E.128.CONSTANT": 0}, "frcnn::pool<float, 4> on sm_90 has no load of 128 bits, only [32]"),
        ({"STG.E": 4}, "frcnn::pool<float, 4> on sm_90 has stores of 32 bits, designed are 128"),
        ({"STG.E.U8": 1}, "frcnn::pool<float, 4> on sm_90 has stores of 8 bits, designed are 128"),
    ],
)
def test_planted_flaw(sass, monkeypatch, instead, complaint):
    opcodes = +Counter({**GOOD, **instead})
    assert complaints(sass, monkeypatch, {"frcnn::pool<float, 4>": opcodes}) == [complaint]


def test_every_instance_counts(sass, monkeypatch):
    narrow = Counter({"LDG.E": 1, "STG.E": 1})
    functions = {"frcnn::pool<float, 4, frcnn::A>": GOOD, "frcnn::pool<float, 4, frcnn::B>": narrow}
    said = complaints(sass, monkeypatch, functions)
    assert len(said) == 3
    assert all(line.startswith("frcnn::pool<float, 4, frcnn::B>") for line in said)


@pytest.mark.parametrize("name", ["frcnn::pool<float, 40>", "frcnn::pooling<float, 4>", "frcnn::pool<double, 4>"])
def test_a_kernel_that_is_not_there(sass, monkeypatch, name):
    said = complaints(sass, monkeypatch, {name: GOOD})
    assert said == ["pool_cuda for sm_90 has no pool<float, 4…, which WIDE_ACCESSES names"]


@pytest.mark.parametrize("functions", [{}, {"frcnn::pool<float, 4>": Counter()}, {"cub::sort<int>": GOOD}])
def test_nothing_read(sass, monkeypatch, functions):
    assert "has the output of nvdisasm changed?" in complaints(sass, monkeypatch, functions)[0]


def test_the_table_names_files_that_exist(sass):
    assert set(sass.WIDE_ACCESSES) <= {file.stem for file in (ROOT / "csrc").rglob("*_cuda.cu")}


def test_no_disassembler(sass, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SystemExit, match="pip install nvidia-cuda-nvdisasm"):
        sass.find_nvdisasm(tmp_path)
    package = tmp_path / "nvidia" / "cu13" / "bin"
    package.mkdir(parents=True)
    (package / "nvdisasm").touch()
    assert sass.find_nvdisasm(tmp_path) == package / "nvdisasm"
