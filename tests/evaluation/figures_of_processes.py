"""Evaluate small models on this process's share of the lanes: `python figures_of_processes.py FOLDER`, started as several processes.

Every process writes the figures to FOLDER/RANK.json. A single process calls `all_figures(None)`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel

from hflab.data.batches import TokenSplit
from hflab.evaluation.evaluator import evaluate_language_model
from hflab.models.recurrent.configuration_recurrent import RecurrentConfig
from hflab.models.recurrent.modeling_recurrent import RecurrentForCausalLM

VOCAB_SIZE = 17
CASES: dict[str, dict[str, Any]] = {
    "three lanes": {"batch_size": 3},
    "four lanes": {"batch_size": 4},
    "fewer lanes than processes": {"batch_size": 1},
    "some tokens": {"batch_size": 3, "max_tokens": 150},
    "no resets": {"batch_size": 5, "reset_at_documents": False},
}


def all_figures(accelerator: Accelerator | None) -> dict[str, dict[str, float]]:
    """Figures of every case and model, over all processes of `accelerator`."""
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, size=301).astype(np.uint16)
    split = TokenSplit(tokens=tokens, num_tokens=301, num_characters=280, num_bytes=310, num_documents=20)
    figures = {}
    for name, model in models().items():
        prepared = model if accelerator is None else accelerator.prepare_model(model)
        for case, options in CASES.items():
            found = evaluate_language_model(prepared, split, sequence_length=20, eos_token_id=0, accelerator=accelerator, **options)
            figures[f"{name}, {case}"] = found
    return figures


def models() -> dict[str, torch.nn.Module]:
    """A model with and one without a recurrent state, both with dropout that must stay off."""
    tokens = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    gru = RecurrentForCausalLM(RecurrentConfig(cell_type="gru", hidden_size=12, output_dropout=0.5, initializer_range=0.5, **tokens))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=12, n_layer=1, n_head=2, initializer_range=0.5, **tokens))
    return {"gru": gru.train(), "gpt2": gpt2.train()}


if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes > 1
    file = Path(sys.argv[1]) / f"{accelerator.process_index}.json"
    file.write_text(json.dumps(all_figures(accelerator)), encoding="utf-8")
    accelerator.end_training()
