"""The evaluation lab's worker: one cell, which is one model on one task in one way, in one process.

    run.py            a cell from its rows to evaluation.json
    record.py         what a cell depends on, and its predictions on disk
    modes.py          direct, think, caption-think, extract-think
    prompts.py        what the two-step modes say
    texts.py          descriptions and contents to observe, written once, read by many cells
    backends.py       what every backend takes and gives; local.py, offline.py and served.py are the three
    grid.py           the decoupled analysis: perceivers against reasoners

Only local.py, offline.py and their helpers import torch or vLLM, and only once a cell has something to ask.
"""
