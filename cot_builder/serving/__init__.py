"""The teachers' vLLM servers."""
