"""What a paired comparison of a given size can find at all."""

from __future__ import annotations

import math
from statistics import NormalDist


def minimum_detectable_difference(n: int, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Return the smallest true difference of two accuracies on the same rows that McNemar's test finds with probability `power`.

    It solves n·δ² = (z₁₋α/₂·√ψ + z_power·√(ψ − δ²))² for δ (Connor 1987, Biometrics 43, eq. 2, with the sample size given).

    Args:
        n: rows both answered.
        discordant: ψ, the share of rows that exactly one of the two gets right; no difference can be larger.
        alpha: two-sided level; divide it by the number of tests for what Holm's first step asks.
        power: probability to find a true difference of this size, above one half.

    Returns:
        The difference as a share; None when even a difference of ψ would not be found, or n or ψ is 0.

    Raises:
        ValueError: when a share is outside its range.
    """
    if not 0 <= discordant <= 1 or not 0 < alpha < 1 or not 0.5 <= power < 1:
        raise ValueError(
            f"discordant {discordant}, alpha {alpha} and power {power} must be shares, and power at least 0.5"
        )
    if n <= 0 or discordant == 0:
        return None
    at_level = NormalDist().inv_cdf(1 - alpha / 2)
    at_power = NormalDist().inv_cdf(power)

    def found(difference: float) -> bool:
        spread = at_level * math.sqrt(discordant) + at_power * math.sqrt(max(discordant - difference**2, 0.0))
        return math.sqrt(n) * difference >= spread

    low, high = 0.0, discordant
    if not found(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high
