"""What a YAML may say, and what follows from it."""
