"""Labelled examples in rows: `load_examples` leads from a data section to a `datasets.DatasetDict` with the columns of a task.

    corpus = load_examples(DataSection(source="cmudict"), "seq2seq")
    corpus.splits["train"][0]  # {"source": "a b b e y", "target": "AE B IY", "references": ["AE B IY"]}

| task | columns |
|---|---|
| seq2seq | `source` (str), `target` (str), `references` (list of str: every target of the source in its split) |
| text_classification | `text` (str), `label` (ClassLabel) |
| token_classification | `tokens` (list of str), `labels` (list of ClassLabel, one per token) |

A training row of seq2seq is a pair; a held-out row is a source, once, whose `target` is the first of its references. This module knows nothing
about tokenizers, batches or models.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError, check_choice
from ..recipe import DataSection
from .example_sources import EXAMPLE_SOURCES, TASKS, RawExamples
from .example_splits import Example, example_key, group_by_source, split_by_hash, take_few
from .sources import SOURCES, SPEECH_KEYS, Piece, TextStream, check_not_set

if TYPE_CHECKING:  # it takes a second to import, which `hflab --help` need not wait for
    import datasets

__all__ = ["COLUMNS", "EXAMPLE_SOURCES", "ExampleCorpus", "load_examples"]

COLUMNS: dict[str, tuple[str, ...]] = {
    "seq2seq": ("source", "target", "references"),
    "text_classification": ("text", "label"),
    "token_classification": ("tokens", "labels"),
}
MOST_CLASSES = 100  # beyond, and with more classes than half the rows, the label is probably no class
SAMPLE_CHARACTERS = 200
ROWS_PER_BATCH = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExampleCorpus:
    """Labelled rows and what is known about them."""

    task: str
    name: str
    description: str
    license: str | None
    """SPDX id in lower case, or None where it is not known."""
    language: str | None
    """ISO 639 code of the input, or None where it is not known."""
    origin: str
    """`package==version`, `Hub id@revision` or file names; never an absolute path."""
    splits: "datasets.DatasetDict"
    """train and what is held out, with the columns of `COLUMNS[task]`."""
    fingerprint: str
    """SHA-256 of all rows of all splits, in their order."""
    target_language: str | None = None
    """ISO 639 code of the targets of seq2seq, or None where it is not known."""

    @property
    def label_names(self) -> list[str]:
        """The classes, in the order of their numbers; empty for seq2seq."""
        features = self.splits["train"].features
        if self.task == "seq2seq":
            return []
        return list(features["label"].names if self.task == "text_classification" else features["labels"].feature.names)

    def texts(self, split: str) -> TextStream:
        """The texts that a tokenizer is trained on, as a stream: sources and targets, texts, or words joined by spaces; each is a document."""
        inputs = COLUMNS[self.task][: 2 if self.task == "seq2seq" else 1]

        def stream() -> Iterator[Piece]:
            number = 0
            for batch in self.splits[split].iter(batch_size=ROWS_PER_BATCH):  # reading row by row takes many times as long
                for values in zip(*(batch[column] for column in inputs), strict=True):
                    for value in values:
                        yield Piece(number, value if isinstance(value, str) else " ".join(value))
                        number += 1

        return stream

    def facts(self) -> dict[str, Any]:
        """What the examples are, as JSON: their source and fingerprint, the classes, and rows and a sample of every split."""
        return {
            **{key: getattr(self, key) for key in ("name", "description", "license", "language", "target_language", "origin", "fingerprint")},
            "labels": self.label_names,
            "splits": {
                name: {"rows": rows.num_rows, "sample": "\n".join(_texts_of_row(rows[0], self.task))[:SAMPLE_CHARACTERS]}
                for name, rows in self.splits.items()
            },
        }


def load_examples(data: DataSection, task: str, label_names: Sequence[str] | None = None) -> ExampleCorpus:
    """Return the rows that the data section names, split, and with fewer labels to train on where it asks for that.

    Held-out shares are drawn by a hash of a row's input, where the source has no split of its own; equal inputs fall into one split.

    Args:
        data: source, columns, splits and labels; its keys for texts and tokens are not read.
        task: a key of `COLUMNS`.
        label_names: the classes of a trained classifier, which the rows are to be held against; default: those of the rows.

    Raises:
        UserError: the source does not exist or does not serve the task; a key is set that it would not read; a row is malformed; a split is
            empty; there is only one class, or one that `label_names` lacks; and whatever the source raises.
    """
    from datasets import DatasetDict

    check_choice("task", task, COLUMNS)
    _check_keys(data, task)
    raw = EXAMPLE_SOURCES[data.source].read(data, task)
    splits = _hold_out(raw, data)
    _warn_of_overlap(splits)
    names = [] if task == "seq2seq" else _label_names(raw, splits, label_names)
    if data.examples_per_class is not None or data.label_fraction is not None:
        splits["train"] = take_few(splits["train"], seed=data.label_seed, per_class=data.examples_per_class, fraction=data.label_fraction)
    return ExampleCorpus(
        task=task,
        name=raw.name,
        description=raw.description,
        license=data.license or raw.license,
        language=data.language or raw.language,
        origin=raw.origin,
        splits=DatasetDict({name: _dataset(examples, task, names, is_train=name == "train") for name, examples in splits.items()}),
        fingerprint=_fingerprint(splits),
        target_language=raw.target_language,
    )


def _check_keys(data: DataSection, task: str) -> None:
    """Refuse a source that does not serve the task, and keys that it would not read."""
    serving = [name for name, source in EXAMPLE_SOURCES.items() if task in source.tasks]
    if data.source not in serving and data.source in {**EXAMPLE_SOURCES, **SOURCES}:
        raise UserError(f"data.source is {data.source!r}, which has no examples for {task}; choose from: {', '.join(serving)}.")
    check_choice("data.source", data.source, serving)
    chooses_columns = EXAMPLE_SOURCES[data.source].tasks == TASKS
    readers: dict[str, tuple[tuple[str, ...], bool]] = {
        "the source 'examples' reads": (("path",), data.source == "examples"),
        "the source 'hub' reads": (("dataset", "config_name", "revision"), data.source == "hub"),
        "the source 'cmudict' reads": (("stress",), data.source == "cmudict"),
        "sequence to sequence reads, from the sources examples and hub": (("source_column", "target_column"), chooses_columns and task == "seq2seq"),
        "text_classification reads, from the sources examples and hub": (("text_column",), chooses_columns and task == "text_classification"),
        "token_classification reads, from the sources examples and hub": (("tokens_column",), chooses_columns and task == "token_classification"),
        "classification reads, from the sources examples and hub": (("label_column",), chooses_columns and task != "seq2seq"),
        "text_classification reads": (("examples_per_class", "label_fraction", "label_seed"), task == "text_classification"),
        "tasks that read running text use": (("streaming", "max_characters"), False),
        "speech_recognition reads": (SPEECH_KEYS, False),
    }
    for reader, (keys, is_read) in readers.items():
        if not is_read:
            check_not_set(data, keys, reader)
    if data.examples_per_class is not None and data.label_fraction is not None:
        raise UserError("data.examples_per_class and data.label_fraction are both set; they say the same in two ways, so set one of them.")


def _hold_out(raw: RawExamples, data: DataSection) -> dict[str, list[Example]]:
    """The splits of the source, and those drawn from its training rows. Raises `UserError` if one is empty."""
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    wanted = {name: share for name, share in fractions.items() if share > 0 and name not in raw.splits}
    splits = {**raw.splits, **split_by_hash(raw.splits["train"], wanted)} if wanted else dict(raw.splits)
    for name, examples in splits.items():
        if not examples:
            cure = "give rows" if name in raw.splits or name == "train" else f"give more rows, raise data.{name}_fraction or set it to 0"
            raise UserError(f"The {name} split of {raw.name!r} has no rows of {sum(map(len, splits.values()))}; {cure}.")
    return splits


def _warn_of_overlap(splits: dict[str, list[Example]]) -> None:
    """A source's own splits may share inputs, which makes figures too good."""
    known = {example_key(example) for example in splits["train"]}
    for name in [name for name in splits if name != "train"]:
        shared = sum(example_key(example) in known for example in splits[name])
        if shared:
            share = 100 * shared / len(splits[name])
            logger.warning("%d rows (%.1f %%) of the %s split have an input that is in the training split too.", shared, share, name)


