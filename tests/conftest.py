"""What holds for every test: no network, one thread, no progress bars, one seed."""

from __future__ import annotations

import importlib
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start: another test runs on the other core
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from collections.abc import Callable, Iterator  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402  the environment must stand before anything imports huggingface_hub
import torch  # noqa: E402
import transformers  # noqa: E402

if find_spec("triton"):  # whether kernels are interpreted is settled when triton, and then they, are first imported
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("generic_logits.ops.fused_triton")

    del os.environ["TRITON_INTERPRET"]  # neither for the engines that tests start, nor for kernels of other packages

torch.set_num_threads(1)  # tiny tensors; a second thread costs more than it gives, many times more on a busy machine
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from one seed, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def interpreter(monkeypatch) -> Iterator[None]:
    """Let the kernels run on a CPU with a device's numbers.

    The interpreter asks again at each launch whether it is wanted, warns where numbers are infinite, and cuts float32
    to bfloat16 where a device rounds it.
    """
    if find_spec("triton"):
        from triton import language as tl
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

        cut = InterpreterBuilder.cast_impl

        def rounded(self: Any, src: Any, to: Any) -> Any:
            if (src.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
                return cut(self, src, to)
            bits = torch.from_numpy(np.array(src.data)).bfloat16().view(torch.uint16).numpy()
            return TensorHandle(bits, tl.bfloat16)

        monkeypatch.setattr(InterpreterBuilder, "cast_impl", rounded)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote holds NaN."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[Any]:
    """An OpenAI-compatible server without a key, that is asked again at once."""
    from endpoints import Endpoint

    from generic_logits import _endpoint as client

    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def config(endpoint, tmp_path) -> Callable[..., Any]:
    """Settings of a language model behind ``endpoint``, with changes."""
    from generic_logits.discovery.language_model import LanguageModelConfig

    def changed(**changes: Any) -> LanguageModelConfig:
        usual = {"source": endpoint.url, "cache": tmp_path / "cache", "retries": 2, "concurrency": 1, "timeout": 30}
        return LanguageModelConfig(**{**usual, **changes})

    return changed
