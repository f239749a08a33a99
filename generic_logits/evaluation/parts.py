"""The parts of a report: what each asks a model, and which figures come of the answers.

A part's answer is plain data, item by item, so that it can be kept on disk; figures and intervals come later, of all
models at once, because some need another model's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from generic_logits.errors import MeasureError
from generic_logits.evaluation.attacks import ATTACKS, check_attack
from generic_logits.evaluation.familiarity import completion_scores, grade_completions, probability_scores
from generic_logits.evaluation.figures import Figure, bootstrap
from generic_logits.evaluation.harness import Backend, check_harness, run_harness
from generic_logits.evaluation.judge import Judge
from generic_logits.evaluation.lens import look
from generic_logits.evaluation.material import Material, spread_pieces
from generic_logits.evaluation.membership import bootstrap_area, bootstrap_privleak, membership_scores
from generic_logits.evaluation.memorization import (
    closeness_to_one,
    cut_passages,
    draw_wrong_targets,
    exact_memorization,
    extraction_strength,
    greedy_matches,
    knowmem_scores,
    truth_ratios,
    verbmem_scores,
)
from generic_logits.evaluation.subject import LocalSubject, Subject, local_model
from generic_logits.evaluation.utility import (
    Nats,
    block_divergences,
    block_likelihoods,
    distinct_ngrams,
    perplexity,
    repetition,
    token_mean,
)
from generic_logits.models.pair import ModelPair

_CHARACTERS_A_TOKEN = 3  # so that a piece of text rarely fills more than its block
_WORST = 100.0  # nats a token that count at most: a broken model's figures stay numbers
Answer = dict[str, Any]


@dataclass(frozen=True)
class Harness:
    """lm-evaluation-harness in a report.

    Attributes:
        data: folder of local data files; None takes the hub's.
        limit: questions of a task; None for all.
        backend: what answers, see ``run_harness``.
    """

    data: str | None = None
    limit: int | None = None
    backend: Backend = "hf"

    def __post_init__(self) -> None:
        """See that it can run, as ``check_harness`` does.

        Raises:
            InputError: it cannot.
        """
        check_harness(data=self.data, backend=self.backend)


@dataclass(frozen=True)
class Setting:
    """What every part is given beside the subject.

    Attributes:
        material: what is asked.
        baseline: loads the model to which distances are taken; None where the report has none.
        gold: loads the model that never read the text; likewise.
        judge: of completions.
        new_tokens: of a completion or a continuation.
        block_size: tokens in a block of text.
        blocks: of each text whose perplexity is taken.
        seed: of everything random.
        harness: None leaves it out.
    """

    material: Material
    baseline: Callable[[], Subject] | None
    judge: Judge
    new_tokens: int
    block_size: int
    blocks: int
    seed: int
    gold: Callable[[], Subject] | None = None
    harness: Harness | None = None

    def pieces(self, text: str) -> list[str]:
        """Evenly spread pieces of a text, about one block each."""
        return spread_pieces(text, self.blocks, self.block_size * _CHARACTERS_A_TOKEN)


@dataclass(frozen=True)
class Part:
    """One thing that is asked of a model.

    Attributes:
        title: on the progress bar.
        ask: the answer, or a ``MeasureError`` that says why there is none.
        wants: why it cannot be asked of anybody with this setting; "" if it can.
    """

    title: str
    ask: Callable[[Subject, Setting], Answer]
    wants: Callable[[Setting], str] = lambda setting: ""


def _probability(subject: Subject, setting: Setting) -> Answer:
    return {"scores": probability_scores(subject, setting.material.prompts)}


def _completion(subject: Subject, setting: Setting) -> Answer:
    texts, grades = grade_completions(subject, setting.material.hints, setting.judge, new_tokens=setting.new_tokens)
    return {"texts": texts, "grades": grades}


def _verbatim(subject: Subject, setting: Setting) -> Answer:
    return _continued(subject, setting.material.passages, setting)


def _continued(subject: Subject, passages: Sequence[tuple[str, str]], setting: Setting) -> Answer:
    return {"scores": verbmem_scores(subject, passages, new_tokens=setting.new_tokens)}


def _greedy(subject: Subject, setting: Setting) -> Answer:
    return _recited(subject, setting.material.passages)


def _recited(subject: Subject, passages: Sequence[tuple[str, str]]) -> Answer:
    matches = greedy_matches(subject, passages)
    return {
        "extraction_strength": [extraction_strength(each) for each in matches],
        "exact_memorization": [exact_memorization(each) for each in matches],
    }


def _unread(subject: Subject, setting: Setting) -> Answer:
    """What is continued and recited of unread text, by measure; a server cannot recite."""
    material = setting.material
    passages = [each for each in cut_passages(material.unread, len(material.passages)) if each[1].strip()]
    if not passages:
        raise MeasureError("a passage of unread text", "too little text", "give more")
    found = {"verbmem_rouge_l": _continued(subject, passages, setting)["scores"]}
    return found if subject.model is None else {**found, **_recited(subject, passages)}


def _questions(subject: Subject, setting: Setting) -> Answer:
    return {"scores": knowmem_scores(subject, setting.material.questions)}


def _truth(subject: Subject, setting: Setting) -> Answer:
    prompts = setting.material.prompts
    wrong = draw_wrong_targets(prompts, seed=setting.seed)
    usable = [(prompt, texts) for prompt, texts in zip(prompts, wrong, strict=True) if texts]
    return {"scores": truth_ratios(subject, [prompt for prompt, _ in usable], [texts for _, texts in usable])}


def _membership(subject: Subject, setting: Setting) -> Answer:
    sides = {"members": setting.material.forget, "others": setting.material.unread}
    return {side: membership_scores(subject, setting.pieces(text)) for side, text in sides.items()}


def _predicted(subject: Subject, setting: Setting) -> Answer:
    material = setting.material
    texts = {f"retained:{name}": text for name, text in material.retain.items()}
    texts |= {"held_out": material.held_out, "unread": material.unread}
    return {
        name: _bounded(block_likelihoods(subject, setting.pieces(text), block_size=setting.block_size))
        for name, text in texts.items()
        if text
    }


def _bounded(blocks: Sequence[Nats]) -> list[Nats]:
    return [(nats if nats <= _WORST * tokens else _WORST * tokens, tokens) for nats, tokens in blocks]


def _distance(subject: Subject, setting: Setting) -> Answer:
    if setting.baseline is None:
        raise MeasureError("a baseline to take the distance to", "none", "name it first")
    model = local_model(subject)
    if isinstance(model, ModelPair):
        baseline: Subject = LocalSubject("baseline", model.baseline, subject.tokenizer)
    else:
        baseline = setting.baseline()
    return _divergence(baseline, subject, setting, setting.material.retain.values())


def _gold_distance(subject: Subject, setting: Setting) -> Answer:
    if setting.gold is None:
        raise MeasureError("a gold model to take the distance to", "none", "give --gold MODEL")
    local_model(subject)
    return _divergence(setting.gold(), subject, setting, [setting.material.held_out or setting.material.forget])


def _divergence(reference: Subject, subject: Subject, setting: Setting, texts: Iterable[str]) -> Answer:
    """KL(reference || subject) of the next token, block by block."""
    if len(reference.tokenizer) != len(subject.tokenizer):
        got = f"{len(subject.tokenizer)} tokens against {len(reference.tokenizer)} of {reference.name}"
        raise MeasureError("models of one vocabulary", got, "the distance between them is left out")
    pieces = [piece for text in texts for piece in setting.pieces(text)]
    return {"blocks": _bounded(block_divergences(reference, subject, pieces, block_size=setting.block_size))}


def _tasks(subject: Subject, setting: Setting) -> Answer:
    harness = setting.harness or Harness()
    return dict(run_harness(subject, **asdict(harness)))


def _lens(subject: Subject, setting: Setting) -> Answer:
    if not isinstance(subject.model, ModelPair):
        raise MeasureError("a pair to look into", f"{subject.name}", "add --reinforced and --alpha")
    passages = setting.material.passages
    some = passages[:: max(1, len(passages) // 3)][:3]
    titled = {f"Passage {number}": "".join(passage) for number, passage in enumerate(some, start=1)}
    for name, text in list(setting.material.retain.items())[:1]:  # where nothing should be suppressed
        titled[f"Retained text, {name}"] = "".join(cut_passages(text, 3)[-1])
    return look(subject.model, subject.tokenizer, titled)


def _attack(name: str) -> Part:
    attack = ATTACKS[name]

    def ask(subject: Subject, setting: Setting) -> Answer:
        check_attack(name, subject, setting.material)
        points = attack.run(subject, setting.material, setting.seed)
        return {"points": [asdict(point) for point in points]}

    return Part(attack.title, ask)


def _no(name: str, text: Callable[[Material], Any], option: str) -> Callable[[Setting], str]:
    return lambda setting: "" if text(setting.material) else f"no {name} was given ({option})"


PARTS: Mapping[str, Part] = MappingProxyType(
    {
        # First: through an engine it wants the memory before the model is loaded.
        "tasks": Part(
            "lm-evaluation-harness", _tasks, lambda setting: "" if setting.harness else "not asked for (--harness)"
        ),
        "probability": Part("familiarity by probability", _probability),
        "completion": Part("familiarity by completion", _completion),
        "verbatim": Part("verbatim continuation", _verbatim),
        "greedy": Part("extraction", _greedy),
        "questions": Part(
            "questions", _questions, _no("question file", lambda of: of.questions, "--questions, --writer")
        ),
        "unread": Part(
            "floors without a gold model",
            _unread,
            lambda setting: (
                "" if setting.gold or setting.material.unread else "no gold model or unread text was given (--unread)"
            ),
        ),
        "truth": Part("truth ratio", _truth),
        "membership": Part("membership", _membership, _no("unread text", lambda of: of.unread, "--unread")),
        "predicted": Part("perplexity", _predicted),
        "distance": Part(
            "distance from the baseline", _distance, _no("retained text", lambda of: of.retain, "--retain")
        ),
        "gold_distance": Part(
            "distance from gold",
            _gold_distance,
            lambda setting: "" if setting.gold else "no gold model was given (--gold)",
        ),
        "lens": Part("token lens", _lens),
    }
)
ATTACK_PARTS: Mapping[str, Part] = MappingProxyType({f"attack:{name}": _attack(name) for name in ATTACKS})


@dataclass(frozen=True)
class Measure:
    """How a figure is called in a report, see ``report.schema.json``."""

    group: str
    title: str
    better: str
    format: str
    about: str


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "familiarity_probability": Measure(
            "familiarity",
            "Familiarity by probability",
            "lower",
            ".3f",
            "Mean probability that the model gives to the text's own words behind beginnings that ask for them.",
        ),
        "familiarity_completion": Measure(
            "familiarity",
            "Familiarity by completion",
            "lower",
            ".3f",
            "Score of completions of beginnings that hint at the text: 1 if each brings up something unique to it.",
        ),
        "verbmem_rouge_l": Measure(
            "memorisation",
            "Verbatim continuation (VerbMem, ROUGE-L)",
            "lower",
            ".3f",
            "Overlap of what the model writes with how the text goes on; unlike texts overlap, too.",
        ),
        "knowmem_rouge_l": Measure(
            "memorisation",
            "Questions about the text (KnowMem, ROUGE-L)",
            "lower",
            ".3f",
            "Overlap of the model's answers with the true ones.",
        ),
        "extraction_strength": Measure(
            "memorisation",
            "Extraction strength",
            "lower",
            ".3f",
            "Share of a passage that the model recites once the rest of it is given.",
        ),
        "exact_memorization": Measure(
            "memorisation",
            "Exact memorisation",
            "lower",
            ".3f",
            "Share of the passages' tokens that the model finds likeliest.",
        ),
        "kl_gold": Measure(
            "memorisation",
            "Distance from gold on the work (KL)",
            "lower",
            ".3f",
            "Nats a token by which the model differs, on the work's held-out part or else on the text itself, from the "
            "gold model, which never read it.",
        ),
        "truth_ratio": Measure(
            "memorisation",
            "Truth ratio",
            "gold",
            ".3f",
            "1 where the text's own words are as likely as wrong ones of the same kind, near 0 where they stand out.",
        ),
        **{
            f"membership_{score}_auc": Measure(
                "membership",
                f"Membership by {title}",
                "gold",
                ".3f",
                "How well read text can be told from unread text: 1 always, 0.5 by chance, less where it is avoided.",
            )
            for score, title in (
                ("loss", "loss"),
                ("zlib", "loss over zlib"),
                ("mink", "Min-K%"),
                ("minkpp", "Min-K%++"),
            )
        },
        "privleak": Measure(
            "membership",
            "PrivLeak",
            "gold",
            ".1f",
            "Percent by which membership by Min-K% differs from that of the gold model; 0 gives nothing away.",
        ),
        "perplexity_retained": Measure(
            "utility",
            "Perplexity of retained text",
            "lower",
            ".1f",
            "How surprised the model is by text it should keep.",
        ),
        "perplexity_unread": Measure(
            "utility",
            "Perplexity of unread text",
            "lower",
            ".1f",
            "How surprised the model is by text that is new to it.",
        ),
        "perplexity_held_out": Measure(
            "utility",
            "Perplexity of the work's held-out part",
            "gold",
            ".1f",
            "How surprised the model is by a part of the forgotten work that unlearning did not see.",
        ),
        "kl_retained": Measure(
            "utility",
            "Distance from the baseline on retained text (KL)",
            "lower",
            ".3f",
            "Nats a token by which the model differs where nothing should change.",
        ),
        "repetition": Measure(
            "utility", "Repetition", "lower", ".3f", "Share of four-word runs that a completion has said before."
        ),
        "distinct_bigrams": Measure(
            "utility", "Distinct bigrams", "higher", ".3f", "Share of two-word runs of a completion that are unlike."
        ),
    }
)


def floors_of(answers: Mapping[str, Answer], seed: int) -> dict[str, Figure]:
    """What a baseline's answers say of text that it never read, by measure, see ``figures_of``."""
    return {name: bootstrap(scores, seed=seed) for name, scores in answers.get("unread", {}).items()}


