"""The training step reads nothing back to the host, and compiles into one graph."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from padded_batches import COUNTS, SYSTEMS, batch, tiny
from torch.utils._python_dispatch import TorchDispatchMode


class NoReadBack(TorchDispatchMode):
    """Refuses what would make a host wait for a device, shapes that depend on values, and tensors of Python numbers."""

    FORBIDDEN = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "is_nonzero",
        "equal.default",
        "bincount",
        "lift_fresh",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        assert not any(forbidden in name for forbidden in self.FORBIDDEN), name
        indices = args[1] if name.startswith("aten.index.") else ()
        assert not any(index is not None and index.dtype == torch.bool for index in indices), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("counts", [COUNTS, (0, 0)], ids=["some", "none"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_nothing_is_read_back(name, counts):
    model, inputs = tiny(name), batch(counts)
    with NoReadBack():
        sum(model.losses_padded(*inputs).values()).backward()


@pytest.mark.parametrize(
    "expression",
    [lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x * torch.tensor([1.0, 2.0, 3.0])],
)
def test_the_guard_guards(expression):
    with pytest.raises(AssertionError), NoReadBack():
        expression(torch.ones(3))


def compiled_and_eager(name: str, backend: str) -> None:
    """Losses and gradients of the compiled step are those of the plain one; another batch needs nothing new."""
    model = tiny(name, rpn_samples=32)
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = torch.compile(model.losses_padded, fullgraph=True, backend=backend)
    for inputs in (batch(), batch((1, 2, 3))):
        expected, found = model.losses_padded(*inputs), step(*inputs)
        assert found.keys() == expected.keys()
        for key, loss in found.items():
            torch.testing.assert_close(loss, expected[key], rtol=1e-4, atol=1e-5)
        theirs = torch.autograd.grad(sum(expected.values()), parameters, allow_unused=True)
        ours = torch.autograd.grad(sum(found.values()), parameters, allow_unused=True)
        for mine, their in zip(ours, theirs, strict=True):
            assert (mine is None) == (their is None)
            if mine is not None:
                torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SYSTEMS)
def test_compiles_into_one_graph(name):
    torch._dynamo.reset()
    compiled_and_eager(name, "eager")


def test_compiles_with_its_backward():
    torch._dynamo.reset()
    compiled_and_eager("resnet50_c4", "aot_eager")


def test_the_documented_step(monkeypatch):
    """docs/training.md's; without the minutes that machine code takes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    page = Path(__file__).parents[2] / "docs" / "training.md"
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "losses_padded" in block
    )
    torch._dynamo.reset()
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["losses"]) == 4
    assert all(loss.isfinite() for loss in names["losses"].values())
    assert all(p.grad is not None for p in names["model"].parameters() if p.requires_grad)


@pytest.mark.slow
def test_compiles_to_machine_code():
    torch._dynamo.reset()
    compiled_and_eager("classic_vgg16", "inductor")
