"""How weights begin, load, are shared and are resized."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from hflab.models.recurrent import CELLS, HEADS, RecurrentConfig, RecurrentForCausalLM


def gates(cell):
    return cell.hidden_projection.weight.detach().view(cell.num_gates, cell.hidden_size, cell.hidden_size)


def test_recurrent_weights_begin_orthogonal_per_gate(build):
    for block in build().model.layers:
        for gate in gates(block.cell):
            torch.testing.assert_close(gate @ gate.T, torch.eye(12), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("initializer", "std"), [("uniform", 128**-0.5 / math.sqrt(3)), ("normal", 0.07)])
def test_recurrent_weights_begin_as_the_config_says(cell_type, initializer, std):
    config = RecurrentConfig(cell_type=cell_type, hidden_size=128, recurrent_initializer=initializer, initializer_range=0.07)
    weight = RecurrentForCausalLM(config).model.layers[0].cell.hidden_projection.weight
    assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert (weight.abs().max().item() <= 128**-0.5) == (initializer == "uniform")


@pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
def test_forget_gate_begins_with_its_bias(build):
    bias = build(forget_bias=2.5).model.layers[1].cell.input_projection.bias.view(4, 12)
    assert torch.equal(bias, torch.tensor([0.0, 2.5, 0.0, 0.0])[:, None].expand(4, 12))


def test_all_other_biases_begin_at_zero(build):
    biases = {name: parameter for name, parameter in build(tie_word_embeddings=True, embedding_size=8).named_parameters() if name.endswith("bias")}
    assert len(biases) >= 4
    assert [name for name, bias in biases.items() if bias.any() and "input_projection" not in name] == []


@pytest.mark.parametrize(
    ("fields", "std"),
    [
        ({"block_style": "stacked"}, 1.0),
        ({"block_style": "stacked", "tie_word_embeddings": True}, 256**-0.25),
        ({"block_style": "residual", "initializer_range": 0.05}, 0.05),
        ({"block_style": "residual", "initializer_range": 0.05, "tie_word_embeddings": True}, 0.05),
    ],
)
def test_embedding_begins_on_the_scale_that_its_reader_wants(fields, std):
    model = RecurrentForCausalLM(RecurrentConfig(vocab_size=200, embedding_size=256, hidden_size=16, **fields))
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(std, rel=0.03)


def test_a_checkpoint_without_one_tensor_keeps_all_others(build, tmp_path):
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # nothing that initialisation could give
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert len(weights) >= 8
    for missing in weights:
        save_file({name: tensor for name, tensor in weights.items() if name != missing}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = RecurrentForCausalLM.from_pretrained(tmp_path).state_dict()
        changed = [name for name, tensor in weights.items() if not torch.equal(loaded[name], tensor)]
        assert changed == [missing]
        assert loaded[missing].isfinite().all()


def test_a_model_begun_on_no_device_is_initialised_like_any_other(build, cell_type, block_style):
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.init_weights()
    for block in model.model.layers:
        gate = gates(block.cell)[0]
        torch.testing.assert_close(gate @ gate.T, torch.eye(12), rtol=0, atol=1e-5)
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("head", list(HEADS))
def test_saves_and_loads(build, tokens, tmp_path, head):
    model = build(head)
    model.save_pretrained(tmp_path)
    loaded = HEADS[head].from_pretrained(tmp_path).eval()
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {})
    if model.main_input_name == "input_features":
        inputs = {"input_features": torch.randn(3, 9, model.config.num_mel_bins)}
    assert torch.equal(loaded(**inputs)[0], model(**inputs)[0])
    assert not loaded.training


def test_base_weights_move_between_model_and_head(build, tokens, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    base = HEADS["Model"].from_pretrained(tmp_path).eval()
    assert torch.equal(base(input_ids=tokens).last_hidden_state, model.model(input_ids=tokens).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    again = RecurrentForCausalLM.from_pretrained(tmp_path / "base")
    assert torch.equal(again.model.embed_tokens.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("embedding_size", [12, 8, 20])
def test_tied_head_shares_the_embedding(build, tokens, tmp_path, embedding_size):
    model = build(tie_word_embeddings=True, embedding_size=embedding_size)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.head_projection.__class__.__name__ == "Linear") == (embedding_size != 12)
    model.save_pretrained(tmp_path)
    assert [name for name in load_file(tmp_path / "model.safetensors") if "lm_head.weight" in name or "embed_tokens" in name] == [
        "model.embed_tokens.weight"
    ]
    loaded = RecurrentForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_untied_head_does_not(build):
    model = build()
    assert model.lm_head.weight is not model.model.embed_tokens.weight


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [30, 15])
def test_resizing_keeps_the_old_tokens(build, tokens, tied, size):
    model = build(tie_word_embeddings=tied, embedding_size=8)
    tokens = tokens % 15
    before = model(input_ids=tokens).logits
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == model.lm_head.out_features == size
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    torch.testing.assert_close(model(input_ids=tokens).logits[..., :15], before[..., :15])
    assert model(input_ids=tokens, labels=tokens).loss.isfinite()


def test_every_cell_names_its_projections_for_adapters():
    for cell_type in CELLS:
        names = dict(RecurrentForCausalLM(RecurrentConfig(cell_type=cell_type, hidden_size=4)).named_modules())
        assert {"model.layers.0.cell.input_projection", "model.layers.0.cell.hidden_projection"} <= set(names)
