"""``ModelPair``: what it loads, what it shares, what it refuses, and that both models act as they would alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor

from generic_logits import GenericLogitsProcessor, ModelPair
from generic_logits._record import weights_fingerprint
from generic_logits.errors import InputError, ModelError
from generic_logits.models.loading import is_adapter, load_adapter, load_model, load_tokenizer, share_weights

ALPHA = 3.0
VOCAB = 300  # tokens of the tokenizer
STEPS = 12


def save_adapter(base: Any, path: Path, **options: Any) -> Any:
    """Train nothing, but give a LoRA adapter random weights, save it, and return PEFT's own model."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "up_proj"], **options})
    adapted = peft.get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(path, save_embedding_layers="embed_tokens" in config.target_modules)
    return adapted


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Model folders that every test reads and none changes."""
    root = tmp_path_factory.mktemp("pairs")
    torch.manual_seed(0)
    words = tiny.tokenizer(VOCAB)
    baseline, reinforced = tiny.pair(dtype=torch.float32, vocab_size=VOCAB)
    tiny.folder(root / "baseline", baseline, words)
    tiny.folder(root / "reinforced", reinforced, words)
    base = AutoModelForCausalLM.from_pretrained(root / "baseline")
    save_adapter(base, root / "adapter")
    return root


@pytest.fixture
def pair(folders) -> ModelPair:
    return ModelPair.from_pretrained(folders / "baseline", folders / "reinforced", alpha=ALPHA)


def prompts(*lengths: int, seed: int = 0) -> list[Tensor]:
    return tiny.prompts(*lengths, seed=seed, vocab=VOCAB)


def decoded_plainly(
    baseline: Any, reinforced: Any, rows: list[Tensor], alpha: float = ALPHA, variant: str = "relu"
) -> list[list[int]]:
    """Greedy corrected decoding of each row alone, without any cache."""
    lowest = 0.0 if variant == "relu" else -torch.inf
    answers = []
    for row in rows:
        grown = row
        for _ in range(STEPS):
            b, r = (tiny.last_logits(each, [grown])[:, :VOCAB].double() for each in (baseline, reinforced))
            grown = torch.cat([grown, (b - alpha * (r - b).clamp(min=lowest)).argmax(-1)])
        answers.append(grown[len(row) :].tolist())
    return answers


def answers(pair: ModelPair, rows: list[Tensor], pad: int = tiny.PAD, **options: Any) -> list[list[int]]:
    ids, mask = tiny.padded(rows, pad)
    settings = {"attention_mask": mask, "max_new_tokens": STEPS, "do_sample": False, "pad_token_id": pad}
    return pair.generate(ids, **{**settings, **options})[:, ids.shape[1] :].tolist()


# --- two copies -------------------------------------------------------------------------------------------------------


def test_two_folders_decode_as_the_plain_loop(folders, pair):
    alone = [AutoModelForCausalLM.from_pretrained(folders / name) for name in ("baseline", "reinforced")]
    rows = prompts(5, 9, 7)
    expected = decoded_plainly(*alone, rows)
    assert answers(pair, rows) == expected
    assert expected != decoded_plainly(*alone, rows, 0.0)
    assert not pair.shares_weights
    assert pair.vocab_size == VOCAB == len(pair.tokenizer)
    assert not pair.baseline.training and not pair.reinforced.training


def test_the_tokenizer_comes_with_the_baseline(pair):
    text = "the house by the sea"
    assert pair.tokenizer.decode(pair.tokenizer(text).input_ids) == text


def test_with_alpha_keeps_the_models(pair):
    rows = prompts(5, 9)
    off = pair.with_alpha(0)
    assert off.baseline is pair.baseline and off.reinforced is pair.reinforced
    assert (off.alpha, pair.alpha) == (0.0, ALPHA)
    assert answers(off, rows) == decoded_plainly(pair.baseline, pair.reinforced, rows, 0.0)
    assert answers(off.with_alpha(ALPHA), rows) == answers(pair, rows)
    with pytest.raises(InputError, match="^wanted a finite alpha >= 0; got -1;"):
        pair.with_alpha(-1)


def test_options_reach_the_processor(folders):
    paths = folders / "baseline", folders / "reinforced"
    pair = ModelPair.from_pretrained(*paths, alpha=2.0, space="logprobs", threshold=0.5)
    mask = torch.ones(1, 3)
    processor = pair.logits_processor(attention_mask=mask)
    assert isinstance(processor, GenericLogitsProcessor)
    assert (processor.alpha, processor.space, processor.threshold, processor.variant) == (2.0, "logprobs", 0.5, "relu")
    assert processor.attention_mask is mask and processor.vocab_size == VOCAB
    linear = ModelPair.from_pretrained(*paths, alpha=2.0, variant="linear").logits_processor()
    assert linear.variant == "linear" and linear.attention_mask is None
    output = answers(pair, prompts(5, 9), num_beams=2, num_return_sequences=2)
    assert len(output) == 4


def test_bfloat16_folders_stay_bfloat16(folders, tmp_path):
    paths = [folders / "baseline", folders / "reinforced"]
    asked = ModelPair.from_pretrained(*paths, alpha=ALPHA, dtype=torch.bfloat16)
    for model, name in ((asked.baseline, "baseline"), (asked.reinforced, "reinforced")):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        tiny.folder(tmp_path / name, model, asked.tokenizer)
    found = ModelPair.from_pretrained(tmp_path / "baseline", tmp_path / "reinforced", alpha=ALPHA)
    assert found.baseline.dtype == found.reinforced.dtype == torch.bfloat16
    ids = torch.stack(prompts(9, 9))
    b, r = (each(input_ids=ids, use_cache=False).logits for each in (found.baseline, found.reinforced))
    v = found.logits(ids)
    assert v.dtype == torch.bfloat16
    assert v.equal((b.double() - ALPHA * (r.double() - b.double()).clamp(min=0)).bfloat16())
    assert len(answers(found, prompts(5, 9))) == 2


# --- logits of whole sequences ----------------------------------------------------------------------------------------


def test_logits_correct_every_position(pair):
    ids = torch.stack(prompts(11, 11))
    b, r = (each(input_ids=ids, use_cache=False).logits for each in (pair.baseline, pair.reinforced))
    torch.testing.assert_close(pair.logits(ids), b - ALPHA * (r - b).clamp(min=0))
    assert not pair.logits(ids).requires_grad


def test_options_reach_the_logits(pair):
    ids = torch.stack(prompts(11, 11))
    b, r = (each(input_ids=ids, use_cache=False).logits for each in (pair.baseline, pair.reinforced))

    def corrected(**options: Any) -> Tensor:
        return ModelPair(pair.baseline, pair.reinforced, alpha=ALPHA, **options).logits(ids)

    torch.testing.assert_close(corrected(variant="linear"), b - ALPHA * (r - b))
    torch.testing.assert_close(corrected(threshold=0.5), b - ALPHA * (r - b - 0.5).clamp(min=0))
    rise = (r.log_softmax(-1) - b.log_softmax(-1)).clamp(min=0)
    torch.testing.assert_close(corrected(space="logprobs"), b - ALPHA * rise, rtol=1e-4, atol=1e-4)


def test_logits_at_alpha_zero_are_the_baseline_bit_for_bit(pair):
    ids = torch.stack(prompts(11, 11))
    expected = pair.baseline(input_ids=ids, use_cache=False).logits

    def refuse(*args, **kwargs):
        raise AssertionError("the reinforced model ran")

    pair.reinforced.register_forward_pre_hook(refuse)
    assert pair.with_alpha(0).logits(ids).equal(expected)
    with pytest.raises(AssertionError, match="the reinforced model ran"):
        pair.logits(ids)


def test_logits_follow_the_attention_mask(pair):
    long, short = prompts(9, 6)
    ids, mask = tiny.padded([long, short])
    v = pair.logits(ids, mask)
    torch.testing.assert_close(v[1, 3:], pair.logits(short[None])[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(v[1, 3:], pair.logits(ids)[1, 3:], atol=1e-2)


# --- padding ----------------------------------------------------------------------------------------------------------


def test_generate_hands_the_mask_on_where_eos_is_the_padding(folders, tmp_path):
    words = tiny.tokenizer(VOCAB, pad="</s>")
    assert words.pad_token_id == words.eos_token_id
    for name in ("baseline", "reinforced"):
        tiny.folder(tmp_path / name, AutoModelForCausalLM.from_pretrained(folders / name), words)
    pair = ModelPair.from_pretrained(tmp_path / "baseline", tmp_path / "reinforced", alpha=ALPHA)
    for each in (pair.baseline, pair.reinforced):
        each.generation_config.eos_token_id = tiny.EOS
    rows = prompts(4, 9, 6)
    expected = decoded_plainly(pair.baseline, pair.reinforced, rows)
    assert not any(tiny.EOS in answer for answer in expected)
    assert answers(pair, rows, pad=tiny.EOS) == expected
    assert answers(pair, rows[1:], pad=tiny.EOS) == expected[1:]


def test_a_mask_is_not_needed_where_the_padding_is_no_text(pair):
    rows = prompts(4, 9)
    assert answers(pair, rows, attention_mask=None) == decoded_plainly(pair.baseline, pair.reinforced, rows)


def test_your_own_processor_runs_behind_the_correction(pair):
    rows, seen = prompts(6), []

    class Watch(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            seen.append(scores.clone())
            return scores

    answers(pair, rows, logits_processor=[Watch()])
    torch.testing.assert_close(seen[0], pair.logits(rows[0][None])[:, -1])
    assert len(seen) == STEPS


@pytest.mark.parametrize("cache", ["paged", "static"])
@pytest.mark.parametrize("where", ["option", "config", "model"])
def test_generate_refuses_a_cache_of_one_branch(pair, where, cache):
    config = copy.deepcopy(pair.baseline.generation_config)
    config.cache_implementation = cache
    options = {"option": {"cache_implementation": cache}, "config": {"generation_config": config}, "model": {}}[where]
    if where == "model":
        pair.baseline.generation_config.cache_implementation = cache
    with pytest.raises(InputError) as caught:
        pair.generate(torch.ones(1, 3, dtype=torch.long), **options)
    assert str(caught.value) == (
        f"wanted a dynamic cache, which both branches can share; got cache_implementation={cache!r}; "
        "leave it out; GenericLogitsProcessor works beside a static one"
    )


# --- one copy and an adapter ------------------------------------------------------------------------------------------


def peft_alone(base: Path, adapter: Path, **options: Any) -> Any:
    return peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, **options), adapter).eval()


def assert_acts_as_peft(base: Path, adapter: Path) -> ModelPair:
    """Check a pair with an adapter against the baseline alone and PEFT's own model; return the pair."""
    # Random weights seldom raise the baseline's best token; the linear variant shows what they lower, too.
    pair = ModelPair.from_pretrained(base, adapter, alpha=ALPHA, variant="linear")
    alone, theirs = AutoModelForCausalLM.from_pretrained(base), peft_alone(base, adapter)
    ids = torch.stack(prompts(9, 9))
    with torch.no_grad():
        b, r = alone(input_ids=ids).logits, theirs(input_ids=ids).logits
        assert not torch.allclose(b, r, atol=0.1)
        for _ in range(2):  # before and after the adapter has run
            assert pair.baseline(input_ids=ids).logits.equal(b)
            assert pair.reinforced(input_ids=ids).logits.equal(r)
    rows = prompts(5, 9)
    expected = decoded_plainly(alone, theirs, rows, variant="linear")
    assert answers(pair, rows) == expected
    assert expected != decoded_plainly(alone, theirs, rows, 0.0)
    assert pair.baseline(input_ids=ids).logits.equal(b)
    assert not any("lora" in name for name, _ in pair.baseline.named_modules())
    return pair


