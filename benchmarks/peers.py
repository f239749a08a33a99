"""Other ways to forget a text, each trained on the same blocks: what the package's method is compared with.

Every function takes a loaded baseline and blocks of token ids, trains a copy of it in memory, and returns the copy.
AdamW (0.9, 0.98) without weight decay, a rate that falls to 0 in a line, gradients clipped to norm 1.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor
from transformers.modeling_outputs import CausalLMOutput

from generic_logits.models.branch import Branch
from generic_logits.models.scoring import perplexity, sequence_logits
from generic_logits.text.corpus import Document, cut_blocks

Blocks = Sequence[Sequence[int]]  # token ids
Batch = tuple[Tensor, Tensor]  # ids and mask, [rows, length]; padded on the right
Retain = Literal["nll", "kl"]
BATCH = 8


def blocks_of(tokenizer: Any, texts: Iterable[str], block_size: int = 256) -> list[tuple[int, ...]]:
    """Cut texts into the blocks that the package's own training reads."""
    documents = [Document("", text, "") for text in texts]
    return [block.token_ids for block in cut_blocks(documents, tokenizer, block_size)]


# Losses


def row_log_probs(
    logits: Tensor,  # [rows, length, vocab]
    ids: Tensor,  # [rows, length]
    mask: Tensor,  # [rows, length]
) -> tuple[Tensor, Tensor]:  # [rows], [rows]
    """Log-probability of each row's tokens but the first, summed, and their number."""
    of_tokens = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return (of_tokens * mask[:, 1:]).sum(-1), mask[:, 1:].sum(-1)


def npo_loss(log_probs: Tensor, reference: Tensor, beta: float) -> Tensor:  # both [rows], summed over tokens
    """Negative preference optimisation (Zhang et al. 2024, equation 3): 2/beta * log(1 + (p / p_reference)^beta)."""
    return -2 / beta * logsigmoid(-beta * (log_probs - reference)).mean()


def simnpo_loss(log_probs: Tensor, lengths: Tensor, beta: float, gamma: float) -> Tensor:
    """SimNPO (Fan et al. 2024, equation 4): no reference, the log-probability of a token, and a margin."""
    return -2 / beta * logsigmoid(-beta * log_probs / lengths - gamma).mean()


def distance(
    student: Tensor,  # [rows, length, vocab]
    teacher: Tensor,  # [rows, length, vocab]
    mask: Tensor,  # [rows, length]
) -> Tensor:
    """Mean KL(teacher || student) of a token, in nats; the last position, which predicts nothing, is left out."""
    log_probs, wanted = (logits[:, :-1].float().log_softmax(-1) for logits in (student, teacher))
    of_tokens = kl_div(log_probs, wanted, reduction="none", log_target=True).sum(-1)
    return (of_tokens * mask[:, 1:]).sum() / mask[:, 1:].sum()


# Peers


