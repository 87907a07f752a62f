"""What torch.func and autocast need to know about an operator beyond its kernel: rules, and where they are registered.

torch's own ``register_autograd`` works with ``backward()`` and ``torch.autograd.grad``, also around ``torch.vmap``, but
raises inside ``torch.func.grad`` and its like. :func:`differentiable` registers the same two functions for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["differentiable", "differentiable_lists", "each_entry", "refuse_vmap", "register_autocast", "register_vmap"]

_library = torch.library.Library("fasterrcnn_ops", "FRAGMENT")  # registrations last as long as this object
_in_transform = torch._C._are_functorch_transforms_active


def differentiable(
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    vmap: Callable[..., tuple[Any, Any]] | None = None,
) -> Callable[..., Any]:
    """Registers the gradient of an operator and its rule for ``torch.vmap``.

    Args:
        name: The operator, such as ``"roi_align_forward"``; it takes and returns tensors, no lists of them (for those
            there is :func:`differentiable_lists`).
        backward, setup_context: As for ``torch.library.register_autograd``. Where ``backward`` calls an operator that
            is to be differentiated again, it calls what this function returned for that operator.
        vmap: As for ``torch.library.register_vmap``, with the operator to call in front. By default :func:`each_entry`.

    Returns:
        A function with the operator's arguments, which are positional: the operator, also inside ``torch.func.grad``,
        ``vjp``, ``jacrev``, in any nesting with ``torch.vmap``. Forward mode (``torch.func.jvp``) raises there.
    """
    operator = getattr(torch.ops.fasterrcnn_ops, name)
    torch.library.register_autograd(f"fasterrcnn_ops::{name}", backward, setup_context=setup_context)

    def call(*arguments):
        # Each level of transforms takes itself off and comes back here. torch.compile never sees one active.
        if not torch.compiler.is_dynamo_compiling() and _in_transform():
            return function.apply(*arguments)
        return operator(*arguments)

    rule = functools.partial(vmap or each_entry, call)
    methods = {"forward": call, "setup_context": setup_context, "backward": backward, "vmap": rule}
    function = type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in methods.items()})
    register_vmap(name, vmap)  # the operator called by its name, as compiled and exported programs do
    return call


def differentiable_lists(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None], *, returns_list: bool = False
) -> Callable[..., Any]:
    """:func:`differentiable` for an operator that takes, or (``returns_list``) returns, one list of tensors.

    torch.autograd.Function takes no lists: inside, they are laid out in a row. Its rule for vmap is :func:`each_entry`.
    """
    operator = getattr(torch.ops.fasterrcnn_ops, name)
    torch.library.register_autograd(f"fasterrcnn_ops::{name}", backward, setup_context=setup_context)
    register_vmap(name)

    def call(*arguments):
        if not torch.compiler.is_dynamo_compiling() and _in_transform():
            lengths = tuple(len(argument) if isinstance(argument, (list, tuple)) else None for argument in arguments)
            results = function.apply(lengths, *_in_a_row(arguments, lengths))
            return list(results) if returns_list else results
        return operator(*arguments)

    def forward(lengths, *row):
        results = call(*_as_lists(row, lengths))
        return tuple(results) if returns_list else results

    def setup_row(ctx, inputs, output):
        lengths, *row = inputs
        ctx.lengths = lengths
        setup_context(ctx, _as_lists(row, lengths), output)

    def backward_row(ctx, *grads):
        results = backward(ctx, list(grads) if returns_list else grads[0])
        return None, *_in_a_row(results, ctx.lengths)

    def vmap(info, in_dims, lengths, *row):
        return each_entry(functools.partial(forward, lengths), info, in_dims[1:], *row)

    methods = {"forward": forward, "setup_context": setup_row, "backward": backward_row, "vmap": vmap}
    function = type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in methods.items()})
    return call


def _in_a_row(arguments: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    """What stands in the lists as well; None in place of a list is as many."""
    row: list[Any] = []
    for argument, length in zip(arguments, lengths, strict=True):
        row += [argument] if length is None else [None] * length if argument is None else argument
    return row


def _as_lists(row: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    rest = iter(row)
    return [next(rest) if length is None else [next(rest) for _ in range(length)] for length in lengths]


def register_vmap(name: str, vmap: Callable[..., tuple[Any, Any]] | None = None) -> None:
    """Registers the rule for ``torch.vmap`` of an operator without gradient; ``vmap`` as in :func:`differentiable`."""
    operator = getattr(torch.ops.fasterrcnn_ops, name)
    torch.library.register_vmap(f"fasterrcnn_ops::{name}", functools.partial(vmap or each_entry, operator))


def each_entry(operator: Callable[..., Any], info, in_dims, *arguments) -> tuple[Any, Any]:
    """The vmap rule of operators that gain nothing by more: one call for each entry, the results stacked.

    Works where the shape of the results does not depend on data. Lists of tensors are allowed.

    Raises:
        ValueError: There is no entry, and so nothing to tell the shape of the results from.
    """
    if info.batch_size == 0:
        raise ValueError("torch.vmap: expected at least one entry, got none")
    results = [operator(*_entry(list(arguments), list(in_dims), index)) for index in range(info.batch_size)]
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results), 0
    columns = [torch.stack(column) for column in zip(*results, strict=True)]
    if isinstance(results[0], list):
        return columns, [0] * len(columns)
    return tuple(columns), (0,) * len(columns)


def _entry(argument: Any, dim: Any, index: int) -> Any:
    """What entry ``index`` sees: a slice of what is batched along ``dim``, and the rest as it is."""
    if isinstance(argument, (list, tuple)) and dim is not None:
        return [_entry(part, part_dim, index) for part, part_dim in zip(argument, dim, strict=True)]
    return argument if dim is None else argument.select(dim, index)


def refuse_vmap(name: str, advice: str) -> None:
    """``torch.vmap`` of this operator raises and says why, rather than where the sizes happen to differ."""

    def rule(operator, info, in_dims, *arguments):
        raise RuntimeError(f"{name} under torch.vmap: the size of its result depends on the data; {advice}")

    register_vmap(name, rule)


def register_autocast(name: str, cast: Callable[..., tuple[tuple, torch.dtype | None]]) -> None:
    """Registers what autocast on the CPU and on CUDA does before the operator.

    Without autocast none of this is reached. Most operators need no rule: they take half tensors beside float32 ones
    and compute in float32 whatever they are given.

    Args:
        name: The operator.
        cast: From its arguments to those it is to be called with, and the dtype of its result (None: as it comes).
    """
    operator = getattr(torch.ops.fasterrcnn_ops, name)
    for device_type in ("cpu", "cuda"):

        def rule(*arguments, device_type=device_type):
            arguments, dtype = cast(*arguments)
            with torch.autocast(device_type, enabled=False):
                result = operator(*arguments)
            return result if dtype is None else result.to(dtype)

        _library.impl(name, rule, "Autocast" + device_type.upper())
