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
from hflab.models.mini_transformer import HEADS, MiniTransformerConfig

TASK_HEADS = [head for head in HEADS if head != "Model"]
DROPOUTS = ("embedding_dropout", "hidden_dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
NO_DROPOUT = dict.fromkeys(DROPOUTS, 0.0)
ONE_ARCHITECTURE = pytest.mark.parametrize("architecture", ["bert"], indirect=True)


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def assert_all_close(actual, expected, tolerance=1e-6):
    assert len(actual) == len(expected) > 10
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance * 10, atol=tolerance)


def batch_for(head, num_rows=8):
    """Rows with padding on the right and labels of the head's kind, in numbers that differ from row to row."""
    torch.manual_seed(1)
    input_ids = torch.randint(3, 23, (num_rows, 9))
    attention_mask = (torch.arange(9) < torch.randint(3, 10, (num_rows, 1))).long()
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    if head == "ForSequenceClassification":
        batch["labels"] = torch.arange(num_rows) % 2
    elif head == "ForTokenClassification":
        batch["labels"] = labels.where(labels == -100, labels % 2)
    elif head == "ForPreTraining":  # as many hidden tokens in every row: see the head's note on the second loss
        batch["labels"] = input_ids.masked_fill(torch.arange(9) > 2, -100)
        batch["next_sentence_label"] = torch.arange(num_rows) % 2
    return batch


def num_targets(head, labels):
    return int(((labels[:, 1:] if head == "ForCausalLM" else labels) != -100).sum())


def test_labels_are_shifted_inside(build_transformer, tokens):
    outputs = build_transformer()(input_ids=tokens, labels=tokens)
    expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(outputs.loss, expected)


def test_aligned_targets_are_not_shifted(build_transformer, tokens):
    model, targets = build_transformer(), tokens.roll(3, 1)
    outputs = model(input_ids=tokens, shift_labels=targets)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten()))


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification"])
def test_labels_of_tokens_stand_in_their_places(build_transformer, tokens, head):
    labels = (tokens % 2).masked_fill(torch.arange(9) % 3 > 0, -100)
    outputs = build_transformer(head)(input_ids=tokens, labels=labels)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()))


def test_both_losses_of_pre_training_are_added(build_transformer, tokens):
    model, follows = build_transformer("ForPreTraining"), torch.tensor([0, 1, 1])
    labels = tokens.masked_fill(torch.arange(9) % 3 > 0, -100)
    both = model(input_ids=tokens, labels=labels, next_sentence_label=follows)
    masked, next_sentence = model(input_ids=tokens, labels=labels).loss, model(input_ids=tokens, next_sentence_label=follows).loss
    torch.testing.assert_close(both.loss, masked + next_sentence)
    torch.testing.assert_close(masked, F.cross_entropy(both.prediction_logits.flatten(0, 1), labels.flatten()))
    torch.testing.assert_close(next_sentence, F.cross_entropy(both.seq_relationship_logits, follows))
    assert model(input_ids=tokens).loss is None


@pytest.mark.parametrize(("head", "name"), [("ForMaskedLM", "logits"), ("ForPreTraining", "prediction_logits")])
def test_the_vocabulary_is_scored_where_it_is_asked_for(build_transformer, tokens, head, name):
    model, wanted = build_transformer(head), torch.arange(9).expand(3, 9) % 4 == 1
    everywhere, there = model(input_ids=tokens), model(input_ids=tokens, logits_to_keep=wanted)
    torch.testing.assert_close(there[name], everywhere[name][wanted])
    torch.testing.assert_close(model(input_ids=tokens, logits_to_keep=wanted.long())[name], there[name])
    assert model(input_ids=tokens, logits_to_keep=torch.zeros_like(wanted))[name].shape == (0, everywhere[name].shape[-1])


