"""What a training leaves behind when a loss or a gradient stops being finite: everything to run that step again.

Example:
    >>> from fasterrcnn.training.failure import load_failed_step  # doctest: +SKIP
    >>> failed = load_failed_step("runs/shapes/failed_step_000412.pt")  # doctest: +SKIP
    >>> failed.images[0].shape, failed.targets[0]["boxes"], failed.losses  # doctest: +SKIP
    >>> failed.replay()  # the same losses again, with the parameters from before the step  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fasterrcnn import distributed
from fasterrcnn.build import build
from fasterrcnn.files import replacing
from fasterrcnn.training.sampling import image_seeds
from fasterrcnn.types import Target
from fasterrcnn.weights import load_state


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite.

    Attributes:
        losses: Of that step, by name.
        here: Whether this process's images did it; with several processes all raise the error.
    """

    def __init__(self, message: str, losses: dict[str, float], *, here: bool = True) -> None:
        super().__init__(message)
        self.losses, self.here = losses, here


@dataclass
class FailedStep:
    """One training step that failed.

    Attributes:
        step: Its number, 1 for the first.
        message: What was wrong.
        seed: What torch's generators and the model's sampling were seeded with.
        before: Images of the whole batch, of other processes, before these.
        losses: By name, and their sum as "loss".
        images: float[3, H, W] each, RGB 0–1, as the dataset gave them.
        targets: Their boxes and labels.
        model: What ``build`` needs to make the detector: system, num_classes, backbone, arguments.
        state: Its parameters and buffers from before the step.
        config: The training's settings.
    """

    step: int
    message: str
    seed: int
    before: int
    losses: dict[str, float]
    images: list[Tensor]
    targets: list[Target]
    model: dict[str, Any]
    state: dict[str, Tensor]
    config: dict[str, Any]

    def build_model(self, *, backbone: nn.Module | None = None) -> nn.Module:
        """The detector as it was before the step, in training mode.

        Args:
            backbone: Needed where the detector has a backbone of its own making.
        """
        # A file opens no others, and has none downloaded.
        arguments = {k: v for k, v in self.model["arguments"].items() if k not in ("pretrained", "weights")}
        model = build(
            self.model["system"],
            num_classes=self.model["num_classes"],
            backbone=self.model["backbone"] if backbone is None else backbone,
            **arguments,
        )
        load_state(model, self.state, source="the failed step")
        model.train()
        if self.config["freeze_bn"]:
            model.freeze_bn()
        return model

    def replay(self, model: nn.Module | None = None) -> dict[str, float]:
        """Computes the step's losses again, in float32; by default with :meth:`build_model`'s detector.

        Of several processes these are the losses of this one's images alone, divided by the numbers of their samples.
        """
        model = self.build_model() if model is None else model
        torch.manual_seed(self.seed)
        model.generator.manual_seed(self.seed)
        image_seeds(self.before, model.generator)
        with torch.no_grad():
            return {name: float(value) for name, value in model(self.images, self.targets).items()}


def save_failed_step(failed: FailedStep, out_dir: Path) -> Path:
    """Writes a failed step; returns the file, ``failed_step_000412.pt`` in ``out_dir`` for step 412.

    Other processes than the first write ``failed_step_000412_process_1.pt``, and so on.
    """
    process = f"_process_{distributed.rank()}" if distributed.rank() else ""
    out_dir.mkdir(parents=True, exist_ok=True)  # of another machine's process
    path = out_dir / f"failed_step_{failed.step:06d}{process}.pt"
    # Not asdict, which would copy every tensor.
    content = {field.name: getattr(failed, field.name) for field in fields(failed)}
    with replacing(path) as file:
        torch.save(content, file)
    return path


def load_failed_step(path: str | Path) -> FailedStep:
    """Reads what a failed training left.

    Raises:
        OSError: It cannot be opened.
        ValueError: Not such a file; the message names it.
    """
    with Path(path).open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise many kinds
            raise ValueError(f"{path} cannot be read as a failed step ({type(error).__name__})") from error
    names = {field.name for field in fields(FailedStep)}
    if not isinstance(content, dict) or content.keys() != names:
        raise ValueError(f"{path} is no failed step: expected the entries {', '.join(sorted(names))}")
    return FailedStep(**content)


def describe_failure(
    error: NonFiniteError,
    model: nn.Module,
    buffers: dict[str, Tensor],
    images: list[Tensor],
    targets: list[Target],
    *,
    step: int,
    seed: int,
    config: Any,
    before: int = 0,
) -> FailedStep:
    """Gathers a failed step.

    Args:
        error: What happened.
        model: The detector; a step that fails changes none of its parameters.
        buffers: Its buffers from before the step, which normalisation layers change.
        images, targets: The batch.
        step: Number of the step, 1 for the first.
        seed: The step's.
        config: The training's settings, a dataclass.
        before: Images of the whole batch before these.
    """
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return FailedStep(
        step=step,
        message=str(error),
        seed=seed,
        before=before,
        losses=error.losses,
        images=[image.cpu() for image in images],
        targets=[{name: value.cpu() for name, value in target.items()} for target in targets],
        model={
            "system": model.system,
            "num_classes": model.num_classes,
            "backbone": model.backbone_name,
            "arguments": model.arguments,
        },
        state={name: tensor.cpu() for name, tensor in model.state_dict().items()},
        config=asdict(config),
    )
