"""Detectors outside of eager mode, at length: compiled ahead of time, run from Python and from C++; at real size."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import full_size
import pytest
import torch
from padded_cases import BATCHES, assert_detects, export, exported, tiny
from torch.utils import cpp_extension

import fasterrcnn
from fasterrcnn_ops import _library

SOURCE = Path(__file__).parents[2] / "examples" / "aoti" / "detect.cpp"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs g++")
    path = tmp_path_factory.mktemp("aoti") / "detector.pt2"
    torch._inductor.aoti_compile_and_package(exported("classic_vgg16"), package_path=str(path))
    return path


def test_package_from_python(package):
    model, detector = tiny("classic_vgg16"), torch._inductor.aoti_load_package(str(package))
    for batch in BATCHES:
        with torch.no_grad():
            assert_detects(detector(*batch), model.forward_padded(*batch))


@pytest.mark.skipif(platform.system() != "Linux", reason="the program loads the operators by dlopen")
def test_package_from_cpp(package, tmp_path: Path):
    """A process without Python, in which nothing but libtorch and the operators' library is loaded."""
    program = tmp_path / "detect"
    folders = cpp_extension.library_paths()
    command = ["g++", "-std=c++20", "-O0", str(SOURCE), "-o", str(program), f"-D_GLIBCXX_USE_CXX11_ABI={_cxx11_abi()}"]
    command += [f"-I{folder}" for folder in cpp_extension.include_paths()]
    command += [flag for folder in folders for flag in (f"-L{folder}", f"-Wl,-rpath,{folder}")]
    command += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    subprocess.run(command, check=True)
    images, sizes = BATCHES[1]
    torch.save(images, tmp_path / "images.pt")
    torch.save(sizes, tmp_path / "sizes.pt")
    library = _library._find("_cpu")
    files = [str(tmp_path / name) for name in ("images.pt", "sizes.pt", "detections.pt")]
    done = subprocess.run([program, library, package, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = tiny("classic_vgg16").forward_padded(images, sizes)
    assert done.stdout == f"found {int(expected.count.sum())} objects in 4 images\n"
    assert_detects(torch.load(files[2]), expected)


def _cxx11_abi() -> int:
    return int(torch.compiled_with_cxx11_abi())


def test_export_at_real_size():
    """The program of the 600 × 800 detector, and the same program on another batch and size."""
    torch.manual_seed(0)
    model = fasterrcnn.build("classic_vgg16", num_classes=full_size.NUM_CLASSES, score_threshold=0.0).eval()
    height, width = full_size.SIZES["classic_vgg16"]
    sizes = torch.tensor([[height, width], [480, 640]])
    images = torch.rand(2, 3, height, width)
    program = export(model, (images, sizes)).module()
    with torch.no_grad():
        for batch in ((images, sizes), (images[1:, :, :480, :640], sizes[1:])):
            found, expected = program(*batch), model.forward_padded(*batch)
            assert_detects(found, expected)
            assert expected.count.min() > 0
