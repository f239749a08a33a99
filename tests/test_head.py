"""The output head apart from its model: found where it is plain, and a loss in its place that changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from generic_logits import DistillConfig
from generic_logits.models.head import instead_of_logits, plain_head
from generic_logits.training import distillation
from generic_logits.training.run import TrainConfig, with_lora
from generic_logits.training.target_store import Row
from generic_logits.training.targets import likely_tokens

SIZES = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
PLAIN = ["llama", "mistral", "qwen3", "gpt2", "gpt_neox", "opt", "phi", "mixtral", "lfm2", "mamba"]
TREATED = {  # softcapping, a factor, a divisor
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**SIZES, final_logit_softcapping=5.0)),
    "cohere": lambda: tf.CohereForCausalLM(tf.CohereConfig(**SIZES, logit_scale=0.25)),
    "granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**SIZES, logits_scaling=4.0)),
}


@pytest.mark.parametrize("family", PLAIN)
def test_the_head_of_an_ordinary_model_is_found(family):
    made = tiny.model(family, dtype=torch.float32)
    ids = torch.stack(tiny.prompts(9))
    head = plain_head(made)
    assert head is made.get_output_embeddings()
    with torch.no_grad():
        expected = made(input_ids=ids, use_cache=False).logits
        with instead_of_logits(head, lambda hidden: hidden):
            hidden = made(input_ids=ids, use_cache=False).logits
        assert head(hidden).equal(expected)
        assert made(input_ids=ids, use_cache=False).logits.equal(expected)


@pytest.mark.parametrize("name", TREATED)
def test_a_model_that_does_something_to_its_logits_has_none(name):
    assert plain_head(TREATED[name]().eval()) is None


def adapted(**options: Any) -> Any:
    return get_peft_model(tiny.model("llama"), LoraConfig(task_type="CAUSAL_LM", **options))


class _Quantised(nn.Linear):
    """As the quantised layers of bitsandbytes are linear layers to ``isinstance``."""


def with_head(change: Any) -> Any:
    made = tiny.model("llama", tie_word_embeddings=False)
    made.set_output_embeddings(change(made.get_output_embeddings()))
    return made


@pytest.mark.parametrize(
    "build",
    [
        lambda: adapted(target_modules=["lm_head"]),
        lambda: adapted(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        lambda: with_head(lambda head: add_hook_to_module(head, AlignDevicesHook(execution_device="cpu"))),
        lambda: with_head(lambda head: _Quantised(head.in_features, head.out_features)),
        lambda: with_head(lambda head: head.to("meta")),
    ],
    ids=["adapted", "trained beside an adapter", "hooked", "quantised", "elsewhere"],
)
def test_a_head_that_is_more_than_a_product_is_left_in_place(build):
    assert plain_head(build()) is None


@pytest.mark.parametrize("change", [lambda y: y.mul_(2), lambda y: y * 1, lambda y: y[:, -1:]])
def test_logits_that_were_touched_in_any_way_are_noticed(change):
    made = tiny.model("llama")
    forward = type(made).forward

    def touched(*arguments: Any, **options: Any) -> Any:
        outputs = forward(made, *arguments, **options)
        outputs.logits = change(outputs.logits)
        return outputs

    assert plain_head(made) is not None
    made.forward = touched
    assert plain_head(made) is None


def test_the_head_comes_back_after_an_error():
    made = tiny.model("llama")
    head, ids = plain_head(made), torch.stack(tiny.prompts(5))
    assert head is not None
    expected = made(input_ids=ids).logits

    def fail(hidden: Tensor) -> Tensor:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"), instead_of_logits(head, fail):
        made(input_ids=ids)
    assert made(input_ids=ids).logits.equal(expected)


# --- the loss in its place --------------------------------------------------------------------------------------------


def batch(vocab: int, *, hard: bool, retained: bool) -> dict[str, Any]:
    """Three blocks of growing length, and as many retained ones, with targets at some positions."""

    def row(length: int, *, hard: bool) -> Row:
        positions = torch.arange(0, length, 2)
        said = torch.randn(len(positions), vocab) * 3
        soft = None if hard else likely_tokens(said.log_softmax(-1), 0.05)
        return Row(
            torch.randint(3, vocab, (length,)), positions, positions % 3 == 0, said.argmax(-1) if hard else None, soft
        )

    entries = [(row(length, hard=hard), row(length + 1, hard=False)) for length in (5, 2, 9)]
    return distillation._collate([entry if retained else entry[:1] for entry in entries])


def loss_and_gradients(student: Any, given: dict[str, Any], vocab: int, head: Any) -> tuple[Tensor, dict[str, Tensor]]:
    settings = DistillConfig(inside_weight=5.0, retain_weight=3.0)
    trainer = SimpleNamespace(settings=settings, vocabulary=vocab, head=head)
    loss = distillation._DistillTrainer.compute_loss(trainer, student, given)  # type: ignore[arg-type]
    (loss / 4).backward()  # as with gradient accumulation
    gradients = {name: each.grad for name, each in student.named_parameters() if each.grad is not None}
    student.zero_grad(set_to_none=True)
    return loss.detach(), gradients


def student_of(family: str, kind: str, **changes: Any) -> Any:
    made = tiny.model(family, dtype=torch.float32, **changes)
    if kind == "full":
        return made.train()
    made = with_lora(made, TrainConfig(lora_rank=4)).train()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return made


@pytest.mark.parametrize(("hard", "retained"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("kind", ["full", "LoRA"])
@pytest.mark.parametrize(
    ("family", "changes", "padding"),
    [
        ("llama", {"tie_word_embeddings": False}, 0),
        ("llama", {"tie_word_embeddings": True}, 3),
        ("phi", {}, 2),  # its head has a bias
        ("gpt2", {}, 0),
    ],
)
def test_it_is_the_loss_of_the_logits_and_so_are_its_gradients(family, changes, padding, kind, hard, retained):
    vocab = tiny.VOCAB - padding
    student, given = student_of(family, kind, **changes), batch(vocab, hard=hard, retained=retained)
    torch.manual_seed(1)
    expected, of_logits = loss_and_gradients(student, given, vocab, None)
    torch.manual_seed(1)
    found, gradients = loss_and_gradients(student, given, vocab, plain_head(student))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == of_logits.keys() and gradients
    for name, gradient in of_logits.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("saving", ["checkpointing", "bfloat16", "autocast"])
def test_it_is_the_same_loss_where_memory_is_saved(saving):
    student, given = (
        student_of("llama", "full", tie_word_embeddings=False),
        batch(tiny.VOCAB, hard=False, retained=True),
    )
    if saving == "checkpointing":
        student.gradient_checkpointing_enable()
    if saving == "bfloat16":
        student.bfloat16()
    head, results = plain_head(student), []
    assert head is not None
    for each in (None, head):
        with torch.autocast("cpu", torch.bfloat16, enabled=saving == "autocast"):
            results.append(loss_and_gradients(student, given, tiny.VOCAB, each))
    (expected, of_logits), (found, gradients) = results
    allowed = 1e-5 if saving == "checkpointing" else 2e-2
    torch.testing.assert_close(found, expected, rtol=allowed, atol=allowed)
    for name, gradient in of_logits.items():
        assert gradients[name].dtype == gradient.dtype
        assert (gradients[name] - gradient).float().norm() <= 2 * allowed * gradient.float().norm()


def test_the_head_is_left_alone_where_it_would_not_be_met():
    def trainer(**changes: Any) -> Any:
        backend = changes.get("backend", distillation.DynamoBackend.NO)
        plugin = SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=backend))
        return SimpleNamespace(
            accelerator=SimpleNamespace(state=plugin),
            args=SimpleNamespace(n_gpu=changes.get("n_gpu", 0)),
            is_deepspeed_enabled=changes.get("deepspeed", False),
            model=tiny.model("llama"),
        )

    assert distillation.head_for_loss(trainer()) is not None
    for changes in ({"backend": distillation.DynamoBackend.INDUCTOR}, {"n_gpu": 2}, {"deepspeed": True}):
        assert distillation.head_for_loss(trainer(**changes)) is None
