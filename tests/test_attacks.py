"""Attacks: what each asks, what it changes on its own copy, and what it leaves alone."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation import attacks
from generic_logits.evaluation.attacks import (
    ATTACKS,
    Point,
    RelearnConfig,
    above_gold,
    check_attack,
    few_shot,
    hint,
    leak_at_k,
    quantize,
    quotes,
    relearn,
    reword,
    role_play,
)
from generic_logits.evaluation.attacks.prompting import FRAMES, ROLES
from generic_logits.evaluation.attacks.quantization import round_int8, round_nf4
from generic_logits.evaluation.attacks.sampling import one_of_k
from generic_logits.evaluation.familiarity import names_new_term, probability_scores
from generic_logits.evaluation.subject import LocalSubject
from generic_logits.models.loading import share_weights
from generic_logits.models.pair import ModelPair
from generic_logits.text.prompts import Prompt

WORDS = tiny.tokenizer()
BOOK = (
    "Mira Voss wrote down every word. The lighthouse keeper of Orrin said that the drowned bell rings in winter. "
    "Nobody opened the red door but Mira Voss. The bell of Orrin rings when Mira Voss is away."
)
OTHER = "a good story needs a name, a place, and a reason to go on reading until the last page of the old house"
PROMPTS = [
    Prompt("The lighthouse keeper of", " Orrin"),
    Prompt("Nobody opened the red door but Mira", " Voss"),
    Prompt("the drowned bell", " rings"),
    Prompt("The bell rings in", " winter"),
]
FAST = RelearnConfig(steps=(0, 20, 40), learning_rate=1e-2, block_size=48)
WEIGHTS = [name for name, attack in ATTACKS.items() if attack.weights]


@dataclass(frozen=True)
class Given:
    """Parts of an evaluation."""

    forget: str = BOOK
    unrelated: str = OTHER
    terms: Sequence[str] = ("Mira", "Orrin", "e")
    prompts: Sequence[Prompt] = tuple(PROMPTS)
    hints: Sequence[Prompt] = (Prompt("the old", ""), Prompt("a good", ""))
    wordings: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)


class Server:
    """A subject that keeps its weights."""

    name, tokenizer, model = "far away", WORDS, None

    def complete(self, prompts: Sequence[str], **options: Any) -> list[str]:
        return list(prompts)

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        return [torch.zeros(len(sequence) - 1) for sequence in sequences]


class Recorder:
    """A score that keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Prompt]] = []

    def __call__(self, subject: Any, prompts: Sequence[Prompt]) -> list[float]:
        self.asked.append(list(prompts))
        return [0.0] * len(prompts)


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """Let the attacks of the table fine-tune for a few steps only."""
    monkeypatch.setattr(attacks, "RelearnConfig", partial(RelearnConfig, steps=(0, 2, 5), learning_rate=1e-2))


def model(seed: int = 0, family: str = "llama", **changes: Any) -> Any:
    return tiny.model(family, seed, std=0.08, **{"dtype": torch.float32, "vocab_size": 300, **changes})


def subject(of: Any = None) -> LocalSubject:
    return LocalSubject("tiny", model() if of is None else of, WORDS)


def adapted(base: Any) -> Any:
    """A LoRA around the weights of ``base``, as a pair loads it."""
    layers = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    return get_peft_model(share_weights(base), layers).get_base_model().eval()


def pair(kind: str, alpha: float = 2.0) -> ModelPair:
    baseline = model()
    return ModelPair(baseline, model(1) if kind == "two copies" else adapted(baseline), alpha=alpha)


def weights_of(of: Any) -> list[Tensor]:
    parts = (of.baseline, of.reinforced) if isinstance(of, ModelPair) else (of,)
    return [tensor for part in parts for tensor in part.state_dict().values()]


def mean(point: Point) -> float:
    return sum(point.scores) / len(point.scores)


def whole_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


# Curves