def figures_of(answers: Mapping[str, Answer], gold: Mapping[str, Answer], seed: int) -> dict[str, Figure]:
    """Every figure that a model's answers allow, in the order of ``MEASURES``; those of single corpora and tasks last.

    Args:
        answers: of a model, by part.
        gold: of the gold model, by part; empty where there is none.
        seed: of the intervals.
    """
    found: dict[str, Figure] = {}

    def add(name: str, items: Sequence[Any], **options: Any) -> None:
        if items:
            found[name] = bootstrap(items, seed=seed, **options)

    simple = {
        "probability": "familiarity_probability",
        "verbatim": "verbmem_rouge_l",
        "questions": "knowmem_rouge_l",
    }
    for part, name in simple.items():
        add(name, answers.get(part, {}).get("scores", []))
    if "completion" in answers:
        completion = answers["completion"]
        add("familiarity_completion", completion_scores(completion["grades"]))
        add("repetition", repetition(completion["texts"]))
        add("distinct_bigrams", distinct_ngrams(completion["texts"]))
    for name in ("extraction_strength", "exact_memorization"):
        add(name, answers.get("greedy", {}).get(name, []))
    add("kl_gold", answers.get("gold_distance", {}).get("blocks", []), statistic=token_mean)
    add("truth_ratio", answers.get("truth", {}).get("scores", []), statistic=closeness_to_one)
    if "membership" in answers:
        members, others = (answers["membership"][side] for side in ("members", "others"))
        for score in members:
            found[f"membership_{score}_auc"] = bootstrap_area(members[score], others[score], seed=seed)
        if "membership" in gold:
            of_gold = [gold["membership"][side]["mink"] for side in ("members", "others")]
            found["privleak"] = bootstrap_privleak(members["mink"], others["mink"], *of_gold, seed=seed)
    predicted = answers.get("predicted", {})
    retained = {name.partition(":")[2]: blocks for name, blocks in predicted.items() if name.startswith("retained:")}
    add("perplexity_retained", [block for blocks in retained.values() for block in blocks], statistic=perplexity)
    for name in ("unread", "held_out"):
        add(f"perplexity_{name}", predicted.get(name, []), statistic=perplexity)
    add("kl_retained", answers.get("distance", {}).get("blocks", []), statistic=token_mean)
    found = {name: found[name] for name in MEASURES if name in found}
    if len(retained) > 1:
        for name, blocks in retained.items():
            add(f"perplexity_retained_{name}", blocks, statistic=perplexity)
    for task, hits in answers.get("tasks", {}).items():
        add(f"harness_{task}", hits)
    return found


def describe_measure(name: str) -> dict[str, str]:
    """For the report: a measure's name, or that of a single corpus or task, in words."""
    if name in MEASURES:
        return asdict(MEASURES[name])
    if name.startswith("harness_"):
        task = name.removeprefix("harness_")
        about = "Share of the test's questions that are answered rightly, by lm-evaluation-harness."
        return asdict(Measure("utility", task, "higher", ".3f", about))
    corpus = name.removeprefix("perplexity_retained_")
    about = "How surprised the model is by this corpus alone."
    return asdict(Measure("utility", f"Perplexity of retained text: {corpus}", "lower", ".1f", about))
