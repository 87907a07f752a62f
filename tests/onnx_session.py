"""Exports a function to ONNX and runs it in ONNX Runtime, for the tests of the translations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def exported(function: Callable[..., Any], arguments: tuple[Any, ...], dynamic: Any = None) -> Session:
    """A session of ``function``, traced with arguments (tensors or lists of them), through our translations.

    Args:
        function: Of tensors.
        arguments: Of the trace.
        dynamic: For each argument, which axes may have another size later; as ``torch.export``'s ``dynamic_shapes``.
    """
    from fasterrcnn_ops.onnx import OPSET, translations

    shapes = None if dynamic is None else (dynamic,)
    program = torch.export.export(_Function(function).eval(), arguments, dynamic_shapes=shapes, strict=False)
    converted = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, custom_translation_table=translations(), verbose=False
    )
    return Session(converted.model_proto.SerializeToString())


class Session:
    """A model in ONNX Runtime on the CPU, called like the function it was; it must consist of standard operators.

    Args:
        model: File name or serialised model.
    """

    def __init__(self, model: str | bytes) -> None:
        import onnx
        import onnxruntime

        proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        onnx.checker.check_model(proto)
        assert {entry.domain for entry in proto.opset_import} == {""}, "only standard operators"
        assert not proto.functions
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, *arguments: Tensor | Sequence[Tensor]) -> list[np.ndarray]:
        tensors = [t for a in arguments for t in (a if isinstance(a, (list, tuple)) else [a])]
        names = [entry.name for entry in self.session.get_inputs()]
        return self.session.run(None, {name: t.numpy() for name, t in zip(names, tensors, strict=True)})