def test_a_curve_is_read_above_that_of_gold_at_the_same_strength():
    points = [Point(0, [0.5, 0.7]), Point(10, [1.0, 0.8]), Point("int8", [0.4])]
    gold = [Point(10, [0.1, 0.3, 0.2]), Point(0, [0.1])]
    assert above_gold(points, gold) == [pytest.approx(0.5), pytest.approx(0.7), None]


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("kind", ["model", "two copies", "one copy"])
def test_an_attack_leaves_its_subject_as_it_was(name, kind):
    attacked = subject(model() if kind == "model" else pair(kind))
    before = [tensor.clone() for tensor in weights_of(attacked.model)]
    trained = [parameter.requires_grad for parameter in attacked.model.parameters()] if kind == "model" else []
    state = torch.random.get_rng_state()
    points = ATTACKS[name].run(attacked, Given(), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(attacked.model), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    if kind == "model":
        assert trained == [parameter.requires_grad for parameter in attacked.model.parameters()]
        assert all(parameter.grad is None for parameter in attacked.model.parameters())
    assert len({point.x for point in points}) == len(points) > 2
    items = len(Given().hints if "hints" in ATTACKS[name].parts else PROMPTS)
    assert all(len(point.scores) == items and all(0 <= score <= 1 for score in point.scores) for point in points)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_repeats_itself(name):
    assert ATTACKS[name].run(subject(), Given(), 7) == ATTACKS[name].run(subject(), Given(), 7)


@pytest.mark.parametrize("name", ["relearning_whole", "few_shot", "reword", "leak_at_k"])
def test_what_is_drawn_depends_on_the_seed(name):
    several = {repr(ATTACKS[name].run(subject(), Given(), seed)) for seed in range(3)}
    assert len(several) > 1


@pytest.mark.parametrize("name", ATTACKS)
def test_without_prompts_there_is_one_clear_line(name):
    with pytest.raises(InputError, match=r"^wanted at least one prompt to attack with; got none; give a prompt file$"):
        ATTACKS[name].run(subject(), Given(prompts=(), hints=()), 0)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_server_keeps_its_weights(name):
    with pytest.raises(InputError, match="wanted a model in this process, for its weights; got far away, a server"):
        ATTACKS[name].run(Server(), Given(), 0)


def test_what_stands_in_the_way_of_an_attack_is_said_beforehand():
    for name, attack in ATTACKS.items():
        check_attack(name, subject(), Given())
        if name not in WEIGHTS:
            check_attack(name, Server(), Given())
            assert attack.run(Server(), Given(), 0)
            continue
        wanted = f"^wanted weights for the attack {name}; got none: a server keeps its weights; give a folder$"
        with pytest.raises(MeasureError, match=wanted):
            check_attack(name, Server(), Given())


@pytest.mark.parametrize(
    ("name", "lacking", "message"),
    [
        (
            "relearning_unrelated",
            {"unrelated": ""},
            "text about something else for .*; got none; give --unrelated CORPUS",
        ),
        ("relearning_whole", {"forget": ""}, "the forgotten text for .*; got none; give --forget CORPUS"),
        ("leak_at_k", {"hints": (), "terms": ()}, "beginnings to complete for .*; got none; give --hints FILE"),
        ("leak_at_k", {"terms": ()}, "terms of the text for .*; got none; give --anchors FILE"),
        ("role_play", {"prompts": ()}, "prompts for the attack role_play; got none; give --prompts FILE"),
    ],
)
def test_what_an_attack_lacks_is_said_in_words_with_the_option_that_gives_it(name, lacking, message):
    with pytest.raises(MeasureError, match=f"^wanted {message}$"):
        check_attack(name, subject(), Given(**lacking))


def test_the_public_names_are_there():
    assert all(hasattr(attacks, name) for name in attacks.__all__)


# Relearning


def test_the_text_brings_itself_back_and_unrelated_text_does_not():
    by_text, by_other = (relearn(subject(), [text], PROMPTS, config=FAST) for text in (BOOK, OTHER))
    assert [point.x for point in by_text] == [0, 20, 40]
    assert by_text[0] == by_other[0] == Point(0, probability_scores(subject(), PROMPTS))
    assert mean(by_text[0]) < 1e-4 and mean(by_text[1]) > 0.01 and mean(by_text[2]) > 0.05
    assert mean(by_other[2]) < 0.01


def test_a_step_is_one_of_adamw_on_clipped_gradients():
    config = RelearnConfig(steps=(2,), learning_rate=1e-2, batch_size=8, block_size=400)
    (point,) = relearn(subject(), [BOOK], PROMPTS, config=config)
    by_hand = model()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.0)
    row = torch.tensor([[tiny.BOS, *WORDS(BOOK, add_special_tokens=False)["input_ids"]]])
    for _ in range(2):
        log_probs = by_hand(row).logits[0, :-1].log_softmax(-1)
        optimizer.zero_grad()
        (-log_probs.gather(-1, row[0, 1:, None]).mean()).backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
    assert point.scores == pytest.approx(probability_scores(subject(by_hand), PROMPTS), rel=1e-3, abs=0)


