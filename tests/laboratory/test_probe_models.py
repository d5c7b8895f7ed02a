"""Models for probe tasks: equal parameters, reproducible weights, what the tricks change, and nothing read ahead."""

import pytest
import torch

from hflab.errors import UserError
from hflab.laboratory.equal_size import closest, count_parameters
from hflab.laboratory.probe_models import DEFAULT_TRICKS, MODELS, SIZE_TOLERANCE, TRICKS, ModelChoice, build_probe_model
from hflab.laboratory.probe_tasks import PROBES


def build(name="parity", cell="lstm", size=3000, tricks=DEFAULT_TRICKS, seed=1):
    return build_probe_model(PROBES[name], ModelChoice(cell, size, tuple(tricks)), seed=seed)


@pytest.mark.parametrize("size", [2000, 10_000, 100_000])
@pytest.mark.parametrize("cell", MODELS)
@pytest.mark.parametrize("name", ["adding", "associative_recall", "parity"])
def test_sizes_are_met(name, cell, size):
    model = build(name, cell, size)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert abs(trained - size) <= SIZE_TOLERANCE * size
    assert abs(trained - size) <= 0.1 * size  # whatever the tolerance is


@pytest.mark.parametrize("cell", MODELS)
def test_with_layer_norm_sizes_are_met_too(cell):
    model = build("adding", cell, 10_000, tuple(TRICKS))
    assert abs(sum(p.numel() for p in model.parameters() if p.requires_grad) - 10_000) <= 500


def test_closest_is_the_closest():
    values = range(1, 60)
    for wanted in range(0, 4000, 7):
        found = closest(values, lambda value: value * value, wanted)
        assert abs(found * found - wanted) == min(abs(value * value - wanted) for value in values)
    assert count_parameters(lambda: torch.nn.Linear(3, 4)) == 16


@pytest.mark.parametrize("cell", MODELS)
@pytest.mark.parametrize("name", ["adding", "parity"])
def test_answers_depend_on_nothing_to_come(name, cell):
    model = build(name, cell).eval()
    inputs = torch.rand(2, 9, 2) if name == "adding" else torch.randint(0, 2, (2, 9))
    changed = inputs.clone()
    changed[:, 5:] = 1 - changed[:, 5:]
    with torch.no_grad():
        before, after = model(inputs), model(changed)
    assert before.shape == (2, 9, PROBES[name].num_outputs)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-4)


def test_weights_follow_from_the_seed_and_other_random_numbers_stay():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.rand(3), expected)
    weights = [torch.cat([parameter.flatten() for parameter in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_the_tricks_change():
    plain, all_of_them = build(tricks=()).model.config, build(tricks=tuple(TRICKS)).model.config
    assert (plain.recurrent_initializer, plain.forget_bias, plain.block_style) == ("uniform", 0.0, "stacked")
    assert (all_of_them.recurrent_initializer, all_of_them.forget_bias, all_of_them.block_style) == ("orthogonal", 1.0, "residual")
    assert plain.hidden_size > all_of_them.hidden_size  # norms and feed-forward have to be paid for


@pytest.mark.parametrize("cell", MODELS)
def test_too_few_parameters(cell):
    with pytest.raises(UserError, match=r"^10 parameters were asked for, and the nearest .* has .* give another number"):
        build("copying", cell, 10)


def test_unknown_names():
    with pytest.raises(UserError, match=r"'gruu'.*Did you mean 'gru'"):
        build(cell="gruu")
    with pytest.raises(UserError, match=r"'cliping'.*Did you mean 'clipping'"):
        build(tricks=("cliping",))
