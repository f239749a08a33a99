"""``generate()`` with the processor, held against loops that recompute both models from scratch at every step."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import LogitsProcessor

from generic_logits import GenericLogitsProcessor
from generic_logits.errors import InputError, ModelError

ALPHA = 3.0
STEPS = 20
ATTENTION = ["llama", "mistral", "qwen3", "gemma3", "gpt2", "gpt_neox", "opt", "phi", "mixtral"]
RECURRENT = ["mamba", "mamba2", "lfm2", "falcon_h1", "qwen3_next"]
LONG = (11, 17, 9)  # longer than the sliding window


def stated(b: Tensor, r: Tensor, alpha: float, space: str) -> Tensor:
    """The correction, said again."""
    if space == "logprobs":
        b, r = b.log_softmax(-1), r.log_softmax(-1)
    return b - alpha * (r - b).clamp(min=0)


def recomputed(models: tuple[Any, Any], rows: list[Tensor], alpha: float, space: str = "logits") -> Tensor:
    """Corrected scores of the next token of each row, both models run alone on it from its first token."""
    baseline, reinforced = (tiny.last_logits(each, rows) for each in models)
    return stated(baseline, reinforced, alpha, space)


def decoded_plainly(
    models: tuple[Any, Any], rows: list[Tensor], alpha: float = ALPHA, space: str = "logits", steps: int = STEPS
) -> tuple[list[list[int]], Tensor]:  # new tokens; scores: [steps, rows, vocab]
    """Greedy decoding without any cache."""
    start, scores = [len(row) for row in rows], []
    for _ in range(steps):
        scores.append(recomputed(models, rows, alpha, space))
        rows = [torch.cat([row, best[None]]) for row, best in zip(rows, scores[-1].argmax(-1), strict=True)]
    return [row[at:].tolist() for row, at in zip(rows, start, strict=True)], torch.stack(scores)


def generate(model: Any, rows: list[Tensor], processor: Any, *, pad: int = tiny.PAD, **options: Any) -> Any:
    """Greedy by default, with everything that a test may want to look at."""
    ids, mask = tiny.padded(rows, pad)
    settings = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": pad, "return_dict_in_generate": True}
    return model.generate(
        ids, attention_mask=mask, logits_processor=[processor], output_scores=True, **{**settings, **options}
    )


def new_tokens(output: Any, prompt: int, steps: int = STEPS) -> list[list[int]]:
    assert output.sequences.shape[1] == prompt + steps
    return output.sequences[:, prompt:].tolist()


class Recomputing(LogitsProcessor):
    """The reference: ignores ``scores``, keeps no cache, runs both models on each row without its padding."""

    def __init__(self, models: tuple[Any, Any], alpha: float, space: str, prompts: list[Tensor]) -> None:
        self.models, self.alpha, self.space = models, alpha, space
        longest = max(map(len, prompts))
        self.padding = [longest - len(each) for each in prompts]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        per_prompt = len(input_ids) // len(self.padding)
        rows = [row[self.padding[index // per_prompt] :] for index, row in enumerate(input_ids)]
        return recomputed(self.models, rows, self.alpha, self.space).to(scores.dtype)


@pytest.fixture(params=ATTENTION + RECURRENT)
def family(request) -> str:
    return request.param


# --- every family -----------------------------------------------------------------------------------------------------


def test_greedy_equals_the_plain_loop(family):
    models, rows = tiny.pair(family), tiny.prompts(*LONG)
    expected, scores = decoded_plainly(models, rows)
    assert expected != decoded_plainly(models, rows, 0.0)[0]  # the correction shows
    output = generate(models[0], rows, GenericLogitsProcessor(models[1], ALPHA))
    assert new_tokens(output, 17) == expected
    torch.testing.assert_close(torch.stack(output.scores).double(), scores.double(), rtol=1e-4, atol=1e-3)


def test_beam_search_equals_recomputation(family):
    models, rows = tiny.pair(family), tiny.prompts(4, 9, seed=2)
    alpha = 10.0
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12, "length_penalty": 0.5}
    expected = generate(models[0], rows, Recomputing(models, alpha, "logprobs", rows), **options)
    output = generate(models[0], rows, GenericLogitsProcessor(models[1], alpha, space="logprobs"), **options)
    assert output.sequences.tolist() == expected.sequences.tolist()
    assert output.beam_indices.tolist() == expected.beam_indices.tolist()
    torch.testing.assert_close(torch.stack(output.scores), torch.stack(expected.scores), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(output.sequences_scores, expected.sequences_scores, rtol=1e-4, atol=1e-4)

    swapped = output.beam_indices[output.beam_indices >= 0].view(6, -1) != output.beam_indices[:, :1]
    assert swapped.any()  # beams did change places
    plain = generate(models[0], rows, Recomputing(models, 0.0, "logprobs", rows), **options)
    assert plain.sequences.tolist() != expected.sequences.tolist()


def test_one_object_serves_call_after_call(family):
    models = tiny.pair(family)
    processor = GenericLogitsProcessor(models[1], ALPHA, space="logprobs")
    first, other = tiny.prompts(12, 8, seed=1), tiny.prompts(5, seed=2)

    def check(rows: list[Tensor]) -> list[list[int]]:
        expected, _ = decoded_plainly(models, rows, space="logprobs", steps=5)
        output = generate(models[0], rows, processor, max_new_tokens=5)
        assert new_tokens(output, max(map(len, rows)), 5) == expected
        return expected

    answer = check(first)
    check(first)  # the same prompts
    check(other)  # others, and fewer
    check(first[::-1])  # more again, in another order
    longer = torch.cat([first[0], torch.tensor(answer[0]), *tiny.prompts(4, seed=3)])
    check([longer])  # a conversation goes on
    check([longer[:7]])  # and is cut
    generate(models[0], first, processor, num_beams=3, max_new_tokens=6)
    check(first)  # greedy after beams
    check([*first, *other])
    check([torch.tensor([tiny.BOS])])  # a prompt of one token


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["logits", "logprobs"])
@pytest.mark.parametrize("family", ["llama", "mistral", "mamba"])
def test_sampling_draws_from_the_corrected_distribution(family, space):
    models, rows = tiny.pair(family), tiny.prompts(*LONG)
    torch.manual_seed(7)
    grown = rows
    for _ in range(STEPS):
        scores = recomputed(models, grown, ALPHA, space).float() / 0.8
        scores[scores < scores.topk(30).values[:, -1:]] = -torch.inf
        drawn = torch.multinomial(scores.softmax(-1), 1)
        grown = [torch.cat([row, token]) for row, token in zip(grown, drawn, strict=True)]
    expected = [row[len(prompt) :].tolist() for row, prompt in zip(grown, rows, strict=True)]

    processor = GenericLogitsProcessor(models[1], ALPHA, space=space)
    torch.manual_seed(7)
    output = generate(models[0], rows, processor, do_sample=True, temperature=0.8, top_k=30)
    assert new_tokens(output, 17) == expected
    torch.manual_seed(7)
    plain = generate(models[0], rows, GenericLogitsProcessor(models[1], 0.0), do_sample=True, temperature=0.8, top_k=30)
    assert new_tokens(plain, 17) != expected


def test_several_sequences_a_prompt_are_each_exact():
    models, rows = tiny.pair("mistral"), tiny.prompts(5, 12)
    output = generate(
        models[0],
        rows,
        GenericLogitsProcessor(models[1], ALPHA),
        do_sample=True,
        top_k=0,
        num_return_sequences=3,
    )
    assert len({tuple(each) for each in output.sequences.tolist()}) == 6
    for step, scores in enumerate(output.scores):
        grown = [row[(7 if index < 3 else 0) : 12 + step] for index, row in enumerate(output.sequences)]
        torch.testing.assert_close(scores.double(), recomputed(models, grown, ALPHA), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "mamba"])
def test_beam_sampling_equals_recomputation(family):
    models, rows = tiny.pair(family), tiny.prompts(9, 4)
    options = {"num_beams": 3, "do_sample": True, "top_k": 0, "max_new_tokens": 12}
    torch.manual_seed(3)
    expected = generate(models[0], rows, Recomputing(models, 1.0, "logprobs", rows), **options)
    torch.manual_seed(3)
    output = generate(models[0], rows, GenericLogitsProcessor(models[1], 1.0, space="logprobs"), **options)
    assert output.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(torch.stack(output.scores), torch.stack(expected.scores), rtol=1e-4, atol=1e-3)


def test_the_linear_variant_and_the_threshold_reach_the_operator():
    models, rows = tiny.pair(), tiny.prompts(6)
    b, r = (tiny.last_logits(each, rows) for each in models)
    ids = torch.stack(rows)
    linear = GenericLogitsProcessor(models[1], 2.0, variant="linear")(ids, b)
    torch.testing.assert_close(linear, b - 2.0 * (r - b))
    bounded = GenericLogitsProcessor(models[1], 2.0, threshold=1.0)(ids, b)
    torch.testing.assert_close(bounded, b - 2.0 * (r - b - 1.0).clamp(min=0))


# --- assisted decoding ------------------------------------------------------------------------------------------------


def predictable(family: str) -> tuple[Any, Any]:
    """A pair that soon repeats itself, so that drafts are accepted, and not always."""
    return tiny.pair(family, std=0.12)


def forwards(model: Any) -> list[int]:
    return tiny.count_fed(model)


@pytest.mark.parametrize("family", [*ATTENTION, "lfm2"])
def test_prompt_lookup_equals_greedy(family):
    models, rows = predictable(family), tiny.prompts(6)
    rows = [torch.cat([rows[0], rows[0], rows[0], rows[0][:3]])]
    expected, _ = decoded_plainly(models, rows, steps=40)
    assert expected != decoded_plainly(models, rows, 0.0, steps=40)[0]
    ours, theirs = forwards(models[1]), forwards(models[0])
    output = generate(
        models[0], rows, GenericLogitsProcessor(models[1], ALPHA), max_new_tokens=40, prompt_lookup_num_tokens=4
    )
    assert new_tokens(output, 21, 40) == expected
    assert 4 < len(theirs) < 40  # drafts were accepted
    assert sum(theirs) > 21 + 40 - 1  # and rejected
    if family != "lfm2":  # its convolution's state cannot be rolled back
        # transformers asks once for every drafted token and again for every verified one: two roll-backs, no restart.
        assert sum(ours) <= 2 * sum(theirs)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "qwen3"])
def test_a_draft_model_equals_greedy(family):
    models, rows = predictable(family), tiny.prompts(19)
    expected, _ = decoded_plainly(models, rows, steps=30)
    assert expected != decoded_plainly(models, rows, 0.0, steps=30)[0]
    draft = predictable(family)[0]
    draft.generation_config.num_assistant_tokens = 4
    with torch.no_grad():
        next(draft.parameters()).add_(0.3 * torch.randn_like(next(draft.parameters())))
    theirs = forwards(models[0])
    processor = GenericLogitsProcessor(models[1], ALPHA)
    for _ in range(2):
        output = generate(models[0], rows, processor, max_new_tokens=30, assistant_model=draft)
        assert new_tokens(output, 19, 30) == expected
    assert len(theirs) < 60
    assert sum(theirs) > 2 * (19 + 30)


def test_assisted_sampling_scores_are_exact():
    models, rows = predictable("mistral"), tiny.prompts(12)
    output = generate(
        models[0],
        rows,
        GenericLogitsProcessor(models[1], ALPHA),
        do_sample=True,
        top_k=0,
        prompt_lookup_num_tokens=3,
    )
    for step, scores in enumerate(output.scores):
        grown = [output.sequences[0, : 12 + step]]
        torch.testing.assert_close(scores.double(), recomputed(models, grown, ALPHA), rtol=1e-4, atol=1e-3)


def test_transformers_itself_refuses_drafts_for_recurrent_models():
    models = tiny.pair("mamba")
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        generate(models[0], tiny.prompts(9), GenericLogitsProcessor(models[1], ALPHA), prompt_lookup_num_tokens=3)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_a_static_cache_in_the_generating_model_changes_nothing(family):
    models, rows = tiny.pair(family), tiny.prompts(*LONG)
    expected, _ = decoded_plainly(models, rows)
    output = generate(models[0], rows, GenericLogitsProcessor(models[1], ALPHA), cache_implementation="static")
    assert new_tokens(output, 17) == expected


# --- padding ----------------------------------------------------------------------------------------------------------


def with_ids(models: tuple[Any, Any], **ids: Any) -> tuple[Any, Any]:
    for each in models:
        for name, value in ids.items():
            setattr(each.generation_config, name, value)
    return models


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "opt", "mamba"])
def test_padding_with_eos_is_exact_under_the_prompts_mask(family):
    models, rows = with_ids(tiny.pair(family), pad_token_id=tiny.EOS), tiny.prompts(3, 9, 8)
    rows[1][0] = rows[2][3] = tiny.EOS  # also a word of the text
    expected, _ = decoded_plainly(models, rows)
    _, mask = tiny.padded(rows)
    processor = GenericLogitsProcessor(models[1], ALPHA, pad_token_id=tiny.EOS, attention_mask=mask)
    output = generate(models[0], rows, processor, pad=tiny.EOS)
    assert new_tokens(output, 9) == expected
    order = [2, 0, 1]
    processor.attention_mask = mask[order]
    output = generate(models[0], [rows[i] for i in order], processor, pad=tiny.EOS)
    assert new_tokens(output, 9) == [expected[i] for i in order]
    processor.attention_mask = None
    output = generate(models[0], rows[2:], processor, pad=tiny.EOS)
    assert new_tokens(output, 8) == expected[2:]


def test_the_mask_is_spread_over_the_beams_of_each_prompt():
    models, rows = with_ids(tiny.pair("gpt2"), eos_token_id=tiny.EOS), tiny.prompts(3, 9)
    processor = GenericLogitsProcessor(models[1], 10.0, space="logprobs", attention_mask=tiny.padded(rows)[1])
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 10, "pad": tiny.EOS}
    expected = generate(models[0], rows, Recomputing(models, 10.0, "logprobs", rows), **options)
    output = generate(models[0], rows, processor, **options)
    assert output.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(torch.stack(output.scores), torch.stack(expected.scores), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("ids", [{"eos_token_id": 7}, {"eos_token_id": [9, 7]}, {"bos_token_id": 7}], ids=str)
def test_padding_that_may_be_text_is_refused_without_a_mask(ids):
    models = with_ids(tiny.pair(), pad_token_id=7, **ids)
    with pytest.raises(InputError) as caught:
        generate(models[0], tiny.prompts(3, 9), GenericLogitsProcessor(models[1], ALPHA), pad=7)
    assert str(caught.value) == (
        "wanted prompts whose padding can be told from text; "
        "got rows that begin with token 7, which pads and is also BOS or EOS; "
        "pass the prompts' attention_mask to GenericLogitsProcessor, or use ModelPair.generate, which does"
    )


def test_padding_falls_back_to_eos_as_in_generate():
    models = with_ids(tiny.pair(), pad_token_id=None, eos_token_id=7)
    with pytest.raises(InputError, match="begin with token 7, which pads"):
        generate(models[0], tiny.prompts(3, 9), GenericLogitsProcessor(models[1], ALPHA), pad=7)


def test_one_leading_bos_that_is_also_the_padding_is_text():
    models = with_ids(tiny.pair("gpt2"), pad_token_id=tiny.BOS, bos_token_id=tiny.BOS)
    rows = tiny.prompts(8, 8)
    for row in rows:
        row[0] = tiny.BOS
    expected, _ = decoded_plainly(models, rows)
    output = generate(models[0], rows, GenericLogitsProcessor(models[1], ALPHA), pad=tiny.BOS)
    assert new_tokens(output, 8) == expected
    rows[1][0] = 50  # now the first row's BOS may as well be padding
    with pytest.raises(InputError, match="^wanted prompts whose padding can be told from text"):
        generate(models[0], rows, GenericLogitsProcessor(models[1], ALPHA), pad=tiny.BOS)


def test_the_padding_token_may_be_given():
    models, rows = with_ids(tiny.pair(), pad_token_id=None), tiny.prompts(3, 9)
    expected, _ = decoded_plainly(models, rows)
    output = generate(models[0], rows, GenericLogitsProcessor(models[1], ALPHA, pad_token_id=90), pad=90)
    assert new_tokens(output, 9) == expected


def test_a_row_that_ends_early_does_not_disturb_the_others():
    models, rows = tiny.pair("mistral"), tiny.prompts(*LONG)
    expected, _ = decoded_plainly(models, rows)
    end = next(token for token in expected[1][3:] if token not in expected[0] + expected[2])
    with_ids(models, eos_token_id=end)
    output = generate(models[0], rows, GenericLogitsProcessor(models[1], ALPHA))
    stop = expected[1].index(end) + 1
    expected[1][stop:] = [tiny.PAD] * (STEPS - stop)
    assert stop < STEPS and new_tokens(output, 17) == expected


def test_rows_that_do_not_fit_the_mask_are_named():
    processor = GenericLogitsProcessor(tiny.model(), 1.0, attention_mask=torch.ones(2, 5))
    scores = torch.zeros(3, tiny.VOCAB)
    text = (
        "wanted rows that continue the 2 prompts of attention_mask, 5 tokens or longer; got {}; "
        "assign the new prompts' mask to .attention_mask, or None"
    )
    with pytest.raises(InputError) as caught:
        processor(torch.ones(3, 6, dtype=torch.long), scores)
    assert str(caught.value) == text.format("3 rows of 6 tokens")
    with pytest.raises(InputError) as caught:
        processor(torch.ones(4, 4, dtype=torch.long), scores)
    assert str(caught.value) == text.format("4 rows of 4 tokens")


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_alpha_zero_returns_the_scores_and_never_runs_the_model():
    baseline, reinforced = tiny.pair()

    def refuse(*args, **kwargs):
        raise AssertionError("the reinforced model ran")

    reinforced.register_forward_pre_hook(refuse)
    scores = torch.randn(2, tiny.VOCAB)
    processor = GenericLogitsProcessor(reinforced, 0)
    assert processor(torch.ones(2, 3, dtype=torch.long), scores) is scores
    rows = tiny.prompts(4, 9)
    for options in ({}, {"num_beams": 2}):
        output = generate(baseline, rows, processor, **options)
        ids, mask = tiny.padded(rows)
        plain = baseline.generate(
            ids, attention_mask=mask, max_new_tokens=STEPS, do_sample=False, pad_token_id=tiny.PAD, **options
        )
        assert output.sequences.equal(plain)
    with pytest.raises(AssertionError, match="the reinforced model ran"):
        generate(baseline, rows, GenericLogitsProcessor(reinforced, 1e-3))


def test_only_new_tokens_go_through_the_reinforced_model(family):
    baseline, reinforced = tiny.pair(family)
    fed, rows = forwards(reinforced), tiny.prompts(9, 4)
    processor = GenericLogitsProcessor(reinforced, 1.0, space="logprobs")
    generate(baseline, rows, processor)
    assert fed == [9] + [1] * (STEPS - 1)
    fed.clear()
    generate(baseline, rows, processor, num_beams=3)
    assert sum(fed) <= 9 + STEPS - 1
    fed.clear()
    generate(baseline, tiny.prompts(9, 4, seed=5), processor, num_beams=3)
    assert fed == [9] + [1] * (STEPS - 1)


def test_a_prompt_is_not_read_twice():
    baseline, reinforced = tiny.pair()
    fed, rows = forwards(reinforced), tiny.prompts(30)
    processor = GenericLogitsProcessor(reinforced, 1.0)
    output = generate(baseline, rows, processor)
    fed.clear()
    generate(baseline, rows, processor)
    assert fed == [1] * STEPS
    fed.clear()
    generate(baseline, [torch.cat([output.sequences[0], *tiny.prompts(6, seed=2)])], processor)
    assert fed == [7] + [1] * (STEPS - 1)


def test_scores_are_read_and_not_written():
    models, rows = tiny.pair(), tiny.prompts(6)
    scores = tiny.last_logits(models[0], rows)
    kept = scores.clone()
    corrected = GenericLogitsProcessor(models[1], ALPHA)(torch.stack(rows), scores)
    assert scores.equal(kept) and not corrected.equal(kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_dtype_of_the_scores(dtype):
    rows = tiny.prompts(6)
    b, r = (tiny.last_logits(each, rows) for each in tiny.pair(dtype=dtype))
    processor = GenericLogitsProcessor(tiny.pair(dtype=dtype)[1], ALPHA)
    corrected = processor(torch.stack(rows), b.float())
    assert corrected.dtype == torch.float32
    torch.testing.assert_close(corrected, stated(b.float(), r.float(), ALPHA, "logits"), rtol=0, atol=0.2)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do_sample", [False, True])
def test_beam_search_needs_logprobs(do_sample):
    models = tiny.pair()
    with pytest.raises(InputError) as caught:
        generate(models[0], tiny.prompts(9), GenericLogitsProcessor(models[1], ALPHA), num_beams=2, do_sample=do_sample)
    assert str(caught.value) == (
        "wanted raw logits with space='logits'; got log-probabilities, as beam search hands them over; "
        "use space='logprobs' (its alpha has another scale)"
    )


def test_bans_survive_in_either_order():
    models, rows = tiny.pair(), tiny.prompts(9)
    expected, _ = decoded_plainly(models, rows)
    banned = sorted(set(expected[0]))[:5]

    class Ban(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return scores.index_fill(-1, torch.tensor(banned), -torch.inf)

    ours = GenericLogitsProcessor(models[1], ALPHA)
    outputs = [
        generate(models[0], rows, ours, suppress_tokens=banned),
        generate(models[0], rows, lambda ids, scores: Ban()(ids, ours(ids, scores))),
        generate(models[0], rows, lambda ids, scores: ours(ids, Ban()(ids, scores))),
    ]
    for output in outputs:
        assert output.sequences.equal(outputs[0].sequences)
        assert not set(banned) & set(output.sequences[0, 9:].tolist())
        assert not torch.stack(output.scores).isnan().any()


@pytest.mark.parametrize("vocab_size", [tiny.VOCAB, None])
def test_padded_columns_of_a_head_never_win(vocab_size):
    wide = tiny.VOCAB + 11
    baseline, _ = tiny.pair("phi", vocab_size=wide)
    _, reinforced = tiny.pair("phi", vocab_size=wide if vocab_size else tiny.VOCAB)
    for each in (baseline, reinforced):
        each.lm_head.bias.data[tiny.VOCAB :] = 500.0 if each is baseline else -500.0
    rows = tiny.prompts(9, 4)
    processor = GenericLogitsProcessor(reinforced, ALPHA, vocab_size=vocab_size)
    output = generate(baseline, rows, processor)
    for step, scores in enumerate(output.scores):
        grown = [output.sequences[0, : 9 + step], output.sequences[1, 5 : 9 + step]]
        b, r = (tiny.last_logits(each, grown)[:, : tiny.VOCAB] for each in (baseline, reinforced))
        expected = stated(b, r, ALPHA, "logits")
        torch.testing.assert_close(scores[:, : tiny.VOCAB].double(), expected, rtol=1e-4, atol=1e-3)
        assert (scores[:, tiny.VOCAB :] == -torch.inf).all()
    assert output.sequences.max() < tiny.VOCAB


def test_padded_columns_do_not_count_as_probability():
    wide = tiny.VOCAB + 11
    models = tiny.pair("phi", vocab_size=wide)
    for each in models:
        each.lm_head.bias.data[tiny.VOCAB :] = 500.0
    rows = tiny.prompts(9)
    b, r = (tiny.last_logits(each, rows)[:, : tiny.VOCAB] for each in models)
    processor = GenericLogitsProcessor(models[1], ALPHA, space="logprobs", vocab_size=tiny.VOCAB)
    scores = processor(torch.stack(rows), tiny.last_logits(models[0], rows))
    torch.testing.assert_close(scores[:, : tiny.VOCAB].log_softmax(-1), stated(b, r, ALPHA, "logprobs").log_softmax(-1))


def test_a_wider_reinforced_head_is_trimmed():
    baseline, _ = tiny.pair("phi")
    _, reinforced = tiny.pair("phi", vocab_size=tiny.VOCAB + 11)
    rows = tiny.prompts(9)
    b, r = tiny.last_logits(baseline, rows), tiny.last_logits(reinforced, rows)[:, : tiny.VOCAB]
    scores = GenericLogitsProcessor(reinforced, ALPHA)(torch.stack(rows), b)
    torch.testing.assert_close(scores, stated(b, r, ALPHA, "logits"))


def test_nothing_is_left_uninitialised(monkeypatch):
    models, rows = tiny.pair("phi", vocab_size=tiny.VOCAB + 11), tiny.prompts(9)
    scores = tiny.last_logits(models[0], rows)
    processor = GenericLogitsProcessor(models[1], ALPHA, vocab_size=tiny.VOCAB)
    expected = processor(torch.stack(rows), scores)
    make = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: make(*a, **k).fill_(torch.nan))
    torch.testing.assert_close(processor(torch.stack(rows), scores), expected)


def test_an_encoder_decoder_is_refused():
    with pytest.raises(ModelError, match=r"^wanted a decoder-only language model; got an encoder-decoder \(t5\);"):
        GenericLogitsProcessor(tiny.encoder_decoder(), 1.0)


def test_a_model_with_its_state_elsewhere_is_refused_at_the_first_step():
    models = tiny.pair("recurrent_gemma")
    with pytest.raises(ModelError, match="^wanted a model that decodes with a transformers Cache; got RecurrentGemma"):
        generate(models[0], tiny.prompts(9), GenericLogitsProcessor(models[1], ALPHA))


@pytest.mark.parametrize(
    ("alpha", "options", "text"),
    [
        (-1.0, {}, "^wanted a finite alpha >= 0; got -1.0;"),
        (1.0, {"space": "probs"}, "^wanted space to be one of logits, logprobs; got 'probs';"),
        (1.0, {"variant": "abs"}, "^wanted variant to be one of relu, linear; got 'abs';"),
        (1.0, {"threshold": -1.0}, "^wanted a finite threshold >= 0; got -1.0;"),
    ],
)
def test_options_are_checked_before_any_model_runs(alpha, options, text):
    with pytest.raises(InputError, match=text):
        GenericLogitsProcessor(tiny.model(), alpha, **options)


def test_continuous_batching_is_declined():
    assert GenericLogitsProcessor.supports_continuous_batching is False
