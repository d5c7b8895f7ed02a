"""Training: losses and accumulation, dropout, gradient checkpointing, Trainer, LoRA, Accelerate's offloading, torch.compile."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from torch.nn import functional as F

import hflab
from hflab.models.recurrent import RecurrentForCausalLM, detach_cache
from hflab.models.recurrent.blocks_recurrent import locked_dropout


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_all_close(actual, expected, tolerance=1e-6):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance * 10, atol=tolerance)


def test_labels_are_shifted_inside(build, tokens):
    outputs = build()(input_ids=tokens, labels=tokens)
    expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(outputs.loss, expected)


def test_aligned_targets_are_not_shifted(build, tokens):
    model, targets = build(), tokens.roll(3, 1)
    outputs = model(input_ids=tokens, shift_labels=targets)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten()))
    torch.testing.assert_close(model(input_ids=tokens, labels=tokens, shift_labels=targets).loss, outputs.loss)


def test_ignored_targets_do_not_count(build, tokens):
    model, labels = build(), tokens.clone()
    labels[0], labels[1, 4:] = -100, -100
    outputs = model(input_ids=tokens, labels=labels)
    kept = labels[:, 1:] != -100
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits[:, :-1][kept], tokens[:, 1:][kept]))


def test_windows_lose_no_target_at_their_edges(build, tokens):
    """A long text in windows with carried state costs, summed over windows, what it costs in one piece."""
    model, cache, total = build(), None, 0.0
    for inputs, targets in zip(tokens[:, :-1].split(4, 1), tokens[:, 1:].split(4, 1), strict=True):
        outputs = model(input_ids=inputs, shift_labels=targets, past_key_values=cache, num_items_in_batch=1)
        cache, total = outputs.past_key_values, total + outputs.loss
    torch.testing.assert_close(total / tokens[:, 1:].numel(), model(input_ids=tokens, labels=tokens).loss)


@pytest.mark.parametrize("count_type", [int, torch.tensor])
def test_accumulated_micro_batches_are_one_batch(build, count_type):
    model = build().train()
    tokens = torch.randint(1, 23, (8, 9))
    labels = tokens.clone()
    labels[0, 3:] = -100  # micro-batches hold different numbers of targets
    whole = model(input_ids=tokens, labels=labels).loss
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    count, total = count_type(int((labels[:, 1:] != -100).sum())), 0.0
    for part in range(4):
        rows = slice(2 * part, 2 * part + 2)
        loss = model(input_ids=tokens[rows], labels=labels[rows], num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert_all_close(gradients(model), expected)


# Run by two processes, each with half of the batch; the first saves the gradients.
HALF_BATCH = """
import sys, torch, torch.distributed as dist
from hflab.models.recurrent import RecurrentForCausalLM
dist.init_process_group("gloo")
model = RecurrentForCausalLM.from_pretrained(sys.argv[1]).train()
batch = torch.load(sys.argv[1] + "/batch.pt")
rows = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
parallel = torch.nn.parallel.DistributedDataParallel(model)
loss = parallel(input_ids=batch["input_ids"][rows], labels=batch["labels"][rows], num_items_in_batch=batch["count"]).loss
(loss * dist.get_world_size()).backward()  # DistributedDataParallel averages over processes
if dist.get_rank() == 0:
    torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, sys.argv[1] + "/gradients.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("block_style", ["residual"], indirect=True)
def test_two_processes_are_one_batch(build, tmp_path):
    model = build().train()
    input_ids = torch.randint(1, 23, (8, 9))
    labels = input_ids.clone()
    labels[0, 3:] = -100
    model.save_pretrained(tmp_path)
    torch.save({"input_ids": input_ids, "labels": labels, "count": (labels[:, 1:] != -100).sum()}, tmp_path / "batch.pt")
    (tmp_path / "half_batch.py").write_text(HALF_BATCH)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "half_batch.py"), str(tmp_path)]
    package = str(Path(hflab.__file__).parents[1])
    process = subprocess.run(launch, env=os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    model(input_ids=input_ids, labels=labels).loss.backward()
    halves = torch.load(tmp_path / "gradients.pt")
    assert_all_close([halves[name] for name, _ in model.named_parameters()], gradients(model))


def test_nothing_is_dropped_outside_training(build, tokens):
    dropouts = {"embedding_dropout": 0.5, "input_dropout": 0.5, "recurrent_dropout": 0.5, "output_dropout": 0.5}
    assert torch.equal(build(**dropouts)(input_ids=tokens).logits, build()(input_ids=tokens).logits)


@pytest.mark.parametrize("dropout", ["embedding_dropout", "input_dropout", "recurrent_dropout", "output_dropout"])
def test_each_dropout_acts_in_training(build, tokens, dropout):
    model = build(**{dropout: 0.5}).train()
    assert not torch.allclose(model(input_ids=tokens).logits, model(input_ids=tokens).logits)
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model))


