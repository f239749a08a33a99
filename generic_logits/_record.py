"""``generic_logits.json``: what a folder was made from, and the fingerprints that prove it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = "generic_logits.json"
SCHEMA = 1
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 14


def weights_fingerprint(folder: str | Path) -> str | None:
    """SHA-256 over the sizes and 64 evenly spread samples of a model folder's weight files; None without any.

    Reads about a megabyte a file, so it costs nothing at every start; two models of one shape trained differently
    differ in every sample.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(str(size).encode())
        with file.open("rb") as stream:
            for sample in range(_SAMPLES):
                stream.seek(sample * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def describe_model(source: str | Path) -> dict[str, Any]:
    """Name a model for a record: its path or hub name, and its fingerprint where the files are local."""
    return {"source": str(source), "weights_fingerprint": weights_fingerprint(source)}


def describe_file(path: str | Path) -> dict[str, Any]:
    """Name a small file for a record: its path and SHA-256."""
    return {"file": str(path), "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def software_versions() -> dict[str, str]:
    """Versions of everything that takes part in the arithmetic."""
    packages = ("generic-logits", "torch", "transformers", "peft", "accelerate", "tokenizers")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read a folder's record; empty where there is none."""
    file = Path(folder) / FILE
    if not file.is_file():
        return {}
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def write_record(folder: str | Path, kind: str, **content: Any) -> dict[str, Any]:
    """Write a folder's record: ``kind`` ("reinforced" or "distilled"), versions, and the given content."""
    record = {"schema": SCHEMA, "kind": kind, **content, "versions": software_versions()}
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
    (Path(folder) / FILE).write_text(text + "\n", encoding="utf-8")
    return record
