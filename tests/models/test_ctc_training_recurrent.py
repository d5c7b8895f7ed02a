"""Training of the speech recogniser: accumulation, SpecAugment, gradient checkpointing, Trainer, LoRA, offloading, torch.compile."""

import copy

import accelerate
import pytest
import torch
from transformers import Trainer, TrainingArguments

from hflab.models.recurrent import RecurrentConfig, RecurrentForCTC
from hflab.models.recurrent.ctc_recurrent import _spec_augment

MELS = 6
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
RESIDUAL = pytest.mark.parametrize("block_style", ["residual"], indirect=True)
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_all_close(actual, expected, tolerance=1e-6):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance * 10, atol=tolerance)


@pytest.fixture
def learner(recogniser):
    """Builds a tiny recogniser in training mode; keyword arguments are config fields."""
    return lambda **fields: recogniser(**fields).train()


@pytest.fixture
def clips():
    """Eight clips of 12 to 26 frames with transcripts of one to four characters, some of them -100."""
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(8, 26, MELS, generator=generator), torch.randint(1, 23, (8, 4), generator=generator)
    mask = (torch.arange(26) < torch.arange(12, 28, 2)[:, None]).long()
    labels[torch.arange(4) > torch.arange(8)[:, None] % 4] = -100
    return {"input_features": features, "attention_mask": mask, "labels": labels}


@DIRECTIONS
@pytest.mark.parametrize("count_type", [int, torch.tensor])
def test_accumulated_micro_batches_are_one_batch(learner, clips, bidirectional, count_type):
    model = learner(bidirectional=bidirectional)
    whole = model(**clips).loss
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    count, total = count_type(int((clips["labels"] != -100).sum())), 0.0
    for part in range(4):
        rows = {name: values[2 * part : 2 * part + 2] for name, values in clips.items()}
        loss = model(**rows, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert_all_close(gradients(model), expected, tolerance=1e-5)


@ONE_CELL
@RESIDUAL
def test_trainer_accumulates_to_the_same_weights(learner, clips, tmp_path):
    rows = [{name: values[row] for name, values in clips.items()} for row in range(8)] * 2
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = learner()
        arguments = TrainingArguments(
            tmp_path,
            max_steps=2,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            eval_strategy="steps",
            eval_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            learning_rate=0.01,
        )
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:4])
        trainer.train()
        assert [entry for entry in trainer.state.log_history if "eval_loss" in entry]
        assert trainer.predict(rows[:5]).predictions.shape == (5, 7, 23)
        weights.append([parameter.detach() for parameter in model.parameters()])
    assert_all_close(*weights, tolerance=1e-5)


def spans(hidden):
    """Lengths of the runs of True in a row (T,)."""
    edges = torch.diff(hidden.int(), prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().squeeze(1)
    return edges[1::2] - edges[::2]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("span", [1, 10])
def test_augmentation_hides_whole_spans_of_real_frames(share, span):
    """About the share asked for, less what spans that meet hide twice; padding and the caller's features stay as they are."""
    torch.manual_seed(0)
    config = RecurrentConfig(num_mel_bins=4, mask_time_prob=share, mask_time_length=span)
    lengths = torch.tensor([400, 300, 200, 90, 45]).repeat(60)
    features = torch.ones(300, 400, 4)
    hidden = _spec_augment(features, lengths, config)[..., 0] == 0
    assert (features == 1).all()
    assert torch.equal(hidden[..., None].expand(300, 400, 4), _spec_augment_again(features, lengths, config, seed=0) == 0)
    real = torch.arange(400) < lengths[:, None]
    assert not hidden[~real].any()
    shares = hidden.sum(1) / lengths
    for length in (400, 300, 200):
        never_met = 1 - (1 - span / length) ** (share * length / span)
        assert shares[lengths == length].mean().item() == pytest.approx(never_met, rel=0.08)
    runs = torch.cat([spans(row) for row in hidden])
    assert len(runs) > 300
    assert runs.min().item() == span
    assert not torch.equal(hidden[0], hidden[5])


def _spec_augment_again(features, lengths, config, seed):
    torch.manual_seed(seed)
    return _spec_augment(features, lengths, config)


def test_augmentation_hides_bands_of_all_frames():
    torch.manual_seed(0)
    config = RecurrentConfig(num_mel_bins=80, mask_feature_prob=0.2, mask_feature_length=8)
    augmented = _spec_augment(torch.ones(200, 5, 80), None, config)
    assert torch.equal(augmented, augmented[:, :1].expand(200, 5, 80))
    assert (augmented == 0).float().mean().item() == pytest.approx(1 - (1 - 8 / 80) ** 2, rel=0.08)
    assert min(spans(row).min().item() for row in augmented[:, 0] == 0 if row.any()) == 8


@pytest.mark.parametrize("span", [1, 2, 3, 10, 60])
def test_augmentation_never_hides_everything(span):
    torch.manual_seed(0)
    config = RecurrentConfig(mask_time_prob=0.99, mask_time_length=span, mask_feature_prob=0.99, mask_feature_length=span)
    for num_frames in (1, 2, 3, 4, 10, 11, 25):
        lengths = torch.randint(1, num_frames + 1, (200,))
        kept = _spec_augment(torch.ones(200, num_frames, 10), lengths, config) != 0
        real = kept & (torch.arange(num_frames) < lengths[:, None])[..., None]
        assert real.any(dim=(1, 2)).all()
        assert kept[lengths <= span].any(dim=2).all()  # a row no longer than a span is left alone


def test_augmentation_acts_in_training_alone_and_is_drawn_by_torch(learner, clips):
    model = learner(mask_time_prob=0.3, mask_time_length=4, mask_feature_prob=0.3, mask_feature_length=2)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(**clips).loss.item())
    assert losses[0] == losses[1] != losses[2]
    plain = learner()
    assert model.eval()(**clips).loss.item() == plain.eval()(**clips).loss.item()
    before = torch.get_rng_state()
    assert plain.train()(**clips).loss.item() == pytest.approx(plain.eval()(**clips).loss.item(), rel=1e-6)
    assert torch.equal(torch.get_rng_state(), before)


