"""Files, folders and standard input -> documents -> blocks of tokens with their character offsets."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import weakref
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TextIO, cast

from generic_logits.errors import CorpusError, InputError, StorageError, one_line

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
_STDIN = "standard input"
_CHUNK = 1 << 20  # bytes read at once
_PIECE = 1 << 24  # characters that a document has at most
_WINDOW = 1 << 20  # characters tokenised at once; a token and its offsets take some 300 bytes meanwhile
_SHARED = 0.05  # of a corpus' characters, from which on it is the same text as another
_LOOK_BACK = 32  # tokens a block may give up so that the next one starts with a word


@dataclass(frozen=True)
class Document:
    """One text, or a piece of a very long one, and where it came from.

    Attributes:
        name: the file; for a record of a .jsonl or .parquet file with the number of its line or row, ``file:7``.
        text: its lines end with a line feed alone.
        sha256: of the file's bytes.
        start: character offset of ``text`` in the whole text, if this is a piece of it.
    """

    name: str
    text: str
    sha256: str
    start: int = 0


@dataclass(frozen=True)
class Block:
    """A run of a document's tokens, short enough for one forward pass.

    Attributes:
        document: its name.
        start: character offset of the first token in the document.
        end: character offset behind the last token; the next block starts there.
        text: the characters from ``start`` to ``end``.
        token_ids: with the tokenizer's BOS in front, where it has one.
        ends: for every token the character offset behind it, counted from ``start``; 0 for the BOS. The last ones may
            lie one behind ``text`` where the cut had to fall between two tokens of one character.
    """

    document: str
    start: int
    end: int
    text: str
    token_ids: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass
class _Source:
    """A file of a corpus, as it was when it was checked."""

    name: str  # in messages and records
    path: Path  # of the bytes
    kind: Literal["text", "jsonl", "parquet"]
    packed: bool = False
    spool: _Spool | None = None
    sha256: str = ""
    state: tuple[int, int] = (0, 0)  # size and time of the last change


class _Spool:
    """A copy of a stream in a temporary file that lasts as long as this object."""

    def __init__(self, stream: TextIO) -> None:
        try:
            handle, name = tempfile.mkstemp(prefix="generic-logits-")
            self.path = Path(name)
            weakref.finalize(self, self.path.unlink)
            with os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(stream.buffer, file, _CHUNK)
        except OSError as error:
            what = f"{_STDIN} cannot be kept in {tempfile.gettempdir()}: {error.strerror}"
            raise StorageError(f"{what}; set TMPDIR to a place with room") from error


class Corpus:
    """The documents of a file, a folder or standard input: checked once, read anew at every iteration.

    At most one document is in memory. A text of more than 16 MiB (2**24 characters) comes as several documents of that
    size, cut where a line starts (or a word, or anywhere, if there is none): ``Document.start`` says where.

    Attributes:
        name: what was opened.
        files: file, size in characters and SHA-256 of the bytes of everything that has a text in it; the field of its
            records and whether it is joined to others, where that is not the usual.
    """

    def __init__(self, name: str, sources: Sequence[_Source], *, text_field: str, join: bool) -> None:
        """Read everything once; called by ``open_corpus``."""
        self.name = name
        self.files: list[dict[str, Any]] = []
        self._sources = sources
        self._text_field = text_field
        self._join = join
        blank = True
        unusual = {**({"text_field": text_field} if text_field != "text" else {}), **({"joined": True} if join else {})}
        for source in sources:
            with _readable(source), source.path.open("rb") as stream:
                source.state = _state_of(stream)
                source.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            characters = 0
            for document in self._read(source):
                characters += len(document.text)
                blank = blank and document.text.isspace()
            if characters:
                self.files.append({"file": source.name, "characters": characters, "sha256": source.sha256, **unusual})
        if blank:
            raise CorpusError("a corpus with text in it", f"only white space in {name}", "check the file")

    def __iter__(self) -> Iterator[Document]:
        """Read the documents in order; those of white space alone are left out.

        Raises:
            CorpusError: a file has changed since it was checked, or cannot be read any more.
        """
        documents = (document for source in self._sources for document in self._read(source))
        return self._joined(documents) if self._join else documents

    def _read(self, source: _Source) -> Iterator[Document]:
        for name, chunks in self._texts(source):
            for start, text, last in _pieces(chunks, _PIECE):
                if not (start == 0 and last and text.isspace()):
                    yield Document(name, text, source.sha256, start)

    def _texts(self, source: _Source) -> Iterator[tuple[str, Iterable[str]]]:
        if source.kind == "text":
            yield source.name, _plain_text(source)
            return
        read = _json_lines if source.kind == "jsonl" else _parquet_rows
        for number, text in read(source, self._text_field):
            yield f"{source.name}:{number}", (text.replace("\r\n", "\n"),)

    def _joined(self, documents: Iterable[Document]) -> Iterator[Document]:
        digests = [file["sha256"] for file in self.files]
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

        def chunks() -> Iterator[str]:
            tail = ""
            for document in documents:
                if tail and document.start == 0:
                    yield "\n" * (2 - len(tail) + len(tail.rstrip("\n")))
                yield document.text
                tail = (tail + document.text[-2:])[-2:]

        for start, text, _ in _pieces(chunks(), _PIECE):
            yield Document(self.name, text, digest, start)


class Texts(Protocol):
    """What a corpus and a part of one have in common."""

    @property
    def files(self) -> list[dict[str, Any]]:
        """Each with its size in "characters"."""
        ...

    def __iter__(self) -> Iterator[Document]:
        """Read the documents."""
        ...


class Corpora:
    """Several corpora as one; read anew at every iteration."""

    def __init__(self, corpora: Iterable[Texts]) -> None:
        """Put them in a row."""
        self._corpora = tuple(corpora)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._corpora)

    def __iter__(self) -> Iterator[Document]:
        """Read one after the other."""
        for corpus in self._corpora:
            yield from corpus

    @property
    def files(self) -> list[dict[str, Any]]:
        """What they were read from, see ``Corpus``."""
        return [file for corpus in self._corpora for file in corpus.files]


def open_corpora(paths: Iterable[str | Path] | Corpora, *, text_field: str = "text", join: bool = False) -> Corpora:
    """Open several corpora, see ``open_corpus``."""
    if isinstance(paths, Corpora):
        return paths
    return Corpora([open_corpus(path, text_field=text_field, join=join) for path in paths])


def open_corpus(path: str | Path | Corpus, *, text_field: str = "text", join: bool = False) -> Corpus:
    """Open a corpus and read it once to its end, so that whatever is wrong with it shows before any work begins.

    Args:
        path: a plain-text file (.txt, .md, or any other name), a .jsonl or .parquet file of one text a record, a folder
            (all such files below it in the order of their names), or ``-`` for standard input: JSON lines if the first
            line is an object with ``text_field``, otherwise plain text. All but .parquet may be packed, with .gz behind
            the name. An open corpus stays as it is.
        text_field: the field of a record that holds its text; null counts as no text.
        join: make one text of all documents, with a blank line between them; otherwise no document runs into another.

    Raises:
        CorpusError: the path is missing, holds no text, or a file cannot be read: it is binary or not UTF-8 (the
            message gives the byte offset, in what was unpacked), has a bad line or row, or is damaged.
        StorageError: there is no room to keep standard input.
    """
    if isinstance(path, Corpus):
        return path
    if str(path) == "-":
        return Corpus(_STDIN, [_standard_input(text_field)], text_field=text_field, join=join)
    path = Path(path)
    if path.is_dir():
        sources = [_source(file) for file in sorted(path.rglob("*")) if _belongs(file) and file.is_file()]
        if not sources:
            wanted = f"a folder with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files"
            raise CorpusError(wanted, f"none below {path}", "check the path")
    elif path.is_file():
        sources = [_source(path)]
    else:
        raise CorpusError("a text file or a folder of text files", f"nothing at {path}", "check the path")
    return Corpus(str(path), sources, text_field=text_field, join=join)


def has_records(path: str | Path) -> bool:
    """Whether a corpus may have records with fields in it, by the names of its files; standard input may."""
    path = Path(path)
    files = filter(_belongs, path.rglob("*")) if path.is_dir() else [path]
    return str(path) == "-" or any(_suffix(file) in (".jsonl", ".parquet") for file in files)


def check_distinct(corpora: Sequence[tuple[str, Texts]]) -> None:
    """Refuse a text that is given as two things, or twice as one: nothing made or measured of it would mean anything.

    Args:
        corpora: each with what it is given as; two of one kind may share files, as a folder and a file in it do, and
            two of different kinds such as hold little text, as a licence in both folders does.

    Raises:
        InputError: files with ``_SHARED`` of a corpus' characters are in another of another kind, by their bytes, or
            two of one kind are the same.
    """
    for (kind, corpus), (other_kind, other) in combinations(corpora, 2):
        here, there = ({file["sha256"]: file for file in each.files} for each in (corpus, other))
        shared = {digest for digest in here if digest in there}
        if kind == other_kind:
            refused, twice = here.keys() == there.keys(), f"{kind} twice"
        else:
            refused = any(_characters(files, shared) >= _SHARED * _characters(files, files) for files in (here, there))
            twice = f"{kind} and as {other_kind}"
        if shared and refused:
            largest = max(sorted(shared), key=lambda digest: int(here[digest]["characters"]))
            first, second = here[largest]["file"], there[largest]["file"]
            got = first if first == second else f"{first}, which is the same as {second}"
            raise InputError(f"another text as {other_kind}", f"{got}, as {twice}", "leave one out")


def _characters(files: Mapping[str, Mapping[str, Any]], digests: Iterable[str]) -> int:
    return sum(files[digest]["characters"] for digest in digests)


def read_documents(path: str | Path) -> list[Document]:
    """Read a corpus into memory; the documents are those of ``open_corpus``.

    Raises:
        CorpusError: see ``open_corpus``.
        StorageError: see ``open_corpus``.
    """
    return list(open_corpus(path))


# --- files ------------------------------------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _belongs(path: Path) -> bool:
    suffix = _suffix(path)
    return suffix in SUFFIXES and not (suffix == ".parquet" and _is_packed(path))


def _source(path: Path) -> _Source:
    suffix, packed = _suffix(path), _is_packed(path)
    if suffix == ".parquet" and packed:
        raise CorpusError("a parquet file as it is", f"a packed one, {path}", "unpack it with gunzip")
    kinds: dict[str, Literal["jsonl", "parquet"]] = {".jsonl": "jsonl", ".parquet": "parquet"}
    return _Source(str(path), path, kinds.get(suffix, "text"), packed)


def _standard_input(text_field: str) -> _Source:
    from accelerate.utils import get_cpu_distributed_information

    processes = get_cpu_distributed_information().world_size
    if processes > 1:
        got = f"standard input in a launch of {processes} processes"
        raise CorpusError("a corpus that every process can read", got, "save it in a file")
    if sys.stdin is None:
        raise CorpusError("text on standard input", "a closed one", "pipe a file in")
    spool = _spooled(sys.stdin)
    kind: Literal["jsonl", "text"] = "jsonl" if _begins_with_record(spool.path, text_field) else "text"
    return _Source(_STDIN, spool.path, kind, spool=spool)


@lru_cache(maxsize=1)
def _spooled(stream: TextIO) -> _Spool:
    """Keep a stream so that it can be read again, by whoever opens it again."""
    return _Spool(stream)


def _begins_with_record(path: Path, text_field: str) -> bool:
    with path.open("rb") as stream:
        while line := stream.readline(_CHUNK):
            bare = line.removeprefix(codecs.BOM_UTF8).lstrip()
            if not bare:
                continue
            if not bare.startswith(b"{"):
                return False
            if not line.endswith(b"\n"):
                line += stream.readline()
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                return False
            return isinstance(record, dict) and text_field in record
    return False


def _state_of(stream: BinaryIO) -> tuple[int, int]:
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


@contextmanager
def _readable(source: _Source) -> Iterator[None]:
    """Say of a failure to read what it means."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError("an intact gzip file", f"{source.name}: {error}", "fetch or pack it again") from error
    except OSError as error:
        got = f"{source.name}: {error.strerror or error}"
        raise CorpusError("a readable file", got, "check its permissions") from error


