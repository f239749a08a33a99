"""What holds for every test: no network, one thread, no progress bars, one seed."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start: another test runs on the other core
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest  # noqa: E402  the environment must stand before anything imports huggingface_hub
import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(1)  # tiny tensors; a second thread costs more than it gives, many times more on a busy machine
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from one seed, whatever ran before it."""
    torch.manual_seed(0)
