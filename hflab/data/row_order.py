"""In which order rows meet in batches: a function of the seed and the optimizer step alone, so that a resumed run needs no more than the step.

    order = RowOrder(lengths, batch_size=32, seed=1)
    rows = order.rows_of(step=0)     # at most 32 of them

In an epoch every row is read exactly once. Rows are shuffled, sorted by length within windows of some batches, cut into batches, and the
batches shuffled: a batch holds rows of about one length, so that little of it is padding, and still other rows every epoch. Knows nothing about
what rows are.
"""

import numpy as np

from ..errors import UserError

BATCHES_PER_WINDOW = 50
WINDOWS_PER_EPOCH = 8  # at least, where there are so many batches: with fewer, the same rows would meet every epoch


class RowOrder:
    """Shuffled batches of rows of about one length.

    Args:
        lengths: (rows,) or (rows, k); rows are sorted by the first, equal ones by the next.
        batch_size: most rows of a batch.
        seed: of the order, together with the epoch.
        shuffle: False: rows in the order of their lengths, the same every epoch, the longest first, as evaluation wants them.
        nearness: for rows that padding harms, whose `lengths` are (rows,): they are sorted over the whole epoch, each length off by up to this share
            of it either way, so that rows still meet others every epoch.

    Raises:
        UserError: there are no rows.
    """

    def __init__(self, lengths: np.ndarray, *, batch_size: int, seed: int = 0, shuffle: bool = True, nearness: float | None = None) -> None:
        if not len(lengths):
            raise UserError("There are no rows to make batches of; give another split or more data.")
        self.batch_size = batch_size
        self.steps_per_epoch = -(-len(lengths) // batch_size)
        self._seed, self._shuffle, self._nearness, self._lengths = seed, shuffle, nearness, lengths
        self._length = np.unique(lengths, axis=0, return_inverse=True)[1].reshape(-1)  # rank: equal rows have one rank
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)  # the last epoch's order is kept: it is the same for all its steps

    def rows_of(self, step: int) -> np.ndarray:
        """The rows of a step, counted from 0 over all epochs, (at most B,) int64."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if not self._shuffle:
            epoch = 0
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw_order(epoch) if self._shuffle else np.argsort(-self._length, kind="stable")
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def _draw_order(self, epoch: int) -> np.ndarray:
        """The rows in the order of `epoch`, (number of rows,) int64; a batch that is not full comes last."""
        generator = np.random.default_rng([self._seed, epoch])
        if self._nearness is not None:
            off = generator.uniform(1 - self._nearness, 1 + self._nearness, size=len(self._lengths))
            return self._shuffle_batches(np.argsort(self._lengths * off, kind="stable"), generator)
        shuffled = generator.permutation(len(self._length))
        window = self.batch_size * max(1, min(BATCHES_PER_WINDOW, self.steps_per_epoch // WINDOWS_PER_EPOCH))
        parts = [shuffled[start : start + window] for start in range(0, len(shuffled), window)]
        return self._shuffle_batches(np.concatenate([part[np.argsort(self._length[part], kind="stable")] for part in parts]), generator)

    def _shuffle_batches(self, bucketed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Rows that are sorted by length, cut into batches in another order."""
        num_full = len(bucketed) // self.batch_size
        full, rest = np.split(bucketed, [num_full * self.batch_size])
        return np.concatenate([full.reshape(num_full, self.batch_size)[generator.permutation(num_full)].reshape(-1), rest])
