"""Letters to phonemes on the held-out words of CMUdict: trained models beside the GRU that the package g2p-en ships.

python scripts/compare_phonemes.py runs/phonemes_lstm_attention_cmudict runs/phonemes_transformer_cmudict --g2p-en checkpoint20.npz

Models are those of the recipes phonemes_*, with or without `--data.stress true`. A word is wrong unless every phoneme of one of its pronunciations
is right; phoneme errors are edits to the nearest pronunciation per phoneme of it. What a model writes with stress is scored with it, and once
more without. g2p-en's weights come from its wheel, which is a zip file: `unzip g2p_en-*.whl g2p_en/checkpoint20.npz`. Its authors trained on a
CMUdict of their time, without these splits, so that it has seen most of the words it is scored on; it decodes greedily, as its own code does.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hflab.api import measure
from hflab.data.examples import load_examples
from hflab.evaluation.sequence_metrics import SEQUENCE_METRICS, SequenceOutputs
from hflab.recipe import DataSection
from hflab.run_folder import RunFolder

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]  # g2p-en's vocabularies: the rows of its two embeddings
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = ["B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted([vowel + stress for vowel in VOWELS for stress in "012"] + CONSONANTS + ["UW"])]
MOST_PHONEMES = 20  # that g2p-en writes for a word
WORDS_PER_BATCH = 500


class Answers(NamedTuple):
    """What a system wrote for the test words, and how it was made."""

    name: str
    num_parameters: int
    training: str
    predictions: list[str]
    references: list[list[str]]
    has_stress: bool


class ShippedGRU(nn.Module):
    """g2p-en's encoder-decoder: a GRU reads the letters, another writes phonemes from its last state on."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding.from_pretrained(torch.from_numpy(weights[f"{part}_emb"])) for part in ("enc", "dec"))
        self.encoder, self.decoder = (self._recurrence(weights, part) for part in ("enc", "dec"))
        self.head = nn.Linear(*reversed(weights["fc_w"].shape))
        self.head.load_state_dict({"weight": torch.from_numpy(weights["fc_w"]), "bias": torch.from_numpy(weights["fc_b"])})

    @staticmethod
    def _recurrence(weights: dict[str, np.ndarray], part: str) -> nn.GRU:
        recurrence = nn.GRU(weights[f"{part}_w_ih"].shape[1], weights[f"{part}_w_hh"].shape[1], batch_first=True)
        names = {"weight_ih_l0": "w_ih", "weight_hh_l0": "w_hh", "bias_ih_l0": "b_ih", "bias_hh_l0": "b_hh"}
        recurrence.load_state_dict({name: torch.from_numpy(weights[f"{part}_{short}"]) for name, short in names.items()})
        return recurrence

    @torch.no_grad()
    def write(self, words: Sequence[str]) -> list[str]:
        """Phonemes of words of one length, separated by spaces, always the likeliest next one."""
        letters = torch.tensor([[LETTERS.index(letter) for letter in [*word, "</s>"]] for word in words])
        _, state = self.encoder(self.tables[0](letters))
        token = torch.full((len(words), 1), PHONEMES.index("<s>"))
        written: list[Tensor] = []
        for _ in range(MOST_PHONEMES):
            outputs, state = self.decoder(self.tables[1](token), state)
            token = self.head(outputs).argmax(-1)
            written.append(token)
        return [self._spell(row) for row in torch.cat(written, 1).tolist()]

    @staticmethod
    def _spell(tokens: list[int]) -> str:
        end = PHONEMES.index("</s>")
        return " ".join(PHONEMES[token] for token in tokens[: tokens.index(end) if end in tokens else None])


def answers_of_run(folder: Path) -> Answers:
    """The answers of a trained model, on the whole test split."""
    rows = measure(folder, split="test").evaluated.rows
    run = RunFolder(folder)
    facts, stress = run.read_facts(), run.read_recipe().data.stress
    training = f"{facts['training']['seconds'] / 60:,.0f} min"
    references = [row.expected.split(" / ") for row in rows]
    return Answers(folder.name, facts["model"]["num_parameters"], training, [row.prediction for row in rows], references, stress)


def answers_of_g2p_en(weights_file: Path) -> Answers:
    """The answers of g2p-en's weights on the words of the test split."""
    weights = dict(np.load(weights_file))
    model = ShippedGRU(weights)
    test = load_examples(DataSection(source="cmudict", stress=True), "seq2seq").splits["test"]
    words, references = [source.replace(" ", "") for source in test["source"]], list(test["references"])
    written: dict[str, str] = {}
    for length in sorted({len(word) for word in words}):  # of one length, so that nothing is padded
        same = [word for word in words if len(word) == length]
        for start in range(0, len(same), WORDS_PER_BATCH):
            batch = same[start : start + WORDS_PER_BATCH]
            written |= dict(zip(batch, model.write(batch), strict=True))
    count = sum(array.size for array in weights.values())
    return Answers("g2p-en's GRU (has seen most of these words)", count, "", [written[word] for word in words], references, has_stress=True)


def without_stress(text: str) -> str:
    """The phonemes without the digits of their stress."""
    return re.sub(r"\d", "", text)


def table_row(answers: Answers) -> str:
    """Word and phoneme error rates without stress, and with it where it was written."""
    bare = SequenceOutputs([without_stress(text) for text in answers.predictions], [list(map(without_stress, row)) for row in answers.references])
    figures = [*_error_rates(bare)]
    figures += _error_rates(SequenceOutputs(answers.predictions, answers.references)) if answers.has_stress else ["", ""]
    return f"| {answers.name} | {answers.num_parameters:,} | {answers.training} | {' | '.join(figures)} |"


def _error_rates(outputs: SequenceOutputs) -> list[str]:
    return [f"{100 * SEQUENCE_METRICS[name].compute(outputs):.1f} %" for name in ("sequence_error_rate", "symbol_error_rate")]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="run folders of the recipes phonemes_*")
    parser.add_argument("--g2p-en", type=Path, metavar="NPZ", help="checkpoint20.npz of the package g2p-en")
    options = parser.parse_args()
    print("| | parameters | training | words wrong | phonemes wrong | words, with stress | phonemes, with stress |")
    print("|---|---|---|---|---|---|---|")
    for folder in options.runs:
        print(table_row(answers_of_run(folder)), flush=True)
    if options.g2p_en is not None:
        print(table_row(answers_of_g2p_en(options.g2p_en)), flush=True)


if __name__ == "__main__":
    main()
