r"""Text and rows out of .txt, .jsonl, .csv, .tsv and .parquet files, as a stream: never more than a block, a line or a few rows in memory.

    for document in read_documents(Path("notes.txt"), text_column="text"):
        text = "".join(document)
    for row in read_rows(Path("pairs.csv"), [Column("source_column", "en"), Column("target_column", "de")]):
        source, target = row.values

Text is strict UTF-8; a byte-order mark is dropped; "\r\n" and "\r" become "\n". A .txt file is one document, a row of the other formats
is one. In a .tsv file a double quote is a character like any other. This module knows nothing about splits, tokens or caches.
"""

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import UserError, nearest

BLOCK_BYTES = 2**20
ROWS_PER_BATCH = 64  # rows may be whole books, so few are held at once
LONGEST_FIELD = 2**27  # characters of one CSV field; the csv module's own limit of 131,072 refuses long articles

Document = Iterable[str]  # blocks that concatenate to the document


class Column(NamedTuple):
    """A column to read of every row."""

    key: str
    """The recipe key, of the data section, that names the column; error messages name it."""
    name: str
    holds_text: bool = True
    """Whether every value must be text; newlines of text are made universal, other values are left as the format has them."""
    otherwise: tuple[str, ...] = ()
    """Names that are as good, the first that is there, where `name` is not there."""

    def among(self, names: list[str], where: str) -> str:
        """What the column is called among `names`. Raises `UserError` as `check_column` does."""
        for name in (self.name, *self.otherwise):
            if name in names:
                return name
        check_column(self.name, names, where, self.key)
        return self.name


class Row(NamedTuple):
    """The values of a row, in the order of the columns asked for, and where it stands in which file."""

    where: str
    values: list[Any]


def find_text_files(given: str, formats: Iterable[str] | None = None) -> list[Path]:
    """Return the file `given`, or the files below the folder `given`, sorted by their path, whose suffix is in `formats` (default: all).

    In a folder, files of other kinds and everything whose name begins with a dot are passed over.

    Raises:
        UserError: nothing is there (the nearest name in the folder is given), it is no text file, or a folder holds none.
    """
    path = Path(given).expanduser()
    suffixes = [".txt", *ROW_READERS] if formats is None else list(formats)
    if not os.path.lexists(path):
        raise UserError(_missing(path))
    if not os.path.isdir(path):
        if path.suffix.lower() not in suffixes:
            raise UserError(f"The file {given!r} ends in {path.suffix or 'no suffix'!r}; hflab reads {_either(suffixes)} here. Rename or convert it.")
        return [path]
    found = sorted(_walk(path), key=lambda file: file.relative_to(path).as_posix())
    files = [file for file in found if file.suffix.lower() in suffixes]
    if not files:
        raise UserError(f"The folder {given!r} holds no text: none of its {len(found)} files is {_either(suffixes)}. Rename or convert them.")
    return files


def read_documents(path: Path, text_column: str) -> Iterator[Document]:
    """Yield the documents of a file, each as blocks of text to be read before the next document is asked for.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or is binary; a row is malformed, lacks `text_column` or has no text in it.
    """
    if path.suffix.lower() == ".txt":
        yield decoded_blocks(path)
    else:
        for row in read_rows(path, [Column("text_column", text_column)]):
            yield row.values


