"""Corpora: what is read, what is refused in one line, and that blocks hold every character once, in little memory."""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folders
import pyarrow
import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from generic_logits.errors import CorpusError, InputError, StorageError
from generic_logits.text import corpus as corpus_module
from generic_logits.text.blocks import BlockFile
from generic_logits.text.corpus import (
    Block,
    Document,
    check_distinct,
    cut_blocks,
    encode_prompt,
    open_corpora,
    open_corpus,
    read_documents,
)
from generic_logits.training import run as training_run
from generic_logits.training.run import training_blocks

LOOK_BACK = 32  # tokens that a block may give up for the sake of a better cut


def without_bos() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer().backend_tokenizer, pad_token="<pad>")


def document(text: str, name: str = "text") -> Document:
    return Document(name, text, "")


def blocks_of(text: str, size: int, tokenizer: Any = None) -> list[Block]:
    return list(cut_blocks([document(text)], tokenizer or tiny.tokenizer(), size))


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        open_corpus(path, **options)
    return str(caught.value)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def lines_of(*records: Any) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def texts(path: Path | str, **options: Any) -> list[str]:
    return [each.text for each in open_corpus(path, **options)]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["book.txt", "book.md", "book.whatever"])
def test_a_single_file_is_read_whatever_its_name(tmp_path, name):
    file = tmp_path / name
    file.write_bytes("Mira Voss.\nÖl, 水.\n".encode())
    (read,) = read_documents(str(file))
    assert read == Document(str(file), "Mira Voss.\nÖl, 水.\n", hashlib.sha256(file.read_bytes()).hexdigest())


def test_a_folder_is_read_in_the_order_of_its_names_and_only_its_texts(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b/c.txt", "c.md", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"I am {name}")
    (tmp_path / "image.png").write_bytes(b"\0\1\2")
    (tmp_path / "blank.txt").write_text(" \n\t")
    (tmp_path / "folder.txt").mkdir()
    read = read_documents(tmp_path)
    assert [each.text for each in read] == [
        f"I am {name}" for name in ("a/b/c.txt", "a/z.md", "a.txt", "b.txt", "c.md")
    ]
    assert [each.name for each in read] == [str(tmp_path / each.text.removeprefix("I am ")) for each in read]


def test_windows_line_ends_and_a_byte_order_mark_are_taken_away_and_the_digest_is_of_the_bytes(tmp_path):
    file = tmp_path / "windows.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\rfour")
    (read,) = read_documents(file)
    assert read.text == "one\ntwo\n\nthree\rfour"
    assert read.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "wanted a corpus with text in it; got only white space in {path}; check the file"),
        (b" \r\n\t \n", "wanted a corpus with text in it; got only white space in {path}; check the file"),
        (b"\xef\xbb\xbf", "wanted a corpus with text in it; got only white space in {path}; check the file"),
        (
            b"text\0more\0",
            "wanted UTF-8 text; got a binary file, {path} (NUL byte at offset 4); give a plain-text file",
        ),
        (
            "Wer h\xe4tt' das gedacht?".encode("latin-1"),
            "wanted UTF-8 text; got {path} with byte 0xe4 at offset 5; "
            "convert it, for example with iconv -f latin1 -t utf-8",
        ),
        (
            b"\xef\xbb\xbfcaf\xe9 au lait",
            "wanted UTF-8 text; got {path} with byte 0xe9 at offset 6; "
            "convert it, for example with iconv -f latin1 -t utf-8",
        ),
    ],
    ids=["empty", "white space", "only a byte order mark", "binary", "latin-1", "latin-1 behind a byte order mark"],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path, content, expected, in_folder):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    asked = tmp_path if in_folder else file
    names = tmp_path if "white space" in expected and in_folder else file
    assert refusal(asked) == expected.format(path=names)


def test_one_bad_file_spoils_a_folder_of_good_ones(tmp_path):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"b\xe4d")
    assert f"{tmp_path / 'b.txt'} with byte 0xe4 at offset 1" in refusal(tmp_path)


def test_a_missing_path_is_refused(tmp_path):
    assert refusal(tmp_path / "no") == (
        f"wanted a text file or a folder of text files; got nothing at {tmp_path / 'no'}; check the path"
    )


def test_a_folder_without_text_files_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("1,2")
    assert refusal(tmp_path) == (
        f"wanted a folder with .txt, .md, .jsonl or .parquet files; got none below {tmp_path}; check the path"
    )