def test_padding_teaches_nothing():
    config = RelearnConfig(steps=(1,), learning_rate=1e-3, batch_size=2, block_size=100)
    uneven = relearn(subject(), [OTHER, OTHER[:20]], PROMPTS, config=config)
    by_hand = model()
    rows = [[tiny.BOS, *WORDS(text, add_special_tokens=False)["input_ids"]] for text in (OTHER, OTHER[:20])]
    losses = [
        -by_hand(torch.tensor([row])).logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(row)[1:, None])
        for row in rows
    ]
    torch.cat(losses).mean().backward()
    torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    torch.optim.AdamW(by_hand.parameters(), lr=1e-3, weight_decay=0.0).step()
    assert uneven[0].scores == pytest.approx(probability_scores(subject(by_hand), PROMPTS), rel=1e-3, abs=0)


def test_of_a_pair_the_baseline_learns_and_is_still_corrected():
    plain = relearn(subject(), [BOOK], PROMPTS, config=FAST)
    uncorrected = relearn(subject(pair("two copies", alpha=0.0)), [BOOK], PROMPTS, config=FAST)
    for one, other in zip(plain, uncorrected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4, abs=0)
    attacked, seen = pair("one copy"), []

    def keep(each: Any, prompts: Sequence[Prompt]) -> list[float]:
        seen.append((each.model, copy.deepcopy(each.model.baseline)))
        return probability_scores(each, prompts)

    points = relearn(subject(attacked), [BOOK], PROMPTS, config=FAST, score=keep)
    for point, (each, tuned) in zip(points, seen, strict=True):
        assert each.reinforced is attacked.reinforced and each.alpha == 2.0
        by_hand = ModelPair(tuned, attacked.reinforced, alpha=2.0)
        assert point.scores == pytest.approx(probability_scores(subject(by_hand), PROMPTS), rel=1e-4, abs=0)
    assert points[0].scores == probability_scores(subject(attacked), PROMPTS)
    assert points[2].scores != points[0].scores != plain[0].scores


def test_a_block_is_no_longer_than_the_context():
    (point,) = relearn(subject(model(family="gpt2", n_positions=32)), [BOOK], PROMPTS, config=RelearnConfig(steps=(2,)))
    assert len(point.scores) == len(PROMPTS)


def test_wider_models_learn_at_a_lower_rate():
    usual, stated = (
        relearn(subject(), [BOOK], PROMPTS, config=RelearnConfig(steps=(0, 2), learning_rate=rate))
        for rate in (None, 0.08 / 32)
    )
    assert usual == stated


def test_half_precision_is_trained_in_float32():
    half = subject(model(dtype=torch.bfloat16))
    fine = RelearnConfig(steps=(0, 3), learning_rate=1e-6)  # steps that bfloat16 would round away
    before, after = relearn(half, [BOOK], PROMPTS, config=fine)
    assert before.scores != after.scores and half.model.dtype == torch.bfloat16


