import json
import math
import os
import random
import runpy
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from transformers import GPT2Config, GPT2LMHeadModel

from hflab.data.batches import TokenSplit
from hflab.errors import UserError
from hflab.evaluation.evaluator import evaluate_language_model
from hflab.evaluation.metrics import METRICS
from hflab.evaluation.model_properties import carries_state, innermost
from hflab.models.recurrent.cells_recurrent import CELLS
from hflab.models.recurrent.configuration_recurrent import RecurrentConfig
from hflab.models.recurrent.modeling_recurrent import RecurrentForCausalLM

EOS, VOCAB_SIZE = 0, 11
PROCESSES = Path(__file__).with_name("figures_of_processes.py")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose by sharing their work out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_split(num_tokens=203, seed=0):
    """Random tokens in which about every eleventh ends a document."""
    tokens = np.random.default_rng(seed).integers(0, VOCAB_SIZE, size=num_tokens).astype(np.uint16)
    return TokenSplit(tokens=tokens, num_tokens=num_tokens, num_characters=num_tokens - 20, num_bytes=num_tokens + 10, num_documents=18)


def make_recurrent(cell_type="gru", **config):
    torch.manual_seed(0)
    tokens = {"vocab_size": VOCAB_SIZE, "bos_token_id": EOS, "eos_token_id": EOS}
    sizes = {"hidden_size": 9, "num_hidden_layers": 2, "initializer_range": 0.8, "input_dropout": 0.4, "recurrent_dropout": 0.4}
    return RecurrentForCausalLM(RecurrentConfig(cell_type=cell_type, **tokens, **{**sizes, **config})).eval()


def make_gpt2():
    torch.manual_seed(0)
    tokens = {"vocab_size": VOCAB_SIZE, "bos_token_id": EOS, "eos_token_id": EOS}
    return GPT2LMHeadModel(GPT2Config(n_positions=24, n_embd=12, n_layer=1, n_head=2, initializer_range=0.5, **tokens)).eval()


def evaluate(model, split, **options):
    return evaluate_language_model(model, split, **{"batch_size": 3, "sequence_length": 16, "eos_token_id": EOS, **options})


def nats_of(model, inputs, targets, last):
    """Nats of the `last` targets when `inputs` are read in one forward, from nothing."""
    if not last:
        return 0.0
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([inputs]), use_cache=False).logits[0, -last:].double()
    return F.cross_entropy(logits, torch.tensor(targets[-last:]), reduction="sum").item()