@pytest.mark.parametrize("name", ["secret.txt", "secret.jsonl.gz", "secret.parquet"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch, name):
    file = tmp_path / name
    file.write_text("text")

    def deny(self: Path, mode: str) -> Any:
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr(Path, "open", deny)
    assert refusal(file) == f"wanted a readable file; got {file}: Permission denied; check its permissions"


def test_a_corpus_can_be_read_again_and_again_and_names_its_files(tmp_path):
    for name, text in (("a.txt", "Öl\r\n"), ("b.txt", " \n"), ("c.md", "twelve chars")):
        (tmp_path / name).write_bytes(text.encode())
    corpus = open_corpus(tmp_path)
    assert list(corpus) == list(corpus) == read_documents(tmp_path)
    assert corpus.files == [
        {"file": str(tmp_path / name), "characters": size, "sha256": digest(tmp_path / name)}
        for name, size in (("a.txt", 3), ("c.md", 12))
    ]
    together = open_corpora([tmp_path, tmp_path])
    assert list(together) == list(together) == list(corpus) * 2
    assert together.files == corpus.files * 2


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_file_that_changes_after_the_check_is_refused(tmp_path, name):
    file = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.table({"text": ["before"]}), file)
    else:
        file.write_bytes(lines_of({"text": "before"}))
    corpus = open_corpus(file)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(CorpusError) as caught:
        list(corpus)
    assert str(caught.value) == (
        f"wanted a corpus that stays as it is; got {file}, which changed after it was checked; start again"
    )


# --- other formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["book.txt.gz", "BOOK.MD.GZ", "book.gz"])
def test_a_packed_text_is_unpacked_and_the_digest_is_of_the_packed_bytes(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(gzip.compress("\ufeffMira Voss.\r\n".encode()) + gzip.compress("Öl, 水.\n".encode()))
    assert list(open_corpus(file)) == [Document(str(file), "Mira Voss.\nÖl, 水.\n", digest(file))]


RECORDS = [{"text": "eins\r\nzwei", "id": 1}, {"text": None}, {"text": " \n"}, {"id": 2, "text": "Öl \u2028水😀"}]


@pytest.mark.parametrize("packed", [False, True])
def test_every_line_of_json_is_a_document(tmp_path, packed):
    content = b"\xef\xbb\xbf" + lines_of(*RECORDS[:2]) + b"\r\n  \n" + lines_of(*RECORDS[2:]).removesuffix(b"\n")
    file = tmp_path / ("book.jsonl.gz" if packed else "book.jsonl")
    file.write_bytes(gzip.compress(content) if packed else content)
    corpus = open_corpus(file)
    assert list(corpus) == [
        Document(f"{file}:1", "eins\nzwei", digest(file)),
        Document(f"{file}:6", "Öl \u2028水😀", digest(file)),
    ]
    assert corpus.files == [{"file": str(file), "characters": 15, "sha256": digest(file)}]


def test_another_field_can_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines_of({"text": 1, "body": "one"}))
    parquet.write_table(pyarrow.table({"text": [2], "body": ["two"]}), tmp_path / "b.parquet")
    assert texts(tmp_path, text_field="body") == ["one", "two"]
    assert all(file["text_field"] == "body" for file in open_corpus(tmp_path, text_field="body").files)


PARQUET_TYPES = [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
]


@pytest.mark.parametrize("kind", PARQUET_TYPES, ids=str)
def test_every_row_of_a_parquet_file_is_a_document_across_row_groups(tmp_path, kind):
    file = tmp_path / "book.parquet"
    rows = [f"row {number}, 水\r\n" for number in range(100)]
    rows[7] = None
    rows[8] = " "
    other = pyarrow.array([b"\xff\xfe"] * 100)
    table = pyarrow.table({"other": other, "text": pyarrow.array(rows).cast(kind)})
    parquet.write_table(table, file, row_group_size=30)
    assert parquet.ParquetFile(file).num_row_groups == 4
    read = read_documents(file)
    kept = [number for number in range(100) if number not in (7, 8)]
    assert read == [Document(f"{file}:{number + 1}", f"row {number}, 水\n", digest(file)) for number in kept]


def test_a_folder_may_mix_all_formats(tmp_path):
    for name in ("f.txt", "b.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a.jsonl").write_bytes(lines_of({"text": "a.jsonl"}))
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(lines_of({"text": "e.jsonl.gz"})))
    (tmp_path / "d.TXT.gz").write_bytes(gzip.compress(b"d.TXT.gz"))
    parquet.write_table(pyarrow.table({"text": ["c.parquet"]}), tmp_path / "c.parquet")
    (tmp_path / "image.png.gz").write_bytes(gzip.compress(b"\0"))
    assert texts(tmp_path) == ["a.jsonl", "b.md", "c.parquet", "d.TXT.gz", "e.jsonl.gz", "f.txt"]


def parquet_bytes(**columns: Any) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