@ONE_CELL
@pytest.mark.parametrize("dropout", ["input_dropout", "recurrent_dropout", "output_dropout"])
def test_each_dropout_acts_in_training_alone(learner, clips, dropout):
    model = learner(**{dropout: 0.5})
    assert model(**clips).loss.item() != model(**clips).loss.item()
    assert torch.equal(model.eval()(**clips).logits, model(**clips).logits)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # the new names came after transformers 5.17
@pytest.mark.parametrize("use_reentrant", [False, True])
@DIRECTIONS
def test_checkpointing_changes_no_loss_and_no_gradient(learner, clips, use_reentrant, bidirectional):
    model = learner(bidirectional=bidirectional, input_dropout=0.2, recurrent_dropout=0.2, output_dropout=0.1, mask_time_prob=0.2)

    def step():
        model.zero_grad()
        torch.manual_seed(7)
        loss = model(**clips).loss
        loss.backward()
        return loss.item(), gradients(model)

    loss, expected = step()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    checkpointed, actual = step()
    assert checkpointed == pytest.approx(loss, rel=1e-6)  # outside of autograd torch has another LSTM kernel
    assert_all_close(actual, expected, tolerance=1e-5)


def test_lora_trains_merges_saves_and_reloads(learner, clips, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    base, targets = learner(bidirectional=True), ["input_projection", "hidden_projection"]
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["lm_head"]))
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(**clips).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    adapters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {target for target in targets for name in adapters if target in name} == set(targets)
    assert [name for name, parameter in adapters.items() if not parameter.grad.any()] == []
    logits = model.eval()(**clips).logits
    assert not torch.allclose(logits, base.eval()(**clips).logits, atol=1e-2)
    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    torch.testing.assert_close(reloaded(**clips).logits, logits)
    merged = model.merge_and_unload()
    assert isinstance(merged, RecurrentForCTC)
    torch.testing.assert_close(merged(**clips).logits, logits, rtol=1e-4, atol=1e-5)


@ONE_CELL
@RESIDUAL
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_lora_under_gradient_checkpointing(learner, clips, use_reentrant):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    base = learner()
    base.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["input_projection", "hidden_projection"]))
    model(**clips).loss.backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 8
    assert [name for name, gradient in trained.items() if "lora_B" in name and not gradient.any()] == []


@ONE_CELL
def test_offloaded_weights_are_brought_back(learner, clips):
    model = learner().eval()
    expected = model(**clips).logits
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert torch.equal(model(**clips).logits, expected)


@ONE_CELL
@RESIDUAL
@pytest.mark.parametrize("bidirectional", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_training_step(learner, clips, bidirectional):
    model = learner(bidirectional=bidirectional, num_hidden_layers=1)
    expected_loss = model(**clips).loss
    expected_loss.backward()
    expected = gradients(model)
    model.zero_grad()
    torch.compiler.reset()
    loss = torch.compile(model, backend="eager")(**clips).loss
    loss.backward()
    torch.testing.assert_close(loss, expected_loss)
    assert_all_close(gradients(model), expected, tolerance=1e-5)


@pytest.mark.slow
@ONE_CELL
@RESIDUAL
def test_compiled_recognition(learner, clips):
    """Other lengths, without a mask, and chunk after chunk."""
    model, features = learner().eval(), clips["input_features"]
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for num_frames in (26, 20, 17):
        torch.testing.assert_close(compiled(features[:, :num_frames]).logits, model(features[:, :num_frames]).logits)
    torch.testing.assert_close(compiled(features, attention_mask=clips["attention_mask"]).logits, model(**clips).logits)
    first = compiled(features[:, :12])
    second = compiled(features, past_key_values=first.past_key_values, num_context_frames=12)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), model(features).logits)