def lanes_of(split, num_lanes):
    """(inputs, targets, whether a document begins at each input) of each lane, written out in plain lists."""
    tokens = [int(token) for token in split.tokens]
    inputs = [EOS, *tokens[:-1]]
    bounds = [len(tokens) * lane // num_lanes for lane in range(num_lanes + 1)]
    return [(inputs[a:b], tokens[a:b], [token == EOS for token in inputs[a:b]]) for a, b in pairwise(bounds)]


def brute_force_recurrent(model, split, num_lanes, resets, limit=None):
    """Every document of every lane in one forward of its own; only the first `limit` tokens of a lane."""
    nats = 0.0
    for inputs, targets, begins in lanes_of(split, num_lanes):
        inputs, targets, begins = inputs[:limit], targets[:limit], begins[:limit]
        cuts = [0, *(i for i in range(1, len(inputs)) if resets and begins[i]), len(inputs)]
        nats += sum(nats_of(model, inputs[a:b], targets[a:b], b - a) for a, b in pairwise(cuts))
    return nats


def brute_force_windows(model, split, num_lanes, window):
    """Every window of every lane in one forward of its own; each counts its second half, the first of a lane all."""
    nats, half = 0.0, math.ceil(window / 2)
    for inputs, targets, _ in lanes_of(split, num_lanes):
        for start in range(0, len(inputs), half):
            stop = min(start + half, len(inputs))
            first = max(0, start - window // 2)
            nats += nats_of(model, inputs[first:stop], targets[first:stop], stop - start)
    return nats


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
@pytest.mark.parametrize("cell_type", CELLS)
def test_recurrent_figures_are_those_of_whole_lanes(cell_type, batch_size, resets):
    model, split = make_recurrent(cell_type), make_split()
    figures = evaluate(model, split, batch_size=batch_size, reset_at_documents=resets)
    nats = brute_force_recurrent(model, split, batch_size, resets)
    assert figures["num_tokens"] == split.num_tokens
    assert figures["num_characters"] == split.num_characters
    assert figures["loss"] == pytest.approx(nats / 203, rel=1e-6)
    assert figures["perplexity"] == pytest.approx(math.exp(nats / 203), rel=1e-6)
    assert figures["bits_per_character"] == pytest.approx(nats / math.log(2) / 183, rel=1e-6)
    assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / 213, rel=1e-6)


def test_resets_and_lanes_matter_and_the_length_of_a_window_does_not():
    model, split = make_recurrent(), make_split()
    loss = evaluate(model, split)["loss"]
    assert evaluate(model, split, sequence_length=7)["loss"] == pytest.approx(loss, rel=1e-6)
    assert evaluate(model, split, reset_at_documents=False)["loss"] != pytest.approx(loss, rel=1e-4)
    assert evaluate(model, split, batch_size=1)["loss"] != pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("window", [1, 7, 24])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_figures_of_a_model_without_state_are_those_of_overlapping_windows(batch_size, window):
    model, split = make_gpt2(), make_split()
    figures = evaluate(model, split, batch_size=batch_size, sequence_length=window)
    assert figures["num_tokens"] == split.num_tokens
    assert figures["loss"] == pytest.approx(brute_force_windows(model, split, batch_size, window) / 203, rel=1e-6)


@pytest.mark.parametrize("make_model", [make_recurrent, make_gpt2])
def test_model_that_knows_nothing_has_the_loss_of_a_uniform_guess(make_model):
    model = make_model()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    figures = evaluate(model, make_split())
    assert figures["loss"] == pytest.approx(math.log(VOCAB_SIZE), rel=1e-6)
    assert figures["perplexity"] == pytest.approx(VOCAB_SIZE, rel=1e-6)


@pytest.mark.parametrize(("max_tokens", "per_lane"), [(48, 16), (47, 16), (100, 32), (1, 16), (203, 68), (10_000, 68)])
def test_max_tokens_takes_whole_steps_from_the_beginning_of_every_lane(max_tokens, per_lane):
    model, split = make_recurrent(), make_split()
    figures = evaluate(model, split, max_tokens=max_tokens)
    counted = min(203, 3 * per_lane)
    nats = brute_force_recurrent(model, split, 3, resets=True, limit=per_lane)
    assert figures["num_tokens"] == counted
    assert figures["num_characters"] == round(183 * counted / 203)
    assert figures["loss"] == pytest.approx(nats / counted, rel=1e-6)
    assert figures["nats_per_character"] == pytest.approx(nats / figures["num_characters"], rel=1e-6)


@pytest.mark.parametrize("num_tokens", [1, 5, 16, 40])
def test_text_shorter_than_the_lanes_is_read_in_fewer(num_tokens):
    model, split = make_recurrent(), make_split(num_tokens)
    lanes = max(1, num_tokens // 16)
    figures = evaluate(model, split, batch_size=32)
    assert figures["num_tokens"] == num_tokens
    assert figures["loss"] == pytest.approx(brute_force_recurrent(model, split, lanes, resets=True) / num_tokens, rel=1e-6)


@pytest.mark.parametrize("make_model", [make_recurrent, make_gpt2])
def test_evaluation_leaves_no_trace(make_model):
    model, split = make_model(), make_split()
    expected = evaluate(model, split)
    model.train()
    next(module for module in model.modules() if isinstance(module, torch.nn.Embedding)).eval()  # a frozen part
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    before = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002 - the global one is what must not move
    assert evaluate(model, split) == expected
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), str(np.random.get_state())) == before[1:]  # noqa: NPY002
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mode_is_restored_after_a_failure():
    model = make_gpt2().train()
    broken = make_split()
    broken.tokens[7] = VOCAB_SIZE  # no such token
    with pytest.raises(IndexError):
        evaluate(model, broken)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("wrap", [AveragedModel, torch.compile])
def test_wrapped_model_is_known_for_what_it_is(wrap):
    for model in (make_recurrent(), make_gpt2()):
        assert type(innermost(wrap(model))) is type(model)
        assert carries_state(wrap(model)) == isinstance(model, RecurrentForCausalLM)


def test_averaged_and_adapted_models_are_evaluated_as_they_are():
    peft = pytest.importorskip("peft", reason="the extra lora is not installed")
    model, split = make_recurrent(), make_split()
    expected = evaluate(model, split)
    assert evaluate(AveragedModel(model), split) == expected
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["input_projection", "hidden_projection"]))
    assert carries_state(adapted)
    assert evaluate(adapted, split)["loss"] == pytest.approx(expected["loss"], rel=1e-5)  # an adapter begins as zero


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"sequence_length": 0}, "sequence_length is 0; it must be at least 1"),
        ({"sequence_length": 25}, "sequence_length is 25, and the model has 24 positions; give at most 24"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        evaluate(make_gpt2(), make_split(), **options)


def test_empty_split_is_refused():
    with pytest.raises(UserError, match="holds no text"):
        evaluate(make_recurrent(), make_split(0))


def test_two_processes_give_the_figures_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    environment = {
        **os.environ,
        **launch,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    processes = [
        subprocess.Popen([sys.executable, PROCESSES, tmp_path], env={**environment, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    try:
        alone = runpy.run_path(str(PROCESSES))["all_figures"](None)
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    together = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert together[0] == together[1]
    assert len(alone) == 10
    for case, figures in alone.items():
        assert together[0][case]["num_tokens"] == figures["num_tokens"]
        for name in METRICS:
            assert together[0][case][name] == pytest.approx(figures[name], rel=1e-6), (case, name)
