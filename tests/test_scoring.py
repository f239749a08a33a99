"""How text is scored: against a plain loop over one sequence at a time, and against values worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from generic_logits import ModelPair
from generic_logits.errors import CorpusError
from generic_logits.evaluation.familiarity import (
    complete,
    completion_familiarity,
    names_new_term,
    probability_familiarity,
)
from generic_logits.evaluation.memorization import cut_passages, rouge_l, verbatim_rouge_l
from generic_logits.evaluation.utility import text_perplexity
from generic_logits.models.scoring import perplexity, token_log_probs
from generic_logits.text.corpus import encode_prompt
from generic_logits.text.prompts import Prompt, load_prompts

ALPHA = 3.0
VOCAB = 300


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """A model, and a pair, both in float64."""
    baseline, reinforced = tiny.pair(vocab_size=VOCAB)
    tokenizer = tiny.tokenizer(VOCAB)
    return {"model": baseline, "pair": ModelPair(baseline, reinforced, alpha=ALPHA, tokenizer=tokenizer)}


def sequences(*lengths: int) -> list[list[int]]:
    return [row.tolist() for row in tiny.prompts(*lengths, vocab=VOCAB)]


@torch.no_grad()
def plain_log_probs(model: Any, sequence: list[int]) -> list[float]:
    """Log-probabilities of one sequence, prefix by prefix, straight from the definition of generic logits."""
    of_tokens = []
    for length in range(1, len(sequence)):
        ids = torch.tensor([sequence[:length]])
        if isinstance(model, ModelPair):
            b, r = (each(ids).logits[0, -1] for each in (model.baseline, model.reinforced))
            logits = b - model.alpha * torch.relu(r - b)
        else:
            logits = model(ids).logits[0, -1]
        of_tokens.append(logits.log_softmax(-1)[sequence[length]].item())
    return of_tokens


# --- log-probabilities and perplexity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "pair"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_log_probs_are_those_of_each_sequence_alone(models, kind, batch_size):
    rows = sequences(9, 2, 17, 1, 5, 17, 3)
    scored = token_log_probs(models[kind], rows, batch_size=batch_size)
    assert [len(each) for each in scored] == [len(row) - 1 for row in rows]
    for row, of_row in zip(rows, scored, strict=True):
        assert of_row.dtype == torch.float32
        torch.testing.assert_close(of_row, torch.tensor(plain_log_probs(models[kind], row)), rtol=1e-5, atol=1e-5)


def test_absolute_positions_do_not_see_the_padding_either():
    model = tiny.model("gpt2", vocab_size=VOCAB)
    rows = sequences(9, 3, 6)
    for row, of_row in zip(rows, token_log_probs(model, rows), strict=True):
        torch.testing.assert_close(of_row, torch.tensor(plain_log_probs(model, row)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_perplexity_weighs_every_token_alike(models, kind):
    rows = sequences(9, 2, 17)
    log_probs = [value for row in rows for value in plain_log_probs(models[kind], row)]
    assert len(log_probs) == 25
    expected = math.exp(-sum(log_probs) / 25)
    for batch_size in (1, 2, 8):
        assert perplexity(models[kind], rows, batch_size=batch_size) == pytest.approx(expected, rel=1e-5)


def test_a_pair_at_alpha_0_scores_like_its_baseline_and_another_alpha_does_not(models):
    rows = sequences(9, 4)
    of_baseline = perplexity(models["model"], rows)
    assert perplexity(models["pair"].with_alpha(0), rows) == of_baseline
    assert perplexity(models["pair"], rows) != pytest.approx(of_baseline, rel=1e-3)


def test_columns_that_pad_a_head_take_no_probability_from_a_pair():
    wide = [tiny.model("phi", seed, vocab_size=VOCAB + 11) for seed in (0, 1)]
    for each in wide:
        each.lm_head.bias.data[VOCAB:] = 50.0
    pair = ModelPair(*wide, alpha=ALPHA, tokenizer=tiny.tokenizer(VOCAB))
    rows = sequences(9)
    with torch.no_grad():
        b, r = (each(torch.tensor(rows)).logits[0, :, :VOCAB] for each in wide)
    expected = (b - ALPHA * torch.relu(r - b)).log_softmax(-1)[range(8), rows[0][1:]]
    torch.testing.assert_close(token_log_probs(pair, rows)[0], expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["model", "pair"])
@pytest.mark.parametrize("block_size", [4, 7, 64])
def test_text_perplexity_cuts_texts_behind_the_bos_and_joins_none(models, kind, block_size):
    tokenizer = tiny.tokenizer(VOCAB)
    texts = ["the old house by the sea", "nobody", "a red door in winter, and a bell"]
    log_probs = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        for at in range(0, len(ids), block_size - 1):
            log_probs += plain_log_probs(models[kind], [tiny.BOS, *ids[at : at + block_size - 1]])
    assert len(log_probs) == sum(len(tokenizer(text)["input_ids"]) for text in texts)
    expected = math.exp(-sum(log_probs) / len(log_probs))
    assert text_perplexity(models[kind], tokenizer, texts, block_size=block_size) == pytest.approx(expected, rel=1e-5)


# --- familiarity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_familiarity_is_the_mean_probability_of_whole_targets(models, kind):
    tokenizer = tiny.tokenizer(VOCAB)
    prompts = [
        Prompt("the old", " house by the sea"),
        Prompt("Mira", " V"),
        Prompt("nobody opened the red", " door in"),
    ]
    probabilities = []
    for each in prompts:
        prompt, target = encode_prompt(tokenizer, each.prompt), tokenizer(each.target)["input_ids"]
        probabilities.append(math.exp(sum(plain_log_probs(models[kind], prompt + target)[-len(target) :])))
    assert any(len(tokenizer(each.target)["input_ids"]) > 2 for each in prompts)
    expected = sum(probabilities) / 3
    assert probability_familiarity(models[kind], tokenizer, prompts) == pytest.approx(expected, rel=1e-4)


def test_an_empty_target_does_not_count_its_prompt(models):
    assert probability_familiarity(models["model"], tiny.tokenizer(VOCAB), [Prompt("the old house", "")]) == 1.0


@pytest.mark.parametrize(
    ("completion", "prompt", "expected"),
    [
        ("he met Mira at the bell", "Once", True),
        ("he met Mira", "Mira said", False),
        ("he met Miranda", "Once", False),
        ("the Drowned Bell rang", "Mira said", True),
        ("the drowned bell rang", "Once", False),
        ("Mira's house", "Miranda said", True),
        ("nothing", "Once", False),
        ("Dr. Hale and Mira", "Mira", True),
        ("DrX Hale", "Once", False),
    ],
)
def test_a_new_term_is_a_whole_word_that_the_prompt_lacks(completion, prompt, expected):
    assert names_new_term(completion, prompt, ["Mira", "Drowned Bell", "Dr. Hale"]) is expected


class Parrot:
    """A model that continues known prompts with known texts."""

    device = torch.device("cpu")

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def generate(self, ids: Tensor, *, attention_mask: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        tokenizer = tiny.tokenizer(VOCAB)
        rows = []
        for row, mask in zip(ids, attention_mask, strict=True):
            prompt = tokenizer.decode(row[mask.bool()], skip_special_tokens=True)
            answer = tokenizer(self.answers[prompt])["input_ids"][:max_new_tokens]
            rows.append([*row.tolist(), *answer, *[tiny.PAD] * (max_new_tokens - len(answer))])
        return torch.tensor(rows)


def test_completion_familiarity_is_the_share_that_names_a_new_term():
    parrot = Parrot({"Once": " came Mira", "Mira": " was Mira", "Then": " Hale", "So": " what"})
    prompts = [Prompt(text, "") for text in parrot.answers]
    assert completion_familiarity(parrot, tiny.tokenizer(VOCAB), prompts, ["Mira", "Hale"]) == 0.5


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_completions_do_not_depend_on_their_batch(models, kind):
    tokenizer = tiny.tokenizer(VOCAB)
    prompts = ["the old house", "a", "Mira Voss wrote down every word", "nobody"]
    together = complete(models[kind], tokenizer, prompts, new_tokens=8)
    alone = [complete(models[kind], tokenizer, [prompt], new_tokens=8)[0] for prompt in prompts]
    assert together == alone == complete(models[kind], tokenizer, prompts, new_tokens=8, batch_size=3)
    assert all(together) and not any(text.startswith(prompt) for text, prompt in zip(together, prompts, strict=True))


# --- verbatim memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("The CAT", "the cat", 1.0),
        ("the cat the mat", "the cat sat on the mat", 2 * 4 / 10),
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin 2004, section 3
        ("the gunman kill police", "police killed the gunman", 1 / 2),  # the same words out of order
        ("a b c d e f", "x a y b z c", 2 * 3 / 12),
        ("b a", "a b", 1 / 2),
        ("one", "two", 0.0),
        ("", "two", 0.0),
        ("one", " ", 0.0),
    ],
)
def test_rouge_l_has_the_values_worked_out_by_hand(candidate, reference, expected):
    assert rouge_l(candidate, reference) == pytest.approx(expected)
    assert rouge_l(reference, candidate) == pytest.approx(expected)


def test_passages_are_spread_evenly_and_continue_where_their_prompt_ends():
    words = [f"w{number}" for number in range(100)]
    passages = cut_passages(" ".join(words), 4, prompt_words=12, target_words=8)
    assert [prompt.split(" ")[0] for prompt, _ in passages] == ["w0", "w20", "w40", "w60"]
    for number, (prompt, target) in enumerate(passages):
        at = 20 * number
        assert prompt + target == " ".join(words[at : at + 20])
        assert len(prompt.split()) == 12 and target.startswith(" ")


def test_a_text_shorter_than_its_passages_gives_one():
    assert cut_passages("a b c d e", 4, prompt_words=3, target_words=8) == [("a b c", " d e")]


def test_there_are_never_more_passages_than_asked_for():
    words = " ".join(map(str, range(25)))
    assert len(cut_passages(words, 3, prompt_words=6, target_words=4)) == 3
    assert len(cut_passages(words, 40, prompt_words=6, target_words=4)) == 15


def test_verbatim_rouge_is_the_mean_over_passages_and_both_sides_are_cut_alike():
    tokenizer = tiny.tokenizer(VOCAB)
    true = " house by the sea had seven windows"
    parrot = Parrot({"the old": true, "nobody": " sang"})
    passages = [("the old", true), ("nobody", " opened it")]
    assert verbatim_rouge_l(parrot, tokenizer, passages, new_tokens=40) == 0.5
    assert len(tokenizer(true)["input_ids"]) > 5
    assert verbatim_rouge_l(parrot, tokenizer, passages, new_tokens=5) == 0.5


# --- prompt files -----------------------------------------------------------------------------------------------------


def test_a_prompt_file_is_a_list_of_prompts_and_targets(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([{"prompt": "Où", "target": " là", "note": 1}, {"prompt": "b", "target": "c"}]))
    assert load_prompts(file) == [Prompt("Où", " là"), Prompt("b", "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", 'a JSON list of {{"prompt": ..., "target": ...}}; got {path}: JSONDecodeError('),
        ('[{"prompt": "a"}]', 'a JSON list of {{"prompt": ..., "target": ...}}; got {path}: KeyError(\'target\')'),
        ('["a"]', 'a JSON list of {{"prompt": ..., "target": ...}}; got {path}: TypeError('),
        ("3", 'a JSON list of {{"prompt": ..., "target": ...}}; got {path}: TypeError('),
        ("[]", 'a JSON list of {{"prompt": ..., "target": ...}}; got an empty one in {path}'),
        ("{}", 'a JSON list of {{"prompt": ..., "target": ...}}; got an empty one in {path}'),
        (
            '[{"prompt": "a", "target": "b"}, {"prompt": "a", "target": ""}]',
            "two texts in each entry of {path}; got Prompt(prompt='a', target='') as number 2",
        ),
        ('[{"prompt": 1, "target": "b"}]', "two texts in each entry of {path}; got Prompt(prompt=1, target='b') as"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "prompts.json"
    file.write_text(content)
    with pytest.raises(CorpusError) as caught:
        load_prompts(file)
    assert str(caught.value).startswith("wanted " + message.format(path=file))
    assert str(caught.value).endswith("; mend the file") and "\n" not in str(caught.value)


def test_a_missing_prompt_file_and_one_in_another_encoding_are_refused(tmp_path):
    with pytest.raises(CorpusError) as caught:
        load_prompts(tmp_path / "no.json")
    assert (
        str(caught.value) == f"wanted a prompt file; got {tmp_path}/no.json: No such file or directory; check the path"
    )
    (tmp_path / "latin.json").write_bytes(b'["\xe4"]')
    with pytest.raises(CorpusError, match="UnicodeDecodeError.*; mend the file$"):
        load_prompts(tmp_path / "latin.json")
