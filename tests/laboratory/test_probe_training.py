"""Training on probe tasks: what can be solved is solved, the same description gives the same outcome, losses and scores are what they say."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hflab.laboratory.probe_models import MODELS, ModelChoice, build_probe_model
from hflab.laboratory.probe_tasks import PROBES
from hflab.laboratory.probe_training import MULTIPLES, ProbeRun, probe_loss, score, train_probe
from hflab.laboratory.probes import ProbeBatch


def run(cell="lstm", **others):
    return ProbeRun(**{"task": "delayed_recall", "length": 3, "choice": ModelChoice(cell, 2000), "learning_rate": 1e-2, "seed": 1, **others})


@pytest.mark.parametrize("cell", MODELS)
def test_what_is_easy_is_solved(cell):
    outcome = train_probe(run(cell, num_steps=300))
    assert outcome.stopped_by == "solved"
    assert outcome.num_steps < 300
    assert outcome.figures[1] >= 0.99
    assert set(outcome.figures) == set(MULTIPLES)
    assert outcome.seconds > 0


def test_numbers_are_learnt_too():
    outcome = train_probe(run(task="adding", length=2, num_steps=200))
    assert outcome.validation < 0.03 < PROBES["adding"].memoryless(2)


def test_the_same_description_gives_the_same_outcome():
    first, again, other = (train_probe(run(num_steps=20, seed=seed)) for seed in (1, 1, 2))
    assert dataclasses.replace(first, seconds=0.0) == dataclasses.replace(again, seconds=0.0)
    assert (first.figures, first.validation) != (other.figures, other.validation)


def test_budgets():
    assert train_probe(run(num_steps=3, is_tested=False)).stopped_by in ("steps", "solved")
    outcome = train_probe(run(task="copying", num_steps=1000, max_seconds=1e-6, is_tested=False))
    assert (outcome.stopped_by, outcome.num_steps, outcome.figures) == ("seconds", 1, {})


def test_divergence_ends_a_training():
    outcome = train_probe(run(task="adding", num_steps=50, learning_rate=1e30))
    assert outcome.stopped_by == "divergence"
    assert outcome.num_steps < 50
    assert np.isfinite(outcome.figures[16])


def test_the_trick_clipping_matters_to_what_is_learnt():
    outcomes = [train_probe(run(task="adding", choice=ModelChoice("lstm", 2000, tricks), num_steps=5)) for tricks in ((), ("clipping",))]
    assert outcomes[0].validation != outcomes[1].validation


def test_loss_and_score_against_plain_sums():
    copying, adding = PROBES["copying"], PROBES["adding"]
    for probe in (copying, adding):
        model = build_probe_model(probe, ModelChoice("gru", 2000), seed=0).eval()
        batch = probe.batch(np.random.default_rng(0), length=4, batch_size=5)
        with torch.no_grad():
            answers, loss = model(torch.from_numpy(batch.inputs)), probe_loss(model, batch)
        expected, scores = [], []
        for row in range(5):
            for place in range(batch.inputs.shape[1]):
                if probe is copying:
                    target = int(batch.targets[row, place])
                    expected.append(-F.log_softmax(answers[row, place], dim=-1)[target].item())
                    if batch.scored[row, place]:
                        scores.append(float(answers[row, place].argmax() == target))
                elif batch.scored[row, place]:
                    expected.append((answers[row, place, 0].item() - batch.targets[row, place]) ** 2)
                    scores.append(expected[-1])
        assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
        assert score(answers, batch) == pytest.approx(scores, rel=1e-5)


def test_an_answer_that_is_no_number_counts_as_zero():
    batch = ProbeBatch(np.zeros((1, 1, 2), np.float32), np.array([[0.5]], np.float32), np.array([[True]]))
    assert score(torch.tensor([[[float("nan")]]]), batch) == pytest.approx([0.25])
