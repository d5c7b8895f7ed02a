"""Pre-training of wav2vec 2.0: what is hidden and with what it is compared, the figures, exact resume, and a run that is fine-tuned afterwards."""

import json
import signal

import numpy as np
import pytest
import small_speech
import torch
from accelerate import Accelerator
from test_resume import assert_same, finish, launch

from hflab import api
from hflab.data.contrastive_batches import ContrastiveBatches, Masking, TemperatureDecay, draw_hidden
from hflab.data.speech_batches import SpeechBatching
from hflab.errors import UserError
from hflab.evaluation.contrastive_evaluator import contrastive_logits, evaluate_contrastive
from hflab.evaluation.contrastive_metrics import CONTRASTIVE_METRICS, CodevectorPerplexity, ContrastiveAccuracy, ContrastiveLoss, ContrastiveTotals
from hflab.recipe import load_recipe, parse_recipe
from hflab.run_folder import RunFolder
from hflab.training import loop
from hflab.training.interruption import TrainingInterrupted
from hflab.training.speech_pretraining import SpeechPretraining
from hflab.training.tasks import check_recipe

SHAPE = {**small_speech.SIZES, **small_speech.CONVOLUTIONS, **small_speech.POSITIONS, **small_speech.QUANTIZER}


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    return small_speech.write_recordings(tmp_path_factory.mktemp("tones") / "data", {"train": 21, "validation": 7}, longest=3)


@pytest.fixture
def make_recipe(recordings):
    def make(norm="layer", **changes):
        values = {
            "task": "speech_pretraining",
            "data": {"source": "speech", "path": str(recordings), "mask_probability": 0.5},
            "model": {"family": "wav2vec2", "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer", "mask_time_length": 5, **SHAPE},
            "training": {"num_steps": 6, "batch_size": 4, "learning_rate": 1e-3, "log_every_steps": 2, "evaluate_every_steps": 3, "device": "cpu"},
            "evaluation": {"batch_size": 4, "sample_examples": 2},
        }
        for section, keys in changes.items():
            values[section] = {**values[section], **keys}
        return parse_recipe(values)

    return make


@pytest.fixture
def task(make_recipe):
    made = SpeechPretraining(make_recipe())
    made.prepare()
    return made


def train(recipe, tmp_path, name="small"):
    return loop.train(recipe, name=name, output=tmp_path)


