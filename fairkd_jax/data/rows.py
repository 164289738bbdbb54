"""Rows of a file with named columns: .tsv, .txt, .csv or .jsonl, each also as .gz; .parquet.

UTF-8 with or without a byte-order mark, lines that end in LF or CRLF, blank lines at the end. In
.tsv and .txt, tabs separate and quotes are text; in .csv, commas separate and quotes quote. In
.parquet a row's number stands for its line, and the numbers of a label are the names that the hub
wrote beside them, where it did.
"""

import codecs
import contextlib
import csv
import gzip
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fairkd_jax import buckets
from fairkd_jax.data.archives import AnyPath
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path

Row = Mapping[str, str]
Fields = Iterator[tuple[int, list[str]]]  # (number of the first line, from 1; its fields)
Rows = Iterator[tuple[int, Row]]
Columns = Mapping[str, Callable[[Any], str]]  # those asked for, and how their values are read


def read_rows(
    path: AnyPath,
    texts: Collection[str],
    names: Collection[str],
    *,
    quoted: bool = False,
    encodings: Sequence[str] = ("UTF-8",),
) -> Iterator[tuple[int, Row]]:
    """(number of its first line, from 1; {column: value}) of each row, of the columns asked for.

    `texts` are columns of sentences, taken as they are. `names` are columns of short values:
    spaces around them do not count; whole numbers and truth values of JSON are as JSON writes them
    ("0", "true"). `quoted`: in .tsv and .txt quotes quote too. `encodings` are tried in order, line
    by line.

    Raises UnknownName for a format or a column that is not there, ValueError for whatever else is
    wrong with the file, both with its name and, where it has one, the line.
    """
    suffix = format_of(path)
    reader = READERS[f"quoted {suffix}" if quoted and suffix in (".tsv", ".txt") else suffix]
    columns = dict.fromkeys(names, as_name) | dict.fromkeys(texts, _as_text)
    try:
        with _near(path).open("rb") as file:
            unzipped = gzip.GzipFile(fileobj=file) if path.name.endswith(".gz") else file
            if suffix == ".parquet":
                yield from _parquet(file, path, columns)
            else:
                yield from reader(_lines(unzipped, encodings), path, columns)
    except UnknownName:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_lines(path: AnyPath) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a text file. Raises as `read_rows` does."""
    try:
        with _near(path).open("rb") as file:
            for number, line in enumerate(_lines(file, ("UTF-8",)), 1):
                yield number, line.rstrip("\r\n")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error


def _near(path: AnyPath) -> AnyPath:
    return buckets.near(path) if isinstance(path, Path) else path  # one in an archive is near


def format_of(path: AnyPath) -> str:
    """The suffix that says how a file is read, without .gz; UnknownName if none does."""
    suffix = pathlib.Path(path.name.removesuffix(".gz")).suffix
    if suffix not in READERS:
        raise UnknownName(suffix, f"format of {path}:", [k for k in READERS if " " not in k])
    return suffix


def as_name(value: Any) -> str:
    """A text, whole number or truth value as `read_rows` gives it; ValueError for any other."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int):
        return json.dumps(value)
    raise ValueError(f"{_short(value)}, expected a text, a whole number or a truth value")


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_short(value)}, expected a text")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{_short(value)}, which holds half a character")  # no tokenizer reads it
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) < 60 else f"{text[:60]}..."


