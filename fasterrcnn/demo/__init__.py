"""The demonstration ``fasterrcnn demo``: a trained detector on photographs, measured, in under a minute."""

from fasterrcnn.demo.run import DemoReport, run_demo

__all__ = ["DemoReport", "run_demo"]