@contextmanager
def _unpacked(source: _Source) -> Iterator[BinaryIO]:
    with _readable(source), source.path.open("rb") as raw:
        _check_unchanged(source, raw)
        if source.packed:
            with gzip.open(raw) as stream:
                yield cast(BinaryIO, stream)
        else:
            yield raw


def _check_unchanged(source: _Source, stream: BinaryIO) -> None:
    if _state_of(stream) != source.state:
        wanted, got = "a corpus that stays as it is", f"{source.name}, which changed after it was checked"
        raise CorpusError(wanted, got, "start again")


# --- formats ----------------------------------------------------------------------------------------------------------


def _plain_text(source: _Source) -> Iterator[str]:
    """Decode a file chunk by chunk; byte order mark and carriage returns at line ends are taken away."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    held = ""
    begun = False
    with _unpacked(source) as stream:
        while True:
            chunk = stream.read(_CHUNK)
            _refuse_nul(source, chunk, offset)
            undecoded = len(decoder.getstate()[0])
            try:
                text = held + decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise _not_utf8(source, error, offset - undecoded) from error
            offset += len(chunk)
            if text and not begun:
                text = text.removeprefix("\ufeff")
                begun = True
            held = "\r" if chunk and text.endswith("\r") else ""
            yield text.removesuffix(held).replace("\r\n", "\n")
            if not chunk:
                return


def _json_lines(source: _Source, text_field: str) -> Iterator[tuple[int, str]]:  # line number, text
    offset = 0
    with _unpacked(source) as stream:
        for number, raw in enumerate(stream, 1):
            _refuse_nul(source, raw, offset)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(source, error, offset) from error
            offset += len(raw)
            if number == 1:
                line = line.removeprefix("\ufeff")
            if line.strip():
                yield number, _text_of_record(line, f"{source.name}, line {number}", text_field)


def _text_of_record(line: str, place: str, text_field: str) -> str:
    wanted = "a JSON object in every line"
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        got = f"{place}: {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
        raise CorpusError(wanted, got, "mend that line") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(wanted, f"{place}: {error}", "mend that line") from error
    if not isinstance(record, dict):
        raise CorpusError(wanted, f"{place} with a {type(record).__name__}", "mend that line")
    if text_field not in record:
        raise _no_such_field(place, list(record), text_field)
    text = record[text_field]
    if not isinstance(text, str | None):
        wanted, got = f"a string in the field {text_field!r}", f"{place} with {type(text).__name__} in it"
        raise CorpusError(wanted, got, "mend that line")
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        got = f"{place} with half a surrogate pair, \\u{ord(error.object[error.start]):x}"
        raise CorpusError("Unicode text", got, "mend that line") from error
    return text or ""


def _parquet_rows(source: _Source, text_field: str) -> Iterator[tuple[int, str]]:  # row number, text
    import pyarrow
    from pyarrow import parquet, types

    wanted, remedy = "an intact parquet file", "fetch or write it again"
    with _readable(source), source.path.open("rb") as raw:
        _check_unchanged(source, raw)
        try:
            file = parquet.ParquetFile(raw, buffer_size=_CHUNK)
            names = file.schema_arrow.names
            kind = file.schema_arrow.field(text_field).type if text_field in names else None
            batches = file.iter_batches(batch_size=16, columns=[text_field], use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(wanted, f"{source.name}: {one_line(str(error))}", remedy) from error
        if kind is None:
            raise _no_such_field(source.name, names, text_field)
        plain = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)):
            wanted = f"strings in the column {text_field!r}"
            raise CorpusError(wanted, f"{source.name} with {kind} in it", "write it as strings")
        number = 0
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError) as error:
                raise CorpusError(wanted, f"{source.name}: {one_line(str(error))}", remedy) from error
            if batch is None:
                return
            for value in batch.column(0):
                number += 1
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    got = f"{source.name} with byte 0x{error.object[error.start]:02x} at offset {error.start} "
                    raise CorpusError("UTF-8 text", f"{got}of row {number}", remedy) from error
                yield number, text or ""


def _refuse_nul(source: _Source, chunk: bytes, offset: int) -> None:
    at = chunk.find(0)
    if at >= 0:
        got = f"a binary file, {source.name} (NUL byte at offset {offset + at}{_unpacked_note(source)})"
        raise CorpusError("UTF-8 text", got, "give a plain-text file")


def _not_utf8(source: _Source, error: UnicodeDecodeError, offset: int) -> CorpusError:
    at = f"at offset {offset + error.start}{_unpacked_note(source)}"
    got = f"{source.name} with byte 0x{error.object[error.start]:02x} {at}"
    return CorpusError("UTF-8 text", got, "convert it, for example with iconv -f latin1 -t utf-8")


def _unpacked_note(source: _Source) -> str:
    return " once unpacked" if source.packed else ""


def _no_such_field(place: str, names: Sequence[str], text_field: str) -> CorpusError:
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    got = f"{place} with {shown}" if names else f"{place} without any"
    remedy = "name the one with the text as the text field (--text-field)"
    return CorpusError(f"a field {text_field!r} in every record", got, remedy)


def _pieces(chunks: Iterable[str], size: int) -> Iterator[tuple[int, str, bool]]:  # character offset, text, is last
    """Put chunks of a text together into pieces of at most ``size`` characters that start where a line starts.

    Failing that where a word starts, with the space in front of it, and failing that anywhere.
    """
    start = 0
    held = ""
    for chunk in chunks:
        held += chunk
        cut = 0
        while len(held) - cut > size:
            end = held.rfind("\n", cut, cut + size) + 1
            if end == 0:
                end = held.rfind(" ", cut + 1, cut + size)
            if end <= 0:
                end = cut + size
            yield start + cut, held[cut:end], False
            cut = end
        start += cut
        held = held[cut:]
    if held:
        yield start, held, True


# --- blocks -----------------------------------------------------------------------------------------------------------


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a beginning, behind the BOS where the tokenizer has one."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [*_bos(tokenizer), *ids]


def _bos(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)


def cut_blocks(
    documents: Iterable[Document],
    tokenizer: Any,
    block_size: int,
    *,
    keep_together: Callable[[str], Iterable[tuple[int, int]]] | None = None,
) -> Iterator[Block]:
    """Cut each document into blocks of at most ``block_size`` tokens that start where a word starts.

    Documents are never joined. The tokenizer's BOS, if it has one, stands in front of every block, because that is
    how the model will later be prompted. Without gaps: every character of a document is in exactly one block.

    A cut looks back over 32 tokens. It stays out of the spans to keep together first, then starts a word; it falls
    between two tokens of one character only where there is nothing else. A document of more than 1 MiB (2**20
    characters) is tokenised in parts that start where a line starts, and so does a block there.

    Args:
        documents: the texts; read one after another, as blocks are asked for.
        tokenizer: any fast tokenizer; its offsets are used.
        block_size: tokens in a block, BOS included.
        keep_together: gives the spans of a text that should not be cut, such as names: character offsets of beginning
            and end, sorted.

    Raises:
        CorpusError: the tokenizer gives no character offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise CorpusError("a fast tokenizer, for its character offsets", type(tokenizer).__name__, "pass use_fast=True")
    prefix = _bos(tokenizer)
    room = block_size - len(prefix)
    for document in documents:
        for part, text, _ in _pieces((document.text,), _WINDOW):
            encoded = tokenizer(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
            spans = _Spans(keep_together(text) if keep_together else ())
            shift = document.start + part
            first = start = 0
            while first < len(ids):
                last = _end_of_block(text, offsets, first, room, spans)
                end = len(text) if last == len(ids) else offsets[last][0]
                yield Block(
                    document.name,
                    shift + start,
                    shift + end,
                    text[start:end],
                    (*prefix, *ids[first:last]),
                    (*(0 for _ in prefix), *(behind - start for _, behind in offsets[first:last])),
                )
                first, start = last, end


class _Spans:
    """Where a text should not be cut."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            if self._ends and start < self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._starts.append(start)
                self._ends.append(end)

    def allow(self, at: int) -> bool:
        """Whether a cut in front of character ``at`` divides no span."""
        number = bisect_left(self._starts, at) - 1
        return number < 0 or self._ends[number] <= at


def _end_of_block(text: str, offsets: list[tuple[int, int]], first: int, room: int, spans: _Spans) -> int:
    """Index behind the block's last token: the latest of the best places within reach, or simply the full length."""
    last = first + room
    if last >= len(offsets):
        return len(offsets)
    best, best_rank = last, 0
    for candidate in range(last, max(first, last - _LOOK_BACK), -1):
        at = offsets[candidate][0]
        if at < offsets[candidate - 1][1]:  # one of several tokens for one character
            continue
        starts_word = any(map(str.isspace, text[max(0, at - 1) : at + 1]))
        rank = 1 + starts_word + 2 * spans.allow(at)
        if rank == 4:
            return candidate
        if rank > best_rank:
            best, best_rank = candidate, rank
    return best
