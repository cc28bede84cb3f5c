"""Processes of a stage: command line, workers, cells."""
