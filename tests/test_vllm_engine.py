"""Both branches in a real vLLM engine, token for token what transformers says to the same pair."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engines
import folders
import pytest
import torch
from engines import ALPHA, ask, engine, expected, log_probs, params, prompts, tokens

from generic_logits import ModelPair

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # vLLM and what it imports warn in many places
    pytest.mark.timeout(600),
]
FORMS = ["full", "lora"]
LENGTHS = (3, 17, 40, 90)


@pytest.fixture(scope="module")
def of_family(tmp_path_factory):
    """Folders of a family's pair, made once."""
    made: dict[str, dict[str, Path]] = {}

    def get(family: str) -> dict[str, Path]:
        if family not in made:
            made[family] = engines.pair_folders(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="module")
def llama(of_family) -> dict[str, Path]:
    return of_family("llama")


def load(paths: dict[str, Path], form: str, alpha: float = ALPHA, **options: Any) -> ModelPair:
    return ModelPair.from_pretrained(paths["baseline"], paths[form], alpha=alpha, **options)


@pytest.fixture(scope="module", params=FORMS)
def served(request, llama) -> Iterator[tuple[Any, ModelPair]]:
    """One engine for many tests, its prefill cut into chunks, its prefixes cached; and the pair in transformers."""
    options = {"max_num_batched_tokens": 48, "enable_chunked_prefill": True, "enable_prefix_caching": True}
    with engine(llama["baseline"], llama[request.param], **options) as llm:
        yield llm, load(llama, request.param)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_greedy_equals_transformers_and_differs_from_both_models(served):
    llm, pair = served
    rows = prompts(*LENGTHS)
    answers = tokens(ask(llm, rows, params()))
    assert answers == [expected(pair, row) for row in rows]
    assert answers != [expected(pair.with_alpha(0), row) for row in rows]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0, 8.0])
def test_a_request_has_its_own_alpha(served, alpha):
    llm, pair = served
    rows = prompts(*LENGTHS)
    assert tokens(ask(llm, rows, params(alpha))) == [expected(pair.with_alpha(alpha), row) for row in rows]


def test_requests_of_one_batch_keep_their_own_alpha(served):
    llm, pair = served
    rows, alphas = prompts(5, 5, 33, 70, 5, 12), [0.0, 8.0, None, 0.7, 8.0, 0.0]
    rows[1] = rows[0]  # the same prompt beside itself, at alpha 0 and at alpha 8
    answers = tokens(ask(llm, rows, [params(alpha) for alpha in alphas]))
    assert answers == [
        expected(pair.with_alpha(ALPHA if alpha is None else alpha), row)
        for row, alpha in zip(rows, alphas, strict=True)
    ]
    assert answers[0] != answers[1]


def test_a_cached_prefix_serves_every_alpha(served):
    llm, pair = served
    shared, *tails = prompts(64, 6, 7, 8, seed=5)
    for tail, alpha in zip(tails, (0.0, 5.0, 1.0), strict=True):
        row = torch.cat([shared, tail])
        (answer,) = ask(llm, [row], params(alpha))
        assert tokens([answer]) == [expected(pair.with_alpha(alpha), row)]
        assert (answer.num_cached_tokens >= 32) == (alpha != 0.0)  # the first of them filled the cache


def test_log_probabilities_are_those_of_the_corrected_model(served):
    llm, pair = served
    rows, alphas = prompts(9, 60, 25), [None, 0.0, 4.0]
    asked = [params(alpha, logprobs=4, prompt_logprobs=3) for alpha in alphas]
    for row, alpha, answer in zip(rows, alphas, ask(llm, rows, asked), strict=True):
        written = tokens([answer])[0]
        truth = log_probs(pair.with_alpha(ALPHA if alpha is None else alpha), row, written)
        assert answer.prompt_logprobs[0] is None
        for position, given in enumerate(answer.prompt_logprobs[1:]):
            assert set(truth[position].topk(3).indices.tolist()) <= set(given) and int(row[position + 1]) in given
            for token, entry in given.items():
                assert entry.logprob == pytest.approx(truth[position, token].item(), abs=1e-4)
        for step, given in enumerate(answer.outputs[0].logprobs):
            for token, entry in given.items():
                assert entry.logprob == pytest.approx(truth[len(row) - 1 + step, token].item(), abs=1e-4)


def test_sampling_follows_the_corrected_probabilities(served):
    llm, pair = served
    (row,) = prompts(20)
    asked = params(8.0, tokens=1, temperature=1.0, n=2000)
    (answer,) = ask(llm, [row], asked)
    counts = torch.bincount(torch.tensor([each.token_ids[0] for each in answer.outputs]), minlength=300).double()
    wanted = log_probs(pair.with_alpha(8.0), row, [])[-1].double().exp()
    baseline = log_probs(pair.with_alpha(0.0), row, [])[-1].double().exp()
    distance = [(counts / counts.sum() - each).abs().sum().item() / 2 for each in (wanted, baseline)]
    assert distance[0] < 0.15 and distance[1] > 2 * distance[0]


def text_row(pair: ModelPair, text: str) -> torch.Tensor:
    return torch.tensor([engines.tiny.BOS, *pair.tokenizer(text)["input_ids"]])


def test_a_stop_string_ends_the_text_at_the_token_that_completes_it(served):
    llm, pair = served
    row = text_row(pair, "the old house by the sea")
    written = expected(pair, row, 40)
    pieces = [pair.tokenizer.decode([token]) for token in written]
    at = next(k for k in range(4, 40) if pieces[k].isascii() and pieces[k] not in "".join(pieces[:k]))
    (answer,) = ask(llm, [row], params(tokens=40, stop=[pieces[at]]))
    assert tokens([answer]) == [written[: at + 1]] and answer.outputs[0].stop_reason == pieces[at]


def test_structured_output_keeps_its_grammar_and_follows_the_corrected_scores(served):
    from vllm.sampling_params import StructuredOutputsParams

    llm, pair = served
    choices, alphas = ["the old house", "a red door", "winter"], (0.0, 8.0)
    grammar = StructuredOutputsParams(choice=choices)
    pieces = {token: pair.tokenizer.decode([token]) for token in range(3, 300)}
    allowed = [token for token, piece in pieces.items() if any(choice.startswith(piece) for choice in choices)]
    asked = [params(alpha, 40, structured_outputs=grammar, ignore_eos=False) for alpha in alphas]
    differ = False
    for line in folders.prose(24).split("."):
        row = text_row(pair, line)
        answers = ask(llm, [row] * 2, asked)
        firsts = []
        for alpha, answer in zip(alphas, answers, strict=True):
            assert answer.outputs[0].text in choices
            scores = log_probs(pair.with_alpha(alpha), row, [])[-1]
            firsts.append(answer.outputs[0].token_ids[0])
            assert firsts[-1] == max(allowed, key=lambda token: scores[token].item())
        differ |= firsts[0] != firsts[1]
    assert differ


def test_requests_that_arrive_while_others_run_are_exact(served):
    llm, pair = served
    rows, alphas = prompts(30, 4, 50, 11, 25, seed=8), [2.0, 0.0, 6.0, 1.0, 3.0]
    arrivals = dict(enumerate(zip(rows, alphas, strict=True)))
    answers: dict[str, list[int]] = {}
    core, step = llm.llm_engine, 0
    while arrivals or core.has_unfinished_requests():
        if step % 3 == 0 and arrivals:
            number = min(arrivals)
            row, alpha = arrivals.pop(number)
            core.add_request(str(number), {"prompt_token_ids": row.tolist()}, params(alpha))
        answers |= {done.request_id: list(done.outputs[0].token_ids) for done in core.step() if done.finished}
        step += 1
    assert [answers[str(number)] for number in range(5)] == [
        expected(pair.with_alpha(alpha), row) for row, alpha in zip(rows, alphas, strict=True)
    ]


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), 1e39, "much", True, [2.0]], ids=str)
def test_a_bad_alpha_is_refused_and_the_engine_goes_on(served, bad):
    from vllm.exceptions import VLLMValidationError

    llm, pair = served
    (row,) = prompts(6)
    with pytest.raises(VLLMValidationError, match="wanted a .*; got .*; 0 is the baseline, 1 to 5 is usual"):
        ask(llm, [row], params(bad))
    assert tokens(ask(llm, [row], params())) == [expected(pair, row)]