@pytest.mark.parametrize(
    ("problem_type", "labels", "loss"),
    [
        ("single_label_classification", torch.tensor([0, 2, 1]), F.cross_entropy),
        ("multi_label_classification", torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]]), F.binary_cross_entropy_with_logits),
        ("regression", torch.tensor([[0.5, 1, 1], [1, -3, 0], [0, 0, 2]]), F.mse_loss),
    ],
)
@ONE_ARCHITECTURE
def test_rows_are_classified_in_three_ways(build_transformer, tokens, problem_type, labels, loss):
    model = build_transformer("ForSequenceClassification", num_labels=3, problem_type=problem_type)
    outputs = model(input_ids=tokens, labels=labels)
    torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels))
    micro = [model(input_ids=tokens[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=labels.numel()).loss for row in range(3)]
    torch.testing.assert_close(sum(micro), outputs.loss)


@pytest.mark.parametrize("head", TASK_HEADS)
@pytest.mark.parametrize("count_type", [int, torch.tensor])
def test_accumulated_micro_batches_are_one_batch(build_transformer, head, count_type):
    model, batch = build_transformer(head, **NO_DROPOUT).train(), batch_for(head)
    whole = model(**batch).loss
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    count, total = count_type(num_targets(head, batch["labels"])), 0.0
    for part in range(4):
        loss = model(**{name: values[2 * part : 2 * part + 2] for name, values in batch.items()}, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert_all_close(gradients(model), expected, tolerance=1e-5)


@ONE_ARCHITECTURE
@pytest.mark.parametrize("count_type", [int, torch.tensor])
def test_pairs_are_counted_where_micro_batches_hide_unequally(build_transformer, count_type):
    model, batch = build_transformer("ForPreTraining", **NO_DROPOUT).train(), batch_for("ForPreTraining")
    batch["labels"][::3, 1:] = -100
    batch["next_sentence_label"][5] = -100
    whole = model(**batch).loss
    counts = {"num_items_in_batch": (batch["labels"] != -100).sum(), "num_pairs_in_batch": count_type(7)}
    micro = [model(**{name: values[start : start + 2] for name, values in batch.items()}, **counts).loss for start in range(0, 8, 2)]
    assert sum(micro).item() == pytest.approx(whole.item(), rel=1e-6)
    counts.pop("num_pairs_in_batch")
    micro = [model(**{name: values[start : start + 2] for name, values in batch.items()}, **counts).loss for start in range(0, 8, 2)]
    assert sum(micro).item() != pytest.approx(whole.item(), rel=1e-6)  # the documented approximation


# Run by two processes, each with half of the batch; the first saves the gradients.
HALF_BATCH = """
import sys, torch, torch.distributed as dist
from hflab.models.mini_transformer import HEADS
dist.init_process_group("gloo")
model = HEADS[sys.argv[2]].from_pretrained(sys.argv[1]).train()
batch = torch.load(sys.argv[1] + "/batch.pt")
count = batch.pop("count")
rows = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
parallel = torch.nn.parallel.DistributedDataParallel(model)
loss = parallel(**{name: values[rows] for name, values in batch.items()}, num_items_in_batch=count).loss
(loss * dist.get_world_size()).backward()  # DistributedDataParallel averages over processes
if dist.get_rank() == 0:
    torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, sys.argv[1] + "/gradients.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["vaswani"], indirect=True)
@pytest.mark.parametrize("head", ["ForCausalLM", "ForConditionalGeneration"])
def test_two_processes_are_one_batch(build_transformer, tmp_path, head):
    model, batch = build_transformer(head, **NO_DROPOUT).train(), batch_for(head)
    model.save_pretrained(tmp_path)
    torch.save(batch | {"count": torch.tensor(num_targets(head, batch["labels"]))}, tmp_path / "batch.pt")
    (tmp_path / "half_batch.py").write_text(HALF_BATCH)
    script = [str(tmp_path / "half_batch.py"), str(tmp_path), head]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *script]
    package = str(Path(hflab.__file__).parents[1])
    process = subprocess.run(launch, env=os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    model(**batch).loss.backward()
    halves = torch.load(tmp_path / "gradients.pt")
    assert_all_close([halves[name] for name, _ in model.named_parameters()], gradients(model))


@pytest.mark.parametrize("head", TASK_HEADS)
def test_nothing_is_dropped_outside_training(build_transformer, head):
    dropped, plain = (build_transformer(head, **dict.fromkeys(DROPOUTS, p)) for p in (0.5, 0.0))
    assert torch.equal(dropped(**batch_for(head)).loss, plain(**batch_for(head)).loss)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_each_dropout_acts_in_training(build_transformer, tokens, dropout):
    model = build_transformer("ForSequenceClassification", **(NO_DROPOUT | {dropout: 0.5})).train()
    assert not torch.allclose(model(input_ids=tokens).logits, model(input_ids=tokens).logits)
    model(input_ids=tokens, labels=torch.tensor([0, 1, 0])).loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # the new names came after transformers 5.17
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("head", ["ForCausalLM", "ForMaskedLM", "ForConditionalGeneration"])
def test_checkpointing_changes_no_loss_and_no_gradient(build_transformer, head, use_reentrant):
    model, batch = build_transformer(head, embedding_dropout=0.1, hidden_dropout=0.2, attention_dropout=0.2).train(), batch_for(head)

    def step():
        model.zero_grad()
        torch.manual_seed(7)
        outputs = model(**batch)
        outputs.loss.backward()
        return outputs.loss.item(), gradients(model)

    loss, expected = step()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_gradient_checkpointing
    checkpointed, actual = step()
    assert checkpointed == loss
    assert_all_close(actual, expected, tolerance=1e-7)
    if head == "ForCausalLM":
        assert model(**batch, use_cache=True).past_key_values is None  # keys would be stored twice


LEARNERS = [(name, "ForCausalLM") for name in ("vaswani", "bert", "gpt2", "llama", "nope")]
LEARNERS += [(name, "ForConditionalGeneration") for name in ("bert", "llama")]
LEARNERS += [pytest.param(name, "ForConditionalGeneration", marks=pytest.mark.slow) for name in ("vaswani", "gpt2", "nope")]


@pytest.mark.parametrize(("architecture", "head"), LEARNERS, indirect=["architecture"])
def test_learns_to_copy_from_afar(build_transformer, head):
    """The second half of each row is the first: a model that cannot look back stays at chance, ln 20 = 3.0 nats a token."""
    model = build_transformer(head, **NO_DROPOUT, hidden_size=32).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(2)
    for _ in range(400):
        half = torch.randint(3, 23, (32, 5))
        if head == "ForCausalLM":
            row = torch.cat([half, half], 1)
            loss = model(input_ids=row, labels=row.masked_fill(torch.arange(10) < 5, -100)).loss
        else:
            loss = model(input_ids=half, labels=half).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 2.0:
            break
    assert loss.item() < 2.0


@pytest.mark.parametrize("head", TASK_HEADS)
@ONE_ARCHITECTURE
def test_trainer_accumulates_to_the_same_weights(build_transformer, tmp_path, head):
    from transformers import Trainer, TrainingArguments

    batch = batch_for(head, num_rows=16)
    rows = [{name: values[row] for name, values in batch.items()} for row in range(16)]
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = build_transformer(head, **NO_DROPOUT)
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
            optim="sgd",
        )
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:4])
        trainer.train()
        assert [entry for entry in trainer.state.log_history if "eval_loss" in entry]
        weights.append([parameter.detach() for parameter in model.parameters()])
    assert_all_close(*weights, tolerance=1e-5)


TARGETS = {
    "ForCausalLM": ["query_key_value_projection", "output_projection", "up_projection", "down_projection"],
    "ForConditionalGeneration": ["query_key_value_projection", "query_projection", "key_value_projection", "output_projection", "down_projection"],
    "ForSequenceClassification": ["query_key_value_projection", "output_projection"],
}


@pytest.mark.parametrize("head", list(TARGETS))
def test_lora_trains_merges_saves_and_reloads(build_transformer, tmp_path, head):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    base, batch = build_transformer(head, **NO_DROPOUT), batch_for(head)
    task = {"ForCausalLM": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM", "ForSequenceClassification": "SEQ_CLS"}[head]
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, target_modules=TARGETS[head], task_type=task))
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora" in name}
    assert {target for target in TARGETS[head] for name in adapters if f".{target}." in name} == set(TARGETS[head])
    assert [name for name, parameter in adapters.items() if not parameter.grad.any()] == []
    logits = model.eval()(**batch).logits
    assert not torch.allclose(logits, base(**batch).logits, atol=1e-2)
    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    torch.testing.assert_close(reloaded(**batch).logits, logits)
    merged = model.merge_and_unload()
    assert isinstance(merged, HEADS[head])
    torch.testing.assert_close(merged(**batch).logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("always")
@ONE_ARCHITECTURE
def test_lora_on_a_tied_head_is_warned_of(build_transformer):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        peft.get_peft_model(build_transformer(), peft.LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForConditionalGeneration"])
def test_offloaded_weights_are_brought_back(build_transformer, head):
    model, batch = build_transformer(head, tie_word_embeddings=False), batch_for(head)
    expected = model(**batch).logits
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("head", ["ForCausalLM", "ForMaskedLM", "ForConditionalGeneration"])
@pytest.mark.parametrize("architecture", ["llama"], indirect=True)
def test_compiled_training_step(build_transformer, head):
    model, batch = build_transformer(head, **NO_DROPOUT).train(), batch_for(head)
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    torch.compiler.reset()
    torch.compile(model, backend="eager")(**batch).loss.backward()
    assert_all_close(gradients(model), expected)


def test_accelerate_prepares_models():
    accelerator = accelerate.Accelerator(cpu=True)
    model = HEADS["ForCausalLM"](MiniTransformerConfig(vocab_size=23, hidden_size=16, num_hidden_layers=1))
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    accelerator.backward(model(**batch_for("ForCausalLM")).loss)
    optimizer.step()
    assert not any(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True) if parameter.grad.any())
