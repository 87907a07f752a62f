"""A detector captured in CUDA graphs: one launch from images to detections, for shapes chosen beforehand.

Without graphs the host launches hundreds of kernels an image, which on a fast card may take longer than running them.
A graph keeps the launches of one shape; so images are padded to the next captured shape, and the batch is filled up.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasterrcnn.image_batch import SMALLEST_SIDE
from fasterrcnn.model import TwoStageDetector, evaluating
from fasterrcnn.padded import check_batch, unpadded
from fasterrcnn.types import Detections, PaddedDetections

Shape = tuple[int, int, int]
"""(B, H, W): images of a batch, height and width in pixels."""


@dataclass
class _Captured:
    """What one shape needs: tensors that stay where they are, and the graph that reads and writes them.

    Attributes:
        images: float32[B, 3, H, W].
        image_sizes: float64[B, 2].
        scales: float64[B].
        graph: None on the CPU, where a replay is a call.
        results: Where the graph writes; the next replay overwrites it, on the CPU it is not used.
    """

    images: Tensor
    image_sizes: Tensor
    scales: Tensor
    graph: torch.cuda.CUDAGraph | None = None
    results: PaddedDetections | None = None


class CudaGraphed:
    """:meth:`~fasterrcnn.model.TwoStageDetector.forward_padded` of a model, captured for each of some shapes.

    Called with a batch, it takes the smallest captured shape that holds it, pads images at the right and the bottom,
    fills up the batch, replays and cuts the results down to the batch. Nothing is read back to the host.

    Results are those of ``forward_padded`` for a batch *of the captured shape*. What is in the padding and in unused
    places of the batch has no influence; the size of the padding has, as in any batch of images of different sizes:
    convolutions near the right and bottom border of an image see features of the padding instead of the border of the
    map, and RoIPool by the ratio of map to image (the classic family) has another ratio, unless H and W are multiples
    of the stride. docs/deployment/cuda_graphs.md has more.

    The model stays as it is and in use: parameters changed in place (an optimiser, ``load_state_dict``) count from the
    next call on; parameters that are replaced or moved, and settings of its parts, do not. Not for several threads or
    streams at once.

    On a CPU there are no graphs: it warns, once, and computes the same by plain calls.

    Args:
        model: In evaluation mode, on the device it is to run on.
        shapes: (B, H, W) of each graph, B ≥ 1 images, H and W ≥ 32 pixels of the size the model works at. Multiples of
            the stride are best. Each keeps its inputs and outputs; working memory is shared, the largest counts.
        score_threshold, nms_threshold, max_detections: As for :meth:`~fasterrcnn.model.TwoStageDetector.detect`; they
            become part of the graphs.
        warmup: Calls of each shape before it is captured, ≥ 1.

    Attributes:
        shapes: The captured shapes, smallest first: fewest pixels, all images of the batch counted.

    Raises:
        ValueError: No shapes, a shape that is none or too small, or a model in training mode.

    Example:
        >>> graphed = CudaGraphed(model.eval().cuda(), shapes=[(1, 800, 1088), (1, 1088, 800), (4, 1088, 1088)])
        >>> boxes, labels, scores, count = graphed(images, image_sizes)
        >>> detections = graphed.detect([photo])
    """

    def __init__(
        self,
        model: TwoStageDetector,
        shapes: Sequence[Shape],
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
        warmup: int = 3,
    ) -> None:
        if model.training:
            raise ValueError("CudaGraphed needs a model in evaluation mode: call eval() first")
        if warmup < 1:
            raise ValueError(f"warmup must be at least 1, got {warmup}")
        self.model = model
        self.shapes = _checked(shapes)
        self.thresholds = {
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "max_detections": max_detections,
        }
        self.device = model.device
        self._has_graphs = _has_graphs(self.device)
        if not self._has_graphs:
            warnings.warn(
                f"CudaGraphed: the model is on {self.device}, where there are no CUDA graphs; the same is computed by "
                "plain calls, which is no faster",
                RuntimeWarning,
                stacklevel=2,
            )
        self._captured: dict[Shape, _Captured] = {}
        with self._on_device(), torch.no_grad():
            # The largest first, so that the others find room in the memory it works in.
            pool = torch.cuda.graph_pool_handle() if self._has_graphs else None
            for shape in reversed(self.shapes):
                self._captured[shape] = self._capture(shape, pool, warmup)

    def __call__(
        self,
        images: Tensor,
        image_sizes: Tensor,
        scales: Tensor | None = None,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> PaddedDetections:
        """Arguments and results of :meth:`~fasterrcnn.model.TwoStageDetector.forward_padded`.

        Thresholds are those of the constructor; given here as well, they must be the same.

        Returns:
            Copies: the next call leaves them alone.

        Raises:
            TypeError: The images are no floats, or an argument is no tensor.
            ValueError: The images fit none of the captured shapes, there are none, a tensor has another shape, or a
                threshold is not the captured one.
        """
        self._check(images, image_sizes, scales)
        asked = {
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "max_detections": max_detections,
        }
        self._check_thresholds(asked)
        batch, _, height, width = images.shape
        captured = self._captured[self.shape_for(batch, height, width)]
        with self._on_device(), torch.no_grad():
            captured.images[:batch, :, :height, :width].copy_(images, non_blocking=True)
            captured.image_sizes[:batch].copy_(image_sizes, non_blocking=True)
            captured.image_sizes[batch:].fill_(1)  # a pixel: the rest of what earlier calls left there is padding
            captured.scales[batch:].fill_(1)
            if scales is None:
                captured.scales[:batch].fill_(1)
            else:
                captured.scales[:batch].copy_(scales, non_blocking=True)
            if captured.graph is None:
                with evaluating(self.model):  # a graph stays what it is when training goes on
                    results = self._run(captured)
            else:
                captured.graph.replay()
                results = captured.results
            return PaddedDetections(*(result[:batch].clone() for result in results))

    def detect(
        self,
        images: Sequence[Tensor],
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """:meth:`~fasterrcnn.model.TwoStageDetector.detect` through the graphs: resized, padded, one read-back.

        Raises:
            TypeError: An image is no float tensor.
            ValueError: An image is not 3 × H × W, or as for calling; all images are one batch.
        """
        if len(images) == 0:
            return []
        with torch.no_grad():
            batch = self.model.batcher.collate(images, device=self.device)
            found = self(
                batch.images,
                batch.image_sizes(),
                batch.image_scales(),
                score_threshold=score_threshold,
                nms_threshold=nms_threshold,
                max_detections=max_detections,
            )
            return unpadded(found, batch)

    def shape_for(self, batch: int, height: int, width: int) -> Shape:
        """The smallest captured shape that holds a batch.

        Raises:
            ValueError: None does.
        """
        for shape in self.shapes:
            if batch <= shape[0] and height <= shape[1] and width <= shape[2]:
                return shape
        known = ", ".join(map(str, self.shapes))
        raise ValueError(
            f"{batch} image(s) of {height} × {width} pixels fit none of the captured shapes (B, H, W): {known}"
        )

    def __repr__(self) -> str:
        how = "CUDA graphs" if self._has_graphs else "plain calls"
        return f"{type(self).__name__}({type(self.model).__name__}, shapes={self.shapes}, {how} on {self.device})"

    def _capture(self, shape: Shape, pool, warmup: int) -> _Captured:
        batch, height, width = shape
        captured = _Captured(
            images=torch.zeros(batch, 3, height, width, device=self.device),
            image_sizes=torch.ones(batch, 2, dtype=torch.float64, device=self.device),
            scales=torch.ones(batch, dtype=torch.float64, device=self.device),
        )
        if not self._has_graphs:
            return captured
        # What libraries allocate and choose on first use must not become part of the graph.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                self._run(captured)
        torch.cuda.current_stream().wait_stream(side)
        captured.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured.graph, pool=pool):
            captured.results = self._run(captured)
        return captured

    def _run(self, captured: _Captured) -> PaddedDetections:
        return self.model.forward_padded(captured.images, captured.image_sizes, captured.scales, **self.thresholds)

    def _on_device(self) -> contextlib.AbstractContextManager:
        return torch.cuda.device(self.device) if self._has_graphs else contextlib.nullcontext()

    def _check(self, images: Tensor, image_sizes: Tensor, scales: Tensor | None) -> None:
        check_batch(images, image_sizes, scales=scales)
        if len(images) == 0:
            raise ValueError(f"images: expected shape [B, 3, H, W] with B ≥ 1, got {list(images.shape)}")

    def _check_thresholds(self, asked: dict[str, float | None]) -> None:
        for name, value in asked.items():
            if value is not None and value != self.thresholds[name]:
                kept = "the model's own" if self.thresholds[name] is None else self.thresholds[name]
                raise ValueError(f"{name}={value} is not what was captured ({kept}); give it to the constructor")


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def _checked(shapes: Sequence[Shape]) -> list[Shape]:
    """Each shape once, by pixels.

    Raises:
        ValueError: There is none, or one is no shape or too small.
    """
    found = set()
    for shape in shapes:
        if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < SMALLEST_SIDE:
            raise ValueError(f"shapes: expected (B, H, W) with B ≥ 1 and H, W ≥ {SMALLEST_SIDE}, got {shape}")
        found.add(tuple(int(number) for number in shape))
    if not found:
        raise ValueError("shapes: expected at least one (B, H, W), got none")
    return sorted(found, key=lambda shape: (shape[0] * shape[1] * shape[2], shape))
