"""System 4, VGG-16 step by step: one detector whose every stage is a public function."""

from fasterrcnn.stepwise.model import StepwiseRCNN

__all__ = ["StepwiseRCNN"]
