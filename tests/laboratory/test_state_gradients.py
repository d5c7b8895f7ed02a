"""Jacobians of recurrent states: beside products written out by hand, finite differences and plain autograd; probes within their error."""

import numpy as np
import pytest
import torch

from hflab.laboratory.state_gradients import (
    ADDITIVE_GATE,
    GATES,
    gate_activations,
    gate_shares,
    path_gains,
    read_rows,
    state_gains,
    step_jacobians,
)
from hflab.models.recurrent.cells_recurrent import CELLS, RecurrentState
from hflab.models.recurrent.sequence_recurrent import run_sequence

B, T, INPUTS, H = 2, 9, 3, 5


def walked(name, seed=0, scale=1.5):
    torch.manual_seed(seed)
    cell = CELLS[name](INPUTS, H)
    with torch.no_grad():
        cell.hidden_projection.weight.mul_(scale)
    return read_rows(cell, torch.randn(B, T, INPUTS))


def squared_gain(jacobian):
    return float((jacobian**2).sum() / H)


@pytest.mark.parametrize("name", CELLS)
def test_the_walk_is_the_models_own(name):
    torch.manual_seed(1)
    cell, inputs = CELLS[name](INPUTS, H).double(), torch.randn(B, T, INPUTS, dtype=torch.float64)
    outputs, final = run_sequence(cell, inputs)
    walk = read_rows(cell, inputs)
    torch.testing.assert_close(walk.hidden[:, 1:], outputs)
    if cell.has_cell_state:
        torch.testing.assert_close(walk.memory[:, -1], final.cell)


def test_an_rnn_equals_the_product_written_out():
    """∂h_t/∂h_k = Π diag(1 - h_j²) W over j = k + 1 … t: Pascanu et al. 2013, equation 5."""
    walk = walked("rnn")
    found = state_gains(walk, (4, T - 1), None)["hidden"].squared
    W, h = walk.weight.numpy(), walk.hidden.numpy()
    for row in range(B):
        for number, t in enumerate((4, T - 1)):
            product = np.eye(H)
            for k in range(t, -1, -1):
                assert found[row, number, k] == pytest.approx(squared_gain(product), rel=1e-10)
                product = product @ (np.diag(1 - h[row, k + 1] ** 2) @ W)


def lstm_step_jacobian(walk, row, token):
    """∂(h, c)_t/∂(h, c)_{t-1} of an LSTM from its equations, (2 H, 2 H)."""
    W = walk.weight.numpy()
    Wi, Wf, Wg, Wo = np.split(W, 4)
    gates = (walk.input_products[row, token] + walk.weight @ walk.hidden[row, token]).numpy()
    pre_i, pre_f, pre_g, pre_o = np.split(gates, 4)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    i, f, g, o = sigmoid(pre_i), sigmoid(pre_f), np.tanh(pre_g), sigmoid(pre_o)
    before, after = walk.memory[row, token].numpy(), walk.memory[row, token + 1].numpy()
    c_h = np.diag(before * f * (1 - f)) @ Wf + np.diag(g * i * (1 - i)) @ Wi + np.diag(i * (1 - g**2)) @ Wg
    c_c = np.diag(f)
    through = np.diag(o * (1 - np.tanh(after) ** 2))
    h_h = np.diag(np.tanh(after) * o * (1 - o)) @ Wo + through @ c_h
    return np.block([[h_h, through @ c_c], [c_h, c_c]])


def test_an_lstm_equals_the_product_written_out():
    walk = walked("lstm")
    found = state_gains(walk, (3, T - 1), None)
    for row in range(B):
        for number, t in enumerate((3, T - 1)):
            product = np.eye(2 * H)
            for k in range(t, -1, -1):
                assert found["hidden"].squared[row, number, k] == pytest.approx(squared_gain(product[:H, :H]), rel=1e-10)
                assert found["cell"].squared[row, number, k] == pytest.approx(squared_gain(product[H:, H:]), rel=1e-10)
                product = product @ lstm_step_jacobian(walk, row, k)


