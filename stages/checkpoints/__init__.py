"""What a stage starts from and hands over, and the proof of it."""
