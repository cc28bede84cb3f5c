"""What a preflight runs."""
