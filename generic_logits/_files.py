"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path


def replace_file(file: Path, text: str) -> None:
    """Write a small text file under another name, and rename it; what is left of a failed attempt is removed.

    Raises:
        OSError: the place cannot be written.
    """
    part = file.with_name(file.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
