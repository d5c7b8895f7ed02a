"""Training the encoder-decoder: a task it learns, accumulation, checkpointing, dropout, Trainer, LoRA, offloading, torch.compile."""

import copy

import accelerate
import pytest
import torch
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Seq2SeqTrainer, Seq2SeqTrainingArguments

from hflab.models.recurrent import ATTENTIONS, RecurrentConfig, RecurrentForConditionalGeneration

ATTENTION = pytest.mark.parametrize("attention_type", [*ATTENTIONS, "none"])
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)


@pytest.fixture
def make(build):
    """Builds an encoder-decoder in training mode; keyword arguments are config fields."""
    fields = {"bidirectional": True, "bos_token_id": 1, "eos_token_id": 2}
    return lambda **others: build("ForConditionalGeneration", **(fields | others)).train()


@pytest.fixture
def batch():
    """Eight rows of sources, some padded on the right, and of labels, some ignored."""
    generator = torch.Generator().manual_seed(0)
    batch = {"input_ids": torch.randint(3, 23, (8, 9), generator=generator), "labels": torch.randint(3, 23, (8, 6), generator=generator)}
    batch["attention_mask"] = (torch.arange(9) < torch.arange(2, 10)[:, None]).long()
    batch["labels"][0, 3:] = -100
    return batch


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(actual, expected, tolerance=1e-6):
    assert len(actual) > 10
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=10 * tolerance, atol=tolerance)


def reversed_rows(num_rows, generator):
    """Sources (B, 6) of one to six symbols 3 to 12, padded with 0, and what is to be written: the same backwards, and an end."""
    sources, labels = torch.zeros(num_rows, 6, dtype=torch.long), torch.full((num_rows, 7), -100)
    for row, length in enumerate(torch.randint(1, 7, (num_rows,), generator=generator).tolist()):
        symbols = torch.randint(3, 13, (length,), generator=generator)
        sources[row, :length] = symbols
        labels[row, : length + 1] = torch.cat([symbols.flip(0), torch.tensor([2])])
    return sources, labels


