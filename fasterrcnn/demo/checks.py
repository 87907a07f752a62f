"""What the demonstration measures: average precision on generated scenes, and what it finds on photographs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fasterrcnn.data.cutouts import ASSETS
from fasterrcnn.data.images import read_image
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.evaluation import AveragePrecision, match_detections, mean_average_precision
from fasterrcnn.model import TwoStageDetector
from fasterrcnn.types import Detections
from fasterrcnn.visualize import draw

HELD_OUT_SEED = 20_260_000  # unlike every training seed, so no scene of the held-out set was ever trained on
HELD_OUT_SCENES = 200
SCORE_THRESHOLD = 0.5  # what counts as "found" on a photograph

# What the demonstration promises; it ends with exit code 1 when its own numbers fall short.
PROMISED_MAP = 0.85
PROMISED_COINS = 11  # of 12
PROMISED_FALSE_ALARMS = 1


@dataclass(frozen=True)
class Photograph:
    """A picture of the demonstration.

    Attributes:
        file: name in ``assets/photos``.
        unseen: no pixel of it was used in training, neither as an object nor as a background.
        content: what is on it, in words.
    """

    file: str
    unseen: bool
    content: str

    @property
    def path(self) -> Path:
        return ASSETS / "photos" / self.file


UNSEEN_COINS = "coins_unseen.png"

PHOTOGRAPHS = (
    Photograph(UNSEEN_COINS, True, "12 coins, the lower half of the coin photograph"),
    Photograph("camera_unseen.jpg", True, "a cameraman: nothing of the five classes"),
    Photograph("coins_upper.png", False, "12 coins, cut out for training"),
    Photograph("cat.jpg", False, "cat, cut out for training"),
    Photograph("coffee.jpg", False, "cup, cut out for training"),
    Photograph("rocket.jpg", False, "rocket, cut out for training"),
    Photograph("astronaut.jpg", False, "astronaut and model rocket, cut out for training"),
)


@dataclass(frozen=True)
class PhotographResult:
    """What was found on one photograph, and where the annotated copy is."""

    photograph: Photograph
    detections: Detections
    annotated: Path

    def summary(self, class_names: tuple[str, ...]) -> str:
        """Found objects in words, most frequent first: ``"12 coin, 1 cat"``."""
        counts = Counter(class_names[label - 1] for label in self.detections.labels.tolist())
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"


@dataclass(frozen=True)
class CoinResult:
    """The test on the unseen coins.

    Attributes:
        found: coins found with IoU ≥ 0.5 and score ≥ ``SCORE_THRESHOLD``.
        false_alarms: all other detections above the threshold, of whatever class.
        total: coins on the picture.
    """

    found: int
    false_alarms: int
    total: int


def detect_photographs(model: TwoStageDetector, out_dir: Path) -> list[PhotographResult]:
    """Detect on every photograph and write annotated PNGs into ``out_dir``."""
    out_dir.mkdir(parents=True, exist_ok=True)
    results = []
    for photograph in PHOTOGRAPHS:
        image = read_image(photograph.path)
        detections = model.detect([image], score_threshold=SCORE_THRESHOLD)[0].to("cpu")
        annotated = out_dir / f"{photograph.path.stem}.png"
        draw(image, detections, model.class_names or ()).save(annotated)
        results.append(PhotographResult(photograph, detections, annotated))
    return results


def load_coin_truth() -> dict[str, torch.Tensor]:
    """Hand-checked boxes float32 [12, 4] and labels of the unseen coins."""
    objects = json.loads((ASSETS / "photos" / "coins_unseen.json").read_text())["objects"]
    boxes = torch.tensor([item["box"] for item in objects], dtype=torch.float32)
    labels = torch.tensor([SyntheticScenes.class_names.index(item["label"]) + 1 for item in objects])
    return {"boxes": boxes, "labels": labels}


def score_coins(detections: Detections) -> CoinResult:
    """Count found coins and false alarms on the unseen half."""
    truth = load_coin_truth()
    coins = detections.labels == SyntheticScenes.class_names.index("coin") + 1
    verdict = match_detections(detections.boxes[coins], detections.scores[coins], truth["boxes"])
    found = int((verdict == 1).sum())
    return CoinResult(found, len(detections.boxes) - found, len(truth["boxes"]))


def score_generated_scenes(
    model: TwoStageDetector, count: int | None = None, progress: Callable[[int], None] = lambda done: None
) -> AveragePrecision:
    """mAP@0.5 on held-out generated scenes.

    Args:
        model: a detector of the five classes.
        count: number of scenes; default ``HELD_OUT_SCENES``.
        progress: called with the number of scenes done.
    """
    count = HELD_OUT_SCENES if count is None else count
    scenes = SyntheticScenes(count, seed=HELD_OUT_SEED)
    detections, targets = [], []
    for start in range(0, count, 4):
        items = [scenes[index] for index in range(start, min(start + 4, count))]
        detections += [found.to("cpu") for found in model.detect([image for image, _ in items], score_threshold=0.02)]
        targets += [target for _, target in items]
        progress(len(targets))
    return mean_average_precision(detections, targets, len(scenes.class_names))
