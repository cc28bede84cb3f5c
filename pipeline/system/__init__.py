"""The machine: processes, nodes, GPUs, vLLM servers, and what libraries need before they are imported."""
