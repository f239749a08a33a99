"""Memory of a text: what is continued word for word, and what is answered, by the names of MUSE and TOFU.

MUSE: Shi et al. 2024, arXiv 2407.06460. TOFU: Maini et al. 2024, arXiv 2401.06121. Extraction strength and exact
memorisation: Dorna et al. 2025, "OpenUnlearning", arXiv 2506.12618, whose conventions are followed to the letter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generic_logits.errors import InputError
from generic_logits.evaluation.subject import Subject, local_model
from generic_logits.models.scoring import token_distributions
from generic_logits.text.anchors import folded_words
from generic_logits.text.prompts import Prompt, encode_prompts

_ENDS_OF_ANSWER = ("\n\n", "\nQuestion", "Question:")  # MUSE's
_EPSILON = 1e-10  # OpenUnlearning's


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F-measure of two texts over their words, 0 to 1 (Lin 2004, section 3).

    On ASCII text this is the number of the package ``rouge-score`` without its stemmer. That package drops every
    character but a-z and 0-9; here a word is a run of letters and digits of any script, case folded, and of scripts
    without spaces each character is a word.
    """
    a, b = folded_words(candidate), folded_words(reference)
    return 2 * _common_subsequence(a, b) / (len(a) + len(b)) if a and b else 0.0


def rouge_l_recall(candidate: str, reference: str) -> float:
    """Share of the reference's words in the longest common subsequence, see ``rouge_l``."""
    a, b = folded_words(candidate), folded_words(reference)
    return _common_subsequence(a, b) / len(b) if b else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    previous = [0] * (len(b) + 1)  # with each prefix of b
    for word in a:
        current = [0]
        for column, other in enumerate(b):
            current.append(previous[column] + 1 if word == other else max(previous[column + 1], current[-1]))
        previous = current
    return previous[-1]


