"""What trains and evaluates. One file per algorithm; each is started as ``python -m stages.<algorithm>``."""
