"""How much of a small change of a recurrent state is left after some steps: ∂h_t/∂h_k of a cell, exactly or by random probes.

    walk = read_rows(cell, inputs)                                     # the states that the cell goes through
    found = state_gains(walk, targets=(31, 63), num_probes=None)       # None: exact
    found["hidden"].squared[b, n, k]                                   # ‖∂h_t/∂h_k‖²_F / H of t = targets[n]

The Jacobian of many steps is the product of those of single steps (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, section 2.1). Nothing here
forms it: rows of a matrix V are taken back through time by autograd, one step of the cell after the other, and V ∂h_t/∂h_k is measured on the way.
With V = 1 that is exact. With V of independent signs E‖vᵀJ‖² = ‖J‖²_F (Hutchinson 1990, "A stochastic estimator of the trace"), without bias. Only
the states are kept, so memory grows with T, not with T².

A state is what the cell carries: h, and of an LSTM c too. ∂h_t/∂h_k changes h_k and keeps c_k, as backpropagation through time does; what comes by
way of later cell states counts. Knows nothing about whole models, texts and files. All is computed in float64, on the CPU.

B: rows, T: tokens of a row, H: hidden size, G: gates, N: targets, R: vectors of a target, A: vectors under way, S: numbers of a state, H or 2 H.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.recurrent.cells_recurrent import ElmanCell, GruCell, LstmCell, NvsiCell, RecurrentCell, RecurrentState
from .gradient_figures import GateShares

# The gates of each cell by the number of their block in the projections, and the gate whose product over time is the additive path: a state is
# handed on as it is, times this gate.
GATES: dict[type[RecurrentCell], dict[str, int]] = {
    ElmanCell: {},
    NvsiCell: {"input": 0},
    GruCell: {"reset": 0, "update": 1},
    LstmCell: {"input": 0, "forget": 1, "output": 3},
}
ADDITIVE_GATE: dict[type[RecurrentCell], str] = {GruCell: "update", LstmCell: "forget"}
NEARLY_SHUT, NEARLY_OPEN = 0.1, 0.9  # a gate beyond these is saturated


@dataclass(frozen=True)
class CellWalk:
    """A cell that has read rows of tokens from a zero state. `step` repeats any of its steps."""

    cell: RecurrentCell
    input_products: Tensor
    """(B, T, G * H)."""
    hidden: Tensor
    """(B, T + 1, H): the states before the first token, and after each."""
    memory: Tensor | None
    """(B, T + 1, H), the cell states likewise, of a cell that has them."""
    weight: Tensor
    """(G * H, H), the recurrent weight."""
    bias: Tensor | None

    def step(self, token: int, state: RecurrentState) -> RecurrentState:
        """The state (…, H) after token number `token`, of the state before it."""
        product = F.linear(state.hidden, self.weight, self.bias)
        return self.cell.step(self.input_products[:, token], product, state)[1]

    def before(self, token: int) -> RecurrentState:
        """The state (B, H) in which token number `token` was read."""
        return RecurrentState(self.hidden[:, token], None if self.memory is None else self.memory[:, token])


@dataclass(frozen=True)
class Gains:
    """Squared root-mean-square gains of Jacobians, ‖∂s_t/∂s_k‖²_F / H: of a vector of any direction, how much longer or shorter it becomes."""

    squared: np.ndarray
    """(B, N, T) by row, target t and token k after which the state is changed; 0 for k > t, 1 for k = t."""
    squared_error: np.ndarray | None
    """(B, N, T) standard error of `squared`, from the spread of the probes; None where it is exact."""


@dataclass(frozen=True)
class StepJacobians:
    """One-step Jacobians of the whole state, ∂s_t/∂s_{t-1}, at M steps."""

    spectral_radius: np.ndarray
    """(M,) the largest absolute eigenvalue."""
    singular_values: np.ndarray
    """(M, S), the largest first."""


@torch.no_grad()
def read_rows(cell: RecurrentCell, inputs: Tensor) -> CellWalk:
    """Let a copy of `cell` in float64 read `inputs` (B, T, I), as it stands in the model: without dropout."""
    walker = copy.deepcopy(cell).to(device="cpu", dtype=torch.float64).eval().requires_grad_(False)
    weight, bias = walker.recurrent_weight(torch.float64)
    products = walker.input_projection(inputs.detach().to(device="cpu", dtype=torch.float64))
    B, T, _ = products.shape
    hidden = products.new_zeros(B, T + 1, walker.hidden_size)
    walk = CellWalk(walker, products, hidden, torch.zeros_like(hidden) if walker.has_cell_state else None, weight, bias)
    for token in range(T):
        state = walk.step(token, walk.before(token))
        walk.hidden[:, token + 1] = state.hidden
        if walk.memory is not None and state.cell is not None:
            walk.memory[:, token + 1] = state.cell
    return walk


def state_gains(walk: CellWalk, targets: Sequence[int], num_probes: int | None, *, seed: int = 0) -> dict[str, Gains]:
    """The gains of ∂h_t/∂h_k ("hidden") and, of a cell that has one, of ∂c_t/∂c_k ("cell"), for t of `targets` and every k up to t.

    Args:
        walk: what the cell read.
        targets: numbers t of tokens, ascending, 0 to T - 1.
        num_probes: R random vectors for each target, at least 2; None: exactly, by H unit vectors.
        seed: of the random vectors.
    """
    H = walk.cell.hidden_size
    parts = ("hidden",) if walk.memory is None else ("hidden", "cell")
    generator = torch.Generator().manual_seed(seed)
    squares = {part: np.zeros((len(walk.hidden), len(targets), walk.input_products.shape[1])) for part in parts}
    errors = {part: np.zeros_like(squares[part]) for part in parts}
    vectors: RecurrentState | None = None  # (A, B, H); of each target, the last first, R vectors that begin in h, and R in c
    under_way: list[int] = []
    for token in range(targets[-1], -1, -1):
        if token in targets:
            under_way.append(list(targets).index(token))
            vectors = _joined(vectors, _first_vectors(walk, num_probes, generator))
        assert vectors is not None  # the walk begins at the last target
        for number, part in enumerate(parts):
            tensor = vectors.hidden if part == "hidden" else vectors.cell
            assert tensor is not None
            lengths = tensor.square().sum(-1).unflatten(0, (len(under_way), len(parts), -1))[:, number] / H  # (targets under way, R, B)
            total = lengths.sum(1) if num_probes is None else lengths.mean(1)
            squares[part][:, under_way, token] = total.T.numpy()
            if num_probes is not None:
                errors[part][:, under_way, token] = (lengths.std(1) / num_probes**0.5).T.numpy()
        if token:
            vectors = _taken_back(walk, token, vectors)
    return {part: Gains(squares[part], None if num_probes is None else errors[part]) for part in parts}


def _first_vectors(walk: CellWalk, num_probes: int | None, generator: torch.Generator) -> RecurrentState:
    """The vectors (R or 2 R, B, H) that start from one target: unit vectors, or random signs, which have as little spread as there can be."""
    B, H = len(walk.hidden), walk.cell.hidden_size
    if num_probes is None:
        start = torch.eye(H, dtype=torch.float64)[:, None].expand(-1, B, -1)
    else:
        start = torch.randint(0, 2, (num_probes, B, H), generator=generator).double() * 2 - 1
    if walk.memory is None:
        return RecurrentState(start)
    nothing = torch.zeros_like(start)
    return RecurrentState(torch.cat([start, nothing]), torch.cat([nothing, start]))


def _joined(old: RecurrentState | None, new: RecurrentState) -> RecurrentState:
    if old is None:
        return new
    cell = None if old.cell is None or new.cell is None else torch.cat([old.cell, new.cell])
    return RecurrentState(torch.cat([old.hidden, new.hidden]), cell)


def _taken_back(walk: CellWalk, token: int, vectors: RecurrentState) -> RecurrentState:
    """`vectors` (A, B, H) times the Jacobian of the step that reads `token`, by autograd."""
    with torch.enable_grad():
        before = walk.before(token).apply(lambda part: part.detach().requires_grad_())
        after = walk.step(token, before)
    outputs = [part for part in after if part is not None]
    inputs = [part for part in before if part is not None]
    given = [part for part in vectors if part is not None]
    return RecurrentState(*torch.autograd.grad(outputs, inputs, given, is_grads_batched=True))


def path_gains(walk: CellWalk, targets: Sequence[int]) -> Gains | None:
    """The gains of the additive path alone: the product of the forget gates of an LSTM, of the update gates of a GRU; None for other cells.

    It is the part of ∂c_t/∂c_k that goes through no weight (Hochreiter and Schmidhuber 1997, section 3.2; Gers et al. 2000).
    """
    name = ADDITIVE_GATE.get(type(walk.cell))
    if name is None:
        return None
    logs = gate_activations(walk)[name].log().cumsum(1)  # (B, T, H)
    T = logs.shape[1]
    squares = np.zeros((len(logs), len(targets), T))
    for number, target in enumerate(targets):
        product = (2 * (logs[:, target, None] - logs[:, : target + 1])).exp()
        squares[:, number, : target + 1] = product.mean(-1).numpy()
    return Gains(squares, None)


@torch.no_grad()
def gate_activations(walk: CellWalk) -> dict[str, Tensor]:
    """The activations (B, T, H), 0 to 1, of each gate of the cell."""
    hidden_products = F.linear(walk.hidden[:, :-1], walk.weight, walk.bias)
    blocks = (walk.input_products + hidden_products).unflatten(-1, (walk.cell.num_gates, -1))
    return {name: torch.sigmoid(blocks[:, :, number]) for name, number in GATES[type(walk.cell)].items()}


def gate_shares(walk: CellWalk) -> dict[str, GateShares]:
    """How open each gate of the cell stands."""
    return {
        name: GateShares(float(gate.mean()), float((gate < NEARLY_SHUT).double().mean()), float((gate > NEARLY_OPEN).double().mean()))
        for name, gate in gate_activations(walk).items()
    }


def step_jacobians(walk: CellWalk, num_steps: int) -> StepJacobians:
    """The Jacobians of at most `num_steps` single steps, spread over the second half of the rows, one row after the other."""
    B, T = walk.input_products.shape[:2]
    tokens = np.unique(np.linspace(T // 2, T - 1, num_steps).astype(int))
    radii, values = [], []
    for number, token in enumerate(tokens):
        jacobian = _whole_jacobian(walk, int(token))[:, number % B]
        radii.append(float(torch.linalg.eigvals(jacobian).abs().max()))
        values.append(torch.linalg.svdvals(jacobian).numpy())
    return StepJacobians(np.array(radii), np.stack(values))


def _whole_jacobian(walk: CellWalk, token: int) -> Tensor:
    """∂s_t/∂s_{t-1} (S, B, S) of the step that reads `token`."""
    H = walk.cell.hidden_size
    num_parts = 1 if walk.memory is None else 2
    unit = torch.eye(num_parts * H, dtype=torch.float64)[:, None].expand(-1, len(walk.hidden), -1)
    vectors = RecurrentState(*unit.split(H, dim=-1))
    return torch.cat([part for part in _taken_back(walk, token, vectors) if part is not None], dim=-1)
