"""The cells against torch's own, against their formulas written anew, and the copying of weights."""

import pytest
import torch
from torch import nn

from hflab.models.recurrent.cells_recurrent import CELLS, GruCell, LstmCell, NvsiCell, RecurrentCell, RecurrentState

TORCH_CELLS = {name: cell for name, cell in CELLS.items() if cell.torch_class is not None}
INPUT, HIDDEN, ROWS = 3, 5, 4


def random_state(cell, rows=ROWS, dtype=torch.float64):
    return cell.initial_state(rows, dtype=dtype).apply(torch.randn_like)


def test_there_are_cells_that_torch_has_and_one_that_it_has_not():
    assert set(CELLS) == {*TORCH_CELLS, "nvsi"}
    assert len(TORCH_CELLS) >= 3


@pytest.mark.parametrize("name", CELLS)
def test_step_is_pure_and_its_output_is_the_hidden_state(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN, dtype=torch.float64)
    inputs, state = torch.randn(ROWS, INPUT, dtype=torch.float64), random_state(cell)
    before = state.apply(torch.clone)
    output, after = cell(inputs, state)
    assert output.shape == after.hidden.shape == (ROWS, HIDDEN)
    assert (after.cell is None) == (not cell.has_cell_state)
    assert torch.equal(output, after.hidden)
    assert torch.equal(state.hidden, before.hidden)
    assert not torch.equal(after.hidden, before.hidden)
    assert torch.equal(cell(inputs, state)[0], output)


@pytest.mark.parametrize("name", CELLS)
def test_no_state_means_zeros(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    inputs = torch.randn(ROWS, INPUT)
    zeros = cell.initial_state(ROWS)
    assert not zeros.hidden.any()
    assert torch.equal(cell(inputs)[0], cell(inputs, zeros)[0])


def test_nvsi_computes_its_formula():
    torch.manual_seed(0)
    cell = NvsiCell(INPUT, HIDDEN, dtype=torch.float64)
    inputs, state = torch.randn(ROWS, INPUT, dtype=torch.float64), random_state(cell)
    expected = torch.empty(ROWS, HIDDEN, dtype=torch.float64)
    for row in range(ROWS):
        for unit in range(HIDDEN):
            sums = []
            for place in (unit, HIDDEN + unit):
                from_input = cell.input_projection.weight[place] @ inputs[row] + cell.input_projection.bias[place]
                sums.append(from_input + cell.hidden_projection.weight[place] @ state.hidden[row])
            expected[row, unit] = 1 / (1 + torch.exp(-sums[0])) * torch.tanh(sums[1])
    torch.testing.assert_close(cell(inputs, state)[0], expected)


@pytest.mark.parametrize("name", TORCH_CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layer", "reverse"), [(0, False), (1, False), (0, True), (1, True)])
def test_copied_weights_give_the_layer_of_torch(name, bias, layer, reverse):
    torch.manual_seed(0)
    module = TORCH_CELLS[name].torch_class(INPUT, HIDDEN, num_layers=2, bidirectional=True, bias=bias, dtype=torch.float64)
    width = INPUT if layer == 0 else 2 * HIDDEN
    cell = TORCH_CELLS[name](width, HIDDEN, dtype=torch.float64)
    cell.load_torch_weights(module, layer=layer, reverse=reverse)
    suffix = f"_l{layer}{'_reverse' if reverse else ''}"
    single = type(module)(width, HIDDEN, bias=bias, dtype=torch.float64)
    single.load_state_dict({f"{kind}_l0": value for kind in single_names(bias) for value in [module.get_parameter(f"{kind}{suffix}")]})
    inputs, state = torch.randn(ROWS, width, dtype=torch.float64), random_state(cell)
    given = state.hidden[None] if state.cell is None else (state.hidden[None], state.cell[None])
    expected, last = single(inputs[None], given)
    output, after = cell(inputs, state)
    torch.testing.assert_close(output, expected[0])
    if after.cell is not None:
        torch.testing.assert_close(after.cell, last[1][0])


def single_names(bias):
    return ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if bias else ("weight_ih", "weight_hh")


def test_copying_leaves_nothing_of_the_old_biases():
    cell = GruCell(INPUT, HIDDEN)
    cell.load_torch_weights(nn.GRU(INPUT, HIDDEN, bias=False))
    assert not cell.input_projection.bias.any()
    assert not cell.hidden_projection.bias.any()


@pytest.mark.parametrize(
    ("cell", "module", "options", "told"),
    [
        (LstmCell, nn.GRU(INPUT, HIDDEN), {}, "GRU"),
        (NvsiCell, nn.LSTM(INPUT, HIDDEN), {}, "no torch module"),
        (CELLS["rnn"], nn.RNN(INPUT, HIDDEN, nonlinearity="relu"), {}, "relu"),
        (LstmCell, nn.LSTM(INPUT, HIDDEN, proj_size=2), {}, "proj_size"),
        (LstmCell, nn.LSTM(INPUT, HIDDEN + 1), {}, "3 -> 24"),
        (LstmCell, nn.LSTM(INPUT, HIDDEN), {"layer": 1}, "1 layers"),
        (LstmCell, nn.LSTM(INPUT, HIDDEN), {"reverse": True}, "bidirectional=False"),
    ],
)
def test_weights_that_do_not_fit_are_refused(cell, module, options, told):
    with pytest.raises(ValueError, match=told):
        cell(INPUT, HIDDEN).load_torch_weights(module, **options)


class LowRank(nn.Module):
    """A linear layer with a low-rank addition, as LoRA wraps it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, inputs):
        return self.base(inputs) + self.up(self.down(inputs))


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_weight_honours_an_adapter_and_passes_its_gradient(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN, dtype=torch.float64)
    base = cell.hidden_projection
    plain, plain_bias = cell.recurrent_weight(torch.float64)
    assert plain is base.weight
    adapter = LowRank(base)
    cell.hidden_projection = adapter
    weight, bias = cell.recurrent_weight(torch.float64)
    torch.testing.assert_close(weight, base.weight + adapter.up.weight @ adapter.down.weight)
    assert (bias is None) == (plain_bias is None) == (not cell.gates_hidden_product)
    if bias is not None:
        torch.testing.assert_close(bias, plain_bias)
    weight.square().sum().backward()
    assert adapter.down.weight.grad.abs().sum() > 0
    assert adapter.up.weight.grad.abs().sum() > 0


def test_a_cell_without_a_step_says_so():
    class Unfinished(RecurrentCell):
        num_gates = 1

    with pytest.raises(NotImplementedError):
        Unfinished(INPUT, HIDDEN)(torch.randn(ROWS, INPUT), RecurrentState(torch.zeros(ROWS, HIDDEN)))
