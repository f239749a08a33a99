"""Whom a report is about: how each model is named, loaded, and told from others."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from generic_logits._record import weights_fingerprint
from generic_logits.errors import InputError
from generic_logits.evaluation.subject import Engine, LocalSubject, ServerSubject, Subject
from generic_logits.models.loading import check_source, is_adapter, load_model, load_tokenizer
from generic_logits.models.pair import ModelPair
from generic_logits.ops import Space, check_alpha, check_correction
from generic_logits.vllm import engine_args

Role = Literal["baseline", "gold", ""]
Kind = Literal["checkpoint", "pair", "server"]
Source = str | Path


@dataclass(frozen=True)
class Candidate:
    """A model of a report.

    Attributes:
        name: in tables; unique in a report.
        source: where it came from, for the record.
        kind: what it is.
        load: makes the subject, when its turn has come.
        fingerprint: differs where answers may.
        role: "baseline" for the model that knows the text, "gold" for one that never read it.
        alpha: of a pair or a server of ours.
        served: the model's name at a server that has several.
        engine: see ``Subject``.
    """

    name: str
    source: str
    kind: Kind
    load: Callable[[], Subject]
    fingerprint: str
    role: Role = ""
    alpha: float | None = None
    served: str | None = None
    engine: Engine | None = None

    def with_role(self, role: Role) -> Candidate:
        """The same model in another role."""
        return replace(self, role=role)

    def meet(self) -> Candidate:
        """The same model, after a first contact with a server: what it says of itself belongs to the fingerprint.

        Raises:
            InputError: see ``ServerSubject``.
        """
        if self.kind != "server" or not isinstance(subject := self.load(), ServerSubject):
            return self
        root = subject.card.get("root")
        known = [subject.served, subject.card, _weights(root) if root else None]
        return replace(self, fingerprint=_digest(self.fingerprint, known))

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {name: getattr(self, name) for name in ("name", "role", "kind", "source", "alpha")}


class DeferredSubject:
    """A candidate as a subject that is loaded when it is first needed, and freed at the end of a ``with``.

    Whoever asks an engine only, see ``Subject``, does not load it.
    """

    def __init__(self, candidate: Candidate) -> None:
        """Load nothing yet."""
        self.name, self.engine, self._load = candidate.name, candidate.engine, candidate.load

    def __enter__(self) -> Self:
        """Load nothing yet."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Free the subject."""
        for name in ("_subject", "tokenizer", "model"):
            vars(self).pop(name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @cached_property
    def _subject(self) -> Subject:
        return self._load()

    @cached_property
    def tokenizer(self) -> Any:
        """See ``Subject``."""
        return self._subject.tokenizer

    @cached_property
    def model(self) -> Any | None:
        """See ``Subject``."""
        return self._subject.model

    def complete(
        self, prompts: Sequence[str], *, new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """See ``Subject``."""
        return self._subject.complete(prompts, new_tokens=new_tokens, temperature=temperature, seed=seed)

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See ``Subject``."""
        return self._subject.log_probs(sequences)


def checkpoint(name: str, source: Source, *, dtype: str = "auto") -> Candidate:
    """A model folder or hub name.

    Raises:
        ModelError: nothing at that path.
    """
    check_source(source)

    def load() -> Subject:
        return LocalSubject(name, load_model(source, dtype=dtype, **placement()), load_tokenizer(source))

    return Candidate(
        name,
        str(source),
        "checkpoint",
        load,
        _digest(_weights(source), dtype),
        engine=lambda: {"model": str(source), "dtype": dtype},
    )


def pair(
    name: str,
    baseline: Source,
    reinforced: Source,
    alpha: float,
    *,
    space: Space = "logits",
    threshold: float = 0.0,
    dtype: str = "auto",
) -> Candidate:
    """A baseline corrected while decoding.

    Raises:
        InputError: a setting outside its range, or nothing at a path.
    """
    alpha = check_alpha(alpha)
    check_correction(space, threshold, "relu")
    check_source(baseline)
    check_source(reinforced)

    def load() -> Subject:
        made = ModelPair.from_pretrained(
            baseline, reinforced, alpha=alpha, space=space, threshold=threshold, dtype=dtype, **placement()
        )
        return LocalSubject(name, made, made.tokenizer)

    def engine() -> dict[str, Any]:
        return engine_args(baseline, reinforced, alpha=alpha, space=space, threshold=threshold, dtype=dtype)

    fingerprint = _digest(_weights(baseline), _weights(reinforced), alpha, space, threshold, dtype)
    return Candidate(name, f"{baseline} with {reinforced}", "pair", load, fingerprint, alpha=alpha, engine=engine)


def server(
    name: str,
    address: str,
    *,
    served: str | None = None,
    tokenizer: Source | None = None,
    alpha: float | None = None,
) -> Candidate:
    """A model behind an OpenAI-compatible server, see ``ServerSubject``.

    Its fingerprint is its address and name, and what it says of itself once it was asked, see ``Candidate.meet``.

    Raises:
        InputError: an alpha outside its range.
    """
    alpha = None if alpha is None else check_alpha(alpha)

    def load() -> Subject:
        made = load_tokenizer(tokenizer) if tokenizer else None
        return ServerSubject(name, address, served=served, tokenizer=made, alpha=alpha)

    return Candidate(
        name, address, "server", load, _digest(address, served, str(tokenizer), alpha), alpha=alpha, served=served
    )


def given(subject: Subject, *, fingerprint: str) -> Candidate:
    """A subject that is there already.

    Args:
        subject: whom to ask.
        fingerprint: differs where its answers may.
    """
    return Candidate(subject.name, type(subject).__name__, "checkpoint", lambda: subject, fingerprint)


def read_candidate(text: str, *, tokenizer: Source | None = None, dtype: str = "auto") -> Candidate:
    """A candidate as one writes it on a command line: SOURCE or NAME=SOURCE.

    SOURCE is a model folder, a hub name, or a server's address, with the served model's name behind a ``#`` where the
    server has several.

    Raises:
        InputError: an empty name or source, an adapter, or nothing at a path.
    """
    name, equals, source = text.partition("=")
    if not equals or "/" in name:
        name, source = "", text
    if not source or (equals and not name and source != text):
        raise InputError("MODEL as SOURCE or NAME=SOURCE", repr(text), "name a folder, a hub name or an address")
    if source.startswith(("http://", "https://")):
        address, _, served = source.partition("#")
        return server(name or served or address, address, served=served or None, tokenizer=tokenizer)
    if is_adapter(source):
        raise InputError("a whole model", f"an adapter, {source}", "give it as --reinforced, or merge it first")
    return checkpoint(name or Path(source).name or source, source, dtype=dtype)


def check_candidates(candidates: Sequence[Candidate]) -> None:
    """Refuse a report without models, or with two of one name or of one of the two roles.

    Raises:
        InputError: that.
    """
    if not candidates:
        raise InputError("at least one model", "none", "name a folder, a hub name or an address")
    names = [each.name for each in candidates]
    for name in names:
        if names.count(name) > 1:
            raise InputError("models with names of their own", f"{name} twice", "write NAME=SOURCE")
    for role in ("baseline", "gold"):
        of_role = [each.name for each in candidates if each.role == role]
        if len(of_role) > 1:
            raise InputError(f"one {role}", " and ".join(of_role), "leave one out")


def placement() -> dict[str, Any]:
    """Options of ``from_pretrained`` that put a model where it is fast."""
    return {"device_map": "auto"} if torch.cuda.is_available() else {}


def _weights(source: Source) -> list[str | None]:
    """What tells a model from another: its weights and the small files beside them, or its name on the hub."""
    folder = Path(source)
    if not folder.is_dir():
        return [str(source)]
    beside = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.json"))]
    return [weights_fingerprint(folder), *beside]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
