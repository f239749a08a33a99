"""Files and folders of text -> documents -> blocks of tokens with their character offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generic_logits.errors import CorpusError

SUFFIXES = (".txt", ".md")
_LOOK_BACK = 32  # tokens a block may give up so that the next one starts with a word


@dataclass(frozen=True)
class Document:
    """One text and where it came from."""

    name: str
    text: str
    sha256: str


@dataclass(frozen=True)
class Block:
    """A run of a document's tokens, short enough for one forward pass."""

    document: str
    start: int  # character offset of the first token in the document
    end: int  # character offset behind the last token
    token_ids: tuple[int, ...]  # with the tokenizer's BOS in front, where it has one


def read_documents(path: str | Path) -> list[Document]:
    """Read a text file, or every .txt and .md file below a folder in the order of their names.

    Raises:
        CorpusError: the path is missing, holds no text, or a file is not UTF-8 (the message gives the byte offset).
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise CorpusError(f"a folder with {' or '.join(SUFFIXES)} files", f"none below {path}", "check the path")
    elif path.is_file():
        files = [path]
    else:
        raise CorpusError("a text file or a folder of text files", f"nothing at {path}", "check the path")
    documents = [_read_file(file) for file in files]
    if not any(document.text.strip() for document in documents):
        raise CorpusError("a corpus with text in it", f"only white space in {path}", "check the file")
    return [document for document in documents if document.text.strip()]


def _read_file(path: Path) -> Document:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError("a readable text file", f"{path}: {error.strerror}", "check its permissions") from error
    if b"\0" in raw:
        raise CorpusError(
            "UTF-8 text", f"a binary file, {path} (NUL byte at offset {raw.index(0)})", "give a plain-text file"
        )
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(
            "UTF-8 text",
            f"{path} with byte 0x{raw[error.start]:02x} at offset {error.start}",
            "convert it, for example with iconv -f latin1 -t utf-8",
        ) from error
    return Document(str(path), text.replace("\r\n", "\n"), hashlib.sha256(raw).hexdigest())


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a beginning, behind the BOS where the tokenizer has one."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [*_bos(tokenizer), *ids]


def _bos(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)


def cut_blocks(documents: Iterable[Document], tokenizer: Any, block_size: int) -> Iterator[Block]:
    """Cut each document into blocks of at most ``block_size`` tokens that start where a word starts.

    Documents are never joined. The tokenizer's BOS, if it has one, stands in front of every block, because that is
    how the model will later be prompted. Without gaps: every character of a document is in exactly one block.

    Args:
        documents: the texts.
        tokenizer: any fast tokenizer; its offsets are used.
        block_size: tokens in a block, BOS included.

    Raises:
        CorpusError: the tokenizer gives no character offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise CorpusError("a fast tokenizer, for its character offsets", type(tokenizer).__name__, "pass use_fast=True")
    prefix = _bos(tokenizer)
    room = block_size - len(prefix)
    for document in documents:
        encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        first = 0
        while first < len(ids):
            last = _end_of_block(document.text, offsets, first, room)
            start = 0 if first == 0 else offsets[first][0]
            end = len(document.text) if last == len(ids) else offsets[last][0]
            yield Block(document.name, start, end, (*prefix, *ids[first:last]))
            first = last


def _end_of_block(text: str, offsets: list[tuple[int, int]], first: int, room: int) -> int:
    """Index behind the block's last token: the latest word start within reach, or simply the full length."""
    last = first + room
    if last >= len(offsets):
        return len(offsets)
    for candidate in range(last, max(first, last - _LOOK_BACK), -1):
        at = offsets[candidate][0]
        inside_character = at < offsets[candidate - 1][1]  # one of several tokens for one character
        if not inside_character and (text[at].isspace() or text[at - 1].isspace()):
            return candidate
    return last