def test_quotes_are_a_little_of_the_text_from_all_over_it():
    text = " ".join(f"word{n}" for n in range(1000))
    taken = quotes(text, 4)
    assert [len(quote.split()) for quote in taken] == [60] * 4
    assert all(quote in text for quote in taken)
    assert [quote.split()[0] for quote in taken] == ["word0", "word235", "word470", "word705"]
    assert quotes("only four words here") == ["only four words here "]


@pytest.mark.parametrize("texts", [[], [""]])
def test_without_a_text_nothing_is_learnt(texts):
    with pytest.raises(InputError, match="wanted a text to fine-tune on; got none"):
        relearn(subject(), texts, PROMPTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ()}, r"wanted steps that ascend from 0 or more; got \(\)"),
        ({"steps": (0, 5, 5)}, "ascend"),
        ({"steps": (-1, 5)}, "ascend"),
        ({"learning_rate": 0.0}, "wanted a learning_rate above 0; got 0.0"),
        ({"batch_size": 0}, "wanted a batch_size above 0; got 0"),
        ({"block_size": 1}, "wanted blocks of at least 2 tokens; got 1"),
    ],
)
def test_settings_of_fine_tuning_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        RelearnConfig(**settings)


# Rounding


def test_eight_bits_move_no_weight_further_than_half_a_level():
    weight = torch.randn(33, 70) * torch.rand(33, 1)
    weight[4] = 0.0
    rounded = round_int8(weight)
    largest = weight.abs().amax(-1, keepdim=True)
    assert ((rounded - weight).abs() <= largest / 254 * (1 + 1e-4)).all()
    assert all(len(row.unique()) <= 255 for row in rounded) and torch.equal(rounded[4], weight[4])
    assert torch.allclose(rounded.abs().amax(-1, keepdim=True), largest, rtol=1e-6)
    assert torch.allclose(round_int8(rounded), rounded, rtol=1e-6)


def test_four_bits_move_no_weight_further_than_half_the_widest_gap():
    weight = torch.randn(33, 70)
    weight[:2] = 0.0
    rounded = round_nf4(weight)
    groups = [each.flatten() for each in (weight, rounded)]
    for before, after in zip(groups[0].split(64), groups[1].split(64), strict=True):
        assert ((after - before).abs() <= 0.152 * before.abs().max()).all()
        assert len(after.unique()) <= 16
    assert torch.equal(rounded[:1], weight[:1])


def test_four_bits_are_those_of_bitsandbytes():
    """Computed by bitsandbytes 0.50.2: ``dequantize_4bit(*quantize_4bit(weight, blocksize=64, quant_type="nf4"))``."""
    weight = (torch.arange(150) * 7 % 41 - 20.5).view(2, 75) / 10
    expected = {0: -2.05, 1: -1.4271952, 2: -0.5831048, 3: 0.0, 4: 0.6927263, 5: 1.4820615, 7: -1.0763997}
    expected |= {9: 0.1631396, 10: 0.9034551, 14: -0.3787855, 15: 0.3299069, 22: 1.1533648, 26: -0.1866526}
    expected |= {27: 0.5045302, 29: 2.05, 31: -0.8095808, 129: -1.95, 130: -1.357576, 132: 0.1551816, 149: -0.1775476}
    rounded = round_nf4(weight).flatten()
    for at, value in expected.items():
        assert rounded[at].item() == pytest.approx(value, abs=1e-6)


def test_eight_bits_change_little_and_four_bits_more():
    plain, eight, four = quantize(subject(), PROMPTS)
    assert [plain.x, eight.x, four.x] == ["as it is", "int8", "nf4"]
    assert plain.scores == probability_scores(subject(), PROMPTS)
    moved = [max(abs(a / b - 1) for a, b in zip(point.scores, plain.scores, strict=True)) for point in (eight, four)]
    assert 0 < moved[0] < 0.05 and 2 * moved[0] < moved[1]