@pytest.mark.parametrize(("attention_type", "share"), [("multiplicative", 0.8), ("additive", 0.8), ("none", 0.3)])
def test_learns_to_reverse(attention_type, share):
    """With attention most rows are right after some seconds; without it, all has to pass through one state, which takes longer to learn."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    fields = {"bidirectional": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = RecurrentConfig(vocab_size=13, hidden_size=48, attention_type=attention_type, **fields)
    model = RecurrentForConditionalGeneration(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(250):
        sources, labels = reversed_rows(64, generator)
        optimizer.zero_grad()
        model(input_ids=sources, attention_mask=sources.sign(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    sources, labels = reversed_rows(200, generator)
    written = model.eval().generate(sources, attention_mask=sources.sign(), max_new_tokens=7, do_sample=False)[:, 1:]
    written = torch.nn.functional.pad(written, (0, 7 - written.shape[1]))
    assert (written == labels.clamp(min=0)).all(1).float().mean() >= share


@ONE_CELL
@ATTENTION
@pytest.mark.parametrize("count_type", [int, torch.tensor])
def test_accumulated_micro_batches_are_one_batch(make, batch, attention_type, count_type):
    model = make(attention_type=attention_type)
    whole = model(**batch).loss
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    count, total = count_type(int((batch["labels"] != -100).sum())), 0.0
    for part in range(4):
        rows = {name: values[2 * part : 2 * part + 2] for name, values in batch.items()}
        loss = model(**rows, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert_same_gradients(gradients(model), expected, tolerance=1e-5)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # the new names came after transformers 5.17
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_no_loss_and_no_gradient(make, batch, use_reentrant):
    model = make(embedding_dropout=0.1, input_dropout=0.2, recurrent_dropout=0.2, output_dropout=0.1)

    def step():
        model.zero_grad()
        torch.manual_seed(7)
        loss = model(**batch).loss
        loss.backward()
        return loss.item(), gradients(model)

    loss, expected = step()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    checkpointed, actual = step()
    assert checkpointed == pytest.approx(loss, rel=1e-6)  # outside of autograd torch has another LSTM kernel
    assert_same_gradients(actual, expected, tolerance=1e-5)


@ONE_CELL
@pytest.mark.parametrize("dropout", ["embedding_dropout", "input_dropout", "recurrent_dropout", "output_dropout"])
def test_each_dropout_acts_in_training_only(make, batch, dropout):
    model = make(**{dropout: 0.5})
    assert not torch.allclose(model(**batch).logits, model(**batch).logits)
    assert torch.equal(model.eval()(**batch).logits, model(**batch).logits)


@ONE_CELL
def test_trainer_evaluates_by_generating(make, tmp_path):
    """With the collator of transformers, which pads, and has the model make the decoder's inputs from the labels."""
    from tokenizers import Tokenizer, models

    words = {word: index for index, word in enumerate(["<pad>", "<start>", "<end>", *"abcdefghijklmnopqrst"])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>")
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 23, (length,), generator=generator).tolist() for length in (3, 5, 2, 7, 4, 6, 1, 5)]
    data = [{"input_ids": row, "labels": [*row[:2], 2]} for row in rows]
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = make(attention_type="multiplicative")
        arguments = Seq2SeqTrainingArguments(
            tmp_path,
            max_steps=2,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            predict_with_generate=True,
            generation_max_length=5,
            learning_rate=0.01,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        collator = DataCollatorForSeq2Seq(tokenizer, model=model)
        assert collator([dict(row) for row in data])["decoder_input_ids"][:, 0].tolist() == [1] * 8
        trainer = Seq2SeqTrainer(model, arguments, data_collator=collator, train_dataset=data, eval_dataset=data[:4])
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0
        assert trainer.predict(data[:4]).predictions[:, 0].tolist() == [1] * 4
        arguments.predict_with_generate = False
        assert trainer.predict(data[:4]).predictions.shape == (4, 3, 23)  # logits, and no states of the encoder beside them
        weights.append({name: parameter.detach() for name, parameter in model.named_parameters()})
    assert_same_gradients(*weights, tolerance=1e-5)


@ONE_CELL
def test_lora_trains_merges_saves_and_reloads(make, batch, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    base = make(attention_type="additive")
    attention = ["key_projection", "query_projection", "score_projection", "head_projection"]
    targets = ["input_projection", "hidden_projection", *attention, r"hidden_projections\.\d+"]
    options = peft.LoraConfig(r=2, target_modules=rf".*\.?({'|'.join(targets)})", task_type="SEQ_2_SEQ_LM")
    model = peft.get_peft_model(copy.deepcopy(base), options)
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    adapters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in adapters.items() if not parameter.grad.any()] == []
    assert [
        target for target in [*attention, "decoder.layers.0.cell.hidden_projection", "bridge"] if not any(target in name for name in adapters)
    ] == []
    logits = model.eval()(**batch).logits
    assert not torch.allclose(logits, base.eval()(**batch).logits, atol=1e-2)
    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    torch.testing.assert_close(reloaded(**batch).logits, logits)
    sequences = model.generate(input_ids=batch["input_ids"], max_new_tokens=4, do_sample=False)
    merged = model.merge_and_unload()
    assert isinstance(merged, RecurrentForConditionalGeneration)
    torch.testing.assert_close(merged(**batch).logits, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(merged.generate(batch["input_ids"], max_new_tokens=4, do_sample=False), sequences)


@ONE_CELL
@ATTENTION
def test_offloaded_weights_are_brought_back(make, batch, attention_type):
    model = make(attention_type=attention_type).eval()
    expected = model(**batch).logits
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert torch.equal(model(**batch).logits, expected)


@ONE_CELL
@pytest.mark.parametrize("block_style", ["stacked", pytest.param("residual", marks=pytest.mark.slow)], indirect=True)
def test_compiled_training_step(make, batch):
    model = make(attention_type="additive")
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    torch.compiler.reset()
    torch.compile(model, backend="eager")(**batch).loss.backward()
    assert_same_gradients(gradients(model), expected, tolerance=1e-5)