def _label_names(raw: RawExamples, splits: dict[str, list[Example]], given: Sequence[str] | None) -> list[str]:
    """The classes: those given; in the source's order if it has one; else whole numbers by value and texts by their code points."""
    counts: Counter[str] = Counter()
    for examples in splits.values():
        for example in examples:
            counts.update([example.output] if isinstance(example.output, str) else example.output)
    if given is not None:
        for name in counts:
            check_choice(f"A class of {raw.name!r}", name, given)
        return list(given)
    names = raw.label_names or sorted(counts, key=_label_order)
    if len(names) < 2:
        raise UserError(
            f"The examples of {raw.name!r} have the one class {names[0]!r}; a classifier needs two. Set data.label_column to the classes."
        )
    if len(names) > MOST_CLASSES and 2 * len(names) > counts.total():
        logger.warning("There are %d classes for %d labels; check that data.label_column is a column of classes.", len(names), counts.total())
    return names


def _label_order(name: str) -> tuple[bool, int, str]:
    is_number = name.removeprefix("-").isdecimal()
    return not is_number, int(name) if is_number else 0, name


def _dataset(examples: Sequence[Example], task: str, names: list[str], *, is_train: bool) -> "datasets.Dataset":
    """The rows with the columns and features of the task."""
    from datasets import ClassLabel, Dataset, Features, List, Value

    inputs, outputs = [example.input for example in examples], [example.output for example in examples]
    text = Value("string")
    if task == "seq2seq":
        groups = group_by_source(examples)
        references = {group.source: group.targets for group in groups}
        if not is_train:
            inputs, outputs = [group.source for group in groups], [group.targets[0] for group in groups]
        features = {"source": text, "target": text, "references": List(text)}
        columns = {"source": inputs, "target": outputs, "references": [references[source] for source in inputs]}
    else:
        numbers = {name: number for number, name in enumerate(names)}
        classes = ClassLabel(names=names)
        if task == "text_classification":
            features = {"text": text, "label": classes}
            columns = {"text": inputs, "label": [numbers[name] for name in outputs]}
        else:
            features = {"tokens": List(text), "labels": List(classes)}
            columns = {"tokens": inputs, "labels": [[numbers[name] for name in of_row] for of_row in outputs]}
    return Dataset.from_dict(columns, features=Features(features))


def _fingerprint(splits: dict[str, list[Example]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(splits):
        digest.update(f"{name} {len(splits[name])}\n".encode())
        for example in splits[name]:
            digest.update(json.dumps(example, ensure_ascii=False).encode("utf-8") + b"\n")
    return digest.hexdigest()


def _texts_of_row(row: dict[str, Any], task: str) -> list[str]:
    if task == "seq2seq":
        return [row["source"], row["target"]]
    return [row["text"]] if task == "text_classification" else [" ".join(row["tokens"])]
