"""A subject's weights, copied, so that an attack can change them."""

from __future__ import annotations

import copy

from generic_logits.errors import InputError
from generic_logits.evaluation.subject import LocalSubject, Subject
from generic_logits.models.pair import ModelPair


def copy_baseline(subject: Subject) -> LocalSubject:
    """Return the subject around a copy of its model's weights, of a pair the baseline's alone.

    Raises:
        InputError: a server, which keeps its weights.
    """
    return _copied(subject, both=False)


def copy_weights(subject: Subject) -> LocalSubject:
    """Return the subject around a copy of all its weights; what a pair's models share, their copies share.

    Raises:
        InputError: a server, which keeps its weights.
    """
    return _copied(subject, both=True)


def _copied(subject: Subject, *, both: bool) -> LocalSubject:
    if subject.model is None:
        raise InputError("a model in this process, for its weights", f"{subject.name}, a server", "give its folder")
    if not isinstance(subject.model, ModelPair):
        return LocalSubject(subject.name, copy.deepcopy(subject.model), subject.tokenizer)
    pair = subject.model.with_alpha(subject.model.alpha)
    if both:
        pair.baseline, pair.reinforced = copy.deepcopy((pair.baseline, pair.reinforced))
    else:
        pair.baseline = copy.deepcopy(pair.baseline)
    return LocalSubject(subject.name, pair, subject.tokenizer)