def rounded_names(of: Any) -> set[str]:
    """Names of the weights that a quantised copy has changed."""
    changed: set[str] = set()

    def compare(attacked: Any, prompts: Sequence[Prompt]) -> list[float]:
        if attacked.model is not of:
            parts = [
                (each.baseline, each.reinforced) if isinstance(each, ModelPair) else (each,)
                for each in (of, attacked.model)
            ]
            for number, (before, after) in enumerate(zip(*parts, strict=True)):
                own = dict(after.named_parameters())
                changed.update(
                    f"{number}.{name}"
                    for name, weight in before.named_parameters()
                    if not torch.equal(weight, own[name])
                )
        return [0.0] * len(prompts)

    quantize(subject(of), PROMPTS, score=compare)
    return changed


@pytest.mark.parametrize(
    ("family", "some", "others"),
    [
        ("llama", {"model.layers.1.mlp.up_proj.weight"}, {"model.embed_tokens.weight", "lm_head.weight"}),
        (
            "gpt2",
            {"transformer.h.0.attn.c_attn.weight"},
            {"transformer.wte.weight", "transformer.h.0.attn.c_attn.bias"},
        ),
        ("mixtral", {"model.layers.0.mlp.experts.gate_up_proj"}, {"lm_head.weight"}),
        ("mamba", {"backbone.layers.0.mixer.in_proj.weight"}, {"backbone.layers.0.mixer.conv1d.weight"}),
    ],
)
def test_linear_layers_and_experts_are_rounded_and_nothing_else(family, some, others):
    changed = {name.removeprefix("0.") for name in rounded_names(model(family=family))}
    assert some <= changed and not others & changed


def test_both_models_of_a_pair_are_rounded_and_an_adapter_is_not():
    of_pair = rounded_names(pair("two copies"))
    assert {"0.model.layers.0.mlp.up_proj.weight", "1.model.layers.0.mlp.up_proj.weight"} <= of_pair
    shared = rounded_names(pair("one copy"))
    assert {"0.model.layers.0.mlp.up_proj.weight", "1.model.layers.0.mlp.up_proj.base_layer.weight"} <= shared
    assert not [name for name in shared if "lora_" in name]


def test_a_layer_that_stores_inputs_first_has_a_scale_for_each_output():
    of = model(family="gpt2")
    layer = of.transformer.h[0].attn.c_attn
    seen = []
    quantize(subject(of), PROMPTS, score=lambda attacked, _: seen.append(attacked.model) or [0.0])
    assert torch.equal(seen[1].transformer.h[0].attn.c_attn.weight, round_int8(layer.weight.T).T)
    assert torch.equal(seen[2].transformer.h[0].attn.c_attn.weight, round_nf4(layer.weight.T).T)


def test_what_a_pair_shares_its_rounded_copy_shares():
    seen = []
    quantize(subject(pair("one copy")), PROMPTS, score=lambda attacked, _: seen.append(attacked.model) or [0.0])
    assert [each.shares_weights for each in seen] == [True] * 3


# Hints and examples


def leads_of(recorder: Recorder, prompts: Sequence[Prompt] = PROMPTS) -> list[list[str]]:
    """What stands before each prompt, set by set."""
    return [
        [asked.prompt.removesuffix(prompt.prompt) for asked, prompt in zip(of_set, prompts, strict=True)]
        for of_set in recorder.asked
    ]


def test_a_hint_comes_from_the_text_and_does_not_name_the_target():
    recorder = Recorder()
    points = hint(subject(), PROMPTS, BOOK.replace(" ", "\n", 7), words=(0, 3, 6), score=recorder)
    assert [(point.x, point.cut) for point in points] == [(0, 0), (3, 0), (6, 0)]
    nothing, short, long = leads_of(recorder)
    assert nothing == [""] * len(PROMPTS)
    assert short[0] == "down every word. " and long[0] == "Mira Voss wrote down every word. "
    for prompt, few, many in zip(PROMPTS, short, long, strict=True):
        assert many.endswith(few) and many.strip() in BOOK and few != ""
        assert prompt.target.strip().casefold() not in whole_words(many)
    assert [asked.target for asked in recorder.asked[2]] == [prompt.target for prompt in PROMPTS]


def test_a_hint_is_taken_where_there_are_enough_words_without_the_target():
    recorder = Recorder()
    text = "Orrin is here. The bell of Orrin. One two three four five six seven of Orrin. And Orrin."
    asked = [Prompt("The bell of", " Orrin"), Prompt("Where is", " Zedd"), Prompt("a Orr", "rin")]
    hint(subject(), asked, text, words=(5,), score=recorder)
    ((one, unnamed, part),) = leads_of(recorder, asked)
    assert one == "is here. The bell of " and unnamed == part == "Orrin is here. The bell "


def test_a_hint_ends_where_the_context_does():
    recorder = Recorder()
    text = "word " * 300
    points = hint(subject(), PROMPTS, text, words=(1, 250), context=80, score=recorder)
    assert [point.cut for point in points] == [0, len(PROMPTS)]
    for prompt in recorder.asked[1]:
        room = 80 - len(WORDS(prompt.prompt)["input_ids"]) - 1
        assert 40 <= room < 44 and prompt.prompt.startswith("word ")
    of_itself = hint(subject(model(max_position_embeddings=80)), PROMPTS, text, words=(1, 250), score=Recorder())
    assert of_itself == points


def test_where_no_limit_is_known_nothing_is_cut():
    recorder = Recorder()
    for each in (Server(), subject(model(family="mamba"))):
        (point,) = hint(each, PROMPTS, "word " * 300, words=(290,), score=recorder)
        assert point.cut == 0 and recorder.asked[-1][0].prompt.count("word ") == 290


def test_examples_are_other_prompts_that_do_not_name_the_target():
    prompts = [*PROMPTS, Prompt("Winter rings in", " Orrin")]
    recorder = Recorder()
    few_shot(subject(), prompts, shots=(0, 1, 2, 9), score=recorder)
    nothing, one, two, all_of_them = leads_of(recorder, prompts)
    assert nothing == [""] * 5
    known = {each.prompt + each.target for each in prompts}
    for prompt, first, second, last in zip(prompts, one, two, all_of_them, strict=True):
        assert [len(lead.splitlines()) for lead in (first, second)] == [1, 2]
        assert second.endswith(first) and last.endswith(second) and set(last.splitlines()) <= known
        assert prompt.target.strip().casefold() not in whole_words(last)
        assert prompt.prompt + prompt.target not in last.splitlines()
    assert len(all_of_them[1].splitlines()) == 4 and len(all_of_them[0].splitlines()) == 3


def test_a_single_prompt_has_no_examples():
    recorder = Recorder()
    few_shot(subject(), PROMPTS[:1], score=recorder)
    assert recorder.asked == [PROMPTS[:1]] * 4


# Wordings


def test_a_prompt_is_put_in_other_words_and_its_target_stays():
    recorder = Recorder()
    names = [point.x for point in reword(subject(), PROMPTS, score=recorder)]
    assert names == ["as it is", "lower case", "misspelt", *FRAMES]
    for asked in recorder.asked:
        assert [each.target for each in asked] == [prompt.target for prompt in PROMPTS]
    asked = dict(zip(names, recorder.asked, strict=True))
    assert asked["as it is"] == PROMPTS
    assert asked["lower case"][0].prompt == "the lighthouse keeper of"
    for prompt, misspelt in zip(PROMPTS, asked["misspelt"], strict=True):
        pairs = list(zip(prompt.prompt.split(), misspelt.prompt.split(), strict=True))
        assert all(sorted(a) == sorted(b) and (a[0], a[-1]) == (b[0], b[-1]) for a, b in pairs)
        assert 1 <= sum(a != b for a, b in pairs) <= len(pairs) / 2 + 1 or prompt.prompt == misspelt.prompt
    assert sum(a != b for a, b in zip(PROMPTS, asked["misspelt"], strict=True)) >= 3


