"""Attention of a decoder's outputs over an encoder's outputs: the two classic score functions, vectorised, and a readable reference.

A decoder's output h_t scores every encoder output s_j; the weights are the softmax of the scores over the real source tokens j, and the context is
the weighted sum of the s_j (Luong, Pham and Manning 2015, arXiv:1508.04025, section 3, "global attention").

The query is the output of the recurrence, which so needs nothing of the attention and runs over a whole target at once, as in Luong et al., for both
score functions. Bahdanau et al. score with the state before the token and feed the context into the recurrence, which forces a loop over time; their
score function is kept here, their order of steps is not.

Knows nothing about recurrences, caches and output layers.

B: batch, T: target tokens, S: source tokens, H: width of queries, D: width of the memory, A: width in which keys are kept.
"""

import torch
from torch import Tensor, nn


class RecurrentAttention(nn.Module):
    """Base of the score functions: keys are made once from the memory, then scored by queries.

    Attributes:
        key_projection: linear map D -> A.
    """

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.key_projection = nn.Linear(memory_size, query_size, bias=False)

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores (B, T, S) of queries (B, T, H) and keys (B, S, A)."""
        raise NotImplementedError

    def score_one(self, query: Tensor, key: Tensor) -> Tensor:
        """The score, a scalar, of one query (H,) and one key (A,): the formula of the paper, for `attend_one_by_one`."""
        raise NotImplementedError

    def forward(self, queries: Tensor, keys: Tensor, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            queries: (B, T, H).
            keys: (B, S, A), `key_projection` of the memory.
            memory: (B, S, D), the encoder's outputs.
            mask: (B, S) bool, True at real source tokens; None: all are. A row without any gets zero weights and a zero context.

        Returns:
            The contexts (B, T, D), and the weights (B, 1, T, S), with the dimension of heads that transformers expects.
        """
        scores = self.scores(queries, keys)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None], 0.0)
        weights = weights.to(memory.dtype)
        return weights @ memory, weights[:, None]


class MultiplicativeAttention(RecurrentAttention):
    """score(h_t, s_j) = h_t . W s_j: Luong, Pham and Manning 2015, arXiv:1508.04025, equation 8, "general"."""

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores (B, T, S); see `RecurrentAttention.scores`."""
        return queries @ keys.transpose(1, 2)

    def score_one(self, query: Tensor, key: Tensor) -> Tensor:
        """The score of one pair; see `RecurrentAttention.score_one`."""
        return torch.dot(query, key)


class AdditiveAttention(RecurrentAttention):
    """score(h_t, s_j) = v . tanh(W h_t + U s_j): Bahdanau, Cho and Bengio 2015, arXiv:1409.0473, appendix A.1.2, with a bias.

    All pairs are scored at once, in memory for B * T * S * A numbers.
    """

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__(query_size, memory_size)
        self.query_projection = nn.Linear(query_size, query_size)
        self.score_projection = nn.Linear(query_size, 1, bias=False)

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores (B, T, S); see `RecurrentAttention.scores`."""
        sums = self.query_projection(queries)[:, :, None] + keys[:, None]
        return self.score_projection(torch.tanh(sums)).squeeze(-1)

    def score_one(self, query: Tensor, key: Tensor) -> Tensor:
        """The score of one pair; see `RecurrentAttention.score_one`."""
        return self.score_projection(torch.tanh(self.query_projection(query) + key)).squeeze(-1)


ATTENTIONS: dict[str, type[RecurrentAttention]] = {"multiplicative": MultiplicativeAttention, "additive": AdditiveAttention}


def attend_one_by_one(
    attention: RecurrentAttention, queries: Tensor, keys: Tensor, memory: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The reference of `RecurrentAttention.forward`, with the same arguments and results, in loops over rows, targets and sources."""
    (B, T, _), S, D = queries.shape, keys.shape[1], memory.shape[2]
    contexts, weights = memory.new_zeros(B, T, D), memory.new_zeros(B, T, S)
    for row in range(B):
        real = [place for place in range(S) if mask is None or mask[row, place]]
        for target in range(T if real else 0):
            scores = torch.stack([attention.score_one(queries[row, target], keys[row, place]) for place in real])
            for place, weight in zip(real, scores.exp() / scores.exp().sum(), strict=True):
                weights[row, target, place] = weight
                contexts[row, target] += weight * memory[row, place]
    return contexts, weights[:, None]
