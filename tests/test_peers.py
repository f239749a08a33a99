"""The peers of the benchmarks: their losses are the papers', their training does what it says."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from benchmarks import peers
from generic_logits.models.scoring import perplexity, sequence_logits, token_log_probs

BETA, GAMMA = 0.1, 3.0


@pytest.fixture
def baseline():
    return tiny.model(dtype=torch.float32, std=0.1)


def blocks(count: int, seed: int, length: int = 12) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in tiny.prompts(*[length] * count, seed=seed)]


def test_the_log_probabilities_of_a_padded_row_are_those_of_the_row_alone(baseline):
    rows = [blocks(1, 0, length)[0] for length in (12, 7)]
    ids, mask = peers._pad(rows, "cpu")
    of_rows, lengths = peers.row_log_probs(sequence_logits(baseline, ids, mask), ids, mask)
    assert lengths.tolist() == [11, 6]
    alone = torch.stack([row.sum() for row in token_log_probs(baseline, rows)])
    torch.testing.assert_close(of_rows, alone)


def test_npo_is_the_papers_formula_and_its_gradient():
    ours = torch.tensor([-20.0, -31.0], dtype=torch.float64, requires_grad=True)
    reference = [-24.0, -30.0]
    loss = peers.npo_loss(ours, torch.tensor(reference, dtype=torch.float64), BETA)
    ratios = [math.exp(BETA * (a - b)) for a, b in zip(ours.tolist(), reference, strict=True)]  # (p / p_ref) ** beta
    assert loss.item() == pytest.approx(sum(2 / BETA * math.log(1 + ratio) for ratio in ratios) / 2)
    loss.backward()
    weights = [2 * ratio / (ratio + 1) for ratio in ratios]  # the paper's adaptive weight of the ascent's gradient
    assert ours.grad.tolist() == pytest.approx([weight / 2 for weight in weights])


def test_npo_starts_as_gradient_ascent():
    ours = torch.tensor([-20.0, -31.0], requires_grad=True)
    peers.npo_loss(ours, ours.detach(), BETA).backward()
    assert ours.grad.tolist() == pytest.approx([0.5, 0.5])


def test_simnpo_is_the_papers_formula():
    log_probs, lengths = [-20.0, -31.0], [5, 10]
    loss = peers.simnpo_loss(torch.tensor(log_probs), torch.tensor(lengths), BETA, GAMMA)
    arguments = [-BETA / length * value - GAMMA for value, length in zip(log_probs, lengths, strict=True)]
    assert loss.item() == pytest.approx(sum(2 / BETA * math.log(1 + math.exp(-each)) for each in arguments) / 2)


def test_the_distance_is_the_mean_kl_of_the_positions_that_predict_a_token():
    teacher, student = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    p, q = teacher.softmax(-1), student.softmax(-1)
    values = [
        sum(p[at][k].item() * math.log(p[at][k].item() / q[at][k].item()) for k in range(5))
        for at in ((0, 0), (0, 1), (1, 0))
    ]
    assert peers.distance(student, teacher, mask).item() == pytest.approx(sum(values) / 3, rel=1e-5)


def test_gradient_ascent_stops_below_its_limit_and_keeps_what_it_reached(baseline, capsys):
    forget, retained = blocks(16, 0), blocks(16, 1)
    ascended = peers.gradient_ascent(
        baseline, forget, retained, learning_rate=3e-3, epochs=30, stop=1.05, check_every=1, sample=16
    )
    assert "stopped before step" in capsys.readouterr().err
    assert perplexity(ascended, forget) > perplexity(baseline, forget)
    assert perplexity(ascended, retained) <= 1.05 * perplexity(baseline, retained)


def test_gradient_ascent_that_goes_too_far_at_once_gives_the_baseline_back(baseline):
    ascended = peers.gradient_ascent(baseline, blocks(16, 0), blocks(16, 1), learning_rate=1.0, check_every=1)
    for name, tensor in ascended.state_dict().items():
        assert torch.equal(tensor, baseline.state_dict()[name])


@pytest.mark.parametrize(
    "train",
    [
        lambda *args, **options: peers.npo(*args, retain="nll", **options),
        lambda *args, **options: peers.npo(*args, retain="kl", **options),
        lambda *args, **options: peers.simnpo(*args, retain="kl", **options),
    ],
    ids=["npo, next tokens", "npo, kl", "simnpo, kl"],
)
def test_preference_optimisation_forgets_and_its_retained_term_retains(baseline, train):
    forget, retained = blocks(8, 0), blocks(8, 1)
    before = baseline.state_dict()["lm_head.weight"].clone()
    alone, held = (
        train(baseline, forget, retained, learning_rate=1e-2, epochs=20, retain_weight=weight) for weight in (0, 30)
    )
    assert torch.equal(before, baseline.state_dict()["lm_head.weight"])
    assert perplexity(held, forget) > perplexity(baseline, forget)
    assert perplexity(held, retained) < perplexity(alone, retained)


def test_refusal_tuning_teaches_the_refusal_alone_and_leaves_the_rest(baseline):
    beginnings, refusal = [row[: 5 + at] for at, row in enumerate(blocks(6, 0))], blocks(1, 3, 4)[0]
    retained = blocks(8, 1)
    taught = peers.refusal_tuning(baseline, beginnings, refusal, retained, learning_rate=1e-2, epochs=60)
    of_refusal = [
        float(row[-len(refusal) :].mean()) for row in token_log_probs(taught, [(*b, *refusal) for b in beginnings])
    ]
    assert min(of_refusal) > -0.1
    ids, mask = peers._pad(retained, "cpu")
    moved = peers.distance(sequence_logits(taught, ids, mask), sequence_logits(baseline, ids, mask), mask)
    free = peers.refusal_tuning(
        baseline, beginnings, refusal, retained, learning_rate=1e-2, epochs=60, retain_weight=0.0
    )
    assert moved < 0.2 * peers.distance(sequence_logits(free, ids, mask), sequence_logits(baseline, ids, mask), mask)


def test_the_same_seed_trains_the_same_model_and_another_one_another(baseline):
    first, again, other = (
        peers.npo(baseline, blocks(9, 0), blocks(9, 1), epochs=1, seed=seed).state_dict()["lm_head.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_divergence_decoding_adds_what_the_helpers_differ_by():
    baseline, helpers = helped()
    ids, mask = peers._pad([blocks(1, 0, 9)[0], blocks(1, 1, 6)[0]], "cpu")
    logits = [sequence_logits(model, ids, mask) for model in (baseline, helpers.retain, helpers.forget)]
    corrected = sequence_logits(peers.DivergenceDecoding(baseline, helpers, 1.5), ids, mask)
    torch.testing.assert_close(corrected, logits[0] + 1.5 * (logits[1] - logits[2]))


def test_divergence_decoding_generates_what_its_logits_say():
    baseline, helpers = helped()
    rows = tiny.prompts(5, 8, 3)
    ids, mask = tiny.padded(rows)
    output = {}
    for alpha in (0.0, 1.5):
        decoding = peers.DivergenceDecoding(baseline, helpers, alpha)
        output[alpha] = decoding.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        for row, found in zip(rows, output[alpha], strict=True):
            for _ in range(6):
                row = torch.cat([row, sequence_logits(decoding, row[None])[:, -1].argmax(-1)])
            assert row.tolist() == found[-len(row) :].tolist()
    assert not torch.equal(output[0.0], output[1.5])


def test_distilled_divergence_comes_nearer_to_the_corrected_logits(baseline):
    forget, retained = blocks(8, 0), blocks(8, 1)
    helpers = peers.train_helpers(baseline, forget, retained, hidden=32, layers=1, trunk_steps=5, epochs=10)
    decoding = peers.DivergenceDecoding(baseline, helpers, 2.0)
    student = peers.distil_divergence(decoding, forget, retained, learning_rate=1e-2, epochs=10)
    ids, mask = peers._pad(forget, "cpu")
    teacher = sequence_logits(decoding, ids, mask)
    before, after = (peers.distance(sequence_logits(model, ids, mask), teacher, mask) for model in (baseline, student))
    assert after < 0.7 * before


def test_the_forget_helper_knows_the_text_that_the_other_does_not(baseline):
    forget, retained = blocks(8, 0), blocks(8, 1)
    helpers = peers.train_helpers(baseline, forget, retained, hidden=32, layers=1, trunk_steps=5, epochs=10)
    assert perplexity(helpers.forget, forget) < 0.8 * perplexity(helpers.retain, forget)


def helped():
    kept = [tiny.model(seed=seed) for seed in (0, 1, 2)]
    return kept[0], peers.Helpers(kept[1], kept[2])
