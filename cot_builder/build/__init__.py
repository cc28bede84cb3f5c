"""Ask the teachers, and keep every reply."""