def test_hidden_frames_are_a_function_of_seed_epoch_and_clip_alone():
    masking = Masking(frames=lambda lengths: lengths // 10, probability=0.5, span=5, num_negatives=6)
    state = np.random.get_state()  # noqa: NPY002
    hidden, negatives = draw_hidden(40, masking, (1, 2, 3))
    assert np.random.get_state()[1].tolist() == state[1].tolist()  # noqa: NPY002
    again, same = draw_hidden(40, masking, (1, 2, 3))
    assert (hidden == again).all()
    assert (negatives == same).all()
    assert not (hidden == draw_hidden(40, masking, (1, 2, 4))[0]).all()
    assert 10 <= hidden.sum() <= 20
    for frame in np.flatnonzero(hidden):
        assert hidden[negatives[frame]].all()
        assert frame not in negatives[frame]
    assert not negatives[~hidden].any()
    assert not draw_hidden(4, masking, (1,))[0].any()


def test_a_batch_is_the_same_in_shares_and_names_negatives_of_its_own_rows(task):
    batches = task.batches()
    for step in (0, batches.steps_per_epoch - 1):
        whole = batches.batch(step, slice(0, 4))
        assert whole.num_tokens == int(whole.is_hidden.sum())
        assert (whole.rows >= 0).sum() == (4 if step == 0 else 1)
        width = whole.is_hidden.shape[1]
        for place in range(4):
            part = batches.batch(step, slice(place, place + 1))
            own = part.is_hidden.shape[1]
            assert torch.equal(part.is_hidden[0], whole.is_hidden[place, :own])
            assert not whole.is_hidden[place, own:].any()
            assert part.num_tokens == whole.num_tokens
            hidden = part.is_hidden[0]
            assert torch.equal(part.negatives[0][hidden], whole.negatives[place, :own][hidden] - place * width)
    assert not torch.equal(batches.batch(0, slice(0, 4)).is_hidden, batches.batch(batches.steps_per_epoch, slice(0, 4)).is_hidden)


def test_the_temperature_follows_from_the_step():
    decay = TemperatureDecay(2.0, 0.5, 0.9)
    assert [decay.at(step) for step in (0, 1, 2)] == pytest.approx([2.0, 1.8, 1.62])
    assert decay.at(1000) == 0.5


def test_the_figures_are_what_transformers_computes(task):
    """The loss of one batch of the model in evaluation, its parts and the perplexity of the codes of all hidden frames."""
    torch.manual_seed(0)
    model = task.build_model().eval()
    clips = task.prepared.splits["validation"]
    batches = ContrastiveBatches(clips, task.prepared.extractor, SpeechBatching(7, 0, shuffle=False), task._masking)
    batch = batches.batch(0, slice(0, 7))
    with torch.no_grad():
        expected = model(**batch.inputs, mask_time_indices=batch.is_hidden, sampled_negative_indices=batch.negatives)
        logits = contrastive_logits(
            expected.projected_states, expected.projected_quantized_states, batch, model.config.contrastive_logits_temperature
        )
    assert logits.shape == (batch.num_tokens, 1 + model.config.num_negatives)
    totals, rows = evaluate_contrastive(model, batches)
    found = {name: metric.compute(totals) for name, metric in CONTRASTIVE_METRICS.items()}
    assert len(rows) == 7
    assert found["contrastive_loss"] == pytest.approx(expected.contrastive_loss.item() / batch.num_tokens, rel=1e-5)
    assert found["diversity_loss"] == pytest.approx(expected.diversity_loss.item() / batch.num_tokens, rel=1e-5)
    assert found["codevector_perplexity"] == pytest.approx(expected.codevector_perplexity.item(), rel=1e-5)
    assert found["loss"] == pytest.approx(expected.loss.item() / batch.num_tokens, rel=1e-5)
    assert found["contrastive_accuracy"] == pytest.approx((logits.argmax(dim=1) == 0).float().mean().item(), abs=0.02)


def test_a_codebook_of_one_code_finds_nothing():
    counts = np.array([[10, 0, 0, 0], [0, 0, 10, 0]])
    totals = ContrastiveTotals(nats=0.0, num_right=0, num_frames=10, code_counts=counts, diversity_weight=0.1)
    assert CodevectorPerplexity.compute(totals) == pytest.approx(2)
    assert CONTRASTIVE_METRICS["diversity_loss"].compute(totals) == pytest.approx(0.75)
    assert CONTRASTIVE_METRICS["loss"].compute(totals) == pytest.approx(0.075)
    assert (ContrastiveLoss.compute(totals), ContrastiveAccuracy.compute(totals)) == (0, 0)
    even = ContrastiveTotals(0.0, 0, 8, np.full((2, 4), 2), 0.1)
    assert CodevectorPerplexity.compute(even) == pytest.approx(8)


def test_frames_that_share_a_code_with_all_negatives_count_as_missed(task):
    model = task.build_model().eval()
    with torch.no_grad():
        model.quantizer.weight_proj.weight.zero_()  # every frame has the first code of each group
    totals, _ = evaluate_contrastive(model, task._held_out(model, task.prepared.splits["validation"]))
    assert (totals.num_right, CodevectorPerplexity.compute(totals)) == (0, pytest.approx(2))
    assert ContrastiveLoss.compute(totals) == 0


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_no_figure_depends_on_the_batch(make_recipe, norm):
    found = []
    for size in (1, 3, 7):
        task = SpeechPretraining(make_recipe(norm, evaluation={"batch_size": size}))
        task.prepare()
        torch.manual_seed(0)
        found.append(task.evaluate(task.build_model(), Accelerator(cpu=True), "validation", in_full=True).figures)
    for figures in found[1:]:
        assert figures == pytest.approx(found[0], rel=1e-5)
    assert found[0]["num_rows"] == 7


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_run_learns_writes_its_folder_and_is_evaluated(make_recipe, tmp_path, norm, caplog):
    run = train(make_recipe(norm, training={"num_steps": 12}), tmp_path)
    assert ("changes with the padding after it" in caplog.text) == (norm == "group")
    evaluations = [line for line in run.read_metrics() if line["kind"] == "evaluation"]
    assert evaluations[-1]["contrastive_loss"] < evaluations[0]["contrastive_loss"]
    assert " hidden frames found" in evaluations[0]["sample"]
    files = {file.name for file in run.model.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml"} <= files
    assert not [name for name in files if "token" in name or "vocab" in name]
    assert json.loads((run.model / "config.json").read_text())["mask_time_prob"] == 0.05  # what fine-tuning hides
    figures = api.evaluate(run.path)
    recorded = run.read_facts()["evaluation"]
    for name in CONTRASTIVE_METRICS:
        assert figures[name] == pytest.approx(recorded[name], rel=1e-5), name


@pytest.mark.parametrize("source", ["speech", "hub"])  # the recipe of synthetic speech has a test of its own
def test_sounds_without_transcripts_are_enough(make_recipe, tmp_path, monkeypatch, source):
    folder = small_speech.write_recordings(tmp_path / "data", {"train": 12, "validation": 4})
    for file in folder.rglob("*.txt"):
        file.unlink()
    keys = {"path": str(folder)} if source == "speech" else {"path": None, "dataset": as_data_set(folder, tmp_path / "sounds", monkeypatch)}
    run = train(make_recipe(data={"source": source, **keys}, training={"num_steps": 2}), tmp_path)
    splits = run.read_facts()["data"]["splits"]
    assert {name: (split["rows"], split["sample"]) for name, split in splits.items()} == {"train": (12, ""), "validation": (4, "")}
    assert api.evaluate(run.path)["loss"] == pytest.approx(run.read_facts()["evaluation"]["loss"], rel=1e-5)
    assert api.evaluate(run.path, str(folder / "validation"))["num_rows"] == 4
    run.update_facts(usage={"code": "", "error": "not tried"})
    card = api.write_card(run.path).read_text(encoding="utf-8")
    assert "split begins with the row" not in card  # there is no text to show


def as_data_set(folder, target, monkeypatch):
    """The sounds of each split as a Hub data set that has a column of them and no other; returns its folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", target / "cache")
    for split in ("train", "validation"):
        rows = [{"audio": {"bytes": file.read_bytes(), "path": file.name}} for file in sorted((folder / split).glob("*.wav"))]
        (target / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio()).to_parquet(target / "data" / f"{split}.parquet")
    return str(target / "data")


def test_resumed_is_uninterrupted_bit_for_bit(make_recipe, tmp_path, monkeypatch):
    settings = {"gradient_accumulation_steps": 2, "checkpoint_every_steps": 2, "gumbel_temperature_decay": 0.8}
    recipe = make_recipe(training=settings, data={"noise_probability": 0.5})
    expected = train(recipe, tmp_path, "whole")
    original, calls = SpeechPretraining.loss, []

    def interrupting(self, model, batch, carried):
        calls.append(1)
        if len(calls) == 7:  # in the middle of the fourth step
            signal.raise_signal(signal.SIGINT)
        return original(self, model, batch, carried)

    monkeypatch.setattr(SpeechPretraining, "loss", interrupting)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path, "cut")
    monkeypatch.undo()
    assert_same(loop.resume(tmp_path / "cut"), expected)


def test_a_share_that_only_fills_the_step_counts_nothing(task):
    batches, model = task.batches(), task.build_model().train()
    last = batches.batch(batches.steps_per_epoch - 1, slice(1, 4))  # one clip of 21 is left
    assert not last.is_hidden.any()
    loss, _ = task.loss(model, last, None)
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_a_run_is_trained_on_and_then_fine_tuned(make_recipe, recordings, tmp_path):
    first = train(make_recipe(), tmp_path, "first")
    values = make_recipe().to_dict()
    values["model"] = {"pretrained": str(first.path)}
    second = train(parse_recipe(values), tmp_path, "second")
    losses = [[line["loss"] for line in run.read_metrics() if line["kind"] == "train"] for run in (first, second)]
    assert losses[1][0] < losses[0][0]
    values |= {"task": "speech_recognition", "model": {"pretrained": str(second.path), "new_head": True}}
    tuned = train(parse_recipe(values), tmp_path, "tuned")
    facts = tuned.read_facts()
    assert facts["model"]["class"] == "Wav2Vec2ForCTC"
    assert facts["model"]["num_trained_parameters"] < facts["model"]["num_parameters"]
    assert api.evaluate(tuned.path)["loss"] == pytest.approx(facts["evaluation"]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": {"speed_percents": [90, 100]}}, "hears clips one by one at their own speed"),
        ({"data": {"join_probability": 0.5}}, "join_probability"),
        ({"training": {"min_gumbel_temperature": 3.0}}, "lower it"),
        ({"data": {"source": "text"}}, "data.source for speech_pretraining"),
        ({"model": {"num_codevector_groups": 3}}, "codevector_dim"),
    ],
)
def test_wrong_combinations_are_refused(make_recipe, changes, expected):
    with pytest.raises(UserError, match=expected):
        check_recipe(make_recipe(**changes))


def test_models_that_are_not_pre_trained_so_and_clips_without_room_are_refused(make_recipe, tmp_path):
    values = make_recipe().to_dict()
    values["model"] = {"pretrained": small_speech.save("hubert-layer", tmp_path / "hubert")}
    with pytest.raises(UserError, match="transformers has no ForPreTraining of"):
        train(parse_recipe(values), tmp_path)
    with pytest.raises(UserError, match="None of the 21 clips of the train split can be used"):
        train(make_recipe(model={"mask_time_length": 500}), tmp_path)


def test_the_recipe_runs_and_its_usage_example_ran(tmp_path):
    pytest.importorskip("espeakng_loader")
    few = {"data.num_clips": 16, "training.num_steps": 2, "training.batch_size": 4, "training.device": "cpu", "evaluation.max_examples": 4}
    run = api.train(load_recipe("wav2vec2_pretraining_synthetic", {**few, "model.hidden_size": 16}), output=tmp_path, run_name="pre")
    assert run.read_facts()["usage"]["output"].startswith("(1, ")
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: feature-extraction" in card
    assert "speech encoder" in card
    assert "contrastive accuracy" in card
    tuned = load_recipe("wav2vec2_ctc_synthetic_digits", {**few, "model.pretrained": str(run.path)})
    run = api.train(tuned, output=tmp_path, run_name="tuned")
    assert "output" in run.read_facts()["usage"]
    assert "pipeline_tag: automatic-speech-recognition" in (run.model / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_two_processes_train_one_model(make_recipe, tmp_path, norm):
    """What is drawn for codes differs, so the runs do too; their figures are those of the model that they saved."""
    make_recipe(norm, training={"gradient_accumulation_steps": 2}).save(tmp_path / "small.yaml")
    finish(launch([str(tmp_path / "small.yaml"), "--output", str(tmp_path), "--run", "two"], 2))
    run = RunFolder(tmp_path / "two")
    assert run.read_facts()["hardware"]["num_processes"] == 2
    figures = api.evaluate(run.path)
    for name in CONTRASTIVE_METRICS:
        assert figures[name] == pytest.approx(run.read_facts()["evaluation"][name], rel=1e-4), name
