"""What answers: transformers, vLLM, a server."""
