"""Packing: the real tokens of a padded batch side by side, so that a time loop meets neither padding nor resets.

Every row is cut into pieces, one more with each reset, and each piece is a sequence of its own. Packed tokens are time-major: the first token of
every piece, then the second token of every piece that has one, and so on, with the pieces ordered by falling length; the pieces still running at
a time step are then the first so many rows of the step before. Padding, wherever it is, belongs to no piece.

Knows nothing about cells and their kernels.

B: batch, T: time, F: features, N: real tokens, S: pieces, P: tokens of the longest piece.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where each token of a batch goes, and what each piece begins and ends with; made by `pack_all` or `pack_pieces`.

    Attributes:
        batch_sizes: how many pieces have a token at each of P time steps; never rising, the first is S, the sum N.
        last: (S,), the packed place of each piece's last token.
        tokens: (N,), for each packed place the token's place b * T + t in the batch; None if the packing only swaps the two dimensions.
        rows: (S,), the row that each piece was cut from.
        begins_row: (S,) bool, whether the piece begins with the row's state and not with zeros.
        final_piece: (B,), the last piece of each row; any piece for a row without real tokens.
        has_tokens: (B,) bool, whether the row has a real token.
    """

    batch_sizes: list[int]
    last: Tensor
    tokens: Tensor | None
    rows: Tensor
    begins_row: Tensor
    final_piece: Tensor
    has_tokens: Tensor

    @property
    def fill(self) -> float:
        """Share of real tokens in the rectangle of S pieces by P time steps, above 0 and at most 1."""
        return sum(self.batch_sizes) / (self.batch_sizes[0] * len(self.batch_sizes))

    def pack(self, values: Tensor) -> Tensor:
        """From (B, T, F) to (N, F)."""
        if self.tokens is None:
            return values.transpose(0, 1).flatten(0, 1)
        return values.flatten(0, 1).index_select(0, self.tokens)

    def unpack(self, values: Tensor, length: int) -> Tensor:
        """From (N, F) to (B, T, F) with T = `length`, zeros at padding."""
        B, F = len(self.has_tokens), values.shape[1]
        if self.tokens is None:
            return values.view(length, B, F).transpose(0, 1)
        return values.new_zeros(B * length, F).index_copy(0, self.tokens, values).view(B, length, F)

    def last_of(self, values: Tensor) -> Tensor:
        """The values at the pieces' last tokens, (S, F), out of (N, F); never a view of them."""
        if self.tokens is None:
            return values[-self.batch_sizes[0] :].clone()
        return values.index_select(0, self.last)

    def begin(self, states: Tensor) -> Tensor:
        """The state before the first token of each piece, (S, F), from those of the rows, (B, F)."""
        if self.tokens is None:
            return states
        return states.index_select(0, self.rows).masked_fill(~self.begins_row[:, None], 0.0)

    def finish(self, states: Tensor, before: Tensor) -> Tensor:
        """The last state of each row, (B, F), from those of the pieces, (S, F), and for rows of padding from the state before them, (B, F)."""
        if self.tokens is None:
            return states
        return torch.where(self.has_tokens[:, None], states.index_select(0, self.final_piece), before)

    def shift(self, values: Tensor, first: Tensor) -> Tensor:
        """What comes one time step earlier in the same piece, (N, F), from the values (N, F) and those before the first step, (S, F)."""
        S = self.batch_sizes[0]
        if self.batch_sizes[-1] == S:
            return torch.cat([first, values[:-S]])
        sizes = torch.tensor(self.batch_sizes, device=values.device)
        earlier = torch.arange(S, len(values), device=values.device) - sizes[:-1].repeat_interleave(sizes[1:])
        return torch.cat([first, values.index_select(0, earlier)])

    def grid(self) -> tuple[Tensor, Tensor]:
        """The packing as a rectangle with padding at the end of the pieces.

        Returns:
            For each place of the rectangle (P, S) a packed place, any at padding; and where it is real, (P, S) bool.
        """
        sizes = torch.tensor(self.batch_sizes, device=self.last.device)[:, None]
        pieces = torch.arange(self.batch_sizes[0], device=self.last.device)
        real = pieces < sizes
        return torch.where(real, sizes.cumsum(0) - sizes + pieces, 0), real


def pack_all(num_rows: int, length: int, device: torch.device) -> Packing:
    """The packing of a batch without padding and resets."""
    rows = torch.arange(num_rows, device=device)
    everywhere = torch.ones(num_rows, dtype=torch.bool, device=device)
    last = rows + (length - 1) * num_rows
    return Packing([num_rows] * length, last, None, rows, everywhere, rows, everywhere)


def pack_pieces(mask: Tensor, resets: Tensor | None) -> Packing | None:
    """The packing of a batch.

    Args:
        mask: (B, T) bool, True at real tokens.
        resets: (B, T) bool, True where a new piece begins; of no effect at padding. None: nowhere.

    Returns:
        The packing, or None if no token is real.
    """
    tokens = mask.flatten().nonzero().squeeze(1)
    if len(tokens) == 0:
        return None
    starts = mask.cumsum(1) == 1
    if resets is not None:
        starts = starts | resets
    starts = starts.flatten()[tokens]
    piece, first = starts.cumsum(0) - 1, starts.nonzero().squeeze(1)
    lengths = torch.bincount(piece)
    by_length = torch.argsort(lengths, descending=True, stable=True)
    rank = torch.argsort(by_length)
    step = torch.arange(len(tokens), device=mask.device) - first[piece]
    sizes = torch.bincount(step)
    place = (sizes.cumsum(0) - sizes)[step] + rank[piece]
    rows = tokens[first] // mask.shape[1]
    begins_row = torch.ones_like(rows, dtype=torch.bool) if resets is None else ~resets.flatten()[tokens[first]]
    # Pieces were counted row by row, so a row's last one is where the count stands at the end of the row.
    final_piece = (torch.bincount(rows, minlength=len(mask)).cumsum(0) - 1).clamp(min=0)
    return Packing(
        batch_sizes=sizes.tolist(),
        last=place[first + lengths - 1][by_length],
        tokens=torch.empty_like(tokens).index_copy(0, place, tokens),
        rows=rows[by_length],
        begins_row=begins_row[by_length],
        final_piece=rank[final_piece],
        has_tokens=mask.any(1),
    )
