"""What long work tells on stderr: a bar at a terminal; elsewhere, as in logs, a plain line now and then."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_PAUSE = 30.0  # seconds before the first line, and between two
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} gone, {remaining} left{postfix}"


class Progress(tqdm):  # type: ignore[misc]  # untyped
    """A bar that becomes lines where stderr is no terminal; short work then says nothing."""

    monitor_interval = 0  # every update is looked at, so no thread needs to

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """See ``tqdm``."""
        self._at_terminal, self._told = sys.stderr.isatty(), 0.0
        if not self._at_terminal:
            options |= {"delay": _PAUSE, "mininterval": _PAUSE, "bar_format": _LINE, "leave": False}
        super().__init__(*arguments, miniters=1, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or write a line if it is time; at the end, when ``msg`` is empty, if there was one before."""
        if self._at_terminal:
            return bool(super().display(msg, pos))
        now = self._time()
        if msg is not None or now - max(self._told, self.start_t) >= _PAUSE:
            self._told = now
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False
