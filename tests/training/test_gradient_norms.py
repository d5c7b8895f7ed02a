"""The gradient's norm of each parameter group: as autograd has it, whole, before clipping, and only where a recipe asks for it."""

import pytest
import torch

from hflab.errors import UserError
from hflab.models import build_model
from hflab.training import loop
from hflab.training.gradient_norms import gradient_norms, parameter_groups

SHAPES = {
    "recurrent": {"cell_type": "gru", "hidden_size": 6, "num_hidden_layers": 2, "vocab_size": 11},
    "mini_transformer": {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 11},
}


@pytest.mark.parametrize("family", SHAPES)
def test_every_parameter_is_in_one_group(family):
    model = build_model(family, "ForCausalLM", SHAPES[family])
    groups = parameter_groups(model)
    counted = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(counted) == sorted(id(parameter) for parameter in model.parameters())
    assert {"embeddings", "block 1", "block 2"} <= set(groups)
    assert ("block 2 recurrent" in groups) == (family == "recurrent")


@pytest.mark.parametrize("limit", [None, 1e-3, 1e9])
def test_norms_are_those_before_clipping(limit):
    model = build_model("recurrent", "ForCausalLM", SHAPES["recurrent"])
    ids = torch.arange(8)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    expected = {name: torch.cat([p.grad.flatten() for p in group]).norm().item() for name, group in parameter_groups(model).items()}
    whole = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf") if limit is None else limit)
    norms = gradient_norms(model, whole, limit)
    assert norms == pytest.approx(expected, rel=1e-4)
    assert sum(norm**2 for norm in norms.values()) == pytest.approx(whole.item() ** 2, rel=1e-4)


def lines(run):
    return [line for line in run.read_metrics() if line["kind"] == "gradient_norms"]


def test_the_loop_writes_them_where_asked_and_trains_the_same(make_recipe, tmp_path):
    plain = loop.train(make_recipe(), name="plain", output=tmp_path)
    asked = loop.train(make_recipe(training={"gradient_norms_every_steps": 3}), name="asked", output=tmp_path)
    assert lines(plain) == []
    assert [line["step"] for line in lines(asked)] == [3, 6, 9, 12]
    assert all(norm > 0 for line in lines(asked) for norm in line["norms"].values())
    assert {"embeddings", "block 1", "block 1 recurrent", "head"} == set(lines(asked)[0]["norms"])
    losses = [[line["loss"] for line in run.read_metrics() if line["kind"] == "train"] for run in (plain, asked)]
    assert losses[0] == losses[1]


def test_the_card_of_such_a_run_can_be_written(make_recipe, tmp_path):
    import hflab

    run = hflab.train(make_recipe(training={"gradient_norms_every_steps": 4}), output=tmp_path)
    assert (run.model / "README.md").is_file()


def test_sharded_training_refuses_the_key(make_recipe, tmp_path, monkeypatch):
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    from hflab.training.session import build_accelerator

    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    with pytest.raises(UserError, match="leave it out"):
        build_accelerator(make_recipe(training={"gradient_norms_every_steps": 3}), tmp_path)