# --- alpha 0 is the baseline ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_alpha_zero_is_the_baseline_engine(llama, form, dtype):
    rows = prompts(*LENGTHS)
    asked = {"logprobs": 5, "prompt_logprobs": 2, "tokens": 20}

    def everything(answers: list[Any]) -> list[Any]:
        return [[each.outputs[0].token_ids, each.outputs[0].logprobs, each.prompt_logprobs] for each in answers]

    with engine(llama["baseline"], None, dtype=dtype) as llm:
        plain = everything(ask(llm, rows, params(**asked)))
    with engine(llama["baseline"], llama[form], alpha=5.0, dtype=dtype) as llm:
        beside = ask(llm, [row for row in rows for _ in range(2)], [params(alpha, **asked) for alpha in (0, 8)] * 4)
        ours = everything(beside[::2])
        named, by_default = (everything(ask(llm, rows, params(alpha, **asked))) for alpha in (5.0, None))
    assert [each[0] for each in ours] == [each[0] for each in plain]
    for mine, theirs in zip(ours, plain, strict=True):
        for a, b in zip([*mine[1], *mine[2][1:]], [*theirs[1], *theirs[2][1:]], strict=True):
            shared = a.keys() & b.keys()
            assert len(shared) >= 2
            tolerance = 1e-5 if dtype == "float32" else 0.1  # a row's rounding depends on its neighbours
            assert all(abs(a[key].logprob - b[key].logprob) < tolerance for key in shared)
    assert named == by_default  # alpha travels without loss, beside 16-bit states too


# --- architectures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", [name for name in engines.SHAPES if name != "llama"])
def test_architectures_equal_transformers(of_family, family, form, capfd):
    paths = of_family(family)
    pair, rows = load(paths, form), prompts(5, 40)
    apart = family in engines.THROUGH_TRANSFORMERS
    if apart and form == "lora":
        with pytest.raises(RuntimeError, match="Engine core initialization failed"):
            with engine(paths["baseline"], paths[form], apart=True):
                pass
        assert "wanted an architecture that vLLM has a model of its own for" in "".join(capfd.readouterr())
        return
    with engine(paths["baseline"], paths[form], apart=apart) as llm:
        answers = ask(llm, rows, [params(logprobs=2), params(0.5, logprobs=2)])
    for row, alpha, answer in zip(rows, (ALPHA, 0.5), answers, strict=True):
        written = tokens([answer])[0]
        assert written == expected(pair.with_alpha(alpha), row)
        truth = log_probs(pair.with_alpha(alpha), row, written)
        for step, given in enumerate(answer.outputs[0].logprobs):
            for token, entry in given.items():
                assert entry.logprob == pytest.approx(truth[len(row) - 1 + step, token].item(), abs=1e-3)


def test_heads_of_two_widths_and_other_spaces_are_served(tmp_path):
    paths = engines.pair_folders(tmp_path)
    wide = engines.model(seed=1, vocab_size=320)
    engines.tiny.folder(tmp_path / "wide", wide, engines.tiny.tokenizer(300))
    pair = ModelPair.from_pretrained(paths["baseline"], tmp_path / "wide", alpha=0.5, space="logprobs", threshold=0.1)
    pair_rows = prompts(5, 40)
    with engine(paths["baseline"], tmp_path / "wide", 0.5, space="logprobs", threshold=0.1) as llm:
        assert tokens(ask(llm, pair_rows, params())) == [expected(pair, row) for row in pair_rows]


# --- adapters ---------------------------------------------------------------------------------------------------------

