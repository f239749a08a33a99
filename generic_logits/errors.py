"""Every error a caller can provoke.

GenericLogitsError
├── InputError              what came in cannot be used: wanted, got, remedy       (exit status 2)
│   ├── CorpusError         a corpus is missing, empty, or not UTF-8 text
│   ├── ModelError          a model, an adapter or a tokenizer does not fit
│   ├── OutputError         the output folder cannot be used
│   ├── RequestError        a server is there and does not take a request as it is
│   └── MeasureError        a subject does not give what a measure needs
└── StorageError            the disk is full or went away while writing           (exit status 1)
"""

from __future__ import annotations


class GenericLogitsError(Exception):
    """Root of all errors raised on purpose by this package."""


class InputError(GenericLogitsError, ValueError):
    """Input that cannot be used; the message says what was wanted, what came, and the remedy."""

    def __init__(self, wanted: str, got: str, remedy: str) -> None:
        """Keep the three parts: they are the arguments again where the error goes to another process."""
        super().__init__(wanted, got, remedy)

    def __str__(self) -> str:
        """The three parts in one line."""
        return "wanted {}; got {}; {}".format(*self.args)


class CorpusError(InputError):
    """A corpus is missing, empty, or not UTF-8 text."""


class ModelError(InputError):
    """A model, an adapter or a tokenizer does not fit."""


class OutputError(InputError):
    """The output folder cannot be used."""


class RequestError(InputError):
    """A server is there and does not take a request as it is; it may take others."""


class MeasureError(InputError):
    """A subject does not give what a measure needs; the other measures of it can be taken."""


class StorageError(GenericLogitsError, OSError):
    """Writing failed: the disk is full or went away."""


def one_line(text: str, length: int = 200) -> str:
    """What others wrote, for a message: one line; of a long one its beginning and its end."""
    line = " ".join(text.split())
    end = length // 3
    return line if len(line) <= length else f"{line[: length - end - 5]} ... {line[-end:]}"
