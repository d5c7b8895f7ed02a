"""The fast paths against the reference, and the promises of `run_sequence`."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hflab.models.recurrent.cells_recurrent import CELLS, RecurrentCell, RecurrentState
from hflab.models.recurrent.kernels_recurrent import KERNELS
from hflab.models.recurrent.sequence_recurrent import reverse_by_length, run_sequence

INPUT, HIDDEN = 5, 6
TORCH_CELLS = {name: cell for name, cell in CELLS.items() if cell.torch_class is not None}
FAST = [(name, "autograd") for name, cell in CELLS.items() if cell in KERNELS] + [(name, "fused") for name in TORCH_CELLS]
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 4e-2}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))]


def make_mask(pattern, num_rows, length):
    """(B, T) masks; the first row of a batch is all padding."""
    if pattern is None:
        return None
    lengths = torch.randint(1, length + 1, (num_rows, 1))
    places = torch.arange(length)
    mask = {"right": places < lengths, "left": places >= length - lengths, "anywhere": torch.rand(num_rows, length) < 0.6}[pattern]
    if num_rows > 1:
        mask[0] = False
    return mask


def random_state(cell, num_rows, dtype):
    return cell.initial_state(num_rows, dtype=dtype, device=cell.input_projection.weight.device).apply(torch.randn_like)


def results(cell, inputs, state, implementation, **options):
    """Outputs, final state and the gradients of inputs, initial state and every parameter, by name."""
    cell = copy.deepcopy(cell)
    inputs = inputs.clone().requires_grad_()
    state = None if state is None else state.apply(lambda part: part.clone().requires_grad_())
    outputs, final = run_sequence(cell, inputs, state, implementation=implementation, **options)
    named = {"outputs": outputs, "hidden": final.hidden} | ({} if final.cell is None else {"cell": final.cell})
    generator = torch.Generator().manual_seed(7)
    loss = sum((value * torch.randn(value.shape, generator=generator).to(value)).sum() for value in named.values())
    loss.backward()
    gradients = {"inputs": inputs.grad} | {name: parameter.grad for name, parameter in cell.named_parameters()}
    if state is not None:
        gradients |= {f"initial {name}": part.grad for name, part in state._asdict().items() if part is not None}
    return named | {f"gradient of {name}": gradient for name, gradient in gradients.items()}


def assert_same(given, expected, tolerance):
    """Within the tolerance relative to the largest element: sums of many terms have no relative precision of their own."""
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert given[name].dtype == value.dtype, name
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(given[name] / scale, value / scale, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("pattern", [None, "right", "left", "anywhere"])
@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_fast_paths_equal_the_reference(name, implementation, pattern, dtype, device):
    torch.manual_seed(0)
    for B, T in ((3, 7), (1, 5), (4, 1), (1, 1)):
        cell = CELLS[name](INPUT, HIDDEN).to(device, dtype)
        inputs = torch.randn(B, T, INPUT).to(device, dtype)
        mask = make_mask(pattern, B, T)
        for resets in (None, torch.rand(B, T) < 0.3):
            for state in (None, random_state(cell, B, dtype)):
                options = {"mask": None if mask is None else mask.to(device), "resets": None if resets is None else resets.to(device)}
                expected = results(cell, inputs, state, "reference", **options)
                for tried in (implementation, "auto"):
                    assert_same(results(cell, inputs, state, tried, **options), expected, TOLERANCES[dtype])


def test_reversal_turns_real_tokens_only_and_is_its_own_inverse():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]]).bool()
    values = torch.arange(16.0).view(4, 4)
    expected = torch.tensor([[2, 1, 0, 3], [4, 7, 6, 5], [11, 9, 10, 8], [12, 13, 14, 15]]).float()
    assert torch.equal(reverse_by_length(values, mask), expected)
    assert torch.equal(reverse_by_length(values[..., None].expand(4, 4, 3), mask), expected[..., None].expand(4, 4, 3))
    assert torch.equal(reverse_by_length(reverse_by_length(values, mask), mask), values)
    assert torch.equal(reverse_by_length(values, None), values.flip(1))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_padding_gives_zeros_and_leaves_the_state(name, implementation):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    inputs, state = torch.randn(3, 6, INPUT), random_state(cell, 3, torch.float32)
    mask = torch.rand(3, 6) < 0.5
    mask[0] = False
    everywhere = torch.ones(3, 6, dtype=torch.bool)
    outputs, final = run_sequence(cell, inputs, state, mask=mask, resets=everywhere & ~mask, implementation=implementation)
    assert not outputs[~mask].any()
    for part, before in zip(final, state, strict=True):
        assert part is None or torch.equal(part[0], before[0])
    for row in (1, 2):
        alone, last = run_sequence(cell, inputs[row : row + 1, mask[row]], state.apply(lambda part, row=row: part[row : row + 1]))
        torch.testing.assert_close(outputs[row, mask[row]], alone[0])
        torch.testing.assert_close(final.hidden[row], last.hidden[0])


@pytest.mark.parametrize("name", CELLS)
def test_chunks_and_single_tokens_give_the_whole(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN, dtype=torch.float64)
    inputs, mask, resets = torch.randn(3, 9, INPUT, dtype=torch.float64), make_mask("anywhere", 3, 9), torch.rand(3, 9) < 0.3
    whole, last = run_sequence(cell, inputs, mask=mask, resets=resets)
    for size in (1, 4):
        state, outputs = None, []
        for chunk in zip(inputs.split(size, 1), mask.split(size, 1), resets.split(size, 1), strict=True):
            output, state = run_sequence(cell, chunk[0], state, mask=chunk[1], resets=chunk[2])
            outputs.append(output)
        torch.testing.assert_close(torch.cat(outputs, dim=1), whole)
        torch.testing.assert_close(state.hidden, last.hidden)


@pytest.mark.parametrize("name", CELLS)
def test_a_reset_begins_a_new_sequence(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN, dtype=torch.float64)
    inputs, resets = torch.randn(1, 9, INPUT, dtype=torch.float64), torch.zeros(1, 9, dtype=torch.bool)
    resets[0, 4] = True
    outputs, final = run_sequence(cell, inputs, random_state(cell, 1, torch.float64), resets=resets)
    anew, last = run_sequence(cell, inputs[:, 4:])
    torch.testing.assert_close(outputs[:, 4:], anew)
    torch.testing.assert_close(final.hidden, last.hidden)


class ExponentialAverage(RecurrentCell):
    """A cell as a user may add it: nothing but a step."""

    num_gates = 1
    has_cell_state = True

    def step(self, input_product, hidden_product, state):
        cell = 0.9 * state.cell + 0.1 * torch.relu(input_product + hidden_product)
        return cell.sin(), RecurrentState(cell.sin(), cell)


def test_a_cell_that_only_defines_its_step_runs_with_everything():
    torch.manual_seed(0)
    cell = ExponentialAverage(INPUT, HIDDEN)
    inputs, state, mask = torch.randn(3, 7, INPUT), random_state(cell, 3, torch.float32), make_mask("anywhere", 3, 7)
    expected = results(cell, inputs, state, "reference", mask=mask, resets=mask.roll(1, 1))
    assert_same(results(cell, inputs, state, "auto", mask=mask, resets=mask.roll(1, 1)), expected, 0.0)
    for implementation, told in (("autograd", "no kernel in KERNELS"), ("fused", "no kernel in torch")):
        with pytest.raises(ValueError, match=told):
            run_sequence(cell, inputs, implementation=implementation)


def test_a_subclass_with_another_step_does_not_inherit_the_kernel():
    class Negated(CELLS["rnn"]):
        def step(self, input_product, hidden_product, state):
            output, after = super().step(input_product, hidden_product, state)
            return -output, RecurrentState(-after.hidden)

    torch.manual_seed(0)
    cell = Negated(INPUT, HIDDEN)
    inputs = torch.randn(2, 5, INPUT)
    assert torch.equal(run_sequence(cell, inputs)[0], run_sequence(cell, inputs, implementation="reference")[0])


class LowRank(nn.Module):
    """A linear layer with a low-rank addition, as LoRA wraps it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, inputs):
        return self.base(inputs) + self.up(self.down(inputs))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("wrapped", [("hidden_projection",), ("input_projection",), ("input_projection", "hidden_projection")])
