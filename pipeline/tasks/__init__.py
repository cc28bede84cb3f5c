"""Labelled image sets and benchmarks, one file each; the file name is the name a config gives.

A file defines ``load(config: TaskConfig, cache: Path) -> Task``. `pipeline.data.load` finds it by name.
"""
