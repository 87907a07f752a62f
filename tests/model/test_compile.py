"""forward_padded as one graph: compiled whole, exported strictly, saved and loaded where only the operators are."""

from __future__ import annotations

from pathlib import Path

import pytest
import support
import torch
from padded_cases import BATCHES, CASES, assert_detects, exported, padded_batch, tiny
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

# Run in a fresh interpreter: loads what the arguments after the first name, and compares with what the first has.
LOAD = """
import sys
import torch
import fasterrcnn_ops.torch_ops

torch.set_num_threads(1)
expected = torch.load(sys.argv[1])
for path in sys.argv[2:]:
    module = torch.export.load(path).module()
    for inputs, outputs in expected[path]:
        with torch.no_grad():
            for ours, theirs in zip(module(*inputs), outputs, strict=True):
                torch.testing.assert_close(ours, theirs)
assert "fasterrcnn" not in sys.modules
print("the same")
"""


def reads(graph: torch.fx.Graph) -> list[str]:
    """Nodes whose value or shape hangs on data, which fullgraph and strict export alone do not forbid."""
    values = ((node, node.meta.get("example_value", node.meta.get("val"))) for node in graph.nodes)
    return [str(node.target) for node, value in values if value is not None and free_unbacked_symbols(value)]


def check_compiled(model, backend: str) -> None:
    """Another number and size of images is no reason to compile again; torch treats a single image apart, once.

    (With two or three images first, torch takes their number and the 2 columns of sizes or the 3 channels for one.)
    """
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph.graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(model.forward_padded, fullgraph=True, dynamic=True, backend=keep)
    single = padded_batch([(64, 100)], 64, 112)
    for first, second in ((BATCHES[1], BATCHES[0]), (BATCHES[2], single)):
        with torch.no_grad():
            assert_detects(compiled(*first), model.forward_padded(*first))
            with torch._dynamo.config.patch(error_on_recompile=True):
                assert_detects(compiled(*second), model.forward_padded(*second))
    assert [reads(graph) for graph in graphs] == [[]] * len(graphs)


def test_one_graph_serves_every_batch_and_size():
    check_compiled(tiny("classic_vgg16"), "eager")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[1:])
def test_one_graph_of_every_system(case):
    check_compiled(tiny(case), "eager")


@pytest.mark.slow
def test_inductor():
    check_compiled(tiny("classic_vgg16"), "inductor")


def test_a_read_would_be_noticed():
    """Reading back no longer breaks a graph: it is a node of it."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph.graph)
        return graph

    def crop(images, sizes):
        return images[:, :, : int(sizes.max())]

    torch._dynamo.reset()
    torch.compile(crop, fullgraph=True, dynamic=True, backend=keep)(*BATCHES[0])
    assert reads(graphs[0])


@pytest.mark.parametrize("cases", [CASES[:1], pytest.param(CASES[1:], marks=pytest.mark.slow)], ids=["one", "rest"])
def test_programs_run_where_only_the_operators_are(cases, tmp_path: Path):
    """Systems exported strictly for any number and size of images, saved, and run in another process."""
    expected = {}
    for case in cases:
        path = str(tmp_path / f"{case}.pt2")
        program = exported(case)
        assert reads(program.graph) == []
        assert not [node for node in program.graph.nodes if "higher_order" in str(node.target)]
        torch.export.save(program, path)
        model = tiny(case)
        with torch.no_grad():
            expected[path] = [(batch, tuple(model.forward_padded(*batch))) for batch in BATCHES]
    torch.save(expected, tmp_path / "expected.pt")
    done = support.run_python("-c", LOAD, str(tmp_path / "expected.pt"), *expected)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same\n"