def read_rows(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .csv, .tsv or .parquet file. Raises `UserError` as `read_documents` does."""
    for row in ROW_READERS[path.suffix.lower()](path, columns):
        values = [
            check_text(value, row.where, column.name) if column.holds_text else value for column, value in zip(columns, row.values, strict=True)
        ]
        yield Row(row.where, values)


def universal_newlines(text: str) -> str:
    r"""Return `text` with "\r\n" and "\r" as "\n"."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def check_text(value: Any, where: str, column: str) -> str:
    """Return the text of a row, newlines made universal. `where` names the row. Raises `UserError` if it is no text."""
    if not isinstance(value, str):
        shown = "null" if value is None else f"{str(value)[:40]!r} ({type(value).__name__})"
        raise UserError(f"{where} has {shown} in the column {column!r}; every row needs text there. Mend or remove the row.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} has half a surrogate pair, U+{ord(value[error.start]):04X}, in the column {column!r}, which is no character; "
            "write the file again with a program that joins the pairs."
        ) from None
    return universal_newlines(value)


def check_column(column: str, columns: list[str], where: str, key: str = "text_column") -> None:
    """Raise `UserError`, which lists the columns and names the recipe key, unless `column` is one of `columns`."""
    if column not in columns:
        listed = ", ".join(repr(name) for name in columns)
        raise UserError(f"{where} has no column {column!r}; set data.{key} to one of: {listed}.{nearest(column, columns)}")


def decoded_blocks(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file in blocks. Raises `UserError` as `read_documents` does."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    with _open(path) as file:
        has_mark = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        offset = file.seek(len(codecs.BOM_UTF8) if has_mark else 0)  # of `block` in the file
        while True:
            block = file.read(BLOCK_BYTES)
            _check_not_binary(path, block, offset)
            pending = len(decoder.getstate()[0])  # bytes of a character that the last block began
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise UserError(_not_utf8(path, offset - pending + error.start, error.object[error.start])) from None
            yield newlines.decode(text, final=not block)
            if not block:
                return
            offset += len(block)


def _decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their newline, broken at newlines only (`str.splitlines` also breaks at U+2028)."""
    rest = ""
    for block in decoded_blocks(path):
        *lines, rest = (rest + block).split("\n")
        for line in lines:
            yield line + "\n"
    if rest:
        yield rest


def _read_jsonl(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    for number, line in enumerate(_decoded_lines(path), start=1):
        if not line.strip():
            continue
        where = f"Line {number} of {path.name}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}); a .jsonl file has one JSON object per line. Mend or remove the line.") from None
        if not isinstance(row, dict):
            raise UserError(f'{where} holds a {type(row).__name__}; a .jsonl file has one JSON object per line, such as {{"text": "..."}}.')
        yield Row(where, [row[column.name if column.name in row else column.among(list(row), where)] for column in columns])


def _read_delimited(path: Path, columns: Sequence[Column], *, delimiter: str, quoting: Any) -> Iterator[Row]:
    limit = csv.field_size_limit(LONGEST_FIELD)
    rows = csv.reader(_decoded_lines(path), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        places = [header.index(column.among(header, f"The header of {path.name}")) for column in columns]
        for row in rows:
            where = f"Line {rows.line_num} of {path.name}"
            for column, place in zip(columns, places, strict=True):
                if row and place >= len(row):
                    raise UserError(f"{where} has {len(row)} fields; the column {column.name!r} is number {place + 1}. Mend or remove the line.")
            if row:
                yield Row(where, [row[place] for place in places])
    except csv.Error as error:
        kind = path.suffix[1:].upper()
        raise UserError(f"Line {rows.line_num} of {path.name} is not {kind} ({error}); check its delimiters and double quotes.") from None
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    with _open(path) as opened:
        try:
            # a buffer and no pre-buffering: pages are read as they are needed, not a whole column of a row group
            file = pyarrow.parquet.ParquetFile(opened, buffer_size=BLOCK_BYTES, pre_buffer=False)
            schema = file.schema_arrow
            names = [column.among(schema.names, path.name) for column in columns]
            for column, name in zip(columns, names, strict=True):
                if column.holds_text:
                    _check_text_type(schema, name, path.name)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=names):
                for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                    number += 1
                    yield Row(f"Row {number} of {path.name}", list(values))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"The file {str(path)!r} is damaged or no Parquet file: {error}. Write it again.") from None


ROW_READERS: dict[str, Callable[[Path, Sequence[Column]], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".csv": partial(_read_delimited, delimiter=",", quoting=csv.QUOTE_MINIMAL),
    ".tsv": partial(_read_delimited, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".parquet": _read_parquet,
}


def _check_text_type(schema: Any, column: str, where: str) -> None:
    """Raise `UserError` unless `column` of the Arrow `schema` holds strings."""
    import pyarrow.types as types

    def holds_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

    if not holds_text(schema.field(column).type):
        texts = [field.name for field in schema if holds_text(field.type)]
        kind = schema.field(column).type
        raise UserError(f"The column {column!r} of {where} is of type {kind}, not text; columns of text: {', '.join(texts) or 'none'}.")


def _either(suffixes: list[str]) -> str:
    *most, last = suffixes
    return f"{', '.join(most)} or {last}"


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"The folder {error.filename!r} cannot be read: {error.strerror}. Check its permissions.") from None

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _missing(path: Path) -> str:
    try:
        siblings = os.listdir(path.parent)
    except OSError as error:
        return f"The file {str(path)!r} cannot be reached, for its folder {str(path.parent)!r} cannot be read: {error.strerror}. Check data.path."
    return f"There is no file or folder {str(path)!r}; check data.path.{nearest(path.name, siblings)}"


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"The file {str(path)!r} cannot be read: {error.strerror}. Check that it exists and that you may read it.") from None


def _check_not_binary(path: Path, block: bytes, offset: int) -> None:
    if offset == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"The file {str(path)!r} is UTF-16, not UTF-8; convert it: {_conversion('utf-16', path)}")
    position = block.find(b"\0")
    if position >= 0:
        raise UserError(
            f"The file {str(path)!r} is binary, not text: it has a zero byte at offset {offset + position}. "
            "Give UTF-8 text; if the text is UTF-16 or UTF-32, convert it with iconv."
        )


def _not_utf8(path: Path, offset: int, byte: int) -> str:
    encoding = _guess_encoding(path, offset)
    found = f"byte 0x{byte:02x} at offset {offset}"
    return f"The file {str(path)!r} is not UTF-8: {found}. It may be {encoding}; convert it: {_conversion(encoding, path)}"


def _guess_encoding(path: Path, offset: int) -> str:
    """Guess the encoding from the text around `offset`: two-byte characters are gb18030, lone high bytes latin-1."""
    with _open(path) as file:
        file.seek(offset)
        sample = file.read(4096)
    high = [byte >= 0x80 for byte in sample]
    paired = sum(1 for i, is_high in enumerate(high) if is_high and (any(high[i + 1 : i + 2]) or (i > 0 and high[i - 1])))
    try:
        codecs.getincrementaldecoder("gb18030")("strict").decode(sample)
    except UnicodeDecodeError:
        return "latin-1"
    return "gb18030" if 2 * paired > sum(high) else "latin-1"


def _conversion(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t utf-8 {path.name} > {path.stem}-utf8{path.suffix}"
