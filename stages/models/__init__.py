"""Load models and let them write."""