def cut_passages(text: str, count: int, *, prompt_words: int = 30, target_words: int = 30) -> list[tuple[str, str]]:
    """Evenly spread passages of a text as (beginning, true continuation)."""
    words = text.split(" ")
    length = prompt_words + target_words
    starts = range(0, max(1, len(words) - length), max(1, (len(words) - length) // count))
    passages = [(words[at : at + prompt_words], words[at + prompt_words : at + length]) for at in list(starts)[:count]]
    return [(" ".join(prompt), " " + " ".join(target)) for prompt, target in passages]


def verbmem_scores(subject: Subject, passages: Sequence[tuple[str, str]], *, new_tokens: int = 40) -> list[float]:
    """ROUGE-L F-measure of each greedy continuation with the true one, both cut to ``new_tokens`` tokens.

    What MUSE calls VerbMem (section 3.1). It says nothing where nothing was memorised: compare with a model that never
    read the text.
    """
    tokenizer = subject.tokenizer
    completions = subject.complete([beginning for beginning, _ in passages], new_tokens=new_tokens)
    references = [
        tokenizer.decode(tokenizer(target, add_special_tokens=False)["input_ids"][:new_tokens])
        for _, target in passages
    ]
    return [rouge_l(text, reference) for text, reference in zip(completions, references, strict=True)]


def knowmem_scores(
    subject: Subject, questions: Sequence[Prompt], *, shots: Sequence[Prompt] = (), new_tokens: int = 32
) -> list[float]:
    """ROUGE-L F-measure of each greedy answer with the true one.

    What MUSE calls KnowMem (section 3.1), asked as there: "Question: ...", "Answer: ".

    Args:
        subject: whom to ask.
        questions: a question and its answer each.
        shots: questions that are asked and answered in front of each.
        new_tokens: in an answer, at most; it also ends before an empty line and before a further question.
    """
    before = "".join(f"Question: {each.prompt}\nAnswer: {each.target}\n\n" for each in shots)
    asked = [f"{before}Question: {each.prompt}\nAnswer: " for each in questions]
    answers = subject.complete(asked, new_tokens=new_tokens)
    return [
        rouge_l(_until(answer, _ENDS_OF_ANSWER), each.target) for answer, each in zip(answers, questions, strict=True)
    ]


def _until(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        text = text.split(end)[0]
    return text


def greedy_matches(subject: Subject, passages: Sequence[tuple[str, str]]) -> list[Tensor]:  # each bool, [tokens]
    """Whether each token of a true continuation is the likeliest one behind the true tokens before it.

    Raises:
        InputError: a passage of which a part is empty.
        MeasureError: a server.
    """
    encoded = _encode(subject, [Prompt(*passage) for passage in passages])
    matches = []
    distributions = token_distributions(local_model(subject), [[*beginning, *target] for beginning, target in encoded])
    for of_row, (beginning, target) in zip(distributions, encoded, strict=True):
        likeliest = of_row[len(beginning) - 1 :].argmax(-1).cpu()
        matches.append(likeliest == torch.tensor(target))
    return matches


def exact_memorization(matches: Tensor) -> float:  # of [tokens]
    """Share of a continuation's tokens that are the likeliest one (Tirumala et al. 2022, arXiv 2205.10770), 0 to 1."""
    return matches.double().mean().item()


def extraction_strength(matches: Tensor) -> float:  # of [tokens]
    """Share of a continuation that follows greedily once the rest of it is given (Carlini et al. 2021), 0 to 1.

    1 - k / n, where k is the smallest number of given tokens behind which all n - k others are the likeliest ones. As
    in OpenUnlearning the last token is never counted as given, so that the score is at least 1 / n.
    """
    wrong = (~matches).nonzero()
    given = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - min(given, len(matches) - 1) / len(matches)


def answer_losses(subject: Subject, prompts: Sequence[Prompt]) -> list[float]:
    """Mean negative log-likelihood (nats) of the tokens of each target behind its prompt.

    Raises:
        InputError: an empty prompt or target.
    """
    encoded = _encode(subject, prompts)
    log_probs = subject.log_probs([[*beginning, *target] for beginning, target in encoded])
    return [-row[-len(target) :].double().mean().item() for row, (_, target) in zip(log_probs, encoded, strict=True)]


def _encode(subject: Subject, prompts: Sequence[Prompt]) -> list[tuple[list[int], list[int]]]:
    encoded = encode_prompts(subject.tokenizer, prompts)
    for (beginning, target), each in zip(encoded, prompts, strict=True):
        if not (beginning and target):
            raise InputError("a token in each beginning and in each target", repr(each), "leave it out")
    return encoded


def truth_ratios(subject: Subject, prompts: Sequence[Prompt], wrong: Sequence[Sequence[str]]) -> list[float]:
    """Truth ratio of each prompt: how much likelier wrong targets are than the right one (TOFU, section 2.2.2).

    Args:
        subject: whom to ask.
        prompts: beginnings with their right targets; TOFU takes a paraphrase of the answer that was trained on.
        wrong: other targets for each prompt, of the same form.

    Raises:
        InputError: a prompt without wrong targets, or an empty target.
    """
    if len(wrong) != len(prompts) or not all(wrong):
        got = f"{sum(map(bool, wrong))} of {len(prompts)}"
        raise InputError("wrong targets for each prompt", got, "add some, or leave the prompt out")
    right = answer_losses(subject, prompts)
    others = [Prompt(each.prompt, text) for each, texts in zip(prompts, wrong, strict=True) for text in texts]
    losses = iter(answer_losses(subject, others))
    return [truth_ratio(loss, [next(losses) for _ in texts]) for loss, texts in zip(right, wrong, strict=True)]


def truth_ratio(right: float, wrong: Sequence[float]) -> float:
    """Geometric mean of the wrong targets' probabilities over the right one's, each taken by token (TOFU, equation 1).

    Args:
        right: mean negative log-likelihood (nats) of the right target's tokens.
        wrong: of each wrong target's.
    """
    return math.exp(-sum(wrong) / len(wrong)) / (math.exp(-right) + _EPSILON)


def closeness_to_one(ratios: NDArray[np.float64]) -> NDArray[np.float64]:  # [..., items] -> [...]
    """Mean of min(r, 1 / r) of truth ratios: 1 where right and wrong are equally likely. For ``bootstrap``."""
    closeness: NDArray[np.float64] = np.minimum(ratios, 1 / (ratios + _EPSILON)).mean(axis=-1)
    return closeness


def draw_wrong_targets(prompts: Sequence[Prompt], *, count: int = 5, seed: int = 0) -> list[list[str]]:
    """Targets of other prompts as wrong ones, ``count`` for each prompt where there are as many."""
    targets = list(dict.fromkeys(each.target for each in prompts))
    random = np.random.default_rng(seed)
    drawn = []
    for each in prompts:
        others = [target for target in targets if target.strip().casefold() != each.target.strip().casefold()]
        drawn.append([others[at] for at in random.permutation(len(others))[:count]])
    return drawn
