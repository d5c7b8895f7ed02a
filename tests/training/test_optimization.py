"""Optimizer groups, schedules and averages."""

import copy
import math

import pytest
import torch
from torch import nn

from hflab.errors import UserError
from hflab.models.recurrent.configuration_recurrent import RecurrentConfig
from hflab.models.recurrent.modeling_recurrent import RecurrentForCausalLM
from hflab.recipe import TrainingSection
from hflab.training.muon import orthogonalise
from hflab.training.optimization import build_averaged_model, build_optimizer, learning_rate_at


def section(**values):
    return TrainingSection(num_steps=100, **values)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))


def test_only_matrices_decay(model):
    decayed, plain = build_optimizer(model, section(weight_decay=0.1)).param_groups
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(4, 4)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(plain["params"]) == 4


@pytest.mark.parametrize("name", ["adamw", "sgd", "RMSprop", "Adagrad", "NAdam", "Adafactor", "muon"])
def test_optimizers_lower_a_loss(model, name):
    optimizer = build_optimizer(model, section(optimizer=name, learning_rate=0.02))
    losses = []
    for _ in range(5):
        loss = (model(torch.arange(5)) - 1.0).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_orthogonalised_matrices_keep_their_singular_vectors_and_nearly_lose_their_singular_values():
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 5)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ orthogonalise(matrices, 5) @ right.mT
    values = torch.diagonal(turned, dim1=1, dim2=2)
    torch.testing.assert_close(turned, torch.diag_embed(values), atol=1e-4, rtol=0)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_treats_each_gate_as_a_matrix_of_its_own_and_leaves_embedding_and_head_to_adamw():
    torch.manual_seed(0)
    language_model = RecurrentForCausalLM(RecurrentConfig(cell_type="gru", vocab_size=7, hidden_size=6, embedding_size=4))
    optimizer = build_optimizer(language_model, section(optimizer="muon", weight_decay=0.1))
    muon = [group for group in optimizer.param_groups if group["num_blocks"]]
    cell = language_model.model.layers[0].cell
    assert [group["num_blocks"] for group in muon] == [3]
    assert {id(parameter) for parameter in muon[0]["params"]} == {id(cell.input_projection.weight), id(cell.hidden_projection.weight)}
    before = cell.hidden_projection.weight.detach().clone()
    language_model(input_ids=torch.arange(7)[None], labels=torch.arange(7)[None]).loss.backward()
    optimizer.step()
    update = (before * (1 - section().learning_rate * 0.1) - cell.hidden_projection.weight.detach()).view(3, 6, 6)
    values = torch.linalg.svdvals(update) / (section().learning_rate * 0.2 * 6**0.5)
    assert values[:, 0].max() < 1.3
    assert values[:, 2].min() > 0.5


def test_muon_continues_from_its_saved_state(model):
    def train(optimizer, steps):
        for _ in range(steps):
            (model(torch.arange(5)) - 1.0).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    optimizer = build_optimizer(model, section(optimizer="muon"))
    train(optimizer, 2)
    saved_weights, saved = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(optimizer, 3)
    expected = copy.deepcopy(model.state_dict())
    model.load_state_dict(saved_weights)
    again = build_optimizer(model, section(optimizer="muon"))
    again.load_state_dict(saved)
    train(again, 3)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"optimizer": "adamv"}, "Did you mean 'adamw'"),
        ({"optimizer": "Optimizer"}, "does not exist"),
        ({"optimizer": "LBFGS"}, "does not exist"),
        ({"optimizer": "muon", "optimizer_arguments": {"num_iterations": 0}}, "from 1 to 10"),
        ({"optimizer_arguments": {"beta": [0.9, 0.9]}}, "'betas'"),
        ({"optimizer_arguments": {"betas": [2.0, 0.9]}}, "refused its arguments"),
    ],
)
def test_mistakes_are_refused(model, values, expected):
    with pytest.raises(UserError, match=expected):
        build_optimizer(model, section(**values))


@pytest.mark.parametrize(("schedule", "middle"), [("constant", 1.0), ("linear", 0.55), ("cosine", 0.55)])
def test_schedules_lead_from_the_peak_to_the_minimum(schedule, middle):
    values = section(schedule=schedule, learning_rate=2.0, min_learning_rate_ratio=0.1)
    assert learning_rate_at(values, 50, 0.0) == pytest.approx(2.0)
    assert learning_rate_at(values, 50, 0.5) == pytest.approx(2.0 * middle)
    assert learning_rate_at(values, 50, 1.0) == pytest.approx(2.0 if schedule == "constant" else 0.2)


def test_warm_up_rises_linearly():
    values = section(schedule="constant", learning_rate=1.0, warmup_steps=4)
    assert [learning_rate_at(values, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["ema", "asgd"])
def test_averages_equal_their_formula(model, kind):
    averaged = build_averaged_model(model, section(averaging=kind, averaging_decay=0.9))
    weight, seen = model[1].weight, []
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(weight, value)
        averaged.update_parameters(model)
        seen.append(value)
    expected = sum(seen) / 3 if kind == "asgd" else 0.9 * (0.9 * 1.0 + 0.1 * 2.0) + 0.1 * 4.0
    assert math.isclose(averaged.module[1].weight[0, 0].item(), expected, rel_tol=1e-6)
    assert build_averaged_model(model, section()) is None
