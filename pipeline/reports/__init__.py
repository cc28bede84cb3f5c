"""Entries of runs as tables, charts and pages."""
