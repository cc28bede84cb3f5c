"""Draws that do not depend on the rows beside them, and the log-probability of every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor


class Draws(LogitsProcessor):
    """Turns greedy decoding into draws from the model's distribution, with a random generator per row.

    The largest of the log-probabilities plus Gumbel noise is a draw from them (Gumbel-max), so that generate's own argmax does
    the drawing. At temperature 0 nothing is changed. Either way it notes the log-probability that the model itself, at
    temperature 1, gives each token.

    Args:
        seeds: one per row of the batch.
        temperature: 0 for greedy.
        top_p: share of the probability, at this temperature, that is drawn from.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._seeds, self._temperature, self._top_p = seeds, temperature, top_p
        self._generators: list[torch.Generator] = []
        self._chosen: list[torch.Tensor] = []

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        """Scores whose largest is the token to take. `scores`: (rows, vocabulary)."""
        own = scores.float()
        drawn = own if self._temperature == 0 else self._noisy(own)
        token = drawn.argmax(dim=-1, keepdim=True)
        self._chosen.append((own.gather(-1, token) - own.logsumexp(dim=-1, keepdim=True)).squeeze(-1))
        return drawn

    def means(self, lengths: Sequence[int]) -> list[float | None]:
        """Return mean log-probability, in nats, of the first tokens of each row; None for a row without any."""
        steps = torch.stack(self._chosen).cpu()
        return [steps[:length, row].mean().item() if length else None for row, length in enumerate(lengths)]

    def _noisy(self, own: torch.Tensor) -> torch.Tensor:
        if not self._generators:
            self._generators = [torch.Generator(own.device).manual_seed(seed % 2**63) for seed in self._seeds]
        logits = (own / self._temperature).log_softmax(dim=-1)
        ordered, places = logits.sort(dim=-1, descending=True)
        # What is likelier than a token, without it.
        before = ordered.exp().cumsum(dim=-1) - ordered.exp()
        logits = logits.masked_fill((before >= self._top_p).scatter(-1, places, before >= self._top_p), -torch.inf)
        noise = torch.stack(
            [
                torch.empty_like(row).exponential_(generator=made)
                for row, made in zip(own, self._generators, strict=True)
            ]
        )
        return logits - noise.log()
