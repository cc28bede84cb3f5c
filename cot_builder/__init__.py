"""Turns a labelled image set into verified chain-of-thought rows by asking teachers. Imports neither torch nor vllm."""
