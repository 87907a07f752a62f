"""Measuring on a card; ``benchmarks/gpu_acceptance.py`` is the way in."""
