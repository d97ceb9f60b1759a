"""Benchmarks, and the evaluation of a segmenter on them."""

from outmask.evaluation.benchmarks import Benchmark, Record, available, open_benchmark
from outmask.evaluation.evaluate import Report, evaluate

__all__ = ["Benchmark", "Record", "Report", "available", "evaluate", "open_benchmark"]