def test_embedding_dropout_drops_token_types(build):
    model = build("Model", embedding_dropout=0.4).train()
    torch.manual_seed(3)
    tokens = torch.arange(23).repeat(2, 3)
    embeds = model._embed(tokens, None)
    factors = embeds / model.embed_tokens(tokens)
    per_type = factors[0, :23, 0]
    assert set(per_type.detach().mul(0.6).round(decimals=4).tolist()) == {0.0, 1.0}
    torch.testing.assert_close(factors, per_type.repeat(3)[None, :, None].expand_as(factors))


def test_locked_dropout_keeps_its_mask_over_time():
    torch.manual_seed(0)
    dropped = locked_dropout(torch.ones(4, 7, 50), 0.3, training=True)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert not torch.equal(dropped[0], dropped[1])
    assert dropped[:, 0].count_nonzero().item() == pytest.approx(140, abs=20)
    assert dropped.max().item() == pytest.approx(1 / 0.7)
    assert locked_dropout(dropped, 0.3, training=False) is dropped


def test_recurrent_dropout_drops_weights_once_a_sequence(build, tokens):
    """Zeros in the recurrent weight, the same ones at every step: undone by scaling, they are found in the weight itself."""
    model = build("Model", recurrent_dropout=0.25).train()
    cell = model.layers[0].cell
    torch.manual_seed(5)
    dropped = model(input_ids=tokens).last_hidden_state
    torch.manual_seed(5)
    again = model(input_ids=tokens).last_hidden_state
    assert torch.equal(dropped, again)
    with torch.no_grad():
        cell.hidden_projection.weight.zero_()
        model.layers[1].cell.hidden_projection.weight.zero_()
    assert torch.equal(model(input_ids=tokens).last_hidden_state, model.eval()(input_ids=tokens).last_hidden_state)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # the new names came after transformers 5.17
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_no_loss_and_no_gradient(build, tokens, use_reentrant):
    model = build(embedding_dropout=0.1, input_dropout=0.2, recurrent_dropout=0.2, output_dropout=0.1).train()

    def two_windows():
        """The state of the first window is carried into the second with its gradient."""
        model.zero_grad()
        torch.manual_seed(7)
        first = model(input_ids=tokens[:, :5], labels=tokens[:, :5], use_cache=True)
        second = model(input_ids=tokens[:, 5:], labels=tokens[:, 5:], past_key_values=first.past_key_values)
        (first.loss + second.loss).backward()
        return first.loss.item(), second.loss.item(), gradients(model)

    *losses, expected = two_windows()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_gradient_checkpointing
    *checkpointed, actual = two_windows()
    assert checkpointed == losses
    assert_all_close(actual, expected, tolerance=1e-5 if use_reentrant else 1e-7)


def test_truncated_backpropagation_trains(build):
    """A text that repeats itself at a distance longer than a window is learned only with carried state."""
    model = build().train()
    torch.manual_seed(1)
    text = torch.arange(23).repeat(60)[None]
    optimizer, cache = torch.optim.Adam(model.parameters(), lr=0.02), None
    for step in range(120):
        window = slice(8 * step, 8 * step + 8)
        targets = text[:, 8 * step + 1 : 8 * step + 9]
        outputs = model(input_ids=text[:, window], shift_labels=targets, past_key_values=cache, use_cache=True)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        cache = detach_cache(outputs.past_key_values)
    assert outputs.loss.item() < 1.0
    assert cache.get_seq_length() == 960


def test_trainer_accumulates_to_the_same_weights(build, tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": row, "labels": row} for row in torch.randint(1, 23, (16, 9))]
    rows[0]["labels"] = torch.cat([rows[0]["labels"][:3], torch.full((6,), -100)])
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = build()
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
        weights.append([parameter.detach() for parameter in model.parameters()])
    assert_all_close(*weights, tolerance=1e-5)


def test_lora_trains_merges_saves_and_reloads(build, tokens, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    base = build()
    targets = ["input_projection", "hidden_projection", "lm_head"]
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    adapters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {target for target in targets for name in adapters if target in name} == set(targets)
    assert [name for name, parameter in adapters.items() if not parameter.grad.any()] == []
    logits = model.eval()(input_ids=tokens).logits
    assert not torch.allclose(logits, base(input_ids=tokens).logits, atol=1e-2)
    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    torch.testing.assert_close(reloaded(input_ids=tokens).logits, logits)
    merged = model.merge_and_unload()
    assert isinstance(merged, RecurrentForCausalLM)
    torch.testing.assert_close(merged(input_ids=tokens).logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("always")
def test_lora_on_a_tied_head_is_warned_of(build):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        peft.get_peft_model(build(tie_word_embeddings=True), peft.LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))


def test_offloaded_weights_are_brought_back(build, tokens):
    model = build()
    expected = model(input_ids=tokens).logits
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert torch.equal(model(input_ids=tokens).logits, expected)


@pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
@pytest.mark.parametrize("block_style", ["residual"], indirect=True)
def test_compiled_training_step(build, tokens):
    model = build().train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    torch.compiler.reset()
    loss = torch.compile(model, backend="eager")(input_ids=tokens, labels=tokens).loss
    loss.backward()
    assert_all_close(gradients(model), expected)
