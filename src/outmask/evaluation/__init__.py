"""Benchmarks, and the evaluation of a segmenter on them."""

from outmask.evaluation.benchmarks import Benchmark, Record, available, describe, open_benchmark
from outmask.evaluation.evaluate import Report, evaluate

__all__ = ["Benchmark", "Record", "Report", "available", "describe", "evaluate", "open_benchmark"]
