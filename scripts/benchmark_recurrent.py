"""Speed of the recurrent cells, forward and backward, beside torch's own modules, as medians of paired alternating runs.

    python scripts/benchmark_recurrent.py                                  # every cell and shape on CPU
    python scripts/benchmark_recurrent.py --device cuda --compile          # beside cuDNN and a compiled loop
    python scripts/benchmark_recurrent.py --cells gru --shapes 16x64x128 --profile

Each line pairs our `run_sequence` with one contender on the same weights and data: ours, theirs, ours, theirs, ... The ratio is the median over
the pairs of theirs / ours in time, or in time per floating-point operation where the two do not compute the same. Contenders:

    nn.*      nn.RNN, nn.GRU, nn.LSTM on full rows
    packed    the same through pack_padded_sequence and pad_packed_sequence, rows of random length
    loop      `for t in range(T)` over the cell's step, under autograd
    compiled  that loop under torch.compile (with --compile; unrolls, so that long rows take minutes to compile)

GFLOP/s count matrix products of real tokens only, the backward pass as twice the forward pass.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hflab.models.recurrent.cells_recurrent import CELLS, RecurrentCell
from hflab.models.recurrent.sequence_recurrent import run_sequence

SHAPES = ("32x128x256", "16x64x128", "64x256x256", "8x512x512")
# The least ratio that each pairing has to reach on CPU; "nn.LSTM" is nvsi's, in FLOP/s.
BARS = {
    ("rnn", "nn.RNN"): 1.0,
    ("gru", "nn.GRU"): 1.0,
    ("lstm", "nn.LSTM"): 0.95,
    ("nvsi", "loop"): 3.0,
    ("nvsi", "nn.LSTM"): 0.6,
    ("lstm", "packed nn.LSTM"): 3.0,
    ("gru", "packed nn.GRU"): 3.0,
    ("rnn", "packed nn.RNN"): 3.0,
}


@dataclass(frozen=True)
class Figure:
    """One line of the table: `ratio` above 1 means that ours is faster; `low` and `high` are its quartiles over the pairs."""

    cell: str
    contender: str
    shape: str
    ratio: float
    low: float
    high: float
    bar: float | None
    ours_ms: float
    theirs_ms: float
    ours_gflops: float
    theirs_gflops: float


class Batch:
    """Inputs (B, T, D) of one shape, a gradient of the outputs, and random lengths with their mask (B, T)."""

    def __init__(self, shape: str, device: str, dtype: torch.dtype) -> None:
        self.B, self.T, self.D = (int(size) for size in shape.split("x"))
        self.inputs = torch.randn(self.B, self.T, self.D, device=device, dtype=dtype, requires_grad=True)
        self.grad = torch.randn(self.B, self.T, self.D, device=device, dtype=dtype)
        self.lengths = torch.randint(1, self.T + 1, (self.B,))
        self.lengths[0] = self.T
        self.mask = (torch.arange(self.T) < self.lengths[:, None]).to(device)


def main() -> None:
    """Measure, print a Markdown table, and write the figures if asked to."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.profile:
        for shape in arguments.shapes:
            for name in arguments.cells:
                profile(name, shape, arguments)
        return
    figures = []
    print(f"{describe_machine(arguments.device)}\n")
    print("| cell | beside | B x T x D | ratio (quartiles) | bar | ours ms | theirs ms | ours GFLOP/s | theirs GFLOP/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in arguments.shapes:
        for name in arguments.cells:
            for figure in measure(name, shape, arguments):
                figures.append(figure)
                print(table_line(figure), flush=True)
    if arguments.json:
        facts = {"machine": describe_machine(arguments.device), "repeats": arguments.repeats, "figures": [asdict(figure) for figure in figures]}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or float64")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="BxTxD", help="rows x tokens x width of input and hidden state")
    parser.add_argument("--repeats", type=int, default=15, help="number of pairs per line")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice by default")
    parser.add_argument("--implementation", default="auto", help="of run_sequence, for ours")
    parser.add_argument("--compile", action="store_true", help="add the compiled loop")
    parser.add_argument("--profile", action="store_true", help="print the profiler's top operators for ours instead of the table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


def measure(name: str, shape: str, arguments: argparse.Namespace) -> list[Figure]:
    """The lines of one cell and shape."""
    torch.manual_seed(0)
    batch = Batch(shape, arguments.device, getattr(torch, arguments.dtype))
    cell = CELLS[name](batch.D, batch.D).to(batch.inputs)
    figures = []
    for contender, (run, masked) in contenders(cell, batch, arguments.compile).items():
        ours = our_run(cell, batch, arguments.implementation, batch.mask if masked else None)
        pairs = timed_pairs(ours, run, arguments.repeats, arguments.device)
        tokens = int(batch.mask.sum()) if masked else batch.B * batch.T
        work = floating_point_operations(cell.num_gates, batch.D, tokens)
        their_gates = 4 if contender == "nn.LSTM" else cell.num_gates
        figures.append(summary(name, contender, shape, pairs, (work, floating_point_operations(their_gates, batch.D, tokens))))
    return figures


def contenders(cell: RecurrentCell, batch: Batch, with_compiled: bool) -> dict[str, tuple[Callable[[], None], bool]]:
    """What runs beside the cell: for each name a function to time, and whether it sees the rows' lengths."""
    runs: dict[str, tuple[Callable[[], None], bool]] = {}
    if cell.torch_class is None:
        lstm = nn.LSTM(batch.D, batch.D, batch_first=True).to(batch.inputs)
        runs["nn.LSTM"] = (torch_run(lstm, batch), False)
        runs["loop"] = (our_run(cell, batch, "reference", None), False)
    else:
        torch_class: Callable[..., nn.RNNBase] = cell.torch_class
        module = torch_class(batch.D, batch.D, batch_first=True).to(batch.inputs)
        cell.load_torch_weights(module)
        runs[f"nn.{cell.torch_class.__name__}"] = (torch_run(module, batch), False)
        runs[f"packed nn.{cell.torch_class.__name__}"] = (packed_run(module, batch), True)
    if with_compiled:
        runs["compiled loop"] = (compiled_run(cell, batch), False)
    return runs


def our_run(cell: RecurrentCell, batch: Batch, implementation: str, mask: Tensor | None) -> Callable[[], None]:
    """Forward and backward through `run_sequence`."""

    def run() -> None:
        outputs, _ = run_sequence(cell, batch.inputs, mask=mask, implementation=implementation)
        backward(outputs, cell, batch)

    return run


def torch_run(module: nn.RNNBase, batch: Batch) -> Callable[[], None]:
    """Forward and backward through a torch module on full rows."""
    return lambda: backward(module(batch.inputs)[0], module, batch)


def packed_run(module: nn.RNNBase, batch: Batch) -> Callable[[], None]:
    """Forward and backward through a torch module on packed rows of random length."""

    def run() -> None:
        packed = pack_padded_sequence(batch.inputs, batch.lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(module(packed)[0], batch_first=True)
        backward(outputs, module, batch)

    return run


def compiled_run(cell: RecurrentCell, batch: Batch) -> Callable[[], None]:
    """Forward and backward through a compiled loop over the cell's step."""

    def loop(inputs: Tensor) -> Tensor:
        state, outputs = None, []
        for token in inputs.unbind(1):
            output, state = cell(token, state)
            outputs.append(output)
        return torch.stack(outputs, dim=1)

    compiled = torch.compile(loop)
    return lambda: backward(compiled(batch.inputs), cell, batch)


def backward(outputs: Tensor, module: nn.Module, batch: Batch) -> None:
    """Fresh gradients of the inputs and all weights."""
    module.zero_grad(set_to_none=True)
    batch.inputs.grad = None
    outputs.backward(batch.grad)


def timed_pairs(ours: Callable[[], None], theirs: Callable[[], None], repeats: int, device: str) -> list[tuple[float, float]]:
    """Seconds of ours and theirs, run alternately after one run of each to warm up."""
    seconds = [(timed(ours, device), timed(theirs, device)) for _ in range(repeats + 1)]
    return seconds[1:]


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one run, the device's work included."""
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def floating_point_operations(num_gates: int, width: int, tokens: int) -> float:
    """Of the matrix products, forward and backward: two projections width -> num_gates * width, thrice, a multiplication and an addition each."""
    return 3.0 * 2 * 2 * num_gates * width * width * tokens


def summary(name: str, contender: str, shape: str, pairs: list[tuple[float, float]], work: tuple[float, float]) -> Figure:
    """The figure of one line from its seconds and the floating-point operations of ours and theirs."""
    low, ratio, high = statistics.quantiles([theirs / work[1] / (ours / work[0]) for ours, theirs in pairs], n=4)
    ours, theirs = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    speeds = (work[0] / ours / 1e9, work[1] / theirs / 1e9)
    return Figure(name, contender, shape, ratio, low, high, BARS.get((name, contender)), ours * 1e3, theirs * 1e3, *speeds)


def table_line(figure: Figure) -> str:
    """The figure as a line of the Markdown table."""
    verdict = "" if figure.bar is None else f"{figure.bar:g} {'met' if figure.ratio >= figure.bar else 'MISSED'}"
    ratio = f"{figure.ratio:.2f} ({figure.low:.2f} to {figure.high:.2f})"
    speeds = f"{figure.ours_ms:.1f} | {figure.theirs_ms:.1f} | {figure.ours_gflops:.0f} | {figure.theirs_gflops:.0f}"
    return f"| {figure.cell} | {figure.contender} | {figure.shape} | {ratio} | {verdict} | {speeds} |"


def describe_machine(device: str) -> str:
    """Versions, processor, threads and load, without which a time means nothing."""
    processor = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    return f"torch {torch.__version__}, {processor}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


def profile(name: str, shape: str, arguments: argparse.Namespace) -> None:
    """Print what bounds a time step, and the operators that take most of one forward and backward pass of ours."""
    batch = Batch(shape, arguments.device, getattr(torch, arguments.dtype))
    run = our_run(CELLS[name](batch.D, batch.D).to(batch.inputs), batch, arguments.implementation, None)
    run()
    with torch.profiler.profile() as profiler:
        run()
    print(f"{name} {shape}\n{step_speeds(name, batch)}")
    sort_by = "self_cuda_time_total" if arguments.device == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=sort_by, row_limit=15))


def step_speeds(name: str, batch: Batch) -> str:
    """What the pieces of one forward time step reach by themselves: the bound of any loop over time."""
    gates = CELLS[name].num_gates * batch.D
    hidden, weight = batch.inputs.detach()[:, 0], batch.inputs.new_ones(batch.D, gates)
    products = batch.inputs.new_zeros(batch.B, gates)
    product = repeated(lambda: products.addmm_(hidden, weight, beta=0), batch.inputs.device.type)
    activation = repeated(products.sigmoid_, batch.inputs.device.type)
    speed = 2 * batch.B * batch.D * gates / product / 1e9
    return f"one step: matrix product {product * 1e6:.1f} us ({speed:.0f} GFLOP/s), sigmoid of its result {activation * 1e6:.1f} us"


def repeated(run: Callable[[], Tensor], device: str, repeats: int = 200) -> float:
    """Median seconds of one run."""
    return statistics.median(timed(run, device) for _ in range(repeats))


if __name__ == "__main__":
    main()