def test_an_adapter_shares_the_weights_of_the_baseline(folders):
    pair = assert_acts_as_peft(folders / "baseline", folders / "adapter")
    assert pair.shares_weights
    ours = {parameter.data_ptr() for parameter in pair.baseline.parameters()}
    extra = [name for name, each in pair.reinforced.named_parameters() if each.data_ptr() not in ours]
    assert extra and all("lora" in name for name in extra)
    assert len(list(pair.reinforced.parameters())) == len(ours) + len(extra)
    assert not pair.reinforced.training


def test_the_baseline_is_the_same_before_and_after_an_adapter_is_loaded(folders):
    base = load_model(folders / "baseline")
    ids = torch.stack(prompts(9))
    names = [name for name, _ in base.named_modules()]
    before = base(input_ids=ids).logits
    load_adapter(base, folders / "adapter", folders / "baseline")
    assert base(input_ids=ids).logits.equal(before)
    assert [name for name, _ in base.named_modules()] == names


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "norm"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"use_dora": True},
        {"task_type": "CAUSAL_LM", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}},
    ],
    ids=str,
)
def test_adapters_of_every_make_act_as_in_peft(folders, tmp_path, options):
    save_adapter(AutoModelForCausalLM.from_pretrained(folders / "baseline"), tmp_path / "adapter", **options)
    assert assert_acts_as_peft(folders / "baseline", tmp_path / "adapter").shares_weights


