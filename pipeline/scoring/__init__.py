"""From a text to a verdict: the grammar and the judges, pure."""