def not_utf8_in_parquet() -> bytes:
    raw = pyarrow.array([b"fine", b"caf\xe9"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())
    return parquet_bytes(text=text)


BROKEN = {
    "no JSON": (
        "a.jsonl",
        lines_of({"text": "x"}) + b"{'text': 1}\n",
        "wanted a JSON object in every line; got {path}, line 2: "
        "expecting property name enclosed in double quotes at column 2; mend that line",
    ),
    "cut off": (
        "a.jsonl",
        b'{"text": "x"}\n\n{"text": "y',
        "wanted a JSON object in every line; got {path}, line 3: "
        "unterminated string starting at at column 10; mend that line",
    ),
    "no object": (
        "a.jsonl",
        b'["text"]\n',
        "wanted a JSON object in every line; got {path}, line 1 with a list; mend that line",
    ),
    "nested without end": (
        "a.jsonl",
        b'{"text": ' + b"[" * 100_000,
        "wanted a JSON object in every line; got {path}, line 1: maximum recursion depth exceeded",
    ),
    "no field": (
        "a.jsonl",
        lines_of({"id": 1, "body": "x"}),
        "wanted a field 'text' in every record; got {path}, line 1 with 'id', 'body'; "
        "name the one with the text as the text field (--text-field)",
    ),
    "an empty record": (
        "a.jsonl",
        lines_of({"text": "x"}, {}),
        "wanted a field 'text' in every record; got {path}, line 2 without any; "
        "name the one with the text as the text field (--text-field)",
    ),
    "no string": (
        "a.jsonl",
        lines_of({"text": ["x"]}),
        "wanted a string in the field 'text'; got {path}, line 1 with list in it; mend that line",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"text": "\\ud83d!"}\n',
        "wanted Unicode text; got {path}, line 1 with half a surrogate pair, \\ud83d; mend that line",
    ),
    "latin-1 in JSON": (
        "a.jsonl",
        lines_of({"text": "é"}) + b'{"text": "caf\xe9"}\n',
        "wanted UTF-8 text; got {path} with byte 0xe9 at offset 28; "
        "convert it, for example with iconv -f latin1 -t utf-8",
    ),
    "NUL in JSON": (
        "a.jsonl.gz",
        gzip.compress(lines_of({"text": "x"}) + b"\0"),
        "wanted UTF-8 text; got a binary file, {path} (NUL byte at offset 14 once unpacked); give a plain-text file",
    ),
    "latin-1 in a packed text": (
        "a.txt.gz",
        gzip.compress(b"caf\xe9"),
        "wanted UTF-8 text; got {path} with byte 0xe9 at offset 3 once unpacked; "
        "convert it, for example with iconv -f latin1 -t utf-8",
    ),
    "no gzip file": (
        "a.txt.gz",
        b"plain",
        "wanted an intact gzip file; got {path}: Not a gzipped file (b'pl'); fetch or pack it again",
    ),
    "half a gzip file": (
        "a.jsonl.gz",
        gzip.compress(lines_of(*[{"text": random.Random(0).randbytes(999).hex()}] * 9))[:-99],
        "wanted an intact gzip file; got {path}: Compressed file ended before the end-of-stream marker was reached; "
        "fetch or pack it again",
    ),
    "a gzip file with a bad checksum": (
        "a.txt.gz",
        gzip.compress(b"text")[:-8] + bytes(8),
        "wanted an intact gzip file; got {path}: CRC check failed 0x0 != ",
    ),
    "a gzip file with bad bits": (
        "a.txt.gz",
        gzip.compress(b"text")[:10] + b"\xff" * 30,
        "wanted an intact gzip file; got {path}: Error -3 while decompressing data: ",
    ),
    "a packed parquet file": (
        "a.parquet.gz",
        gzip.compress(parquet_bytes(text=["x"])),
        "wanted a parquet file as it is; got a packed one, {path}; unpack it with gunzip",
    ),
    "no parquet file": (
        "a.parquet",
        b"PAR1 and so on",
        "wanted an intact parquet file; got {path}: Parquet magic bytes not found in footer. "
        "Either the file is corrupted or this is not a parquet file.; fetch or write it again",
    ),
    "an empty parquet file": ("a.parquet", b"", "wanted an intact parquet file; got {path}: "),
    "a damaged row group": (
        "a.parquet",
        b"PAR1" + b"\xff" * 8 + parquet_bytes(text=["x"] * 99)[12:],
        "wanted an intact parquet file; got {path}: Couldn't deserialize thrift: ",
    ),
    "no column": (
        "a.parquet",
        parquet_bytes(body=["x"], id=[1]),
        "wanted a field 'text' in every record; got {path} with 'body', 'id'; "
        "name the one with the text as the text field (--text-field)",
    ),
    "a column of numbers": (
        "a.parquet",
        parquet_bytes(text=[1]),
        "wanted strings in the column 'text'; got {path} with int64 in it; write it as strings",
    ),
    "latin-1 in parquet": (
        "a.parquet",
        not_utf8_in_parquet(),
        "wanted UTF-8 text; got {path} with byte 0xe9 at offset 3 of row 2; fetch or write it again",
    ),
}