@pytest.mark.parametrize("name", CELLS)
def test_gains_equal_finite_differences(name):
    """Change one unit of h_k, go on reading, and see what becomes of h_t."""
    walk, k, t, step = walked(name), 3, 7, 1e-6
    found = state_gains(walk, (t,), None)["hidden"].squared[:, 0, k]
    columns = []
    for unit in range(H):
        ends = []
        for sign in (1, -1):
            state = walk.before(k + 1)
            hidden = state.hidden.clone()
            hidden[:, unit] += sign * step
            state = RecurrentState(hidden, state.cell)
            for token in range(k + 1, t + 1):
                state = walk.step(token, state)
            ends.append(state.hidden)
        columns.append((ends[0] - ends[1]) / (2 * step))
    jacobian = torch.stack(columns, dim=-1)
    assert found == pytest.approx((jacobian.square().sum((1, 2)) / H).numpy(), rel=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_later_states_are_not_reached_and_the_own_state_is_whole(name):
    for gains in state_gains(walked(name), (2, 5, T - 1), None).values():
        for number, t in enumerate((2, 5, T - 1)):
            assert (gains.squared[:, number, t + 1 :] == 0).all()
            assert gains.squared[:, number, t] == pytest.approx(1.0)
            assert (gains.squared[:, number, :t] > 0).all()


@pytest.mark.parametrize("name", CELLS)
def test_probes_agree_with_the_exact_within_their_stated_error(name):
    walk = walked(name)
    exact, probed = state_gains(walk, (T - 1,), None), state_gains(walk, (T - 1,), 400, seed=3)
    for part in exact:
        off = np.abs(probed[part].squared - exact[part].squared)
        assert probed[part].squared_error is not None
        assert (off <= 4.5 * probed[part].squared_error + 1e-12).all()
    mean = np.mean([state_gains(walk, (T - 1,), 2, seed=seed)["hidden"].squared for seed in range(200)], axis=0)
    assert mean == pytest.approx(exact["hidden"].squared, rel=0.25)  # few probes are noisy, yet without bias


def test_the_additive_path_is_the_product_of_the_forget_gates():
    walk = walked("lstm")
    gates = gate_activations(walk)["forget"].numpy()
    found = path_gains(walk, (6,)).squared
    assert found[0, 0, 2] == pytest.approx((gates[0, 3:7].prod(0) ** 2).mean())
    assert found[0, 0, 6] == pytest.approx(1.0)
    assert path_gains(walked("rnn"), (6,)) is None


def test_without_recurrent_weights_the_cell_path_is_all_there_is():
    walk = walked("lstm", scale=0.0)
    assert state_gains(walk, (T - 1,), None)["cell"].squared == pytest.approx(path_gains(walk, (T - 1,)).squared)


@pytest.mark.parametrize("name", CELLS)
def test_one_step_has_the_spectrum_of_its_jacobian(name):
    """The third of three steps is the last one, read by row 0, as rows take turns."""
    walk = walked(name)
    before = walk.before(T - 1)

    def after(*state):
        rows = (torch.cat([part, other[1:]]) for part, other in zip(state, before, strict=False))
        return tuple(part[0] for part in walk.step(T - 1, RecurrentState(*rows)) if part is not None)

    blocks = torch.autograd.functional.jacobian(after, tuple(part[:1] for part in before if part is not None))
    jacobian = torch.cat([torch.cat([block[:, 0] for block in line], dim=-1) for line in blocks])
    found = step_jacobians(walk, 3)
    assert found.singular_values.shape == (3, len(jacobian))
    assert found.spectral_radius[2] == pytest.approx(float(torch.linalg.eigvals(jacobian).abs().max()))
    assert found.singular_values[2] == pytest.approx(torch.linalg.svdvals(jacobian).numpy())


def test_every_cell_says_its_gates():
    assert set(GATES) == set(CELLS.values())
    assert all(gate in GATES[cell] for cell, gate in ADDITIVE_GATE.items())
    shares = gate_shares(walked("gru", scale=40.0))
    assert shares["update"].nearly_shut + shares["update"].nearly_open > 0.5
    assert all(0 <= part <= 1 for share in shares.values() for part in (share.mean, share.nearly_shut, share.nearly_open))


def test_a_gate_is_what_the_cell_computes():
    """h_t = i_t * g_t of NVSI: the gate recovered from a state must lie between."""
    walk = walked("nvsi")
    gate = gate_activations(walk)["input"]
    assert (walk.hidden[:, 1:].abs() <= gate + 1e-12).all()
