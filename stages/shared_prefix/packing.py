"""Rows of equal prompts laid into one sequence per prompt, as `attention` reads them, and their figures taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stages.shared_prefix.attention import Groups
from stages.shared_prefix.row_groups import KINDS, Row, join_rows


@dataclass(frozen=True)
class Packed:
    """The sequences of a batch: ``[all of a prompt but its last token][that token, completion] × segments``.

    So there is one label for each token, that of its successor, and none is computed for nothing but a completion's last.
    """

    prompts: torch.Tensor
    """(sequences, tokens of the longest prompt), without the padding that all have."""
    prompt_mask: torch.Tensor
    """The same shape; 0 is padding, on the left."""
    tokens: torch.Tensor
    """(sequences, tokens of the prompt but one + segments × length)."""
    labels: torch.Tensor
    """The token that follows each, where it is scored; elsewhere -100."""
    fields: Row
    """The pictures of each sequence, and kinds of its tokens."""
    padding: int
    """Tokens of padding that all prompts had."""
    segments: int
    length: int
    """Tokens of a segment: of the longest completion."""
    places: torch.Tensor
    """(rows,) the segment of each row among those of all sequences."""

    @classmethod
    def of(
        cls,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        completion: int,
        groups: Sequence[Sequence[int]],
        rows: Sequence[Row],
    ) -> Packed:
        """Pack rows.

        Args:
            input_ids: (rows, tokens), prompts padded on the left, completions on the right.
            attention_mask: the same shape.
            completion: tokens of a completion with its padding.
            groups: the rows of each prompt.
            rows: their pictures.
        """
        firsts = [group[0] for group in groups]
        prompt_mask, mask = attention_mask[firsts, :-completion], attention_mask[:, -completion:]
        padding = int(prompt_mask.argmax(dim=1).min())
        prompts = input_ids[firsts, padding:-completion]
        length = max(1, int((mask * torch.arange(1, completion + 1, device=mask.device)).max()))
        segments = max(map(len, groups))
        members = torch.tensor(
            [[*group, *[group[0]] * (segments - len(group))] for group in groups], device=mask.device
        )
        real = torch.tensor([[place < len(group) for place in range(segments)] for group in groups], device=mask.device)
        completions = input_ids[:, -completion:][members][..., :length]
        scored = mask[members][..., :length].bool() & real[..., None]
        segment = torch.cat([prompts[:, None, -1:].expand(-1, segments, -1), completions[..., :-1]], dim=2)
        before = prompts[:, :-1]
        tokens = torch.cat([before, segment.flatten(1)], dim=1)
        labels = torch.cat([torch.full_like(before, -100), completions.masked_fill(~scored, -100).flatten(1)], dim=1)
        fields = join_rows([rows[first] for first in firsts])
        for name in KINDS:
            # Completions are text.
            if name in fields:
                kinds = fields[name][:, padding : padding + prompts.shape[1]]
                fields[name] = torch.nn.functional.pad(kinds, (0, tokens.shape[1] - kinds.shape[1]))
        place = {row: number * segments + one for number, group in enumerate(groups) for one, row in enumerate(group)}
        places = torch.tensor([place[row] for row in range(len(rows))], device=mask.device)
        return cls(prompts, prompt_mask[:, padding:], tokens, labels, fields, padding, segments, length, places)

    def groups(self) -> Groups:
        """Return how its attention is divided."""
        return Groups.of(self.prompt_mask, self.segments, self.length)

    def positions(self, of_prompts: torch.Tensor) -> torch.Tensor:
        """Return positions of all tokens, from those of the prompts: a completion goes on from the prompt's last
        token, a text token.
        """
        on = (of_prompts[..., -1:] + torch.arange(self.length, device=of_prompts.device)).tile(self.segments)
        return torch.cat([of_prompts[..., :-1], on], dim=-1)

    def by_row(self, values: torch.Tensor, completion: int) -> torch.Tensor:
        """Return (sequences, tokens) -> (rows, `completion`): what was computed of the completions, 0 at padding."""
        own = values[:, self.prompts.shape[1] - 1 :].reshape(-1, self.length)[self.places]
        return torch.nn.functional.pad(own, (0, completion - self.length))