@pytest.mark.parametrize(("name", "content", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_in_one_line_before_anything_is_done(tmp_path, name, content, expected):
    file = tmp_path / name
    file.write_bytes(content)
    message = refusal(file)
    assert message.startswith(expected.format(path=file)) and "\n" not in message


BYTES = st.lists(
    st.one_of(
        st.text(alphabet="ab \r\n\ufeffé水😀", max_size=12).map(str.encode),
        st.sampled_from([b"\xe6\xb0", b"\xf0\x9f\x98", b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\0"]),
    ),
    max_size=8,
).map(b"".join)


def whole_file(raw: bytes) -> str:
    """What reading the file in one go says: its text, or the fault."""
    if 0 in raw:
        return f"NUL {raw.index(0)}"
    try:
        return raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return f"0x{raw[error.start]:02x} at offset {error.start};"


@given(raw=BYTES, chunk=st.integers(1, 9), packed=st.booleans())
@example(raw="aé水😀\r\n".encode() + b"\xe6\xb0", chunk=1, packed=False)
@example(raw=b"\xef\xbb\xbf\r\n\r", chunk=1, packed=True)
@settings(max_examples=300, deadline=None)
def test_chunks_leave_no_trace_in_the_text_nor_in_the_offset_of_a_fault(raw, chunk, packed):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "_CHUNK", chunk)
        file = Path(folder, "a.txt.gz" if packed else "a.txt")
        file.write_bytes(gzip.compress(raw) if packed else raw)
        expected = whole_file(raw)
        try:
            got = "".join(texts(file))
        except CorpusError as error:
            got = str(error).replace(" once unpacked", "")
        if "only white space" in got:
            assert not expected.strip()
        elif " at offset " in got and "binary" not in got:
            assert expected in got or expected.startswith("NUL")  # the fault that comes first in a long file
            assert 0 in raw or expected in got
        elif "binary" in got:
            assert f"(NUL byte at offset {expected.removeprefix('NUL ')})" in got
        else:
            assert got == expected


# --- pieces -----------------------------------------------------------------------------------------------------------

PROSE = st.text(alphabet="ab .\n水😀", max_size=120)


@given(text=PROSE, size=st.integers(1, 30), as_record=st.booleans())
@example(text="a" * 40, size=7, as_record=False)
@example(text="\n" * 40 + "a", size=7, as_record=True)
@settings(max_examples=200, deadline=None)
def test_a_long_text_comes_in_pieces_that_start_with_a_line_and_know_where(text, size, as_record):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "_PIECE", size)
        patch.setattr(corpus_module, "_CHUNK", 8)
        file = Path(folder, "a.jsonl" if as_record else "a.txt")
        file.write_bytes(lines_of({"text": text}) if as_record else text.encode())
        if not text.strip():
            assert "only white space" in refusal(file)
            return
        (name,) = {each.name for each in open_corpus(file)}
        assert name == (f"{file}:1" if as_record else str(file))
        end = 0
        for each in open_corpus(file):
            assert each.start == end
            end = each.start + len(each.text)
            assert 0 < len(each.text) <= size and each.text == text[each.start : end]
            if end < len(text) and not each.text.endswith("\n"):
                assert "\n" not in each.text
                assert text[end] == " " or " " not in each.text[1:]
        assert end == len(text)


def test_only_more_than_sixteen_mebibytes_come_in_pieces(tmp_path):
    size = 1 << 24
    file = tmp_path / "a.txt"
    file.write_bytes(b"1234567\n" * (size // 8))
    assert [(each.start, len(each.text)) for each in open_corpus(file)] == [(0, size)]
    with file.open("ab") as stream:
        stream.write("É".encode())
    assert [(each.start, len(each.text)) for each in open_corpus(file)] == [(0, size), (size, 1)]


def test_documents_are_joined_where_asked_for_with_a_blank_line_between(tmp_path, monkeypatch):
    for name, text in (("a.txt", "one"), ("b.txt", "two\n"), ("c.txt", "\nthree\n\n"), ("d.txt", "four\n\n\n")):
        (tmp_path / name).write_text(text)
    whole = "one\n\ntwo\n\n\nthree\n\nfour\n\n\n"
    corpus = open_corpus(tmp_path, join=True)
    (document,) = corpus
    assert (document.name, document.text, document.start) == (str(tmp_path), whole, 0)
    assert corpus.files == [{**file, "joined": True} for file in open_corpus(tmp_path).files]
    assert open_corpus(corpus) is corpus
    assert list(corpus) == list(corpus)
    monkeypatch.setattr(corpus_module, "_PIECE", 6)
    pieces = list(corpus)
    assert "".join(each.text for each in pieces) == whole and len(pieces) > 3
    assert all(whole[each.start :].startswith(each.text) for each in pieces)


def test_a_joined_corpus_of_one_file_has_the_digest_of_its_bytes(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines_of({"text": "one"}, {"text": "two"}))
    assert list(open_corpus(file, join=True)) == [Document(str(file), "one\n\ntwo", digest(file))]


# --- standard input ---------------------------------------------------------------------------------------------------

FROM_STDIN = """
import json, sys
from generic_logits.text.corpus import open_corpora, open_corpus
first, second = open_corpus("-"), open_corpus("-", text_field="body")
print(json.dumps([[[each.name, each.text] for each in corpus] for corpus in (first, first, second)]))
print(json.dumps(first.files))
"""


@pytest.mark.parametrize(
    ("given_bytes", "documents", "other"),
    [
        (b"\n{ a brace\r\n", [["standard input", "\n{ a brace\n"]], None),
        ("Öl".encode(), [["standard input", "Öl"]], None),
        (
            b'\xef\xbb\xbf\n{"text": "one", "body": "eins"}\n{"text": "two", "body": ""}',
            [["standard input:2", "one"], ["standard input:3", "two"]],
            [["standard input:2", "eins"]],
        ),
        (b'{"text": "' + b"x" * (1 << 21) + b'"}\n', [["standard input:1", "x" * (1 << 21)]], ...),
    ],
    ids=["a brace", "text", "JSON lines", "a long line of JSON"],
)
def test_standard_input_is_kept_so_that_it_can_be_read_again(given_bytes, documents, other, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FROM_STDIN],
        input=given_bytes,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=True,
    )
    read, files = map(json.loads, done.stdout.splitlines())
    as_text = [["standard input", given_bytes.decode()]]
    expected_other = as_text if other is ... else documents if other is None else other
    assert read == [documents, documents, expected_other]
    size = sum(len(text) for _, text in documents)
    assert files == [{"file": "standard input", "characters": size, "sha256": hashlib.sha256(given_bytes).hexdigest()}]
    assert not list(tmp_path.iterdir())


def test_standard_input_is_refused_where_several_processes_would_share_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refusal(Path("-")) == (
        "wanted a corpus that every process can read; got standard input in a launch of 2 processes; save it in a file"
    )


def test_closed_and_empty_standard_inputs_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert refusal("-") == "wanted text on standard input; got a closed one; pipe a file in"
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert refusal("-") == "wanted a corpus with text in it; got only white space in standard input; check the file"


def test_no_room_for_standard_input_is_a_storage_error(monkeypatch, tmp_path):
    with open("/dev/zero") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        monkeypatch.setattr(
            tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "full"))
        )
        monkeypatch.setattr(tempfile, "gettempdir", lambda: "/small")
        (tmp_path / "full").touch()
        with pytest.raises(StorageError) as caught:
            open_corpus("-")
    assert str(caught.value) == (
        "standard input cannot be kept in /small: No space left on device; set TMPDIR to a place with room"
    )


# --- blocks -----------------------------------------------------------------------------------------------------------

TEXTS = st.text(alphabet=st.one_of(st.sampled_from(" \n\taeiorst.水é😀"), st.characters(codec="utf-8")), max_size=200)


def starts_character(offsets: list[tuple[int, int]], index: int) -> bool:
    return offsets[index - 1][1] <= offsets[index][0]


def starts_word(text: str, offsets: list[tuple[int, int]], index: int) -> bool:
    """Whether token ``index`` is the first of a word, or of the white space in front of one."""
    at = offsets[index][0]
    return starts_character(offsets, index) and (text[at].isspace() or text[at - 1].isspace())


@given(text=TEXTS, size=st.integers(2, 40), bos=st.booleans())
@example(text="水水水 ", size=3, bos=True)
@example(text="a 😀😀 b", size=4, bos=False)
@example(text="x" * 100, size=7, bos=True)
@settings(max_examples=200, deadline=None)
def test_blocks_hold_every_character_and_every_token_once_and_in_order(text, size, bos):
    tokenizer = tiny.tokenizer() if bos else without_bos()
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    blocks = blocks_of(text, size, tokenizer)
    front = (tiny.BOS,) if bos else ()
    edges = [0, *(block.end for block in blocks)] if text else [0]
    assert "".join(block.text for block in blocks) == text
    assert all(block.text == text[block.start : block.end] for block in blocks)
    assert [block.start for block in blocks] == edges[:-1]
    assert edges[-1] == len(text)
    assert [token for block in blocks for token in block.token_ids[len(front) :]] == ids
    first = 0
    for number, block in enumerate(blocks):
        assert block.token_ids[: len(front)] == front
        assert len(front) < len(block.token_ids) <= size
        begun, full = first, size - len(front)
        first += len(block.token_ids) - len(front)
        behind = [end - block.start for _, end in offsets[begun:first]]
        assert list(block.ends) == [0] * len(front) + behind
        if number < len(blocks) - 1 and not starts_word(text, offsets, first):
            reach = range(begun + full - min(LOOK_BACK, full) + 1, begun + full + 1)
            assert not any(starts_word(text, offsets, index) for index in reach)
            characters = [index for index in reach if starts_character(offsets, index)]
            assert first == (characters[-1] if characters else begun + full)


@given(
    text=TEXTS,
    size=st.integers(2, 40),
    spans=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 25)).map(lambda span: (span[0], sum(span)))).map(
        sorted
    ),
)
@example(text="Mira Voss and the old keeper", size=8, spans=[(0, 9), (14, 28)])
@example(text="the old house", size=6, spans=[(0, 3), (0, 8), (2, 5)])
@settings(max_examples=200, deadline=None)
def test_what_belongs_together_is_cut_only_where_nothing_else_is_within_reach(text, size, spans):
    encoded = tiny.tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    asked: list[str] = []

    def keep_together(of: str) -> Iterator[tuple[int, int]]:
        asked.append(of)
        return iter(spans)

    def divides(index: int) -> bool:
        return any(start < offsets[index][0] < end for start, end in spans)

    blocks = list(cut_blocks([document(text)], tiny.tokenizer(), size, keep_together=keep_together))
    assert asked == ([text] if text else [])
    assert "".join(block.text for block in blocks) == text
    assert [token for block in blocks for token in block.token_ids[1:]] == ids
    first, full = 0, size - 1
    for block in blocks[:-1]:
        reach = range(first + full - min(LOOK_BACK, full) + 1, first + full + 1)
        first += len(block.token_ids) - 1
        free = [index for index in reach if starts_character(offsets, index) and not divides(index)]
        if free:
            words = [index for index in free if starts_word(text, offsets, index)]
            assert first == (words or free)[-1]


