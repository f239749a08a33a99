"""Blocks on disk: a corpus larger than memory, in any order."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

import numpy as np

from generic_logits.errors import InputError, StorageError
from generic_logits.text.corpus import Block

_FORMAT = 1
_MARKER = "blocks.json"  # written last: with it the other files are whole
_TOKENS = np.dtype("<i4")
_OFFSETS = np.dtype("<i8")
_COLUMNS = 8  # of the index: start, end; then from and to in tokens, in bytes of text, in bytes of names
_FILES = ("index", "tokens", "ends", "text", "names")


class BlockFile(Sequence[Block]):
    """Blocks whose tokens, ends and texts stay in the files of one folder until one is asked for.

    The files are mapped, so that what is held in memory is up to the operating system. Pickled it is a path: the
    workers of a DataLoader open the same files.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a folder that ``write`` has filled; the same as ``open``.

        Raises:
            InputError: there is none, it was not written to its end, or is damaged.
        """
        self.folder = Path(folder).absolute()
        if not self.is_complete(folder):
            wanted = "a folder of blocks that was written to its end"
            raise InputError(wanted, str(folder), "delete it and write it again")
        self._index = _mapped(self.folder / "index", _OFFSETS).reshape(-1, _COLUMNS)
        self._tokens = _mapped(self.folder / "tokens", _TOKENS)
        self._ends = _mapped(self.folder / "ends", _TOKENS)
        self._text = _mapped(self.folder / "text", np.dtype(np.uint8))
        self._names = _mapped(self.folder / "names", np.dtype(np.uint8))

    @classmethod
    def open(cls, folder: str | Path) -> BlockFile:
        """Open a folder that ``write`` has filled.

        Raises:
            InputError: there is none, it was not written to its end, or is damaged.
        """
        return cls(folder)

    @classmethod
    def write(cls, folder: str | Path, blocks: Iterable[Block]) -> BlockFile:
        """Write blocks, one at a time, in place of what is in the folder, and open it.

        Raises:
            OSError: the place refuses, or is full; then the folder counts as not written.
        """
        folder = Path(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        tokens = text = names = 0
        name: str | None = None
        name_from = 0
        with ExitStack() as stack:
            files = {each: stack.enter_context((folder / each).open("wb")) for each in _FILES}
            for block in blocks:
                characters = block.text.encode("utf-8")
                if block.document != name:
                    name, name_from = block.document, names
                    names += files["names"].write(name.encode("utf-8"))
                behind = (tokens + len(block.token_ids), text + len(characters))
                row = (block.start, block.end, tokens, behind[0], text, behind[1], name_from, names)
                files["index"].write(np.array(row, _OFFSETS).tobytes())
                files["tokens"].write(np.array(block.token_ids, _TOKENS).tobytes())
                files["ends"].write(np.array(block.ends, _TOKENS).tobytes())
                files["text"].write(characters)
                tokens, text = behind
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        part = folder / f"{_MARKER}.part"
        part.write_text(json.dumps({"format": _FORMAT, "bytes": _sizes(folder)}), encoding="utf-8")
        part.replace(folder / _MARKER)
        return cls(folder)

    @classmethod
    def open_when_written(cls, folder: str | Path, *, patience: float = 600.0) -> BlockFile:
        """Wait for another process to write the folder, and open it.

        Raises:
            StorageError: nothing more has been written for ``patience`` seconds.
        """
        written: dict[str, int] = {}
        moved = time.monotonic()
        while not cls.is_complete(folder):
            if (sizes := _sizes(Path(folder))) != written:
                written, moved = sizes, time.monotonic()
            if time.monotonic() - moved > patience:
                why = "see what the process that writes them says"
                raise StorageError(f"no blocks have been written to {folder} for {patience:g} seconds; {why}")
            time.sleep(0.1)
        return cls(folder)

    @staticmethod
    def is_complete(folder: str | Path) -> bool:
        """Whether a folder holds blocks that were written to their end."""
        try:
            marker = json.loads((Path(folder) / _MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(marker == {"format": _FORMAT, "bytes": _sizes(Path(folder))})

    def __len__(self) -> int:
        """Count the blocks."""
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """Read one block, or a list of them."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = self._index[range(len(self))[index]].tolist()
        start, end, token_from, token_to, text_from, text_to, name_from, name_to = row
        return Block(
            self._names[name_from:name_to].tobytes().decode("utf-8"),
            start,
            end,
            self._text[text_from:text_to].tobytes().decode("utf-8"),
            tuple(self._tokens[token_from:token_to].tolist()),
            tuple(self._ends[token_from:token_to].tolist()),
        )

    def __reduce__(self) -> tuple[type[BlockFile], tuple[Path]]:
        """Travel to another process as the path alone."""
        return type(self), (self.folder,)


def _sizes(folder: Path) -> dict[str, int]:
    files = {each: folder / each for each in _FILES}
    return {each: os.path.getsize(file) for each, file in files.items() if file.exists()}


def _mapped(file: Path, kind: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Map a file; an empty one, which cannot be mapped, is an empty array."""
    return np.memmap(file, kind, "r") if file.stat().st_size else np.empty(0, kind)
