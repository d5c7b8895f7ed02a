"""Training a two-way LSTM on rows of different lengths: hflab's blocks on padded rows beside torch.nn.LSTM on a PackedSequence.

    python scripts/benchmark_bidirectional.py --repeats 15      # a minute on two CPU cores

Both have the same weights and give the same outputs, which is checked first; each repeat times forward and backward of both, in turns. What is saved
is what PackedSequence costs beside its matrix products, which is the same at every width: the wider the layers, the less it matters.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hflab.models.recurrent import RecurrentConfig, RecurrentModel


class Shape(NamedTuple):
    """Of a network and its inputs, whose rows have a third of the frames to all of them."""

    width: int
    layers: int
    rows: int
    frames: int


SHAPES = (Shape(64, 2, 16, 200), Shape(128, 2, 16, 200), Shape(192, 3, 24, 110))


def main() -> None:
    """Print the milliseconds of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    for shape in SHAPES:
        inputs = torch.randn(shape.rows, shape.frames, shape.width)
        lengths = torch.randint(shape.frames // 3, shape.frames + 1, (shape.rows,))
        lengths[0] = shape.frames
        packed, padded = _Packed(shape, lengths), _Padded(shape, lengths)
        _copy(packed, padded)
        difference = (packed.run(inputs) - padded.run(inputs)).abs().max().item()
        times = [(_time(packed.run, inputs), _time(padded.run, inputs)) for _ in range(options.repeats + 1)][1:]
        ratios = sorted(theirs / ours for theirs, ours in times)
        theirs, ours = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{shape.layers} x {shape.width}, {shape.rows} rows of up to {shape.frames} frames: packed {theirs:.0f} ms, padded {ours:.0f} ms, ratio "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); outputs differ by {difference:.1e}"
        )


class _Packed(nn.Module):
    def __init__(self, shape: Shape, lengths: Tensor) -> None:
        super().__init__()
        self.lengths = lengths
        self.lstm = nn.LSTM(shape.width, shape.width, shape.layers, batch_first=True, bidirectional=True)

    def run(self, inputs: Tensor) -> Tensor:
        packed = pack_padded_sequence(inputs, self.lengths, batch_first=True, enforce_sorted=False)
        outputs: Tensor = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=inputs.shape[1])[0]
        return outputs


class _Padded(nn.Module):
    def __init__(self, shape: Shape, lengths: Tensor) -> None:
        super().__init__()
        self.mask = torch.arange(shape.frames) < lengths[:, None]
        config = RecurrentConfig(vocab_size=1, hidden_size=shape.width, num_hidden_layers=shape.layers, bidirectional=True)
        self.model = RecurrentModel(config).train()

    def run(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs_embeds=inputs, attention_mask=self.mask.long()).last_hidden_state
        return outputs


@torch.no_grad()
def _copy(source: _Packed, target: _Padded) -> None:
    for number, block in enumerate(target.model.layers):
        for cell, ending in ((block.cell, ""), (block.backward_cell, "_reverse")):
            cell.input_projection.weight.copy_(getattr(source.lstm, f"weight_ih_l{number}{ending}"))
            cell.hidden_projection.weight.copy_(getattr(source.lstm, f"weight_hh_l{number}{ending}"))
            cell.input_projection.bias.copy_(getattr(source.lstm, f"bias_ih_l{number}{ending}") + getattr(source.lstm, f"bias_hh_l{number}{ending}"))


def _time(run: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    began = time.perf_counter()
    run(inputs).square().mean().backward()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