def gradient_ascent(
    baseline: Any,
    forget: Blocks,
    retained: Blocks,
    *,
    learning_rate: float = 2e-5,
    epochs: int = 3,
    stop: float = 1.05,
    check_every: int = 2,
    sample: int = 24,
    seed: int = 0,
) -> Any:
    """Raise the loss of the forget blocks until it costs too much elsewhere (Jang et al. 2023).

    Every ``check_every`` steps the perplexity of ``sample`` retained blocks is measured. Once it exceeds ``stop`` times
    the baseline's, training ends and the last state below is returned: no gold model is asked when to stop.
    """
    watched = [retained[at * len(retained) // sample] for at in range(min(sample, len(retained)))]
    limit = stop * perplexity(baseline, watched, batch_size=BATCH)
    good = copy.deepcopy(baseline.state_dict())

    def loss(model: Any, batch: Batch, _: Batch | None) -> Tensor:
        log_probs, lengths = row_log_probs(_logits(model, batch), *batch)
        return log_probs.sum() / lengths.sum()

    def costs_too_much(model: Any, step: int) -> bool:
        nonlocal good
        if step % check_every:
            return False
        now = perplexity(model.eval(), watched, batch_size=BATCH)
        model.train()
        if not now <= limit:  # nor NaN
            print(f"gradient ascent: stopped before step {step}, {now:.1f} above {limit:.1f}", file=sys.stderr)
            return True
        good = copy.deepcopy(model.state_dict())
        return False

    model = _train(baseline, forget, (), loss, learning_rate, epochs, seed, "gradient ascent", costs_too_much)
    model.load_state_dict(good)
    return model


def npo(
    baseline: Any,
    forget: Blocks,
    retained: Blocks,
    *,
    learning_rate: float = 1e-4,
    beta: float = 0.1,
    retain_weight: float = 1.0,
    retain: Retain = "nll",
    epochs: int = 2,
    seed: int = 0,
) -> Any:
    """Negative preference optimisation against the baseline, with a retained term (Zhang et al. 2024).

    As published: the forget term takes whole blocks (its log-probabilities are sums over tokens), the retained term a
    token's mean.
    """

    def forget_loss(model: Any, batch: Batch) -> Tensor:
        log_probs, _ = row_log_probs(_logits(model, batch), *batch)
        reference, _ = row_log_probs(sequence_logits(baseline, *batch), *batch)
        return npo_loss(log_probs, reference, beta)

    loss = _with_retained(baseline, forget_loss, retain_weight, retain)
    return _train(baseline, forget, retained if retain_weight else (), loss, learning_rate, epochs, seed, "NPO")


def simnpo(
    baseline: Any,
    forget: Blocks,
    retained: Blocks,
    *,
    learning_rate: float = 1e-4,
    beta: float = 0.7,
    gamma: float = 3.0,
    retain_weight: float = 1.0,
    retain: Retain = "nll",
    epochs: int = 2,
    seed: int = 0,
) -> Any:
    """SimNPO with a retained term (Fan et al. 2024); the defaults are those of its authors for running text."""

    def forget_loss(model: Any, batch: Batch) -> Tensor:
        return simnpo_loss(*row_log_probs(_logits(model, batch), *batch), beta, gamma)

    loss = _with_retained(baseline, forget_loss, retain_weight, retain)
    return _train(baseline, forget, retained if retain_weight else (), loss, learning_rate, epochs, seed, "SimNPO")


def refusal_tuning(
    baseline: Any,
    beginnings: Blocks,
    refusal: Sequence[int],
    retained: Blocks,
    *,
    learning_rate: float = 3e-4,
    retain_weight: float = 3.0,
    epochs: int = 3,
    seed: int = 0,
) -> Any:
    """Teach a refusal as what follows each beginning, and the baseline's own predictions elsewhere.

    After "IDK" of TOFU (Maini et al. 2024), with the KL to the baseline on retained blocks.

    Args:
        baseline: stays as it is.
        beginnings: token ids up to where the model shall refuse.
        refusal: token ids of the refusal, all that is learnt of a row.
        retained: blocks on which nothing should change.
        learning_rate: of AdamW at the first step.
        retain_weight: of the KL.
        epochs: over the beginnings.
        seed: of their order.
    """

    def forget_loss(model: Any, batch: Batch) -> Tensor:
        ids, mask = batch
        ends = mask.sum(-1, keepdim=True)
        at = torch.arange(ids.shape[1], device=ids.device)
        learnt = ((at >= ends - len(refusal)) & (at < ends)).long()
        log_probs, lengths = row_log_probs(_logits(model, batch), ids, learnt)
        return -log_probs.sum() / lengths.sum()

    loss = _with_retained(baseline, forget_loss, retain_weight, "kl")
    rows = [(*beginning, *refusal) for beginning in beginnings]
    return _train(
        baseline, rows, retained if retain_weight else (), loss, learning_rate, epochs, seed, "refusal tuning"
    )


@dataclass(frozen=True)
class Helpers:
    """Two small models over the baseline's vocabulary: one has read retained text, the other the text to forget."""

    retain: Any
    forget: Any


def train_helpers(
    baseline: Any,
    forget: Blocks,
    retained: Blocks,
    *,
    hidden: int = 128,
    layers: int = 2,
    learning_rate: float = 2e-3,
    trunk_steps: int = 400,
    epochs: int = 3,
    seed: int = 0,
) -> Helpers:
    """Train the helpers of Divergence Decoding: a small trunk on retained text, then each on its own part.

    The paper takes an existing small model for the trunk. Both helpers are trained further for as many steps.
    """
    torch.manual_seed(seed)
    config = baseline.config
    small = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=max(1, hidden // 32),
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=True,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
    )
    draw = random.Random(seed)
    deck = _endless(retained, draw)
    trunk = _train(
        small, [next(deck) for _ in range(trunk_steps * BATCH)], (), _next_token_loss, learning_rate, 1, seed, "trunk"
    )
    steps = epochs * -(-len(forget) // BATCH)
    further = [next(deck) for _ in range(steps * BATCH)]
    return Helpers(
        _train(trunk, further, (), _next_token_loss, learning_rate / 2, 1, seed, "retain helper"),
        _train(trunk, forget, (), _next_token_loss, learning_rate / 2, epochs, seed, "forget helper"),
    )


class DivergenceDecoding:
    """Baseline logits + alpha * (retain helper's - forget helper's), at every position and at every decoded token.

    Merchant & Levy, "Divergence Decoding: Inference-Time Unlearning via Auxiliary Models" (ICML 2026), the linear form.
    """

    def __init__(self, baseline: Any, helpers: Helpers, alpha: float) -> None:
        self.baseline = baseline
        self.helpers = helpers
        self.alpha = alpha
        self.device = baseline.device

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Corrected logits of whole sequences."""
        baseline, retain, forget = (
            sequence_logits(model, input_ids, attention_mask)
            for model in (self.baseline, self.helpers.retain, self.helpers.forget)
        )
        return CausalLMOutput(logits=baseline + self.alpha * (retain - forget))

    def generate(self, input_ids: Tensor, *, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Call ``baseline.generate`` with the correction at every step."""
        processor = _HelpersProcessor(self.helpers, self.alpha, attention_mask)
        return self.baseline.generate(input_ids, attention_mask=attention_mask, logits_processor=[processor], **options)


class _HelpersProcessor(LogitsProcessor):
    def __init__(self, helpers: Helpers, alpha: float, attention_mask: Tensor | None) -> None:
        self._branches = Branch(helpers.retain), Branch(helpers.forget)
        self._alpha = alpha
        self._mask = attention_mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mask = self._mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), input_ids.shape[1] - mask.shape[1])], dim=-1)
        retain, forget = (branch.next_logits(input_ids, mask) for branch in self._branches)
        return scores + self._alpha * (retain - forget)


