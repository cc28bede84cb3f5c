"""Rollouts from a vLLM server, and dynamic sampling."""
