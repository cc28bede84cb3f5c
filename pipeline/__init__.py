"""The ground floor and the conductor: what a run is, how it is configured, ordered, recorded and reported.

Nothing here imports torch, transformers or any other room, so every check runs before a weight is touched.
"""
