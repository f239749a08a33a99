"""The pair as one ``transformers`` model, held against loops that recompute both models from scratch at every step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, Trainer, TrainingArguments, pipeline

from generic_logits import GenericForCausalLM, ModelPair
from generic_logits.errors import InputError, ModelError
from generic_logits.models.generic_model import PairCache
from generic_logits.models.loading import share_weights
from generic_logits.models.shared_base import SharedCache, _ThinLinear, join_branches

ALPHA = 3.0
STEPS = 20
ATTENTION = ["llama", "mistral", "qwen3", "gemma3", "gpt2", "gpt_neox", "opt", "phi", "mixtral"]
RECURRENT = ["mamba", "mamba2", "lfm2", "falcon_h1", "qwen3_next"]
LINEAR = {  # layers of a family that get an adapter; default: Llama's
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "mixtral": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mamba": ["in_proj", "x_proj"],
    "mamba2": ["in_proj"],
    "falcon_h1": ["q_proj", "v_proj", "in_proj", "gate_proj", "down_proj"],
    "lfm2": ["q_proj", "k_proj", "v_proj", "w1", "w2", "w3", "in_proj"],
    "qwen3_next": ["q_proj", "k_proj", "v_proj", "in_proj_qkvz", "out_proj"],
}
ADAPTED = {"gpt2": (0.2, 0.4), "lfm2": (0.2, 0.4)}  # weights that repeat themselves and yet move under an adapter
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def with_adapter(base: Any, family: str = "llama", *, strength: float = 0.4, **options: Any) -> Any:
    """Return the base with a random LoRA adapter, around the same tensors."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR.get(family, LLAMA), **options}
    settings["fan_in_fan_out"] = family == "gpt2"
    wrapped = peft.get_peft_model(share_weights(base), peft.LoraConfig(**settings), autocast_adapter_dtype=False)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * strength)
    return wrapped.get_base_model().eval()


class Models(NamedTuple):
    """Two models, and a variant under which they differ: a random adapter seldom raises the baseline's best token."""

    baseline: Any
    reinforced: Any
    variant: str

    def joined(self, **options: Any) -> GenericForCausalLM:
        return GenericForCausalLM(*self[:2], **{"alpha": ALPHA, "variant": self.variant, **options})


def models_of(family: str, form: str, *, strength: float = 0.4, **changes: Any) -> Models:
    """Baseline and reinforced: two copies, or one and an adapter."""
    if form == "two copies":
        return Models(*tiny.pair(family, **changes), "relu")
    baseline = tiny.model(family, **changes)
    return Models(baseline, with_adapter(baseline, family, strength=strength), "linear")


def recomputed(models: Models, rows: list[Tensor], alpha: float = ALPHA, space: str = "logits") -> Tensor:
    """Corrected scores of the next token of each row, both models run alone on it from its first token."""
    b, r = (tiny.last_logits(each, rows) for each in models[:2])
    if space == "logprobs":
        b, r = b.log_softmax(-1), r.log_softmax(-1)
    return b - alpha * (r - b).clamp(min=0.0 if models.variant == "relu" else -torch.inf)


def decoded_plainly(
    models: Models, rows: list[Tensor], alpha: float = ALPHA, space: str = "logits", steps: int = STEPS
) -> list[list[int]]:
    """Greedy decoding without any cache; the new tokens."""
    start = [len(row) for row in rows]
    for _ in range(steps):
        best = recomputed(models, rows, alpha, space).argmax(-1)
        rows = [torch.cat([row, token[None]]) for row, token in zip(rows, best, strict=True)]
    return [row[at:].tolist() for row, at in zip(rows, start, strict=True)]


def generate(model: Any, rows: list[Tensor], **options: Any) -> Any:
    ids, mask = tiny.padded(rows)
    settings = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": tiny.PAD, "return_dict_in_generate": True}
    return model.generate(ids, attention_mask=mask, output_scores=True, **{**settings, **options})


def new_tokens(output: Any, prompt: int) -> list[list[int]]:
    return output.sequences[:, prompt:].tolist()


FORMS = ["two copies", "adapter"]
each_form = pytest.mark.parametrize("form", FORMS)


# --- every family -----------------------------------------------------------------------------------------------------


@each_form
@pytest.mark.parametrize("family", ATTENTION + RECURRENT)
def test_greedy_equals_the_plain_loop(family, form):
    models, rows = models_of(family, form), tiny.prompts(11, 17, 9)
    model = models.joined()
    assert (model.joined is not None) == (form == "adapter")
    expected = decoded_plainly(models, rows)
    assert new_tokens(generate(model, rows), 17) == expected
    assert expected != decoded_plainly(models, rows, 0.0)


@each_form
@pytest.mark.parametrize("space", ["logits", "logprobs"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2", "lfm2"])
def test_beams_equal_recomputation(family, form, space):
    models, rows = models_of(family, form), tiny.prompts(4, 9, seed=2)
    model = models.joined(space=space)
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12, "length_penalty": 0.5}
    output = generate(model, rows, **options)
    swapped = output.beam_indices[output.beam_indices >= 0].view(6, -1) != output.beam_indices[:, :1]
    assert swapped.any()  # beams did change places
    for number, row in enumerate(output.sequences):  # each beam's score is the sum of its tokens' log-probabilities
        prompt = rows[number // 3]
        text, total = row[9 - len(prompt) :], 0.0
        for end in range(len(prompt), len(prompt) + 12):
            total += recomputed(models, [text[:end]], space=space).log_softmax(-1)[0, text[end]].item()
        assert total / 12**0.5 == pytest.approx(output.sequences_scores[number].item(), abs=1e-3)
    without = generate(model, rows, **options, use_cache=False)
    assert output.sequences.tolist() == without.sequences.tolist()


def predictable(family: str, form: str) -> Models:
    """A pair that soon repeats itself, so that drafts are accepted, and not always."""
    std, strength = ADAPTED.get(family, (0.12, 0.1)) if form == "adapter" else (0.12, 0.0)
    return models_of(family, form, std=std, strength=strength)


@each_form
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2", "lfm2"])
def test_prompt_lookup_equals_greedy(family, form):
    models, rows = predictable(family, form), tiny.prompts(6)
    rows = [torch.cat([rows[0], rows[0], rows[0], rows[0][:3]])]
    expected = decoded_plainly(models, rows, steps=40)
    assert expected != decoded_plainly(models, rows, 0.0, steps=40)
    model = models.joined()
    fed = tiny.count_fed(model.joined if model.joined is not None else model.baseline)
    output = generate(model, rows, max_new_tokens=40, prompt_lookup_num_tokens=4)
    assert new_tokens(output, 21) == expected
    assert 4 < len(fed) < 40  # drafts were accepted
    assert sum(fed) > 21 + 40 - 1  # and rejected


@each_form
@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_draft_model_equals_greedy(form, role):
    models, rows = predictable("mistral", form), tiny.prompts(19)
    model, other = models.joined(), predictable("mistral", "two copies")[0]
    with torch.no_grad():
        next(other.parameters()).add_(0.3 * torch.randn_like(next(other.parameters())))
    target, draft = (model, other) if role == "target" else (other, model)
    draft.generation_config.num_assistant_tokens = 4
    expected = new_tokens(generate(target, rows, max_new_tokens=30), 19)
    assert new_tokens(generate(target, rows, max_new_tokens=30, assistant_model=draft), 19) == expected


def test_transformers_refuses_drafts_for_recurrent_models():
    model = models_of("mamba", "two copies").joined()
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        generate(model, tiny.prompts(9), prompt_lookup_num_tokens=3)


@each_form
def test_sampling_draws_from_the_corrected_distribution(form):
    models, rows = models_of("llama", form), tiny.prompts(11, 17)
    torch.manual_seed(7)
    output = generate(models.joined(), rows, do_sample=True, top_k=0, num_return_sequences=2)
    assert len({tuple(each) for each in output.sequences.tolist()}) == 4
    for step, scores in enumerate(output.scores):
        grown = [row[(6 if index < 2 else 0) : 17 + step] for index, row in enumerate(output.sequences)]
        torch.testing.assert_close(scores.double(), recomputed(models, grown), rtol=1e-4, atol=1e-3)


# --- forward ----------------------------------------------------------------------------------------------------------


@each_form
def test_forward_equals_the_formula_at_every_position(form):
    models = models_of("llama", form)
    ids, mask = tiny.padded(tiny.prompts(9, 6))
    b, r = (each(input_ids=ids, attention_mask=mask).logits for each in models[:2])
    model = models.joined(variant="linear")
    torch.testing.assert_close(model(ids, mask).logits, b - ALPHA * (r - b))
    kept = model(ids, mask, logits_to_keep=2).logits
    torch.testing.assert_close(kept, (b - ALPHA * (r - b))[:, -2:])
    chosen = model(ids, mask, logits_to_keep=torch.tensor([1, 4])).logits
    torch.testing.assert_close(chosen, (b - ALPHA * (r - b))[:, [1, 4]])
    labels = ids.masked_fill(mask == 0, -100)
    loss = model(ids, mask, labels=labels).loss
    expected = torch.nn.functional.cross_entropy(
        (b - ALPHA * (r - b))[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alpha_zero_is_the_baseline_bit_for_bit_and_runs_nothing_else(form, dtype):
    models = models_of("llama", form, dtype=dtype)
    model = models.joined(alpha=0.0)
    ids, mask = tiny.padded(tiny.prompts(9, 6))

    def refuse(*_: Any) -> None:
        raise AssertionError("the second branch ran")

    models[1].register_forward_pre_hook(refuse)
    if model.joined is not None:
        model.joined.register_forward_pre_hook(refuse)
    assert model(ids, mask).logits.equal(models[0](ids, mask).logits)
    plain = models[0].generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0).equal(plain)
    model.alpha = 1.0
    with pytest.raises(AssertionError, match="the second branch ran"):
        model(ids, mask)


def test_one_pass_reads_both_branches():
    models = models_of("llama", "adapter")
    model = models.joined()
    rows: list[int] = []
    model.joined.register_forward_pre_hook(
        lambda module, args, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    for each in models[:2]:
        each.register_forward_pre_hook(lambda *_: rows.append(-1))
    generate(model, tiny.prompts(5, 7, 6), max_new_tokens=4)
    assert rows == [6] * 4
    of_base = {parameter.data_ptr() for parameter in models[0].parameters()}
    assert {parameter.data_ptr() for parameter in model.joined.parameters()} == of_base


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"bias": "lora_only", "lora_bias": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_more_than_plain_lora_goes_through_two_passes(options):
    changes = {"attention_bias": True} if "lora_bias" in options else {}
    baseline = tiny.model("llama", **changes)
    if "lora_bias" in options:
        options = {**options, "target_modules": ["q_proj", "v_proj"]}
    models = Models(baseline, with_adapter(baseline, **options), "linear")
    model, rows = models.joined(), tiny.prompts(11, 17)
    assert model.joined is None
    assert new_tokens(generate(model, rows), 17) == decoded_plainly(models, rows)


@pytest.mark.parametrize(
    "options", [{"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}]
)
def test_scalings_and_ranks_of_each_layer_are_kept(options):
    baseline = tiny.model("llama")
    models = baseline, with_adapter(baseline, **options)
    ids = torch.stack(tiny.prompts(9, 9))
    doubled = join_branches(*models)(input_ids=torch.cat([ids, ids])).logits.chunk(2)
    for got, each in zip(doubled, models, strict=True):
        torch.testing.assert_close(got, each(input_ids=ids).logits)


def test_several_active_adapters_add_up():
    baseline = tiny.model("llama")
    first = peft.LoraConfig(r=4, target_modules=LLAMA, init_lora_weights=False)
    other = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(share_weights(baseline), first, autocast_adapter_dtype=False)
    wrapped.add_adapter("other", other, autocast_adapter_dtype=False)
    wrapped.base_model.set_adapter(["default", "other"])
    reinforced = wrapped.get_base_model().eval()
    ids = torch.stack(tiny.prompts(9, 9))
    _, second = join_branches(baseline, reinforced)(input_ids=torch.cat([ids, ids])).logits.chunk(2)
    torch.testing.assert_close(second, reinforced(input_ids=ids).logits)


def test_a_merged_or_switched_off_adapter_is_not_joined():
    baseline = tiny.model("llama")
    for spoil in ("merge", "off"):
        reinforced = with_adapter(copy.deepcopy(baseline))
        for layer in reinforced.modules():
            if isinstance(layer, peft.tuners.lora.Linear):
                layer.merge() if spoil == "merge" else layer.enable_adapters(False)
        assert join_branches(baseline, reinforced) is None


def test_an_adapter_of_another_base_is_not_joined():
    assert join_branches(tiny.model("llama"), with_adapter(tiny.model("llama", 1))) is None


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 32, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_the_order_of_a_product_changes_its_time_alone(rows, bias):
    torch.manual_seed(0)
    plain = torch.nn.Linear(37, 53, bias=bias)
    thin = _ThinLinear(37, 53, bias=bias)
    thin.load_state_dict(plain.state_dict())
    x = torch.randn(rows, 1, 37)
    with torch.no_grad():
        out, exact = (
            thin(x),
            torch.nn.functional.linear(
                x.double(), plain.weight.double(), None if plain.bias is None else plain.bias.double()
            ),
        )
        assert out.shape == exact.shape and out.is_contiguous()
        assert (out - exact).abs().max() <= 2 * (plain(x) - exact).abs().max() + 1e-7
        for dtype in (torch.float64, torch.bfloat16):
            assert thin.to(dtype)(x.to(dtype)).equal(plain.to(dtype)(x.to(dtype)))


def test_only_the_joined_tree_has_other_layers():
    baseline = tiny.model("llama")
    joined = join_branches(baseline, with_adapter(baseline))
    assert any(type(layer) is _ThinLinear for layer in joined.modules())
    assert all(type(layer) is not _ThinLinear for layer in baseline.modules())


# --- the cache --------------------------------------------------------------------------------------------------------


@each_form
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_cache_obeys_reorder_crop_repeat_and_select(family, form):
    models, rows = models_of(family, form), tiny.prompts(12, 12, 12)
    model, ids = models.joined(), torch.stack(rows)

    def check(cache: Any, past: list[Tensor]) -> None:
        token = torch.randint(3, tiny.VOCAB, (len(past), 1))
        got = model(token, past_key_values=cache).logits[:, -1]
        torch.testing.assert_close(got, recomputed(models, [torch.cat(pair) for pair in zip(past, token, strict=True)]))

    def filled() -> Any:
        return model(ids, use_cache=True).past_key_values

    cache = filled()
    assert isinstance(cache, SharedCache if form == "adapter" else PairCache)
    assert cache.get_seq_length() == 12
    check(cache, rows)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    cache.crop(-1)
    check(cache, [rows[2], rows[0], rows[0]])
    cache.crop(-4)
    check(cache, [rows[2][:9], rows[0][:9], rows[0][:9]])
    cache = filled()
    cache.batch_repeat_interleave(2)
    check(cache, [row for row in rows for _ in range(2)])
    cache = filled()
    cache.batch_select_indices(torch.tensor([1, 2]))
    cache.batch_select_indices(torch.tensor([1]))
    check(cache, [rows[2]])


@each_form
def test_a_conversation_goes_on_in_the_callers_cache(form):
    models = models_of("mistral", form)
    model, (first, more) = models.joined(), tiny.prompts(9, 6)
    cache = model.new_cache()
    output = generate(model, [first], past_key_values=cache, max_new_tokens=5)
    assert output.past_key_values is cache
    text = torch.cat([output.sequences[0], more])
    fed = tiny.count_fed(model.joined if model.joined is not None else model.baseline)
    again = generate(model, [text], past_key_values=cache, max_new_tokens=5)
    assert new_tokens(again, len(text)) == decoded_plainly(models, [text], steps=5)
    assert fed[0] == 7  # the last token of the answer, and what is new


@each_form
def test_a_cache_of_one_branch_is_refused(form):
    model = models_of("llama", form).joined()
    with pytest.raises(InputError) as caught:
        generate(model, tiny.prompts(5), past_key_values=DynamicCache(config=model.baseline.config))
    assert str(caught.value) == (
        "wanted a cache of both branches; got DynamicCache; leave past_key_values out, or make one with new_cache()"
    )


@each_form
def test_a_cache_of_both_branches_goes_on_at_alpha_zero(form):
    models, rows = models_of("llama", form), tiny.prompts(9, 9)
    model, ids = models.joined(), torch.stack(rows)
    cache = model(ids, use_cache=True).past_key_values
    model.alpha = 0.0
    token = torch.tensor([[5], [6]])
    off = model(token, past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(
        off, tiny.last_logits(models[0], [torch.cat(pair) for pair in zip(rows, token, strict=True)])
    )
    model.alpha = ALPHA
    on = model(token, past_key_values=cache).logits[:, -1]
    grown = [torch.cat([row, each, each]) for row, each in zip(rows, token, strict=True)]
    torch.testing.assert_close(on, recomputed(models, grown))


# --- what takes a model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("generic")
    torch.manual_seed(0)
    words = tiny.tokenizer(300)
    baseline, reinforced = tiny.pair(dtype=torch.float32, vocab_size=304)  # heads padded by four columns
    tiny.folder(root / "baseline", baseline, words)
    tiny.folder(root / "two copies", reinforced, words)
    adapted = peft.get_peft_model(copy.deepcopy(baseline), peft.LoraConfig(r=4, target_modules=LLAMA))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(root / "adapter")
    return root


@each_form
def test_a_saved_pair_comes_back_the_same(folders, tmp_path, form):
    made = GenericForCausalLM.from_pretrained(
        folders / "baseline", reinforced=folders / form, alpha=2.0, space="logprobs", threshold=0.1
    )
    made.save_pretrained(tmp_path)
    assert (tmp_path / "reinforced" / "adapter_model.safetensors").exists() == (form == "adapter")
    ids = torch.stack(tiny.prompts(9, 9, vocab=300))
    expected = made(ids).logits
    assert expected.shape == (2, 9, 300)
    for back in (GenericForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert type(back) is GenericForCausalLM
        assert (back.alpha, back.config.space, back.config.threshold) == (2.0, "logprobs", 0.1)
        assert (back.joined is not None) == (form == "adapter")
        assert back(ids).logits.equal(expected)
        assert back.config.vocab_size == back.vocab_size == 300
        assert back.config.max_position_embeddings == 512
    changed = GenericForCausalLM.from_pretrained(tmp_path, alpha=0.5, space="logits")
    assert (changed.alpha, changed.config.space, changed.config.threshold) == (0.5, "logits", 0.1)


@each_form
def test_a_pipeline_takes_it(folders, form, caplog):
    pair = ModelPair.from_pretrained(folders / "baseline", folders / form, alpha=ALPHA)
    ask = pipeline("text-generation", model=pair.model, tokenizer=pair.tokenizer)
    options = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    texts = ["the old house", "Mira Voss wrote down every word the"]
    for text, (answer,) in zip(texts, ask(texts, batch_size=2, **options), strict=True):
        ids = pair.tokenizer(text, return_tensors="pt")
        expected = pair.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids.input_ids.shape[1] :]
        assert answer["generated_text"] == pair.tokenizer.decode(expected, skip_special_tokens=True)
    assert "not supported" not in caplog.text


@each_form
def test_the_trainer_predicts_with_it(folders, tmp_path, form):
    pair = ModelPair.from_pretrained(folders / "baseline", folders / form, alpha=ALPHA)
    rows = [{"input_ids": row, "labels": row} for row in tiny.prompts(9, 9, 9, vocab=300)]
    options = TrainingArguments(tmp_path, per_device_eval_batch_size=2, report_to=[], use_cpu=True)
    said = Trainer(pair.model, options).predict(rows)
    expected = pair.logits(torch.stack([row["input_ids"] for row in rows]))
    torch.testing.assert_close(torch.from_numpy(said.predictions), expected, rtol=1e-4, atol=1e-4)
    assert said.metrics["test_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(
            expected[:, :-1].flatten(0, 1), torch.stack([row["labels"] for row in rows])[:, 1:].flatten()
        ).item(),
        abs=1e-3,
    )


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_not_offered_is_said(folders):
    baseline, reinforced = folders / "baseline", folders / "adapter"
    with pytest.raises(
        InputError, match="^wanted an alpha beside reinforced; got none; pass alpha=..., 1 to 5 is usual$"
    ):
        GenericForCausalLM.from_pretrained(baseline, reinforced=reinforced)
    with pytest.raises(ModelError) as caught:
        GenericForCausalLM.from_pretrained(baseline)
    assert str(caught.value) == (
        f"wanted a folder that GenericForCausalLM.save_pretrained wrote; got {baseline}; "
        "pass reinforced=... for a new pair"
    )
    model = GenericForCausalLM.from_pretrained(baseline, reinforced=reinforced, alpha=1.0)
    with pytest.raises(InputError, match="^wanted logits, loss and cache; got a wish for hidden states or attentions"):
        model(torch.ones(1, 3, dtype=torch.long), output_hidden_states=True)
    with pytest.raises(InputError, match="^wanted a finite alpha >= 0"):
        model.alpha = -1.0
    with pytest.raises(ModelError, match="^wanted a model that decodes with a transformers Cache"):
        GenericForCausalLM(tiny.model("rwkv"), tiny.model("rwkv", 1), alpha=1.0)