def _lines(file: Iterable[bytes], encodings: Sequence[str]) -> Iterator[str]:
    """Lines as text, each decoded by itself so that a bad byte is found on its own line."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            yield _decoded(line, encodings)
    except UnicodeDecodeError as error:
        byte, place = error.object[error.start], error.start + 1
        raise ValueError(
            f"line {number}: byte 0x{byte:02x} at place {place} is not {' or '.join(encodings)}"
        ) from error
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"broken after line {number}: {error}") from error


def _decoded(line: bytes, encodings: Sequence[str]) -> str:
    for encoding in encodings[:-1]:
        with contextlib.suppress(UnicodeDecodeError):
            return line.decode(encoding)
    return line.decode(encodings[-1])


def _tsv(lines: Iterator[str], path: AnyPath, columns: Columns) -> Rows:
    fields = (line.rstrip("\r\n").split("\t") for line in lines)
    return _table(enumerate(fields, 1), path, columns)


def _csv(lines: Iterator[str], path: AnyPath, columns: Columns) -> Rows:
    return _table(_records(lines, ","), path, columns)


def _quoted_tsv(lines: Iterator[str], path: AnyPath, columns: Columns) -> Rows:
    return _table(_records(lines, "\t"), path, columns)


def _records(lines: Iterator[str], delimiter: str) -> Fields:
    csv.field_size_limit(2**31 - 1)  # its own limit is 128 KiB
    reader, number = csv.reader(lines, strict=True, delimiter=delimiter), 1
    try:
        for fields in reader:
            yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {number}, where the row begins: {error}") from error


def _table(fields: Fields, path: AnyPath, columns: Columns) -> Rows:
    filled = _without_blank_end(fields)
    header = [name.strip() for name in next(filled, (1, []))[1]]
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise ValueError(f"line 1 has more than one column {', '.join(map(repr, repeated))}")
    for column in columns:
        _check(column, path, header)
    places = [(column, header.index(column), read) for column, read in columns.items()]
    for number, values in filled:
        if len(values) != len(header):
            raise ValueError(
                f"line {number} has {len(values)} fields, the header has {len(header)}"
            )
        yield number, {column: read(values[place]) for column, place, read in places}


def _without_blank_end(fields: Fields) -> Fields:
    blank = 0
    for number, values in fields:
        if len(values) < 2 and not "".join(values).strip():
            blank = blank or number
        elif blank:
            raise ValueError(f"line {blank} is blank, but line {number} is not")
        else:
            yield number, values


def _jsonl(lines: Iterator[str], path: AnyPath, columns: Columns) -> Rows:
    for number, (line,) in _without_blank_end(enumerate(([line] for line in lines), 1)):
        try:
            row = json.loads(line, object_pairs_hook=_without_repeats)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object: {_short(row)}")
        values = {}
        for column, read in columns.items():
            _check(column, f"{path}, line {number}", row)
            try:
                values[column] = read(row[column])
            except ValueError as error:
                raise ValueError(f"line {number}: {column} = {error}") from error
        yield number, values


def _parquet(file: Any, path: AnyPath, columns: Columns) -> Rows:
    from pyarrow import parquet  # large

    opened, before = parquet.ParquetFile(file), 0
    for column in columns:
        _check(column, path, opened.schema_arrow.names)
    named = _names_of_labels(opened.schema_arrow.metadata or {})
    for batch in opened.iter_batches(columns=[*columns]):
        for number, row in enumerate(batch.to_pylist(), before + 1):
            values = {}
            for column, read in columns.items():
                value = row[column]
                if column in named and value in range(len(named[column])):
                    value = named[column][value]
                try:
                    values[column] = read(value)
                except ValueError as error:
                    raise ValueError(f"line {number}: {column} = {error}") from error
            yield number, values
        before += len(batch)


def _names_of_labels(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """Column -> names of its numbers, as the hub's library writes them beside a table."""
    told = json.loads(metadata.get(b"huggingface", b"{}"))
    features = told.get("info", {}).get("features", {})
    return {k: v["names"] for k, v in features.items() if isinstance(v, dict) and v.get("names")}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"more than one key {next(k for k in keys if keys.count(k) > 1)!r}")
    return found


def _check(column: str, place: Any, columns: Collection[str]) -> None:
    if column not in columns:
        raise UnknownName(column, f"column of {place}:", columns)


READERS: Mapping[str, Callable[..., Rows]] = {
    ".tsv": _tsv,
    ".txt": _tsv,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    "quoted .tsv": _quoted_tsv,
    "quoted .txt": _quoted_tsv,
}