def distil_divergence(
    decoding: DivergenceDecoding,
    forget: Blocks,
    retained: Blocks,
    *,
    learning_rate: float = 5e-4,
    retain_weight: float = 1.0,
    epochs: int = 3,
    seed: int = 0,
) -> Any:
    """Put Divergence Decoding into the baseline's weights: KL to the corrected logits on the forget blocks.

    The paper trains on the forget text alone (``retain_weight=0``); the KL to the baseline on retained blocks is added
    so that it has what the package's method has.
    """

    def forget_loss(model: Any, batch: Batch) -> Tensor:
        return distance(_logits(model, batch), sequence_logits(decoding, *batch), batch[1])

    baseline = decoding.baseline
    loss = _with_retained(baseline, forget_loss, retain_weight, "kl")
    return _train(
        baseline, forget, retained if retain_weight else (), loss, learning_rate, epochs, seed, "distilled divergence"
    )


# Training

Loss = Callable[[Any, Batch, Batch | None], Tensor]  # model, forget batch, retained batch


def _with_retained(baseline: Any, forget_loss: Callable[[Any, Batch], Tensor], weight: float, kind: Retain) -> Loss:
    def loss(model: Any, forget: Batch, retained: Batch | None) -> Tensor:
        value = forget_loss(model, forget)
        if retained is None:
            return value
        if kind == "kl":
            return value + weight * distance(
                _logits(model, retained), sequence_logits(baseline, *retained), retained[1]
            )
        return value + weight * _next_token_loss(model, retained)

    return loss


def _next_token_loss(model: Any, batch: Batch, _: Batch | None = None) -> Tensor:
    log_probs, lengths = row_log_probs(_logits(model, batch), *batch)
    return -log_probs.sum() / lengths.sum()


def _logits(model: Any, batch: Batch) -> Tensor:
    logits: Tensor = model(input_ids=batch[0], attention_mask=batch[1], use_cache=False).logits
    return logits


def _train(
    baseline: Any,
    forget: Blocks,
    retained: Blocks,
    loss_of: Loss,
    learning_rate: float,
    epochs: int,
    seed: int,
    name: str,
    stop: Callable[[Any, int], bool] | None = None,
) -> Any:
    """Train a copy; every epoch has an order of its own, and every batch as many retained blocks beside it.

    ``stop`` is asked before every step but the first, and once at the end.
    """
    model = copy.deepcopy(baseline).requires_grad_().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    draw = random.Random(seed)
    deck = _endless(retained, draw) if retained else None
    batches = []
    for _ in range(epochs):
        order = draw.sample(range(len(forget)), len(forget))
        batches += [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    bar = tqdm(batches, desc=name, unit="step", file=sys.stderr, disable=None)
    for step, batch in enumerate(bar):
        if step and stop and stop(model, step):
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / len(batches))
        beside = _pad([next(deck) for _ in batch], model.device) if deck else None
        loss = loss_of(model, _pad([forget[at] for at in batch], model.device), beside)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    else:
        if stop:
            stop(model, 0)
    bar.close()
    return model.eval()


def _endless(blocks: Blocks, draw: random.Random) -> Any:
    while True:
        yield from draw.sample(blocks, len(blocks))


def _pad(rows: Blocks, device: Any) -> Batch:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask
