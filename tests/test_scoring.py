"""How text is scored: against a plain loop over one sequence at a time, and against values worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.errors import CorpusError
from generic_logits.evaluation.subject import complete
from generic_logits.models.scoring import perplexity, token_log_probs
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
        expected = torch.tensor(plain_log_probs(models[kind], row), dtype=torch.float64)
        torch.testing.assert_close(of_row, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probs_of_coarser_logits_are_float32_and_of_those_very_logits(dtype):
    model, (row,) = tiny.model(vocab_size=VOCAB, dtype=dtype), sequences(9)
    with torch.no_grad():
        expected = model(torch.tensor([row])).logits[0, :-1].double().log_softmax(-1)[range(8), row[1:]]
    (found,) = token_log_probs(model, [row])
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


def test_absolute_positions_do_not_see_the_padding_either():
    model = tiny.model("gpt2", vocab_size=VOCAB)
    rows = sequences(9, 3, 6)
    for row, of_row in zip(rows, token_log_probs(model, rows), strict=True):
        expected = torch.tensor(plain_log_probs(model, row), dtype=torch.float64)
        torch.testing.assert_close(of_row, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_perplexity_weighs_every_token_alike(models, kind):
    rows = sequences(9, 2, 17)
    log_probs = [value for row in rows for value in plain_log_probs(models[kind], row)]
    assert len(log_probs) == 25
    expected = math.exp(-sum(log_probs) / 25)
    for batch_size in (1, 2, 8):
        assert perplexity(models[kind], rows, batch_size=batch_size) == pytest.approx(expected, rel=1e-10)


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
    torch.testing.assert_close(token_log_probs(pair, rows)[0], expected, rtol=1e-10, atol=1e-10)


# --- completions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_completions_do_not_depend_on_their_batch(models, kind):
    tokenizer = tiny.tokenizer(VOCAB)
    prompts = ["the old house", "a", "Mira Voss wrote down every word", "nobody"]
    together = complete(models[kind], tokenizer, prompts, new_tokens=8)
    alone = [complete(models[kind], tokenizer, [prompt], new_tokens=8)[0] for prompt in prompts]
    assert together == alone == complete(models[kind], tokenizer, prompts, new_tokens=8, batch_size=3)
    assert all(together) and not any(text.startswith(prompt) for text, prompt in zip(together, prompts, strict=True))


# --- prompt files -----------------------------------------------------------------------------------------------------


def test_a_prompt_file_is_a_list_of_prompts_and_targets(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([{"prompt": "Où", "target": " là", "note": 1}, {"prompt": "b", "target": "c"}]))
    assert load_prompts(file) == [Prompt("Où", " là"), Prompt("b", "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", 'a JSON list of {{"prompt": ..., "target": ...}}; got {path}: Expecting property name'),
        ('[{"prompt": "a"}]', 'a "target" in each entry of {path}; got {{"prompt": "a"}} as number 1'),
        (
            '[{"prompt": "a", "target": "b"}, {"target": "b"}]',
            'a "prompt" in each entry of {path}; got {{"target": "b"}} as number 2',
        ),
        ('["a"]', 'an object in each entry of {path}; got "a" as number 1'),
        ("3", 'a JSON list of {{"prompt": ..., "target": ...}}; got 3 in {path}'),
        ("[]", 'a JSON list of {{"prompt": ..., "target": ...}}; got an empty one in {path}'),
        ("{}", 'a JSON list of {{"prompt": ..., "target": ...}}; got {{}} in {path}'),
        (
            '[{"prompt": "a", "target": "b"}, {"prompt": "a", "target": ""}]',
            'two texts in each entry of {path}; got {{"prompt": "a", "target": ""}} as number 2',
        ),
        ('[{"prompt": 1, "target": "b"}]', 'two texts in each entry of {path}; got {{"prompt": 1, "target": "b"}} as'),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "prompts.json"
    file.write_text(content)
    with pytest.raises(CorpusError) as caught:
        load_prompts(file)
    assert str(caught.value).startswith("wanted " + message.format(path=file))
    assert str(caught.value).endswith("; mend the file") and "\n" not in str(caught.value)


def test_a_target_can_be_left_out_where_none_is_needed(tmp_path):
    file = tmp_path / "hints.json"
    file.write_text('[{"prompt": "a"}, {"prompt": "b", "target": ""}, {"prompt": "c", "target": "d"}]')
    assert load_prompts(file, targets=False) == [Prompt("a", ""), Prompt("b", ""), Prompt("c", "d")]
    for content in ('[{"target": "a"}]', '["a"]', '[{"prompt": ""}]', '[{"prompt": "a", "target": 3}]'):
        file.write_text(content)
        with pytest.raises(CorpusError, match="; mend the file$"):
            load_prompts(file, targets=False)


def test_a_missing_prompt_file_and_one_in_another_encoding_are_refused(tmp_path):
    with pytest.raises(CorpusError) as caught:
        load_prompts(tmp_path / "no.json")
    assert (
        str(caught.value) == f"wanted a prompt file; got {tmp_path}/no.json: No such file or directory; check the path"
    )
    (tmp_path / "latin.json").write_bytes(b'["\xe4"]')
    with pytest.raises(CorpusError, match="'utf-8' codec can't decode byte 0xe4.*; mend the file$"):
        load_prompts(tmp_path / "latin.json")