@pytest.mark.parametrize("attack", [reword, role_play])
def test_a_frame_ends_with_the_prompt(attack):
    recorder = Recorder()
    odd = [Prompt("{prompt} {0} %s \\1 of", " x")]
    frames = FRAMES if attack is reword else ROLES
    names = [point.x for point in attack(subject(), odd, score=recorder)]
    asked = dict(zip(names, recorder.asked, strict=True))
    assert asked["as it is"] == odd
    for name in frames:
        (prompt,) = asked[name]
        assert prompt.prompt.endswith(odd[0].prompt) and prompt.prompt != odd[0].prompt


def test_wordings_of_the_caller_have_their_own_targets():
    german = [Prompt("Der Leuchtturm von", " Orrin")]
    recorder = Recorder()
    points = reword(subject(), PROMPTS, wordings={"German": german}, score=recorder)
    assert points[-1].x == "German" and len(points[-1].scores) == 1 and recorder.asked[-1] == german
    with pytest.raises(InputError, match="wanted at least one prompt"):
        reword(subject(), PROMPTS, wordings={"German": []})


def test_the_reports_attack_asks_in_the_wordings_of_its_material():
    german = [Prompt("Der Leuchtturm von", " Orrin"), Prompt("Am Meer wartete", " Mira")]
    given = Given(wordings={"German": german})
    *usual, last = ATTACKS["reword"].run(subject(), given, 0)
    assert [point.x for point in usual] == [point.x for point in ATTACKS["reword"].run(subject(), Given(), 0)]
    assert last == Point("German", probability_scores(subject(), german)) and len({*last.scores}) == 2


@pytest.mark.parametrize("names", [["as it is"], ["Lower case"], ["French frame"], ["German", "GERMAN!"]])
def test_a_wording_has_a_name_of_its_own(names):
    with pytest.raises(InputError, match=f"^wanted a name of its own for each wording; got '{names[-1]}', which is"):
        reword(subject(), PROMPTS, wordings={name: PROMPTS for name in names})


# Samples


@pytest.mark.parametrize("drawn", [1, 2, 5])
def test_one_of_k_is_the_mean_over_all_choices_of_k(drawn):
    for successes, k in itertools.product(range(drawn + 1), range(1, drawn + 1)):
        outcomes = [True] * successes + [False] * (drawn - successes)
        choices = [any(choice) for choice in itertools.combinations(outcomes, k)]
        assert one_of_k(drawn, successes, k) == pytest.approx(sum(choices) / len(choices))


def test_samples_are_counted_where_they_name_a_new_term():
    prompts, terms = [Prompt("the old", ""), Prompt("b e", "")], ["e", "old"]
    points = leak_at_k(subject(), prompts, terms, ks=(1, 2, 6), new_tokens=30, seed=3)
    asked = [prompt.prompt for prompt in prompts for _ in range(6)]
    texts = subject().complete(asked, new_tokens=30, temperature=1.0, seed=3)
    found = [names_new_term(text, prompt, terms) for text, prompt in zip(texts, asked, strict=True)]
    for point in points:
        choices = [[any(each) for each in itertools.combinations(found[at : at + 6], point.x)] for at in (0, 6)]
        assert point.scores == pytest.approx([sum(each) / len(each) for each in choices])
    assert 0 < sum(found) < 12 and len(set(texts)) > 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": []}, "wanted terms of the text to look for; got none"),
        ({"ks": ()}, r"wanted numbers of samples from 1; got \(\)"),
        ({"ks": (0, 4)}, "numbers of samples from 1"),
    ],
)
def test_samples_without_a_use_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        leak_at_k(subject(), PROMPTS, **{"terms": ["Mira"], **options})
