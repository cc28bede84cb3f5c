"""Answer and judge: a phase of a run, or one cell of the lab, which is one model on one task in one way, in one process.

Only backends/transformers.py, backends/vllm.py and their helpers import torch or vLLM, and only once there is something to ask.
"""
