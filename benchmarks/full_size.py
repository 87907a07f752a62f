"""Peak memory and time of each system at its real size: a training step and a detection, each in a process of its own.

    python benchmarks/full_size.py [--threads 2] [--out benchmarks/results/full_size_cpu.json] [SYSTEM …]

Weights are random, so the proposals are as many as there can be; the predictors' are small, so that every class of
every proposal scores above the threshold of 0. Both make the numbers an upper bound.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

# Size of the input image (height, width) in pixels.
SIZES = {
    "classic_vgg16": (600, 800),
    "classic_resnet50": (600, 800),
    "resnet50_c4_sigmoid": (600, 800),
    "resnet50_c4": (800, 1066),
    "stepwise_vgg16": (800, 800),
}
TASKS = ("train", "detect")
NUM_CLASSES = 20


def run_here(system: str, task: str, threads: int) -> dict[str, object]:
    """Does it, once, in this process.

    Returns:
        ``system``, ``task``, ``seconds`` of the step or detection, ``peak_gib`` (largest resident memory,
        torch's own included), and ``losses`` by name or the number of ``detections``.
    """
    import torch

    import fasterrcnn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = fasterrcnn.build(system, num_classes=NUM_CLASSES)
    calm_predictors(model)
    image = torch.rand(3, *SIZES[system])
    result: dict[str, object] = {"system": system, "task": task}
    if task == "train":
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9)
        boxes = torch.tensor([[50.0, 60, 350, 460], [300, 100, 600, 420]])
        start = time.perf_counter()
        losses = model.train()([image], [{"boxes": boxes, "labels": torch.tensor([2, 7])}])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        result["losses"] = {name: loss.item() for name, loss in losses.items()}
        result["finite"] = all(bool(p.isfinite().all()) for p in trained)
    else:
        start = time.perf_counter()
        (found,) = model.detect([image], score_threshold=0.0)
        result["detections"] = len(found)
    result["seconds"] = time.perf_counter() - start
    result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return result


def calm_predictors(model) -> None:
    """Makes scores near equal and boxes near their anchors, however large the features.

    In the C4 systems a BatchNorm of fixed identity doubles the features with every block of random weights: classes
    then have the probabilities 0 and 1, and boxes lie outside the image.
    """
    import torch

    anchors = len(model.rpn.anchors)
    outputs = {count * numbers for count in (anchors, NUM_CLASSES, NUM_CLASSES + 1) for numbers in (1, 2, 4)}
    with torch.no_grad():
        for part in (model.rpn, model.roi_heads):
            for module in part.modules():
                if getattr(module, "out_channels", getattr(module, "out_features", None)) in outputs:
                    module.weight.mul_(1e-5)


def run_apart(system: str, task: str, threads: int) -> dict[str, object]:
    """The same in a fresh process, whose peak is this run's alone."""
    command = [sys.executable, __file__, system, "--task", task, "--threads", str(threads), "--here"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{system} {task} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine(threads: int) -> dict[str, object]:
    import torch

    import fasterrcnn

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "fasterrcnn": fasterrcnn.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help="default: all")
    parser.add_argument("--task", choices=TASKS, help="default: both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.systems) - set(SIZES))
    if unknown:
        parser.error(f"unknown systems {', '.join(unknown)}; known: {', '.join(SIZES)}")
    if options.here:
        print(json.dumps(run_here(options.systems[0], options.task, options.threads)))
        return
    rows = []
    print(f"{'system':22} {'task':7} {'seconds':>8} {'peak GiB':>9}")
    for system in options.systems or SIZES:
        for task in [options.task] if options.task else TASKS:
            row = run_apart(system, task, options.threads)
            rows.append(row)
            print(f"{system:22} {task:7} {row['seconds']:8.1f} {row['peak_gib']:9.2f}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(options.threads), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
