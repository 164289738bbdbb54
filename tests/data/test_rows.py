"""Reading rows: what files of the wild hold is read, what would change a meaning is refused."""

import csv
import gzip
import tracemalloc

import pyarrow
import pytest
from pyarrow import parquet

from fairkd_jax.data.rows import as_name, read_rows
from fairkd_jax.registry import UnknownName

pytestmark = pytest.mark.quick

TEXTS, NAMES = ("premise", "hypothesis"), ("label",)
HEADER = "label\tpremise\thypothesis\n"


def read(path, content, names=NAMES):
    """The rows of a file with this content."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return list(read_rows(path, TEXTS, names))


def json_line(label='"neutral"', premise='"a"', more=""):
    return f'{{"label": {label}, "premise": {premise}, "hypothesis": "b"{more}}}\n'


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.txt.gz", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("end", ["", "newline", "blanks"])
def test_marks_line_ends_and_blank_lines_at_the_end_are_no_text(tmp_path, name, mark, newline, end):
    lines = ["label\tpremise\thypothesis", "neutral\tÜber a\tb", "entailment\tc\td"]
    if ".csv" in name:
        lines = [line.replace("\t", ",") for line in lines]
    if ".jsonl" in name:
        lines = [
            '{"label": "neutral", "premise": "Über a", "hypothesis": "b"}',
            '{"label": "entailment", "premise": "c", "hypothesis": "d"}',
        ]
    text = newline.join(lines) + {"": "", "newline": newline, "blanks": 3 * newline + " "}[end]
    rows = [row for _, row in read(tmp_path / name, mark + text.encode())]
    assert [tuple(row[c] for c in ("label", "premise", "hypothesis")) for row in rows] == [
        ("neutral", "Über a", "b"),
        ("entailment", "c", "d"),
    ]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_a_blank_line_between_rows_is_named(tmp_path, name):
    text = HEADER + "neutral\ta\tb\n\nneutral\ta\tb\n"
    text = text.replace("\t", ",") if name == "a.csv" else text
    text = json_line() * 2 + "\n" + json_line() if name == "a.jsonl" else text
    with pytest.raises(ValueError, match=f"{name}: line 3 is blank, but line 4 is not"):
        read(tmp_path / name, text)


def test_spaces_around_names_do_not_count_and_those_of_texts_do(tmp_path):
    [(line, row)] = read(tmp_path / "a.csv", "label, premise ,hypothesis\n neutral , a ,b\n")
    assert (line, row) == (2, {"label": "neutral", "premise": " a ", "hypothesis": "b"})


def test_quotes_are_text_between_tabs_and_quote_between_commas(tmp_path):
    [(_, row)] = read(tmp_path / "a.tsv", HEADER + 'neutral\t"a ""b"" c"\t"d\n')
    assert (row["premise"], row["hypothesis"]) == ('"a ""b"" c"', '"d')
    text = 'label,premise,hypothesis\nneutral,"a\n""b"" c",d\nneutral,e,f\n'
    rows = read(tmp_path / "a.csv", text)
    assert [(line, row["premise"]) for line, row in rows] == [(2, 'a\n"b" c'), (4, "e")]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("line", [2, 40, 4000])
def test_a_bad_byte_is_named_by_its_own_line(tmp_path, name, line):
    """A decoder of blocks meets it many lines before the reader does."""
    head, row = b"label,premise,hypothesis\n", b"neutral,a,b\n"
    if name == "a.tsv":
        head, row = head.replace(b",", b"\t"), row.replace(b",", b"\t")
    if "jsonl" in name:
        head = row = json_line().encode()
    content = head + row * (line - 2) + row.replace(b"b", b"\xe9", 1) + row * 5000
    with pytest.raises(ValueError, match=rf"{name}: line {line}: byte 0xe9 at place \d+ is not"):
        read(tmp_path / name, content)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("null", "premise = null, expected a text"),
        ("NaN", "premise = NaN, expected a text"),
        ("3", "premise = 3, expected a text"),
        ("true", "premise = true, expected a text"),
        ('["a", "b"]', r'premise = \["a", "b"\], expected a text'),
        ('{"en": "a"}', r'premise = \{"en": "a"\}, expected a text'),
        (r'"\ud83d"', r'premise = "\\ud83d", which holds half a character'),
    ],
)
def test_json_that_is_no_text_is_refused_with_file_and_line(tmp_path, value, told):
    with pytest.raises(ValueError, match=f"a.jsonl: line 2: {told}"):
        read(tmp_path / "a.jsonl", json_line() + json_line(premise=value))


@pytest.mark.parametrize("value", ["null", "NaN", "1.0", '["neutral"]'])
def test_json_that_is_no_name_is_refused_with_file_and_line(tmp_path, value):
    with pytest.raises(ValueError, match=r"a.jsonl: line 2: label = .*, expected a text, a whole"):
        read(tmp_path / "a.jsonl", json_line() + json_line(label=value))


def test_whole_numbers_and_truth_values_are_names_and_other_columns_may_hold_anything(tmp_path):
    content = json_line(more=', "hard": true, "round": 3, "tree": null, "votes": [1, NaN]')
    [(_, row)] = read(tmp_path / "a.jsonl", content, ("label", "hard", "round"))
    assert row == {
        "label": "neutral",
        "premise": "a",
        "hypothesis": "b",
        "hard": as_name(True),
        "round": as_name(3),
    }
    assert (row["hard"], row["round"]) == ("true", "3")


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_repeated_column_is_refused(tmp_path, name):
    text = "label\tpremise\thypothesis\tpremise\nneutral\ta\tb\tc\n"
    text = text.replace("\t", ",") if name == "a.csv" else text
    with pytest.raises(ValueError, match=f"{name}: line 1 has more than one column 'premise'"):
        read(tmp_path / name, text)


def test_a_repeated_key_is_refused_at_any_depth(tmp_path):
    with pytest.raises(ValueError, match=r"a.jsonl: line 2: more than one key 'premise'"):
        read(tmp_path / "a.jsonl", json_line() + json_line(more=', "premise": "c"'))
    with pytest.raises(ValueError, match=r"a.jsonl: line 1: more than one key 'x'"):
        read(tmp_path / "a.jsonl", json_line(more=', "meta": {"x": 1, "x": 2}'))


def test_columns_without_a_name_may_be_there(tmp_path):
    [(_, row)] = read(tmp_path / "a.csv", ",label,premise,hypothesis,\n0,neutral,a,b,\n")
    assert row == {"label": "neutral", "premise": "a", "hypothesis": "b"}


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    with pytest.raises(UnknownName, match=r"column of .*a\.tsv: 'label'.*gold_label"):
        read(tmp_path / "a.tsv", HEADER.replace("label", "gold_label"))
    with pytest.raises(UnknownName, match=r"column of .*a\.jsonl, line 2: 'label'"):
        read(tmp_path / "a.jsonl", json_line() + json_line().replace("label", "gold"))
    with pytest.raises(UnknownName, match=r"column of .*a\.tsv: 'label'. Choices: none"):
        read(tmp_path / "a.tsv", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('neutral,"a,b\nneutral,c,d\n', r"line 3, where the row begins: unexpected end of data"),
        ('neutral,"a"x,b\n', r"line 3, where the row begins: ',' expected after '\"'"),
        ("neutral,a,b,c\n", r"line 3 has 4 fields, the header has 3"),
    ],
)
def test_broken_quoting_is_named_by_the_line_where_it_begins(tmp_path, text, told):
    with pytest.raises(ValueError, match=rf"a.csv: {told}"):
        read(tmp_path / "a.csv", "label,premise,hypothesis\nneutral,a,b\n" + text)


def test_a_truncated_or_false_archive_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.tsv.gz"
    whole = gzip.compress((HEADER + "neutral\ta\tb\n" * 9).encode())
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"a.tsv.gz: broken after line \d+: .*end-of-stream"):
        list(read_rows(path, TEXTS, NAMES))
    path.write_bytes(whole[:-8] + b"\0" + whole[-7:])
    with pytest.raises(ValueError, match=r"a.tsv.gz: broken after line \d+: CRC check failed"):
        list(read_rows(path, TEXTS, NAMES))
    path.write_text(HEADER)
    with pytest.raises(ValueError, match=r"a.tsv.gz: broken after line 0: Not a gzipped file"):
        list(read_rows(path, TEXTS, NAMES))


def test_a_text_may_be_of_any_length(tmp_path):
    """The csv module refuses 128 KiB by itself."""
    text = "x" * 2**18
    [(_, row)] = read(tmp_path / "a.csv", f"label,premise,hypothesis\nneutral,{text},b\n")
    assert row["premise"] == text


def test_rows_hold_only_what_was_asked_for(tmp_path):
    """Published files have parse trees beside the texts, far larger than these."""
    with open(tmp_path / "a.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "premise", "hypothesis", "tree"])
        writer.writerows(["neutral", "a", "b", "(S)" * 3000] for _ in range(1000))
    tracemalloc.start()
    rows = list(read_rows(tmp_path / "a.csv", TEXTS, NAMES))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 1000 and peak < 2**20  # the trees alone are 9 MB


def test_json_nested_too_deep_to_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a.jsonl: line 2 is no JSON: "):
        read(tmp_path / "a.jsonl", json_line() + json_line(more=', "x": ' + "[" * 10**5))


def test_a_row_of_a_parquet_is_told_by_its_number(tmp_path):
    """Tables are read in batches: the number counts on from one to the next."""
    texts = [f"text {i}" for i in range(140_000)]
    labels = [i % 2 for i in range(len(texts))]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)
    rows = [*read_rows(path, ("text",), ("label",))]
    assert [line for line, _ in rows] == [*range(1, 140_001)]
    assert rows[-1][1] == {"text": "text 139999", "label": "1"}
    texts[139_998] = None
    parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)
    with pytest.raises(ValueError, match=r"a\.parquet: line 139999: text = null, expected a text"):
        [*read_rows(path, ("text",), ("label",))]
    with pytest.raises(UnknownName, match=r"column of .*a\.parquet: 'txt'.*'text'"):
        [*read_rows(path, ("txt",), ())]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.parquet: .*"):
        [*read_rows(path, ("text",), ("label",))]


def test_quotes_of_a_table_quote_where_that_is_said_and_encodings_are_tried_in_order(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text\n"say ""a\tb"" twice"\n"caf\xe9"\n' + "naïve\n".encode())
    wanted = [(2, 'say "a\tb" twice'), (3, "café"), (4, "naïve")]
    read = read_rows(path, ("text",), (), quoted=True, encodings=("UTF-8", "Windows-1252"))
    assert [(line, row["text"]) for line, row in read] == wanted
    with pytest.raises(ValueError, match=r"line 3: byte 0xe9 at place 5 is not UTF-8"):
        [*read_rows(path, ("text",), (), quoted=True)]
