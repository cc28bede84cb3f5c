"""A phase on disk and what may follow from it."""