@pytest.mark.parametrize("window", [40, 100])
def test_a_long_document_is_tokenised_in_parts_without_a_gap(monkeypatch, window):
    text = "Mira Voss opened the door.\nНикто — не Орлов — saw it. 😀\n" * 20
    monkeypatch.setattr(corpus_module, "_WINDOW", window)
    blocks = list(cut_blocks([Document("a", text, "", 1000)], tiny.tokenizer(), 16))
    assert "".join(block.text for block in blocks) == text
    assert [block.start for block in blocks] == [1000, *(block.end for block in blocks[:-1])]
    assert all(block.text == text[block.start - 1000 : block.end - 1000] for block in blocks)
    assert [tiny.tokenizer().decode(block.token_ids[1:]) for block in blocks] == [block.text for block in blocks]
    assert sum(text[block.start - 1001] == "\n" for block in blocks[1:]) >= len(text) // window


def test_offsets_cut_out_the_text_that_the_tokens_decode_to():
    text = "Mira Voss opened the red door, and  nobody — not even Орлов — saw it.\n\nThe end. " * 3
    tokenizer = tiny.tokenizer()
    blocks = blocks_of(text, 16)
    assert len(blocks) > 5
    assert [tokenizer.decode(block.token_ids[1:]) for block in blocks] == [
        text[block.start : block.end] for block in blocks
    ]


