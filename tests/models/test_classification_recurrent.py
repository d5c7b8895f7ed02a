"""Classifiers of rows and tokens: pooling, padding, losses of every kind, accumulation, pipelines, Trainer."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, pipeline

from hflab.models.recurrent import HEADS, POOLING, RecurrentConfig, RecurrentForSequenceClassification

PADDINGS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [0] * 8 + [1]],
    "right": [[1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 9, [1] + [0] * 8],
    "interior": [[0, 1, 0, 0, 1, 1, 1, 0, 1], [1] * 9, [1, 0, 1, 0, 1, 0, 1, 0, 1]],
}
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])
POOLED = pytest.mark.parametrize("pooling", list(POOLING))
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
RESIDUAL = pytest.mark.parametrize("block_style", ["residual"], indirect=True)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@POOLED
@DIRECTIONS
def test_pooling_is_what_it_says(build, tokens, pooling, bidirectional):
    model = build("ForSequenceClassification", pooling=pooling, bidirectional=bidirectional, num_labels=4)
    outputs = model.model(input_ids=tokens).last_hidden_state
    expected = {"mean": outputs.mean(1), "max": outputs.amax(1), "last": outputs[:, -1]}[pooling]
    if bidirectional and pooling == "last":
        split = model.config.block_style == "stacked"
        expected = torch.cat([outputs[:, -1, :12], outputs[:, 0, 12:]] if split else [outputs[:, -1], outputs[:, 0]], dim=-1)
    assert expected.shape[-1] == model.classifier.in_features
    assert_close(model(input_ids=tokens).logits, F.linear(expected, model.classifier.weight, model.classifier.bias))


@POOLED
@DIRECTIONS
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_changes_no_answer_for_a_row(build, tokens, pooling, bidirectional, padding):
    model, mask = build("ForSequenceClassification", pooling=pooling, bidirectional=bidirectional), torch.tensor(PADDINGS[padding]).bool()
    logits = model(input_ids=tokens, attention_mask=mask).logits
    for row, real in enumerate(mask):
        assert_close(logits[row], model(input_ids=tokens[row, real][None]).logits[0])


@DIRECTIONS
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_changes_no_answer_for_a_token(build, tokens, bidirectional, padding):
    model, mask = build("ForTokenClassification", bidirectional=bidirectional), torch.tensor(PADDINGS[padding]).bool()
    logits = model(input_ids=tokens, attention_mask=mask).logits
    assert logits.shape == (3, 9, 2)
    for row, real in enumerate(mask):
        assert_close(logits[row, real], model(input_ids=tokens[row, real][None]).logits[0])


@POOLED
@DIRECTIONS
def test_a_row_of_padding_is_pooled_to_nothing(build, tokens, pooling, bidirectional):
    model, mask = build("ForSequenceClassification", pooling=pooling, bidirectional=bidirectional), torch.ones(3, 9)
    mask[1] = 0
    logits = model(input_ids=tokens, attention_mask=mask, labels=torch.tensor([0, 1, 1]))
    assert_close(logits.logits[1], model.classifier.bias)
    logits.loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@ONE_CELL
@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type", "loss"),
    [
        (3, torch.tensor([2, 0, 1]), "single_label_classification", F.cross_entropy),
        (3, torch.tensor([2, -100, 1]), "single_label_classification", F.cross_entropy),
        (3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]]), "multi_label_classification", F.binary_cross_entropy_with_logits),
        (1, torch.tensor([0.5, -2.0, 3.0]), "regression", lambda logits, labels: F.mse_loss(logits[:, 0], labels)),
        (2, torch.tensor([[0.5, 1], [-2.0, 2], [3.0, 3]]), "regression", F.mse_loss),
    ],
)
def test_losses_of_rows(build, tokens, num_labels, labels, problem_type, loss):
    given = problem_type if num_labels == 2 else None  # with more than one number a row floats are taken for labels
    model = build("ForSequenceClassification", num_labels=num_labels, problem_type=given)
    outputs = model(input_ids=tokens, labels=labels)
    assert outputs.logits.shape == (3, num_labels)
    assert model.config.problem_type == problem_type
    assert_close(outputs.loss, loss(outputs.logits, labels))


def test_losses_of_tokens(build, tokens):
    model, labels = build("ForTokenClassification", num_labels=5), tokens % 5
    labels[0, 4:] = -100
    outputs = model(input_ids=tokens, labels=labels)
    assert_close(outputs.loss, F.cross_entropy(outputs.logits[labels != -100], labels[labels != -100]))


@ONE_CELL
@pytest.mark.parametrize(
    ("head", "fields", "make_labels"),
    [
        ("ForSequenceClassification", {"num_labels": 3}, lambda tokens: tokens[:, 0] % 3),
        ("ForSequenceClassification", {"num_labels": 1}, lambda tokens: tokens[:, 0].float()),
        ("ForSequenceClassification", {"num_labels": 3}, lambda tokens: (tokens[:, :3] % 2).float()),
        ("ForTokenClassification", {"num_labels": 3}, lambda tokens: (tokens % 3).masked_fill(tokens < 6, -100)),
    ],
)
def test_accumulated_micro_batches_are_one_batch(build, head, fields, make_labels):
    model = build(head, **fields).train()
    tokens = torch.randint(1, 23, (8, 9), generator=torch.Generator().manual_seed(0))
    labels = make_labels(tokens)
    whole = model(input_ids=tokens, labels=labels).loss
    whole.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    count, total = (labels != -100).sum(), 0.0
    for part in (slice(0, 1), slice(1, 4), slice(4, 8)):
        loss = model(input_ids=tokens[part], labels=labels[part], num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_classifier_dropout_acts_in_training_only(build, tokens, head):
    model = build(head, classifier_dropout=0.5)
    assert torch.equal(model(input_ids=tokens).logits, model(input_ids=tokens).logits)
    assert not torch.equal(model.train()(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_embeddings_hidden_states_and_tuples(build, tokens, head):
    model = build(head)
    outputs = model(inputs_embeds=model.model.embed_tokens(tokens), output_hidden_states=True)
    assert_close(outputs.logits, model(input_ids=tokens).logits)
    assert len(outputs.hidden_states) == 3
    loss, logits = model(input_ids=tokens, labels=(tokens if head == "ForTokenClassification" else tokens[:, 0]) % 2, return_dict=False)
    assert loss.dim() == 0
    assert_close(logits, outputs.logits)
    with pytest.raises(TypeError, match="Did you mean 'attention_mask'"):
        model(input_ids=tokens, atention_mask=torch.ones(3, 9))


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_weights_come_from_a_language_model(build, tokens, tmp_path, head):
    """A language model is fine-tuned into a classifier, whose checkpoint gives back the base model."""
    build(tie_word_embeddings=True, embedding_size=8).save_pretrained(tmp_path)
    model, information = HEADS[head].from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert information["missing_keys"] == {"classifier.weight", "classifier.bias"}
    model.save_pretrained(tmp_path / "tuned")
    base, information = HEADS["Model"].from_pretrained(tmp_path / "tuned", output_loading_info=True)
    assert not information["missing_keys"]
    assert_close(base.eval()(input_ids=tokens).last_hidden_state, model.eval().model(input_ids=tokens).last_hidden_state)


@RESIDUAL
@pytest.mark.parametrize("head", CLASSIFIERS)
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # the new names came after transformers 5.17
def test_checkpointing_changes_no_gradient(build, tokens, head, use_reentrant):
    model = build(head, bidirectional=True, input_dropout=0.2, classifier_dropout=0.1).train()
    labels = (tokens if head == "ForTokenClassification" else tokens[:, 0]) % 2

    def step():
        model.zero_grad()
        torch.manual_seed(3)
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]

    loss, expected = step()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    checkpointed, gradients = step()
    assert checkpointed == pytest.approx(loss, rel=1e-6)  # outside of autograd torch has another LSTM kernel
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@ONE_CELL
@RESIDUAL
@pytest.mark.parametrize("pooling", list(POOLING))
def test_compiled_step(build, tokens, pooling):
    model, labels = build("ForSequenceClassification", bidirectional=True, pooling=pooling).train(), torch.tensor([0, 1, 1])
    mask = torch.tensor(PADDINGS["right"])
    model(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    torch.compiler.reset()
    torch.compile(model, backend="eager")(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)


@ONE_CELL
@pytest.mark.parametrize("pooling", list(POOLING))
def test_trainer_learns_where_a_token_was(build, tmp_path, pooling):
    """Whether the first token is a certain one: a question about the far end of a row, for the backward direction or a long memory."""
    torch.manual_seed(0)
    rows = torch.randint(1, 23, (256, 8))
    rows[::2, 0] = 7
    data = [{"input_ids": row, "labels": int(row[0] == 7)} for row in rows]
    model = build("ForSequenceClassification", bidirectional=True, pooling=pooling).train()
    arguments = TrainingArguments(
        tmp_path,
        max_steps=60,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=2,
        learning_rate=0.03,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.1
    assert trainer.predict(data).predictions.shape == (256, 2)


@ONE_CELL
@pytest.mark.parametrize("head", CLASSIFIERS)
def test_lora_trains_merges_and_keeps_the_classifier(build, tokens, tmp_path, head):
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install hflab[lora]")
    base, task = build(head, bidirectional=True), {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}[head]
    base.save_pretrained(tmp_path / "base")
    options = peft.LoraConfig(r=2, target_modules=["input_projection", "hidden_projection"], task_type=task)
    model = peft.get_peft_model(base, options)
    labels = (tokens if head == "ForTokenClassification" else tokens[:, 0]) % 2
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
    assert any("classifier" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    logits = model.eval()(input_ids=tokens).logits
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(type(base).from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    assert_close(again(input_ids=tokens).logits, logits)
    torch.testing.assert_close(model.merge_and_unload()(input_ids=tokens).logits, logits, rtol=1e-4, atol=1e-5)


@pytest.fixture
def tokenizer():
    words = ["<pad>", "<unk>", *"abcdefghijklmnopqrst"]
    characters = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", unk_token="<unk>")


@DIRECTIONS
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_text_classification_pipeline(build, tokenizer, bidirectional, padding_side):
    tokenizer.padding_side = padding_side
    model = build("ForSequenceClassification", bidirectional=bidirectional, id2label={0: "dull", 1: "fine"}, label2id={"dull": 0, "fine": 1})
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    texts = ["a b c d e", "f", "g h"]
    single = [classify(text, batch_size=1) for text in texts]
    batched = classify(texts, batch_size=3)
    for text, alone, together in zip(texts, single, batched, strict=True):
        alone = alone[0] if isinstance(alone[0], list) else alone
        scores = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        for answer in (alone, together):
            found = {entry["label"]: entry["score"] for entry in answer}
            assert found == pytest.approx({"dull": scores[0].item(), "fine": scores[1].item()}, abs=1e-5)


@DIRECTIONS
def test_token_classification_pipeline(build, tokenizer, bidirectional):
    model = build("ForTokenClassification", bidirectional=bidirectional, num_labels=3)
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
    expected = model(**tokenizer("c a t", return_tensors="pt")).logits[0].softmax(-1)
    found = tag("c a t")
    assert [entry["word"] for entry in found] == ["c", "a", "t"]
    assert [entry["entity"] for entry in found] == [model.config.id2label[int(label)] for label in expected.argmax(-1)]
    assert [float(entry["score"]) for entry in found] == pytest.approx(expected.amax(-1).tolist(), abs=1e-5)
    for alone, together in zip(tag("c a t"), tag(["c a t", "d"], batch_size=2)[0], strict=True):
        assert alone["word"] == together["word"]
        assert float(alone["score"]) == pytest.approx(float(together["score"]), abs=1e-5)


def test_the_config_belongs_to_the_caller():
    config = RecurrentConfig(hidden_size=4, is_encoder_decoder=True)
    model = RecurrentForSequenceClassification(config)
    assert config.is_encoder_decoder
    assert not model.config.is_encoder_decoder
    assert not model.model.config.is_encoder_decoder
