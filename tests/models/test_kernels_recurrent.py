"""The sequence engine against torch's own modules and finite differences, and what its backward pass keeps and promises."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hflab.models.recurrent.cells_recurrent import CELLS, RecurrentState
from hflab.models.recurrent.kernels_recurrent import KERNELS
from hflab.models.recurrent.sequence_recurrent import reverse_by_length, run_sequence

INPUT, HIDDEN = 5, 6
TORCH_CELLS = {name: cell for name, cell in CELLS.items() if cell.torch_class is not None}
OWN = [name for name, cell in CELLS.items() if cell in KERNELS]
FAST = [(name, "autograd") for name in OWN] + [(name, "fused") for name in TORCH_CELLS]


def test_every_cell_of_the_library_has_a_kernel():
    assert list(CELLS) == OWN


def twins(name, **options):
    """A torch module of one layer and the cell with its weights, in float64."""
    torch.manual_seed(0)
    module = TORCH_CELLS[name].torch_class(INPUT, HIDDEN, batch_first=True, dtype=torch.float64, **options)
    cell = TORCH_CELLS[name](INPUT, HIDDEN, dtype=torch.float64)
    cell.load_torch_weights(module)
    return module, cell


def random_leaves(cell, num_rows, length):
    """Inputs and an initial state that want gradients."""
    inputs = torch.randn(num_rows, length, INPUT, dtype=torch.float64, requires_grad=True)
    return inputs, cell.initial_state(num_rows, dtype=torch.float64).apply(lambda part: torch.randn_like(part, requires_grad=True))


def gradients(values, leaves):
    """Gradients of a fixed random sum of all values."""
    generator = torch.Generator().manual_seed(7)
    loss = sum((value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum() for value in values)
    return torch.autograd.grad(loss, leaves)


def present(state):
    return [part for part in state if part is not None]


@pytest.mark.parametrize("lengths", [None, (4, 9, 1, 6)], ids=["full", "packed"])
@pytest.mark.parametrize("implementation", ["reference", "autograd", "fused", "auto"])
@pytest.mark.parametrize(("num_rows", "length"), [(4, 9), (1, 9), (4, 1)])
@pytest.mark.parametrize("name", TORCH_CELLS)
def test_copied_weights_give_the_outputs_and_gradients_of_torch(name, implementation, num_rows, length, lengths):
    module, cell = twins(name)
    inputs, state = random_leaves(cell, num_rows, length)
    lengths = None if lengths is None else torch.tensor(lengths[:num_rows]).clamp(max=length)
    mask = None if lengths is None else torch.arange(length) < lengths[:, None]
    outputs, final = run_sequence(cell, inputs, state, mask=mask, implementation=implementation)
    sequence = inputs if lengths is None else pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    given = [part[None] for part in present(state)]
    theirs, last = module(sequence, tuple(given) if state.cell is not None else given[0])
    theirs = theirs if lengths is None else pad_packed_sequence(theirs, batch_first=True, total_length=length)[0]
    last = last if state.cell is not None else (last,)
    our_values, their_values = [outputs, *present(final)], [theirs, *(part[0] for part in last)]
    torch.testing.assert_close(our_values, their_values)
    # Both of torch's biases have the gradient of our one, but for the GRU, whose hidden bias is our hidden projection's.
    our_leaves = [inputs, *present(state), *cell.parameters()]
    their_leaves = [inputs, *present(state), module.weight_ih_l0, module.bias_ih_l0, module.weight_hh_l0]
    their_leaves += [module.bias_hh_l0] if cell.gates_hidden_product else []
    torch.testing.assert_close(gradients(our_values, our_leaves), gradients(their_values, their_leaves))


@pytest.mark.parametrize("name", TORCH_CELLS)
def test_two_directions_give_the_bidirectional_module(name):
    module, _ = twins(name, bidirectional=True)
    lengths = torch.tensor([4, 9, 1, 6])
    mask = torch.arange(9) < lengths[:, None]
    inputs, directions = torch.randn(4, 9, INPUT, dtype=torch.float64), []
    for reverse in (False, True):
        cell = TORCH_CELLS[name](INPUT, HIDDEN, dtype=torch.float64)
        cell.load_torch_weights(module, reverse=reverse)
        ordered = reverse_by_length(inputs, mask) if reverse else inputs
        outputs, _ = run_sequence(cell, ordered, mask=mask)
        directions.append(reverse_by_length(outputs, mask) if reverse else outputs)
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(module(packed)[0], batch_first=True)
    torch.testing.assert_close(torch.cat(directions, dim=-1), expected)


@pytest.mark.parametrize("name", OWN)
def test_our_kernels_agree_with_finite_differences(name):
    torch.manual_seed(0)
    cell = CELLS[name](2, 3, dtype=torch.float64)
    inputs = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    state = cell.initial_state(3, dtype=torch.float64).apply(lambda part: torch.randn_like(part, requires_grad=True))
    mask, resets = torch.rand(3, 4) < 0.7, torch.rand(3, 4) < 0.3

    def run(*leaves):  # gradcheck changes the elements of the leaves in place, so that the cell sees its own move
        outputs, final = run_sequence(cell, leaves[0], state, mask=mask, resets=resets, implementation="autograd")
        return outputs, *present(final)

    assert torch.autograd.gradcheck(run, (inputs, *present(state), *cell.parameters()))


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_a_second_backward_pass_gives_the_same(name, implementation):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    inputs, mask = torch.randn(3, 7, INPUT, requires_grad=True), torch.rand(3, 7) < 0.7
    loss = run_sequence(cell, inputs, mask=mask, implementation=implementation)[0].square().sum()
    first, second = (torch.autograd.grad(loss, [inputs, *cell.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", OWN)
def test_a_second_derivative_is_refused(name):
    torch.manual_seed(0)
    inputs = torch.randn(3, 7, INPUT, requires_grad=True)
    outputs, _ = run_sequence(CELLS[name](INPUT, HIDDEN), inputs, implementation="autograd")
    (gradient,) = torch.autograd.grad(outputs.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", OWN)
def test_a_hidden_state_that_was_changed_in_place_is_noticed(name):
    torch.manual_seed(0)
    outputs, _ = run_sequence(CELLS[name](INPUT, HIDDEN), torch.randn(3, 7, INPUT), implementation="autograd")
    outputs.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("name", OWN)
def test_only_what_needs_a_gradient_gets_one(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN).requires_grad_(False)
    cell.input_projection.bias.requires_grad_()
    run_sequence(cell, torch.randn(3, 7, INPUT), implementation="autograd")[0].sum().backward()
    assert [name for name, parameter in cell.named_parameters() if parameter.grad is not None] == ["input_projection.bias"]


@pytest.mark.parametrize("name", OWN)
def test_long_sequences_save_gates_and_states_and_nothing_else(name):
    torch.manual_seed(0)
    num_rows, length = 2, 4096
    cell = CELLS[name](INPUT, HIDDEN)
    inputs = torch.randn(num_rows, length, INPUT, requires_grad=True)
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs, _ = run_sequence(cell, inputs, implementation="autograd")
    gates = 0 if name == "rnn" else cell.num_gates  # the RNN's gate is its hidden state
    blocks = gates + 1 + cell.has_cell_state + cell.gates_hidden_product  # with one for a candidate beside its hidden product
    weights = sum(parameter.nbytes for parameter in cell.parameters())
    assert 0 < sum(saved.values()) <= 4 * num_rows * length * (INPUT + blocks * HIDDEN) + weights + 4096
    outputs.sum().backward()
    assert inputs.grad.isfinite().all()


@pytest.mark.parametrize("name", OWN)
def test_a_wrapper_of_the_input_projection_keeps_its_product(name):
    class Keeping(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, values):
            self.product = self.base(values)
            return self.product

    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    cell.input_projection = Keeping(cell.input_projection)
    inputs = torch.randn(1, 7, INPUT)
    run_sequence(cell, inputs, implementation="autograd")
    assert torch.equal(cell.input_projection.product, cell.input_projection.base(inputs[0]))
    assert isinstance(run_sequence(cell, inputs)[1], RecurrentState)