ADAPTERS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"use_rslora": True, "r": 8},
    "queries and down alone": {"target_modules": ["q_proj", "down_proj"]},
    "values and gate alone": {"target_modules": ["v_proj", "gate_proj"]},
    "ranks and scales by layer": {
        "rank_pattern": {"k_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"o_proj": 3, "layers.0.self_attn.q_proj": 20},
    },
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "embeddings and a head of its own": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_plain_adapter_is_served(tmp_path, name):
    base = engines.model()
    engines.tiny.folder(tmp_path / "baseline", base, engines.tiny.tokenizer(300))
    engines.adapter(tmp_path / "lora", base, **ADAPTERS[name])
    pair, rows = ModelPair.from_pretrained(tmp_path / "baseline", tmp_path / "lora", alpha=ALPHA), prompts(5, 40)
    with engine(tmp_path / "baseline", tmp_path / "lora") as llm:
        answers = tokens(ask(llm, rows, params()))
    assert answers == [expected(pair, row) for row in rows]
    assert answers != [expected(pair.with_alpha(0), row) for row in rows]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "got DoRA in "),
    "another base": ({"init_lora_weights": "pissa"}, "got the initialisation 'pissa', which changes the base, in "),
    "invocation": ({"alora_invocation_tokens": [5, 6]}, "got invocation tokens in "),
    "biases": ({"bias": "lora_only"}, "got trained biases in "),
    "the head": ({"target_modules": ["q_proj", "lm_head"]}, "got lm_head on ParallelLMHead in "),
    "embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding_"),
    "norms": ({"modules_to_save": ["norm"]}, "got whole weights of model."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_adapters_are_refused_by_name(tmp_path, name):
    options, got = REFUSED[name]
    base = engines.model()
    engines.tiny.folder(tmp_path / "baseline", base, engines.tiny.tokenizer(300))
    engines.adapter(tmp_path / "lora", base, **options)
    with pytest.raises(Exception, match="wanted a plain LoRA adapter on linear layers") as caught:
        with engine(tmp_path / "baseline", tmp_path / "lora"):
            pass
    assert got in str(caught.value) and "merge the adapter into full weights and serve two copies" in str(caught.value)


# --- the engine's own ways --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_two_hundred_requests_through_a_small_cache_leave_no_trace_in_each_other(llama, form):
    draw = random.Random(4)
    lengths = [draw.randint(1, 60) for _ in range(200)]
    rows = prompts(*lengths, seed=6)
    asked = [params(draw.choice([None, 0.0, 0.5, 2.0, 8.0]), tokens=draw.randint(1, 30)) for _ in rows]
    arrival = sorted((draw.randint(0, 120), number) for number in range(200))
    cached = sum(length + each.max_tokens for length, each in zip(lengths, asked, strict=True))
    options = {"num_gpu_blocks_override": cached // 32 // 10, "max_num_seqs": 64, "max_num_batched_tokens": 128}
    with engine(llama["baseline"], llama[form], **options, enable_prefix_caching=True) as llm:
        core, step, preempted = llm.llm_engine, 0, 0
        answers: dict[int, list[int]] = {}
        scheduler = core.engine_core.engine_core.scheduler
        while len(answers) < 200:
            while arrival and arrival[0][0] <= step:
                _, number = arrival.pop(0)
                core.add_request(str(number), {"prompt_token_ids": rows[number].tolist()}, asked[number])
            for done in core.step():
                if done.finished:
                    answers[int(done.request_id)] = list(done.outputs[0].token_ids)
            preempted = max(preempted, sum(each.num_preemptions for each in scheduler.requests.values()))
            step += 1
        assert preempted > 0
        llm.reset_prefix_cache()
        alone = [tokens(ask(llm, [row], each))[0] for row, each in zip(rows, asked, strict=True)]
    assert [answers[number] for number in range(200)] == alone
    pair = load(llama, form)
    for number in range(0, 200, 10):
        alpha = (asked[number].extra_args or {}).get("generic_alpha", ALPHA)
        assert alone[number] == expected(pair.with_alpha(alpha), rows[number], asked[number].max_tokens)


@pytest.mark.parametrize("form", FORMS)
def test_ngram_drafts_change_nothing(llama, form):
    pair = load(llama, form)
    rows = [torch.cat([row, row, row]) for row in prompts(12, 7)]  # so that there is something to draft from
    speculation = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    with engine(llama["baseline"], llama[form], speculative_config=speculation, apart=True) as llm:
        assert tokens(ask(llm, rows, params(tokens=40))) == [expected(pair, row, 40) for row in rows]


@pytest.mark.parametrize("form", FORMS)
def test_two_ranks_say_what_one_says(tmp_path, form):
    paths = engines.pair_folders(tmp_path, num_key_value_heads=2)
    pair, rows, alphas = load(paths, form), prompts(5, 40, 21), (ALPHA, 0.0, 6.0)
    with engine(paths["baseline"], paths[form], tensor_parallel_size=2) as llm:
        answers = ask(llm, rows, [params(alpha, prompt_logprobs=1) for alpha in alphas])
    for row, alpha, answer in zip(rows, alphas, answers, strict=True):
        assert tokens([answer]) == [expected(pair.with_alpha(alpha), row)]
        truth = log_probs(pair.with_alpha(alpha), row, [])
        for position, given in enumerate(answer.prompt_logprobs[1:]):
            token = int(row[position + 1])
            assert given[token].logprob == pytest.approx(truth[position, token].item(), abs=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_compiled_equals_eager(llama, form, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    pair, rows, asked = load(llama, form), prompts(*LENGTHS), [params(a) for a in (None, 0.0, 6.0, 1.0)]
    wanted = [expected(pair.with_alpha(a), row) for a, row in zip((ALPHA, 0.0, 6.0, 1.0), rows, strict=True)]
    for _ in range(2):  # the second start takes the graphs of the first from the disk
        with engine(llama["baseline"], llama[form], enforce_eager=False, max_num_batched_tokens=128) as llm:
            assert tokens(ask(llm, rows, asked)) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline_parallel_size": 2}, "wanted no pipeline parallelism; got pipeline_parallel_size=2; use tensor_par"),
        (
            {"speculative_config": {"method": "draft_model", "num_speculative_tokens": 2}},
            "wanted speculative decoding by ngram or ngram_gpu or suffix; got draft_model, which drafts",
        ),
        ({"enable_prompt_embeds": True}, "wanted prompts of tokens; got enable_prompt_embeds; leave it out"),
        ({"enable_lora": True}, "wanted an engine without LoRA requests; got enable_lora; merge"),
        ({"hf_overrides": {"generic_logits": None}, "raw": True}, "wanted hf_overrides"),
        ({"hf_overrides": {"generic_logits": {"reinforced": "x", "alpha": -1}}, "raw": True}, "wanted a finite alpha"),
    ],
    ids=["pipeline", "draft model", "prompt embeddings", "lora", "no settings", "bad settings"],
)
def test_what_cannot_be_right_is_refused_at_start(llama, options, message):
    from vllm import LLM

    options = copy.deepcopy(options)
    if "speculative_config" in options:
        options["speculative_config"]["model"] = str(llama["baseline"])
    arguments: dict[str, Any] = {"model": str(llama["baseline"]), "enforce_eager": True, "max_model_len": 64}
    if options.pop("raw", False):
        options["hf_overrides"]["architectures"] = ["GenericLogitsForCausalLM"]
        arguments |= options
    else:
        arguments = engines.engine_args(llama["baseline"], llama["lora"], alpha=1.0, max_model_len=64, **options)
    with pytest.raises(Exception, match=message):
        LLM(**arguments)


def test_a_drafter_that_reads_hidden_states_is_refused(llama):
    from types import SimpleNamespace

    from generic_logits.vllm.settings import StartCheck

    correction = {"reinforced": str(llama["lora"]), "alpha": 1.0}
    config = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=SimpleNamespace(generic_logits=correction)),
        speculative_config=SimpleNamespace(method="eagle3"),
        parallel_config=SimpleNamespace(pipeline_parallel_size=1, use_ubatching=False),
        lora_config=None,
    )
    with pytest.raises(ValueError, match="wanted speculative decoding by ngram .*; got eagle3, which drafts from"):
        StartCheck.verify_and_update_config(config)


def test_another_base_and_another_tokenizer_are_refused_at_start(llama, tmp_path):
    paths = engines.pair_folders(tmp_path / "other", hidden_size=96, num_attention_heads=3)
    engines.tiny.folder(tmp_path / "words", engines.model(vocab_size=310), engines.tiny.tokenizer(310))
    with pytest.raises(Exception, match="wanted one tokenizer for both models"):
        with engine(llama["baseline"], tmp_path / "words"):
            pass
    record = {"baseline": {"weights_fingerprint": "0" * 64}}
    (paths["lora"] / "generic_logits.json").write_text(json.dumps(record))
    with pytest.raises(Exception, match="it was trained on other weights; give the baseline that"):
        with engine(llama["baseline"], paths["lora"]):
            pass