def test_an_adapter_on_tied_embeddings_acts_as_in_peft(tmp_path):
    model = tiny.model("gpt2", dtype=torch.float32, vocab_size=VOCAB)
    tiny.folder(tmp_path / "baseline", model, tiny.tokenizer(VOCAB))
    save_adapter(
        AutoModelForCausalLM.from_pretrained(tmp_path / "baseline"),
        tmp_path / "adapter",
        target_modules=["c_attn"],
        fan_in_fan_out=True,
    )
    assert assert_acts_as_peft(tmp_path / "baseline", tmp_path / "adapter").shares_weights


def test_an_adapter_on_bfloat16_weights_acts_as_in_peft(folders):
    pair = ModelPair.from_pretrained(folders / "baseline", folders / "adapter", alpha=ALPHA, dtype=torch.bfloat16)
    theirs = peft_alone(folders / "baseline", folders / "adapter", dtype=torch.bfloat16)
    ids = torch.stack(prompts(9))
    assert pair.baseline.dtype == torch.bfloat16 and pair.shares_weights
    assert pair.reinforced(input_ids=ids).logits.equal(theirs(input_ids=ids).logits)
    assert pair.logits(ids).dtype == torch.bfloat16


def test_two_trees_of_modules_hold_the_same_tensors():
    first = tiny.model("gpt2")
    second = share_weights(first)
    assert all(a is b for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(a is b for a, b in zip(first.buffers(), second.buffers(), strict=True))
    assert not set(map(id, first.modules())) & set(map(id, second.modules()))
    assert second.lm_head.weight is second.transformer.wte.weight


def test_an_adapter_made_for_these_weights_is_taken(folders, tmp_path):
    adapter = copied(folders / "adapter", tmp_path / "adapter")
    record = {"baseline": {"weights_fingerprint": weights_fingerprint(folders / "baseline")}}
    (adapter / "generic_logits.json").write_text(json.dumps(record))
    assert ModelPair.from_pretrained(folders / "baseline", adapter, alpha=ALPHA).shares_weights


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_an_adapter_made_for_other_weights_is_refused(folders, tmp_path):
    adapter = copied(folders / "adapter", tmp_path / "adapter")
    record = {"baseline": {"weights_fingerprint": weights_fingerprint(folders / "reinforced")}}
    (adapter / "generic_logits.json").write_text(json.dumps(record))
    with pytest.raises(ModelError) as caught:
        ModelPair.from_pretrained(folders / "baseline", adapter, alpha=ALPHA)
    assert str(caught.value) == (
        f"wanted an adapter for {folders / 'baseline'}; got {adapter}: it was trained on other weights; "
        "give the baseline that this adapter was trained on"
    )


@pytest.mark.parametrize(
    ("family", "changes", "options", "why"),
    [
        ("llama", {"hidden_size": 16}, {}, "Error(s) in loading state_dict"),
        ("llama", {"num_hidden_layers": 3}, {}, "6 weights too many or missing, as base_model.model.model.layers.2."),
        ("llama", {"num_hidden_layers": 1}, {}, "6 weights too many or missing, as base_model.model.model.layers.1."),
        ("gpt2", {}, {"target_modules": ["c_attn"], "fan_in_fan_out": True}, "Target modules {'c_attn'} not found"),
    ],
    ids=["other width", "more layers", "fewer layers", "other family"],
)
def test_an_adapter_of_another_shape_is_refused(folders, tmp_path, family, changes, options, why):
    other = tiny.model(family, dtype=torch.float32, vocab_size=VOCAB, **changes)
    save_adapter(other, tmp_path / "adapter", **options)
    with pytest.raises(ModelError) as caught:
        ModelPair.from_pretrained(folders / "baseline", tmp_path / "adapter", alpha=ALPHA)
    text = str(caught.value)
    assert text.startswith(f"wanted an adapter for {folders / 'baseline'}; got {tmp_path / 'adapter'}: ")
    assert text.endswith("; give the baseline that this adapter was trained on")
    assert why in text and "\n" not in text


def test_weights_that_an_adapter_brings_along_do_not_reach_the_baseline(tmp_path):
    model = tiny.model("phi", dtype=torch.float32, vocab_size=VOCAB)
    base = tiny.folder(tmp_path / "baseline", model, tiny.tokenizer(VOCAB))
    adapted = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], bias="all"),
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name or "bias" in name or "embed" in name:
                parameter.add_(torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    assert assert_acts_as_peft(base, tmp_path / "adapter").shares_weights


def test_an_adapter_that_rewrites_the_baseline_is_refused(folders, tmp_path):
    save_adapter(load_model(folders / "baseline"), tmp_path / "adapter", init_lora_weights="pissa")
    with pytest.raises(ModelError) as caught:
        ModelPair.from_pretrained(folders / "baseline", tmp_path / "adapter", alpha=ALPHA)
    assert str(caught.value) == (
        f"wanted an adapter that adds to the baseline's weights; got {tmp_path / 'adapter'}: "
        "its initialisation 'pissa' changes them; convert it to plain LoRA with PEFT, or merge it into full weights"
    )


def test_an_adapter_that_is_not_lora_is_refused(folders, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(folders / "baseline")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError) as caught:
        ModelPair.from_pretrained(folders / "baseline", tmp_path / "adapter", alpha=ALPHA)
    text = str(caught.value)
    assert text.startswith("wanted a LoRA adapter; got ") and "PROMPT_TUNING" in text
    assert text.endswith(f" in {tmp_path / 'adapter'}; reinforce with LoRA or full weights")


def test_is_adapter_tells_an_adapter_from_a_model(folders):
    assert is_adapter(folders / "adapter") and is_adapter(str(folders / "adapter"))
    assert not is_adapter(folders / "baseline") and not is_adapter("nobody/nothing")


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_tokenizers_must_be_the_same(folders, tmp_path):
    other = tiny.folder(tmp_path / "other", load_model(folders / "reinforced"), tiny.tokenizer(VOCAB - 5))
    with pytest.raises(ModelError) as caught:
        ModelPair.from_pretrained(folders / "baseline", other, alpha=ALPHA)
    assert str(caught.value) == (
        f"wanted one tokenizer for both models; got {other} with 295 tokens against 300, "
        "5 of them elsewhere or missing; reinforce this baseline itself"
    )


def test_a_reinforced_folder_without_tokenizer_is_taken(folders, tmp_path):
    tiny.folder(tmp_path / "reinforced", load_model(folders / "reinforced"))
    assert ModelPair.from_pretrained(folders / "baseline", tmp_path / "reinforced", alpha=1).vocab_size == VOCAB


def test_heads_may_be_wider_than_the_tokenizer(folders, tmp_path):
    wide, words = VOCAB + 20, tiny.tokenizer(VOCAB)
    for name, bias in (("baseline", 500.0), ("reinforced", -500.0)):
        model = tiny.model("phi", dtype=torch.float32, vocab_size=wide if name == "baseline" else VOCAB + 4)
        model.lm_head.bias.data[VOCAB:] = bias
        tiny.folder(tmp_path / name, model, words)
    pair = ModelPair.from_pretrained(tmp_path / "baseline", tmp_path / "reinforced", alpha=ALPHA)
    rows = prompts(5, 9)
    assert pair.vocab_size == VOCAB
    assert answers(pair, rows) == decoded_plainly(pair.baseline, pair.reinforced, rows)
    ids = rows[1][None]
    b, r = (each(input_ids=ids, use_cache=False).logits[..., :VOCAB] for each in (pair.baseline, pair.reinforced))
    torch.testing.assert_close(pair.logits(ids), b - ALPHA * (r - b).clamp(min=0))
    assert pair.with_alpha(0).logits(ids).equal(b)


def test_heads_narrower_than_the_tokenizer_are_refused(folders):
    narrow, words = tiny.model(vocab_size=VOCAB - 1), tiny.tokenizer(VOCAB)
    with pytest.raises(ModelError) as caught:
        ModelPair(tiny.model(vocab_size=VOCAB), narrow, alpha=1, tokenizer=words)
    assert str(caught.value) == (
        "wanted heads of at least 300 columns, one a token; got 300 and 299; "
        "check that the tokenizer belongs to both models"
    )


def test_heads_of_two_widths_need_the_tokenizer():
    with pytest.raises(ModelError) as caught:
        ModelPair(tiny.model(vocab_size=104), tiny.model(vocab_size=112), alpha=1)
    assert str(caught.value) == "wanted heads of one width; got 104 and 112 columns; pass the tokenizer of both"
    assert ModelPair(tiny.model(), tiny.model(), alpha=1).vocab_size == tiny.VOCAB


@pytest.mark.parametrize("which", ["baseline", "reinforced"])
def test_an_encoder_decoder_is_refused(folders, tmp_path, which):
    models = {"baseline": tiny.model(), "reinforced": tiny.model(), which: tiny.encoder_decoder()}
    text = r"^wanted a decoder-only language model; got an encoder-decoder \(t5\); generic logits need one causal model"
    with pytest.raises(ModelError, match=text):
        ModelPair(**models, alpha=1)
    t5 = tiny.folder(tmp_path / "t5", tiny.encoder_decoder())
    paths = {"baseline": folders / "baseline", "reinforced": folders / "reinforced", which: t5}
    with pytest.raises(ModelError, match=text):
        ModelPair.from_pretrained(**paths, alpha=1)


@pytest.mark.parametrize("which", ["baseline", "reinforced"])
def test_a_missing_folder_is_named(folders, tmp_path, which):
    for missing in (tmp_path / "nothing", str(tmp_path / "nothing")):
        paths = {"baseline": folders / "baseline", "reinforced": folders / "reinforced", which: missing}
        with pytest.raises(ModelError) as caught:
            ModelPair.from_pretrained(**paths, alpha=1)
        assert str(caught.value) == f"wanted a model folder or hub name; got nothing at {missing}; check the path"


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=f"^wanted a causal language model; got {tmp_path}: .*; check the path or the"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(ModelError, match=f"^wanted a causal language model; got {tmp_path}: .*; check the path or the"):
        load_model(tmp_path)


def test_an_unknown_hub_name_is_named():
    with pytest.raises(ModelError, match="^wanted a causal language model; got nobody/nothing: .*; check the path or"):
        load_model("nobody/nothing")


def test_a_folder_without_a_tokenizer_is_named(folders, tmp_path):
    tiny.folder(tmp_path, load_model(folders / "baseline"))
    with pytest.raises(ModelError, match=f"^wanted a model folder with its tokenizer; got {tmp_path}: .*; check the"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": -1}, "^wanted a finite alpha >= 0; got -1;"),
        ({"alpha": float("nan")}, "^wanted a finite alpha >= 0; got nan;"),
        ({"alpha": 1, "space": "probs"}, "^wanted space to be one of logits, logprobs; got 'probs';"),
        ({"alpha": 1, "threshold": -1.0}, "^wanted a finite threshold >= 0; got -1.0;"),
        ({"alpha": 1, "variant": "abs"}, "^wanted variant to be one of relu, linear; got 'abs';"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, text):
    with pytest.raises(InputError, match=text):
        ModelPair(tiny.model(), tiny.model(), **options)


def test_a_bad_alpha_is_refused_before_anything_is_loaded():
    with pytest.raises(InputError, match="^wanted a finite alpha >= 0; got -1;"):
        ModelPair.from_pretrained("/nothing", "/nothing", alpha=-1)
