"""Labelled image sets and benchmarks, one file each; the file name is the name a config gives.

A file defines ``load(config: TaskConfig, cache: Path) -> Task``, or a `pipeline.data.benchmark.Benchmark` with
``EVALUATED_ONLY = True``. `pipeline.data.load` finds it by name.
"""
