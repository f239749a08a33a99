"""What the student shall say: generic targets of a batch, hard or soft, and the distance to them."""

from __future__ import annotations

import torch
from torch import Tensor

from generic_logits.models.pair import ModelPair
from generic_logits.ops import correct_logits


@torch.no_grad()
def generic_targets(
    pair: ModelPair,
    input_ids: Tensor,  # [rows, length]
    attention_mask: Tensor,  # [rows, length]
    forget: int,
) -> Tensor:  # [rows, length, vocab]
    """Logits of the teacher: generic for the first ``forget`` rows, the baseline's own for the retained rest.

    The baseline reads all rows in one pass, the reinforced model the forgotten ones alone. Position p of a row is the
    teacher of the token behind p, as in a model's own logits ("Who's Harry Potter?", section 2.1, method step 6).
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    logits: Tensor = pair.baseline(**inputs).logits[..., : pair.vocab_size]
    if forget and pair.alpha:
        of_forget = {name: value[:forget] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        reinforced = pair.reinforced(**of_forget).logits[..., : pair.vocab_size].to(logits.device)
        head = logits[:forget].contiguous()
        logits[:forget] = correct_logits(
            head,
            reinforced,
            pair.alpha,
            space=pair.space,
            threshold=pair.threshold,
            variant=pair.variant,
            out=head,
        )
    return logits


def distance_to_targets(
    student: Tensor,  # [rows, length, vocab]
    targets: Tensor,  # [rows, length, vocab], logits
    attention_mask: Tensor,  # [rows, length]
    *,
    hard: bool,
) -> Tensor:  # []
    """Mean over real positions, in nats: KL(softmax(targets) || student), or with ``hard`` cross-entropy to argmax."""
    real = attention_mask.bool()
    log_probs = student[real].float().log_softmax(-1)  # [positions, vocab]
    wanted = targets[real].float()
    if hard:
        return torch.nn.functional.nll_loss(log_probs, wanted.argmax(-1))
    return torch.nn.functional.kl_div(log_probs, wanted.log_softmax(-1), reduction="batchmean", log_target=True)
