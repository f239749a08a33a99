"""Stop a distillation when enough is forgotten, or when too much else is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from generic_logits.models.scoring import perplexity, target_probability


class EarlyStopping(TrainerCallback, ExportableState):
    """Measures at every checkpoint, just before it is written.

    The checkpoint keeps the outcome: a stopped run that is resumed from it stays stopped.

    Attributes:
        outcome: for the record: at which step a run was stopped, and by which figure; empty if it was not.
    """

    def __init__(
        self,
        prompts: Sequence[tuple[Sequence[int], Sequence[int]]],
        retained: Sequence[Sequence[int]],
        *,
        familiarity: float | None,
        perplexity: float | None,
    ) -> None:
        """Say what to measure on, and how far it may go.

        Args:
            prompts: token ids of beginnings, and of what a model that knows the text says next.
            retained: token ids of blocks that the training does not see.
            familiarity: stop at this mean probability of the prompts' targets; None is no limit.
            perplexity: stop above this perplexity of the retained blocks, and go back to the last check; None likewise.
        """
        self._prompts, self._retained = prompts, retained
        self._familiarity, self._perplexity = familiarity, perplexity
        self._good: dict[str, Tensor] = {}
        self.outcome: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"outcome": self.outcome}}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Remember where the run begins; a resumed one begins at weights that had passed, or that Ctrl-C saved."""
        kept = state.stateful_callbacks.get(type(self).__name__, {})
        self.outcome = kept.get("attributes", {}).get("outcome", {})
        self._remember(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure, and stop or go on."""
        if self.outcome:  # found in the checkpoint: the step since then does not count
            self._go_back(model)
            control.should_training_stop = True
        if self.outcome or not control.should_save:
            return
        model.eval()
        if self._perplexity is not None:
            now = perplexity(model, self._retained)
            if not now <= self._perplexity:
                self._go_back(model)
                self.outcome = {"step": state.global_step, "retained_perplexity": now, "limit": self._perplexity}
            else:
                self._remember(model)
        if not self.outcome and self._familiarity is not None:
            known = target_probability(model, self._prompts)
            if known <= self._familiarity:
                self.outcome = {"step": state.global_step, "familiarity": known, "limit": self._familiarity}
        if self.outcome:
            control.should_training_stop = True
        model.train()

    def _remember(self, model: Any) -> None:
        if self.outcome or self._perplexity is not None:
            trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
            self._good = {name: weight.detach().clone() for name, weight in trained.items()}

    def _go_back(self, model: Any) -> None:
        for name, weight in model.named_parameters():
            if name in self._good:
                weight.data.copy_(self._good[name])
