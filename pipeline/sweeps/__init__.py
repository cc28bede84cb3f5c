"""Sweeps of models: plan, memory, results, page."""