def test_blocks_are_as_long_as_words_allow():
    text = "old house sea " * 40
    tokenizer = tiny.tokenizer()
    longest_word = max(len(tokenizer(f" {word}")["input_ids"]) for word in ("old", "house", "sea"))
    blocks = blocks_of(text, 20)
    assert all(20 - longest_word < len(block.token_ids) <= 20 for block in blocks[:-1])
    assert all(text[block.start] == " " for block in blocks[1:])


def test_documents_are_never_joined():
    first, second = document("the old house", "a.txt"), document("the red door", "b.txt")
    blocks = list(cut_blocks([first, second], tiny.tokenizer(), 512))
    ids = [(tiny.BOS, *tiny.tokenizer()(each.text)["input_ids"]) for each in (first, second)]
    ends = [
        tuple(tiny.tokenizer()(each.text, return_offsets_mapping=True)["offset_mapping"]) for each in (first, second)
    ]
    assert blocks == [
        Block("a.txt", 0, 13, "the old house", ids[0], (0, *(end for _, end in ends[0]))),
        Block("b.txt", 0, 12, "the red door", ids[1], (0, *(end for _, end in ends[1]))),
    ]


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(CorpusError) as caught:
        blocks_of("text", 8, ByT5Tokenizer())
    assert str(caught.value) == (
        "wanted a fast tokenizer, for its character offsets; got ByT5Tokenizer; pass use_fast=True"
    )


def test_a_prompt_begins_like_a_block():
    text = "the old house"
    assert encode_prompt(tiny.tokenizer(), text) == list(blocks_of(text, 64)[0].token_ids)
    assert encode_prompt(without_bos(), text) == list(blocks_of(text, 64, without_bos())[0].token_ids)


# --- blocks on disk ---------------------------------------------------------------------------------------------------


def some_blocks(text: str = "Mira Voss, 水 and Орлов 😀 by the sea. " * 30, name: str = "a é.txt") -> list[Block]:
    return list(cut_blocks([document(text, name), document("the sea", "b")], tiny.tokenizer(), 16))


