"""Makes the pictures of docs/stepwise.md: trains the tiny detector from scratch, then runs the code of the page.

    python tools/make_stepwise_pictures.py                      # train (about four minutes on one core), then draw
    python tools/make_stepwise_pictures.py --weights FILE       # draw with weights from an earlier run
    python tools/make_stepwise_pictures.py --keep FILE          # train, draw, and keep the weights

Same numbers of threads and same torch, same pictures.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

import fasterrcnn
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.training.loop import TrainConfig, train

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "stepwise.md"
PICTURES = DOCUMENT.with_suffix("")
TRAINING = TrainConfig(steps=600, batch_size=4, lr=1.5e-3, warmup_steps=40, seed=1)


def run_document(**names: Any) -> dict[str, Any]:
    """Runs the Python blocks of the page in one namespace.

    Args:
        **names: Set after the first block, which has their defaults: ``WEIGHTS`` and ``PICTURES``.

    Returns:
        The namespace.
    """
    text = DOCUMENT.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    for number, block in enumerate(re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)):
        # Lines before the block stand in for the text, so that a traceback has the line of the page.
        padding = "\n" * (text[: block.start(1)].count("\n"))
        exec(compile(padding + block[1], str(DOCUMENT), "exec"), namespace)
        if number == 0:
            namespace.update(names)
    return namespace


def train_weights(folder: Path) -> Path:
    """Trains the detector of the page; ``folder`` gets the weights."""
    torch.manual_seed(0)
    model = fasterrcnn.build("stepwise_vgg16", num_classes=len(SyntheticScenes.class_names), backbone="tiny")
    scenes = SyntheticScenes(TRAINING.steps * TRAINING.batch_size, seed=TRAINING.seed)
    return train(model, scenes, folder, TRAINING).weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="use these instead of training")
    parser.add_argument("--keep", type=Path, help="copy the trained weights to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or train_weights(Path(folder))
        if arguments.keep:
            shutil.copyfile(weights, arguments.keep)
        run_document(WEIGHTS=weights, PICTURES=PICTURES)
    for picture in sorted(PICTURES.glob("*.png")):
        print(f"{picture.stat().st_size / 1000:6.1f} kB  {picture}")


if __name__ == "__main__":
    main()