def test_adapters_are_honoured_by_every_path(name, wrapped):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    for projection in wrapped:
        setattr(cell, projection, LowRank(getattr(cell, projection)))
    inputs, mask = torch.randn(3, 7, INPUT), make_mask("anywhere", 3, 7)
    expected = results(cell, inputs, None, "reference", mask=mask)
    assert expected[f"gradient of {wrapped[0]}.up.weight"].abs().sum() > 0
    can_fuse = name in TORCH_CELLS and "input_projection" not in wrapped
    for implementation in ("auto", "autograd", *(["fused"] if can_fuse else [])):
        assert_same(results(cell, inputs, None, implementation, mask=mask), expected, 1e-5)
    if not can_fuse:
        with pytest.raises(ValueError, match=r"plain nn\.Linear"):
            run_sequence(cell, inputs, implementation="fused")


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_recurrent_dropout_draws_one_mask_per_call_while_training(name, implementation):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN, dtype=torch.float64)
    inputs = torch.randn(3, 7, INPUT, dtype=torch.float64)
    torch.manual_seed(1)
    expected = results(cell, inputs, None, "reference", recurrent_dropout=0.5)
    torch.manual_seed(1)
    assert_same(results(cell, inputs, None, implementation, recurrent_dropout=0.5), expected, 1e-11)
    torch.manual_seed(1)
    dropped = copy.deepcopy(cell)
    dropped.hidden_projection.weight = nn.Parameter(F.dropout(cell.hidden_projection.weight, 0.5))
    torch.testing.assert_close(run_sequence(dropped, inputs)[0], expected["outputs"])
    cell.eval()
    assert torch.equal(run_sequence(cell, inputs, recurrent_dropout=0.5)[0], run_sequence(cell, inputs)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_under_autocast_outputs_and_states_have_its_type_and_weights_keep_theirs(name, dtype):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    inputs, mask = torch.randn(3, 7, INPUT), make_mask("anywhere", 3, 7)
    exact = results(cell, inputs, None, "reference", mask=mask)
    with torch.autocast("cpu", dtype=dtype):
        expected = results(cell, inputs, None, "reference", mask=mask)
        for implementation in ("auto", *[fast for known, fast in FAST if known == name]):
            given = results(cell, inputs, None, implementation, mask=mask)
            assert_same(given, expected, 4e-2)
            assert {given[part].dtype for part in ("outputs", "hidden", "cell") if part in given} == {dtype}
            assert given["gradient of hidden_projection.weight"].dtype == torch.float32
        state = RecurrentState(*(None if part is None else part.float() for part in run_sequence(cell, inputs)[1]))
        assert run_sequence(cell, inputs[:, :1], state)[1].hidden.dtype == dtype
    assert_same({name: value.float() for name, value in expected.items()}, exact, 4e-2)


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_views_in_any_memory_order_and_inference_mode(name, implementation):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    inputs = torch.randn(INPUT, 7, 3).permute(2, 1, 0)
    state = cell.initial_state(3).apply(lambda part: torch.randn(HIDDEN, 3).t())
    expected, last = run_sequence(cell, inputs.contiguous(), state.apply(torch.Tensor.contiguous), implementation="reference")
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            outputs, final = run_sequence(cell, inputs, state, implementation=implementation)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(final.hidden, last.hidden)
        assert outputs.requires_grad == (context is torch.enable_grad)


@pytest.mark.parametrize("name", CELLS)
def test_the_cell_part_can_be_left_out(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    inputs, mask = torch.randn(3, 7, INPUT), make_mask("right", 3, 7)
    for tokens in (7, 1):
        full, last = run_sequence(cell, inputs[:, :tokens], mask=mask[:, :tokens])
        outputs, final = run_sequence(cell, inputs[:, :tokens], mask=mask[:, :tokens], need_final_state=False)
        torch.testing.assert_close(outputs, full)
        torch.testing.assert_close(final.hidden, last.hidden)
        assert final.cell is None


class OperationCounter:
    """A torch.compile backend that runs the graph as it is and notes how large it was."""

    def __init__(self):
        self.sizes = []

    def __call__(self, graph, example_inputs):
        self.sizes.append(len(graph.graph.nodes))
        return graph.forward


@pytest.mark.parametrize("name", CELLS)
def test_a_step_without_gradient_compiles_in_one_graph(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN).eval()
    counter = OperationCounter()
    compiled = torch.compile(run_sequence, fullgraph=True, backend=counter)
    inputs, mask, resets = torch.randn(3, 4, INPUT), make_mask("anywhere", 3, 4), torch.rand(3, 4) < 0.5
    state = cell.initial_state(3)
    with torch.no_grad():
        expected, _ = run_sequence(cell, inputs, state, mask=mask, resets=resets)
        for t in range(4):
            step = slice(t, t + 1)
            output, state = compiled(cell, inputs[:, step], state, mask=mask[:, step], resets=resets[:, step])
            torch.testing.assert_close(output, expected[:, step])
    assert len(counter.sizes) == 1


@pytest.mark.parametrize("name", CELLS)
def test_under_compile_the_loop_over_time_is_left_out_of_the_graph(name):
    torch.manual_seed(0)
    cell = CELLS[name](INPUT, HIDDEN)
    sizes = []
    for T in (3, 12):
        torch._dynamo.reset()
        counter = OperationCounter()
        inputs = torch.randn(2, T, INPUT)
        compiled = torch.compile(lambda values: run_sequence(cell, values)[0] * 2, backend=counter)
        torch.testing.assert_close(compiled(inputs), run_sequence(cell, inputs)[0] * 2)
        sizes.append(sum(counter.sizes))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": torch.randn(2, 0, INPUT)}, r"\(2, 0, 5\)"),
        ({"inputs": torch.randn(0, 3, INPUT)}, "at least one row"),
        ({"inputs": torch.randn(3, INPUT)}, r"\(3, 5\)"),
        ({"inputs": torch.randn(2, 3, INPUT + 1)}, r"\(B, T, 5\)"),
        ({"mask": torch.ones(2, 3)}, "mask is torch.float32"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"\(2, 4\)"),
        ({"resets": torch.ones(2, 3, dtype=torch.long)}, "resets is torch.int64"),
        ({"state": RecurrentState(torch.zeros(2, HIDDEN))}, "needs"),
        ({"state": RecurrentState(torch.zeros(1, HIDDEN), torch.zeros(1, HIDDEN))}, r"\(1, 6\)"),
        ({"implementation": "fuse"}, "Did you mean 'fused'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, told):
    arguments = {"inputs": torch.randn(2, 3, INPUT)} | change
    inputs = arguments.pop("inputs")
    with pytest.raises(ValueError, match=told):
        run_sequence(CELLS["lstm"](INPUT, HIDDEN), inputs, **arguments)