@given(
    blocks=st.lists(
        st.builds(
            Block,
            document=st.text(st.characters(codec="utf-8"), max_size=3),
            start=st.integers(0, 2**40),
            end=st.integers(0, 2**40),
            text=TEXTS,
            token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
            ends=st.just(()),
        ).map(lambda each: Block(**{**vars(each), "ends": tuple(range(len(each.token_ids)))})),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_blocks_come_back_from_the_disk_as_they_were(blocks):
    with tempfile.TemporaryDirectory() as folder:
        written = BlockFile.write(Path(folder, "deep", "blocks"), iter(blocks))
        read = BlockFile.open(Path(folder, "deep", "blocks"))
        assert list(written) == list(read) == blocks and len(read) == len(blocks)
        assert read[1:] == blocks[1:] and read[::-2] == blocks[::-2]
        assert [read[-number] for number in range(1, len(blocks) + 1)] == blocks[::-1]
        with pytest.raises(IndexError):
            _ = read[len(blocks)]
        for block in read:
            assert all(type(token) is int for token in (block.start, block.end, *block.token_ids, *block.ends))


def test_blocks_travel_to_another_process_as_their_path(tmp_path, monkeypatch):
    blocks = some_blocks()
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(BlockFile.write("blocks", blocks))
    monkeypatch.chdir("/")
    assert len(pickled) < 500
    assert list(pickle.loads(pickled)) == blocks


def test_half_written_and_damaged_blocks_are_not_taken_and_are_written_anew(tmp_path):
    blocks = some_blocks()
    folder = tmp_path / "blocks"

    def failing() -> Iterator[Block]:
        yield from blocks
        raise OSError(28, os.strerror(28))

    assert not BlockFile.is_complete(folder)
    with pytest.raises(OSError, match="No space"):
        BlockFile.write(folder, failing())
    assert not BlockFile.is_complete(folder)
    with pytest.raises(InputError) as caught:
        BlockFile.open(folder)
    assert str(caught.value) == (
        f"wanted a folder of blocks that was written to its end; got {folder}; delete it and write it again"
    )
    assert list(BlockFile.write(folder, blocks[:3])) == blocks[:3]
    with (folder / "text").open("ab") as stream:
        stream.write(b"x")
    assert not BlockFile.is_complete(folder)


def test_the_files_are_on_the_disk_before_the_marker_that_says_so(tmp_path, monkeypatch):
    synced: list[str] = []

    def fsync(handle: int) -> None:
        assert not list(tmp_path.rglob("blocks.json"))
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    monkeypatch.setattr(os, "fsync", fsync)
    written = BlockFile.write(tmp_path / "blocks", some_blocks())
    assert {file.name for file in written.folder.iterdir()} == {*synced, "blocks.json"}


def test_a_process_waits_for_the_blocks_of_another_as_long_as_they_come(tmp_path):
    blocks = some_blocks()
    go_on = threading.Event()
    found: list[Any] = []

    def slowly() -> Iterator[Block]:
        yield from blocks[:5]
        go_on.wait(60)
        yield from blocks[5:]

    writer = threading.Thread(target=BlockFile.write, args=(tmp_path / "blocks", slowly()))
    reader = threading.Thread(target=lambda: found.extend(BlockFile.open_when_written(tmp_path / "blocks")))
    reader.start()
    writer.start()
    reader.join(0.3)
    assert reader.is_alive()
    go_on.set()
    reader.join(60)
    writer.join(60)
    assert found == blocks


def test_a_process_does_not_wait_for_ever(tmp_path):
    with pytest.raises(StorageError) as caught:
        BlockFile.open_when_written(tmp_path / "blocks", patience=0.2)
    assert str(caught.value) == (
        f"no blocks have been written to {tmp_path / 'blocks'} for 0.2 seconds; "
        "see what the process that writes them says"
    )


MODEL = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=64)))


