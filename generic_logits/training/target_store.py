"""Targets on disk: what the teachers said, without the teachers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from generic_logits.errors import InputError

MANIFEST = "targets.json"
SCHEMA = 2
_RETAINED = 0.0  # the alpha that retained rows are filed under


class SoftTargets(NamedTuple):
    """Distributions without their tails; ``n`` positions, ``k`` stored tokens in all."""

    counts: Tensor  # [n] int32, tokens stored for each position
    tokens: Tensor  # [k] int32
    log_probs: Tensor  # [k] float16
    rest: Tensor  # [n] float32, probability of all other tokens together


class Targets(NamedTuple):
    """What a row has under one alpha: positions, and "labels" or the fields of ``SoftTargets`` there."""

    positions: Tensor  # [n]
    fields: dict[str, Tensor]
    inside: Tensor  # [n] bool, those inside an anchor


@dataclass(frozen=True)
class Row:
    """A block as the student reads it, and its targets."""

    token_ids: Tensor  # [length]
    positions: Tensor  # [n] int64, those that have a target
    inside: Tensor  # [n] bool, those inside an anchor
    labels: Tensor | None  # [n] hard, or
    soft: SoftTargets | None


class TargetStore:
    """Targets on disk: forget rows by draw and block, retained rows in the order of their use."""

    def __init__(self, folder: str | Path) -> None:
        """Open a finished folder of targets; the tensors stay on disk until a row is asked for.

        Raises:
            InputError: no targets there, of another version, or not all of them.
        """
        self.folder = Path(folder)
        self.manifest_file = self.folder / MANIFEST
        self.manifest = _read_manifest(self.folder)
        self.alphas: list[float] = self.manifest["alphas"]
        self.blocks: int = self.manifest["blocks"]
        self.retained: int = self.manifest["retained"]
        self.vocabulary: int = self.manifest["vocabulary"]
        self._shards: dict[str, _Shard] = {}
        for part, rows in (("forget", self.manifest["draws"] * self.blocks), ("retain", self.retained)):
            for number in range(-(-rows // self.manifest["a_shard"])):
                _open_shard(self.folder / shard_name(part, number))

    def forget(self, draw: int, block: int, alpha: float) -> Row:
        """Return the targets of a forget block in one of the draws, for a stored alpha."""
        hard: bool = self.manifest["settings"]["hard"]
        return self._row("forget", draw % self.manifest["draws"] * self.blocks + block, alpha, hard=hard)

    def retain(self, number: int) -> Row:
        """Return what the baseline says on a retained block."""
        return self._row("retain", number % self.retained, _RETAINED, hard=False)

    def forget_ids(self, block: int) -> list[int]:
        """Token ids of a forget block."""
        return self._token_ids("forget", block)

    def retain_ids(self, number: int) -> list[int]:
        """Token ids of a retained block."""
        return self._token_ids("retain", number)

    def check_alpha(self, alpha: float) -> None:
        """Refuse an alpha that was not computed.

        Raises:
            InputError: it is not among ``alphas``.
        """
        if alpha not in self.alphas:
            stored = ", ".join(f"{each:g}" for each in self.alphas)
            raise InputError(f"an alpha that {self.folder} holds", f"{alpha:g}", f"choose {stored}, or compute it")

    def _row(self, part: str, number: int, alpha: float, *, hard: bool) -> Row:
        shard, row = self._place(part, number)
        return shard.row(row, alpha, hard=hard)

    def _token_ids(self, part: str, number: int) -> list[int]:
        shard, row = self._place(part, number)
        return shard.token_ids(row).tolist()

    def _place(self, part: str, number: int) -> tuple[_Shard, int]:
        file, row = divmod(number, self.manifest["a_shard"])
        name = shard_name(part, file)
        if name not in self._shards:
            self._shards[name] = _Shard(self.folder / name)
        return self._shards[name], row

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without open files."""
        return {**self.__dict__, "_shards": {}}


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("a folder of targets", f"{folder} without {MANIFEST}", "make it with targets") from error
    except ValueError as error:
        raise InputError("a folder of targets", f"{folder / MANIFEST}: {error}", "compute them again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InputError(f"targets of schema {SCHEMA}", f"{folder} of another", "compute them again")
    return manifest


def _open_shard(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        got = f"{file}, which is {'damaged' if file.exists() else 'missing'}"
        raise InputError("all files of the targets", got, "copy the folder again, or compute them again") from error


class _Shard:
    """One file of rows; the indices are read at once, the rest where it is asked for."""

    def __init__(self, file: Path) -> None:
        self._file = _open_shard(file)
        self._token_starts = self._file.get_tensor("token_starts")
        self._starts: dict[float, tuple[Tensor, Tensor]] = {}  # of the rows' positions, of the positions' tokens

    def token_ids(self, number: int) -> Tensor:
        tokens = slice(*self._token_starts[number : number + 2].tolist())
        ids: Tensor = self._file.get_slice("token_ids")[tokens].long()
        return ids

    def row(self, number: int, alpha: float, *, hard: bool) -> Row:
        if alpha not in self._starts:
            counts = torch.empty(0) if hard else self._file.get_tensor(target_name("counts", alpha))
            self._starts[alpha] = self._file.get_tensor(target_name("starts", alpha)), starts(counts)
        of_rows, of_positions = self._starts[alpha]
        targets = slice(*of_rows[number : number + 2].tolist())
        ids, positions = self.token_ids(number), self._part("positions", alpha, targets).long()
        inside = self._part("inside", alpha, targets)
        if hard:
            return Row(ids, positions, inside, self._part("labels", alpha, targets).long(), None)
        stored = slice(*of_positions[[targets.start, targets.stop]].tolist())
        places = {"counts": targets, "tokens": stored, "log_probs": stored, "rest": targets}
        soft = SoftTargets(**{name: self._part(name, alpha, at) for name, at in places.items()})
        return Row(ids, positions, inside, None, soft)

    def _part(self, field: str, alpha: float, place: slice) -> Tensor:
        part: Tensor = self._file.get_slice(target_name(field, alpha))[place]
        return part


def shard_name(part: str, number: int) -> str:
    """Name a file of the store."""
    return f"{part}-{number:05}.safetensors"


def write_shard(file: Path, rows: Sequence[tuple[Sequence[int], dict[float, Targets]]]) -> None:
    """Write rows of (token ids, targets by alpha) whole, by rename."""
    tensors = {
        "token_starts": starts(torch.tensor([len(ids) for ids, _ in rows])),
        "token_ids": torch.tensor([token for ids, _ in rows for token in ids], dtype=torch.int32),
    }
    for alpha in rows[0][1]:
        targets = [by_alpha[alpha] for _, by_alpha in rows]
        fields = {name: torch.cat([each.fields[name] for each in targets]) for name in targets[0].fields}
        fields["starts"] = starts(torch.tensor([len(each.positions) for each in targets]))
        fields["positions"] = torch.cat([each.positions for each in targets]).to(torch.int32)
        fields["inside"] = torch.cat([each.inside for each in targets])
        tensors |= {target_name(name, alpha): tensor for name, tensor in fields.items()}
    part = file.with_name(file.name + ".part")
    save_file(tensors, part)
    part.replace(file)


def starts(sizes: Tensor) -> Tensor:
    """Where each of some runs begins in their concatenation, and behind them where it ends."""
    return torch.cat([torch.zeros(1, dtype=torch.long), sizes.long().cumsum(0)])


def target_name(field: str, alpha: float) -> str:
    """Name a tensor of a file."""
    return f"{field} {float(alpha)!r}"
