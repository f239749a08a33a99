"""Corpora: what is read, what is refused in one line, and that blocks hold every character exactly once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from generic_logits.errors import CorpusError
from generic_logits.text.corpus import Block, Document, cut_blocks, encode_prompt, read_documents

LOOK_BACK = 32  # tokens that a block may give up for the sake of a word start


def without_bos() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer().backend_tokenizer, pad_token="<pad>")


def document(text: str, name: str = "text") -> Document:
    return Document(name, text, "")


def blocks_of(text: str, size: int, tokenizer: Any = None) -> list[Block]:
    return list(cut_blocks([document(text)], tokenizer or tiny.tokenizer(), size))


def refusal(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        read_documents(path)
    return str(caught.value)


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
    assert refusal(tmp_path) == f"wanted a folder with .txt or .md files; got none below {tmp_path}; check the path"


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "secret.txt"
    file.write_text("text")

    def deny(self: Path) -> bytes:
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert refusal(file) == f"wanted a readable text file; got {file}: Permission denied; check its permissions"


# --- blocks -----------------------------------------------------------------------------------------------------------

TEXTS = st.text(alphabet=st.one_of(st.sampled_from(" \n\taeiorst.水é😀"), st.characters(codec="utf-8")), max_size=200)


def starts_word(text: str, offsets: list[tuple[int, int]], index: int) -> bool:
    """Whether token ``index`` is the first of a word, or of the white space in front of one."""
    at = offsets[index][0]
    return offsets[index - 1][1] <= at and (text[at].isspace() or text[at - 1].isspace())


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
    assert [block.start for block in blocks] == edges[:-1]
    assert edges[-1] == len(text)
    assert [token for block in blocks for token in block.token_ids[len(front) :]] == ids
    first = 0
    for number, block in enumerate(blocks):
        assert block.token_ids[: len(front)] == front
        assert len(front) < len(block.token_ids) <= size
        first += len(block.token_ids) - len(front)
        if number < len(blocks) - 1 and not starts_word(text, offsets, first):
            full = size - len(front)
            room_left = full - (len(block.token_ids) - len(front))
            reach = range(first - min(LOOK_BACK, full) + 1, first + 1)
            assert room_left == 0 and not any(starts_word(text, offsets, index) for index in reach)


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
    assert blocks == [Block("a.txt", 0, 13, ids[0]), Block("b.txt", 0, 12, ids[1])]


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