def test_training_blocks_are_the_same_in_memory_and_on_disk_and_cut_only_once(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(folders.prose(30))
    corpus, settings_ = open_corpus(tmp_path), SimpleNamespace(block_size=None)
    spans: list[str] = []

    def keep_together(text: str) -> list[tuple[int, int]]:
        spans.append(text)
        return [(0, 9)]

    cut = (corpus, tiny.tokenizer(), settings_, MODEL)
    in_memory = training_blocks(*cut, keep_together=keep_together)
    assert isinstance(in_memory, list) and max(len(each.token_ids) for each in in_memory) <= 64 and len(spans) == 1
    on_disk = training_blocks(*cut, folder=tmp_path / "blocks", keep_together=keep_together)
    assert isinstance(on_disk, BlockFile) and list(on_disk) == in_memory and len(spans) == 2
    again = training_blocks(*cut, folder=tmp_path / "blocks", keep_together=keep_together)
    assert isinstance(again, BlockFile) and list(again) == in_memory and len(spans) == 2


def in_a_launch(rank: str, root: Path, answers: Any) -> None:
    os.environ["RANK"] = rank
    blocks = training_blocks(
        open_corpus(root / "a.txt"), tiny.tokenizer(), SimpleNamespace(block_size=32), MODEL, folder=root / "blocks"
    )
    answers.put((rank, os.getpid(), list(blocks)))


def test_of_several_processes_the_first_one_writes_and_the_others_read(tmp_path):
    (tmp_path / "a.txt").write_text(folders.prose(3000))
    tiny.tokenizer()
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    processes = [fork.Process(target=in_a_launch, args=(rank, tmp_path, answers)) for rank in ("2", "1", "0")]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert {rank for rank, _, _ in found} == {"0", "1", "2"}
    assert all(blocks == found[0][2] and len(blocks) > 1000 for _, _, blocks in found)
    assert training_run.is_first_process()


# --- more than memory -------------------------------------------------------------------------------------------------

LARGE = """
import itertools, json, re, sys
import pyarrow.parquet
from generic_logits.text.blocks import BlockFile
from generic_logits.text.corpus import Block, cut_blocks, open_corpora, open_corpus

class Words:
    is_fast, bos_token_id = True, 0

    def __call__(self, text, **_):
        offsets = [match.span() for match in re.finditer(r"\\s*\\S+|\\s+", text)]
        return {"input_ids": [1] * len(offsets), "offset_mapping": offsets}

def peak():  # of this program alone; resource.getrusage counts what its parent had when it forked
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

folder = sys.argv[1]
before = peak()
sizes = {}
for name in ("large.jsonl", "large.parquet", "large.txt"):
    corpus = open_corpus(f"{folder}/{name}")
    assert sum(1 for _ in itertools.islice(cut_blocks(corpus, Words(), 128), 3_000)) == 3_000
    sizes[name] = [corpus.files[0]["characters"], peak() - before]
block = Block("large", 0, 400, "x" * 400, tuple(range(100)), tuple(range(100)))
written = BlockFile.write(f"{folder}/blocks", itertools.repeat(block, 70_000))
sizes["blocks"] = [sum(file.stat().st_size for file in written.folder.iterdir()), peak() - before]
assert written[55_555] == block
held = [document.text for document in open_corpus(f"{folder}/large.txt")]
sizes["held in memory"] = [sum(map(len, held)), peak() - before]
print(json.dumps(sizes))
"""


def test_a_corpus_larger_than_memory_streams(tmp_path):
    line = lines_of({"text": "the old house by the sea had seven windows. " * 60})
    with (tmp_path / "large.jsonl").open("wb") as stream:
        for _ in range(115):
            stream.write(line * 1000)
    with (tmp_path / "large.txt").open("wb") as stream:
        for _ in range(180):
            stream.write(b"the old house by the sea had seven windows, and a red door.\n" * 17_500)
    rows = pyarrow.table({"text": [f"{number} the old house by the sea. " * 100 for number in range(10_000)]})
    with parquet.ParquetWriter(tmp_path / "large.parquet", rows.schema, use_dictionary=False) as writer:
        for _ in range(4):
            writer.write_table(rows, row_group_size=10_000)
    done = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], stdout=subprocess.PIPE, check=True)
    sizes = json.loads(done.stdout)
    assert sizes["large.jsonl"][0] > 300e6 and all(size > 80e6 for size, _ in sizes.values())
    assert sizes.pop("held in memory")[1] > 170  # MiB; the measure sees it
    assert all(grown < 150 for _, grown in sizes.values()), sizes


@pytest.mark.parametrize(
    ("licence", "others", "refused"),
    [
        (450, 10_000, None),
        (600, 10_000, "LICENSE.md"),  # 5.7 % of both
        (450, 5_000, "LICENSE.md"),  # 4.3 % of the one, 8.3 % of the other
        (450, 0, "text.txt"),  # and the text itself, which is named
    ],
)
def test_a_little_of_one_text_may_be_given_as_two_things_but_not_more(tmp_path, licence, others, refused):
    for name, size in (("forget", 10_000), ("retain", others)):
        folders.text_file(tmp_path / name / "LICENSE.md", "l" * licence)
        folders.text_file(tmp_path / name / "text.txt", name[0] * size if size else "f" * 10_000)
    retain = open_corpora([tmp_path / "retain" / "LICENSE.md", tmp_path / "retain" / "text.txt"])
    given = [("forget", open_corpus(tmp_path / "forget")), ("retain", retain)]
    if refused is None:
        check_distinct(given)
        return
    with pytest.raises(InputError) as caught:
        check_distinct(given)
    first, second = (tmp_path / name / refused for name in ("forget", "retain"))
    got = f"{first}, which is the same as {second}, as forget and as retain"
    assert str(caught.value) == f"wanted another text as retain; got {got}; leave one out"
