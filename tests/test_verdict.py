"""The verdict: what it says of models whose making is known, and that it claims no more than was measured."""

from __future__ import annotations

from typing import Any

import pytest
from reports import example, figure, with_cheater, without

from generic_logits.evaluation.verdict import CAVEAT, reach_verdict


def verdict_on(report: dict[str, Any], name: str) -> dict[str, Any]:
    return reach_verdict(report)["by_model"][name]


def warnings_on(report: dict[str, Any], name: str) -> str:
    return "\n".join(verdict_on(report, name)["warnings"])


def test_the_levels_follow_how_the_models_were_made():
    found = {name: (v["forgetting"], v["ability"]) for name, v in reach_verdict(example())["by_model"].items()}
    assert found == {
        "generic α=1": ("none", "kept"),
        "generic α=2": ("part", "kept"),
        "generic α=5": ("part", "lost"),
        "distilled": ("complete", "kept"),
        "gradient ascent": ("complete", "lost"),
    }


def test_references_are_not_judged():
    assert not {"baseline", "gold"} & {*reach_verdict(example())["by_model"]}


def test_a_clean_model_is_named_first_and_the_limits_last():
    first, *_, last = reach_verdict(example())["sentences"]
    assert first.startswith("“distilled” knows no more of the text than the gold model, as far as was measured")
    assert "no attack tried on it brought knowledge back" in first
    assert last == CAVEAT


def test_lost_ability_is_not_called_unlearning():
    v = verdict_on(example(), "gradient ascent")
    assert (
        "74.5\N{NO-BREAK SPACE}% higher than the baseline's" in v["kept"]
        and "less fluent: Repetition 0.412" in v["kept"]
    )
    assert "do not read this as unlearning alone" in v["warnings"][0]
    assert any(
        s.startswith("“generic α=5” and “gradient ascent” lost ability") for s in reach_verdict(example())["sentences"]
    )


def test_knowledge_that_an_attack_brings_back_is_told_with_gold_beside_it():
    told = warnings_on(example(), "gradient ascent")
    assert "“Relearning” knowledge comes back: Probability of the text's words from 0.002 to 0.246" in told
    assert "(step: 80; gold 0.062, baseline 0.312)" in told
    assert "Quantisation" not in told


def test_a_tiny_figure_under_attack_is_told_in_words():
    report = example()
    for point in report["attacks"]["relearning"]["curves"]["gold"]:
        point.update(value=7e-05, low=0.0, high=1e-4)
    told = warnings_on(report, "gradient ascent")
    assert "gold under 0.001, baseline 0.312" in told and "e-05" not in told


def test_gold_relearns_as_well_and_that_is_no_return():
    report = example()
    curves = report["attacks"]["relearning"]["curves"]
    curves["gradient ascent"] = [dict(point) for point in curves["gold"]]
    assert "Relearning" not in warnings_on(report, "gradient ascent")


def test_an_attack_without_a_harmless_first_point_finds_what_is_left():
    report = example()
    attack = report["attacks"]["quantisation"]
    attack["curves"]["distilled"] = [{**figure(0.2, 120), "x": x} for x in ("none", "int8", "int4")]
    assert "“Quantisation” knowledge is found: Probability of the text's words 0.2 (precision: none" in warnings_on(
        report, "distilled"
    )


def test_an_attack_where_more_is_less_knowledge_is_turned():
    report = example()
    attack = report["attacks"]["relearning"]
    attack["better"] = "higher"
    for curve in attack["curves"].values():
        for point in curve:
            point["value"], point["low"], point["high"] = (
                1 - point["value"],
                1 - point["high"],
                1 - point["low"],
            )
    assert "from 0.998 to 0.754" in warnings_on(report, "gradient ascent")
    assert verdict_on(report, "distilled")["warnings"] == []


@pytest.mark.parametrize(
    "evidence", ["begin with “i'm sorry, but i”", "silent, not forgotten", "“Longer hints” knowledge"]
)
def test_a_model_that_refuses_anchors_is_caught_three_times(evidence):
    assert evidence in warnings_on(with_cheater(example()), "cheater")


def test_a_refusing_model_is_never_called_unlearned():
    for forgotten_by_all in (False, True):
        report = with_cheater(example())
        if forgotten_by_all:
            report["figures"]["cheater"] = {**report["figures"]["distilled"]}
        sentences = reach_verdict(report)["sentences"]
        assert not any(s.startswith("“cheater” knows") for s in sentences)


@pytest.mark.parametrize("text", ["", "  \n", "the the the the the the the the the"])
def test_empty_and_stuck_completions_are_told(text):
    report = example()
    for completion in report["completions"]:
        completion["by_model"]["distilled"]["text"] = text
    assert "it may refuse or be broken" in warnings_on(report, "distilled")


def test_completions_that_are_alike_in_the_baseline_too_are_no_warning():
    report = example()
    for completion in report["completions"]:
        for name in ("baseline", "distilled"):
            completion["by_model"][name]["text"] = "And so it was, as ever."
    assert verdict_on(report, "distilled")["warnings"] == []


def test_without_gold_nothing_is_like_gold():
    verdict = reach_verdict(without(example(), "gold"))
    assert verdict["by_model"]["distilled"]["forgetting"] != "complete"
    assert any(s.startswith("No gold model") for s in verdict["sentences"])
    assert "gold" not in str(verdict["by_model"]).replace("gold's", "")


def test_a_model_further_from_gold_than_the_baseline_forgot_most_at_best():
    report = example()
    report["measures"]["kl_gold"] = {**report["measures"]["extraction_strength"], "title": "Distance from gold"}
    for name, value in {"baseline": 0.9, "distilled": 0.2, "gradient ascent": 5.0}.items():
        report["figures"][name]["kl_gold"] = figure(value, 64)
    assert verdict_on(report, "distilled")["forgetting"] == "complete"
    assert verdict_on(report, "gradient ascent")["forgetting"] == "most"


def test_a_model_of_which_only_words_were_measured_is_not_praised():
    report = example()
    del report["figures"]["distilled"]["familiarity_probability"]
    assert "Only what it writes was measured" not in warnings_on(report, "distilled")
    del report["figures"]["distilled"]["extraction_strength"]
    assert "Only what it writes was measured: a filter in front of a model" in warnings_on(report, "distilled")
    assert not any(each.startswith("“distilled” knows") for each in reach_verdict(report)["sentences"])


def test_of_a_model_that_forgot_nothing_nothing_comes_back():
    report = example()
    report["figures"]["distilled"] = dict(report["figures"]["baseline"])
    report["attacks"]["hints"]["curves"]["distilled"][-1].update(figure(0.3, 120))
    v = verdict_on(report, "distilled")
    assert v["forgetting"] == "none" and not any("comes back" in each for each in v["warnings"])


def test_a_gold_model_that_knows_the_text_is_told():
    report = example()
    for measure in ("familiarity_probability", "familiarity_completion", "verbmem_rouge_l", "extraction_strength"):
        report["figures"]["gold"][measure] = report["figures"]["baseline"][measure]
    verdict = reach_verdict(report)
    assert "but knows as much of it as the baseline by all 4 measures of knowledge." in "\n".join(verdict["sentences"])
    assert verdict["by_model"]["distilled"]["forgotten"].endswith("that tells the baseline from “gold”.")
    assert "Was the right model" not in "\n".join(reach_verdict(example())["sentences"])


def with_gold_as_an_ordinary_model(**floors: float) -> dict[str, Any]:
    """Of a reader who has no gold model; one of the models never read the text, and is not known as such."""
    report = example()
    for model in report["models"]:
        model["role"] = "" if model["role"] == "gold" else model["role"]
    for attack in report["attacks"].values():
        for point in (point for curve in attack["curves"].values() for point in curve):
            point["above_gold"] = None
    return report | {"floors": {measure: figure(value, 64) for measure, value in floors.items()}}


@pytest.mark.parametrize("floors", [{}, {"verbmem_rouge_l": 0.14, "extraction_strength": 0.05}])
def test_without_gold_a_model_that_never_read_the_text_is_said_to_know_little(floors):
    verdict = reach_verdict(with_gold_as_an_ordinary_model(**floors))
    v = verdict["by_model"]["gold"]
    assert (v["forgetting"], v["ability"], v["warnings"]) == ("most", "kept", [])
    told = f"“gold” knows little of the text, as far as {2 + len(floors)} measures can tell without a gold model; "
    assert verdict["sentences"][0].startswith(told)


def test_without_gold_a_measure_that_has_no_floor_is_not_counted_and_that_is_said():
    report = with_gold_as_an_ordinary_model(extraction_strength=0.05)
    report["figures"]["distilled"]["verbmem_rouge_l"] = report["figures"]["baseline"]["verbmem_rouge_l"]
    verdict = reach_verdict(report)
    assert verdict["by_model"]["distilled"]["forgetting"] == "most"
    told = "\n".join(verdict["sentences"])
    assert "shows of text that it never read: Extraction strength 0.050. For familiarity, 0 does." in told
    assert "is not known without a gold model: Verbatim continuation (ROUGE-L)." in told


def test_without_gold_a_measure_counts_by_what_the_baseline_shows_of_unread_text():
    report = with_gold_as_an_ordinary_model(verbmem_rouge_l=0.14, extraction_strength=0.05)
    report["figures"]["distilled"]["extraction_strength"] = figure(0.3, 64)
    v = verdict_on(report, "distilled")
    assert v["forgetting"] == "part"
    assert "Extraction strength: 0.300 (baseline 0.381, on unread text 0.050)" in v["forgotten"]
    assert "silent, not forgotten" in warnings_on(report, "distilled")


def test_two_texts_differ_so_a_floor_near_the_baseline_counts_nothing():
    report = with_gold_as_an_ordinary_model(verbmem_rouge_l=0.5, extraction_strength=0.05)
    report["figures"]["gold"]["verbmem_rouge_l"] = figure(0.69, 64)
    verdict = reach_verdict(report)
    assert verdict["by_model"]["gold"]["forgetting"] == "most"
    assert "hardly more of the text than of unread text: Verbatim continuation (ROUGE-L)." in str(verdict["sentences"])


def test_without_gold_text_that_repeats_itself_is_no_loss_of_ability():
    report = with_gold_as_an_ordinary_model()
    report["figures"]["distilled"] |= {"repetition": figure(0.4, 64), "distinct_bigrams": figure(0.4, 64)}
    report["figures"]["distilled"]["perplexity_retained"] = figure(107, 64)
    assert verdict_on(report, "distilled")["ability"] == "reduced"
    report["models"][1]["role"] = "gold"
    assert verdict_on(report, "distilled")["ability"] == "lost"


def test_without_gold_a_fifth_of_the_baseline_is_too_much_for_most_forgotten_and_half_of_it_after_fine_tuning():
    for value, told in ((0.05, ()), (0.1, ("hints",)), (0.17, ("hints", "relearning"))):
        report = with_gold_as_an_ordinary_model()
        for attack in ("hints", "relearning"):
            report["attacks"][attack]["curves"]["distilled"][-1].update(figure(value, 120))
        warnings = warnings_on(report, "distilled")
        titles = {"hints": "“Longer hints” knowledge", "relearning": "“Relearning” knowledge"}
        assert {name for name, title in titles.items() if title in warnings} == {*told}, value


def test_it_is_said_plainly_that_fine_tuning_brings_the_text_back():
    hidden = "Fine-tuning brings the text back (“Relearning”): it was hidden, not forgotten."
    report = example()
    warnings = verdict_on(report, "gradient ascent")["warnings"]
    assert warnings.count(hidden) == 1 and warnings.index(hidden) < next(
        at for at, each in enumerate(warnings) if each.startswith("Under attack by “Relearning”")
    )
    for curve in (report["attacks"]["relearning"]["curves"]["gradient ascent"],):  # a little comes back: no such word
        for point in curve[1:]:
            point.update(figure(0.13, 120))
    told = warnings_on(report, "gradient ascent")
    assert "“Relearning” knowledge comes back" in told and "hidden" not in told


def test_only_fine_tuning_shows_that_something_was_hidden():
    report = example()
    report["attacks"] = {"hints": report["attacks"]["relearning"]}
    told = warnings_on(report, "gradient ascent")
    assert "knowledge comes back" in told and "hidden" not in told
    assert "hidden" not in warnings_on(without(example(), "gold"), "gradient ascent")


def test_without_gold_half_of_the_baseline_is_a_return():
    told = warnings_on(without(example(), "gold"), "gradient ascent")
    assert "“Relearning” knowledge comes back" in told and "(step: 80; baseline 0.312)" in told
    assert "Relearning" not in warnings_on(without(example(), "gold"), "distilled")


def test_without_a_baseline_nothing_is_judged():
    verdict = reach_verdict(without(example(), "baseline"))
    assert {(v["forgetting"], v["ability"]) for v in verdict["by_model"].values()} == {("unknown", "unknown")}
    assert any("No baseline was given" in s for s in verdict["sentences"])
    assert not any(" knows " in s for s in verdict["sentences"])


def test_without_attacks_that_is_said_and_not_praised():
    report = example() | {"attacks": {}}
    sentences = reach_verdict(report)["sentences"]
    assert "no attack was tried on it" in sentences[0]
    assert any(s.startswith("No attack was tried: ") for s in sentences)


def test_a_model_that_no_attack_was_tried_on_is_not_praised_for_others():
    report = example()
    for attack in report["attacks"].values():
        attack["curves"].pop("distilled")
    assert "no attack was tried on it" in reach_verdict(report)["sentences"][0]


def test_a_measure_that_cannot_tell_gold_from_the_baseline_counts_nothing():
    report = example()
    for measure in ("familiarity_completion", "verbmem_rouge_l", "extraction_strength"):
        for name in report["figures"]:
            report["figures"][name][measure] = figure(0.2, 64)
    assert verdict_on(report, "distilled")["forgotten"].startswith("By the one measure of knowledge it knows less")
    for name in report["figures"]:
        report["figures"][name]["familiarity_probability"] = figure(0.2, 64)
    assert verdict_on(report, "distilled")["forgetting"] == "unknown"


def test_one_measure_that_still_knows_keeps_a_model_from_passing():
    report = example()
    report["figures"]["distilled"]["extraction_strength"] = figure(0.3, 64)
    v = verdict_on(report, "distilled")
    assert v["forgetting"] == "part"
    assert "Least was forgotten by Extraction strength: 0.300 (baseline 0.381, gold 0.052)" in v["forgotten"]


def test_few_items_do_not_make_a_model_like_gold():
    report = example()
    report["figures"]["distilled"]["familiarity_probability"] = {"value": 0.09, "low": 0.005, "high": 0.2, "count": 6}
    assert verdict_on(report, "distilled")["forgetting"] == "part"


@pytest.mark.parametrize(
    ("value", "count", "level", "told"),
    [
        (0.68, 20, "kept", "6.4 points below the baseline on average, no more than chance explains."),
        (0.70, 5000, "reduced", "4.4 points below the baseline on average."),
        (0.68, 5000, "lost", "6.4 points below the baseline on average."),
        (0.80, 5000, "kept", "5.6 points above the baseline on average."),
        (0.744, 20, "kept", "On 1 task of the harness it is as good as the baseline on average."),
        (0.7442, 5000, "kept", "it is as good as the baseline on average."),
    ],
)
def test_harness_tasks_fall_by_more_than_chance_or_not_at_all(value, count, level, told):
    report = example()
    report["figures"]["baseline"]["harness_arc_easy"] = figure(0.744, count)
    report["figures"]["distilled"]["harness_arc_easy"] = figure(value, count)
    v = verdict_on(report, "distilled")
    assert v["ability"] == level and v["kept"].endswith(told)


def test_less_known_than_by_gold_is_told():
    report = example()
    report["figures"]["distilled"]["verbmem_rouge_l"] = figure(0.001, 64)
    assert "Knows less than a model that never read the text (Verbatim" in warnings_on(report, "distilled")


def test_the_distance_from_gold_on_the_work_is_told_and_more_than_the_baselines_is_a_warning():
    report = example()
    about = {**report["measures"]["extraction_strength"], "title": "Distance from gold on the work (KL)"}
    report["measures"]["kl_gold"] = about
    for name, value in {"baseline": 0.85, "distilled": 0.34, "gradient ascent": 0.86}.items():
        report["figures"][name]["kl_gold"] = figure(value, 40)
    v = verdict_on(report, "distilled")
    assert v["forgotten"].endswith(
        "Of the baseline's distance from the gold model on the work, 40\N{NO-BREAK SPACE}% is left "
        "(0.340 of 0.850 nats a token)."
    )
    assert v["forgetting"] == "complete" and not v["warnings"]
    assert "less like the gold model than the baseline does" in warnings_on(report, "gradient ascent")
    assert verdict_on(report, "gradient ascent")["forgotten"].endswith(
        "On the work it is further from the gold model than the baseline is: 0.860 against 0.850 nats a token."
    )
    assert "On the work" not in warnings_on(example(), "gradient ascent")


def test_a_distance_that_gold_has_as_well_is_no_loss():
    report = example()
    for name in ("gold", "distilled"):
        report["figures"][name]["kl_retained"] = figure(0.7, 64)
    assert verdict_on(report, "distilled")["ability"] == "kept"


def test_unread_text_counts_as_retained_text_does():
    report = example()
    report["measures"]["perplexity_unread"] = report["measures"]["perplexity_retained"] | {"title": "Unread text"}
    for name, value in (("baseline", 100.0), ("distilled", 130.0)):
        report["figures"][name]["perplexity_unread"] = figure(value, 64)
    v = verdict_on(report, "distilled")
    assert v["ability"] == "lost" and "Unread text is 130.0" in v["kept"]


def test_text_that_repeats_itself_as_gold_does_is_no_loss():
    report = example()
    for name in ("gold", "distilled"):
        report["figures"][name] |= {"repetition": figure(0.42, 64), "distinct_bigrams": figure(0.45, 64)}
        for completion in report["completions"]:
            completion["by_model"][name]["text"] = "and the old man said and the old man said"
    v = verdict_on(report, "distilled")
    assert v["ability"] == "kept" and v["warnings"] == []
    assert "less fluent" in verdict_on(without(report, "gold"), "distilled")["kept"]


def test_a_trace_above_gold_is_no_return():
    report = example()
    curves = report["attacks"]["relearning"]["curves"]
    for name, value in (("gold", 0.001), ("distilled", 0.012)):
        curves[name][-1] |= {"value": value, "low": 0.9 * value, "high": 1.1 * value}
    curves["distilled"][0] |= figure(0.001, 120)
    assert verdict_on(report, "distilled")["warnings"] == []
    curves["distilled"][-1] |= {"value": 0.03, "low": 0.02, "high": 0.04}
    assert "“Relearning” knowledge comes back" in warnings_on(report, "distilled")


def test_one_measure_of_fluency_alone_is_no_loss_of_ability():
    alone, confirmed, both, by_tasks = (example() for _ in range(4))
    for report in (alone, confirmed, both, by_tasks):
        report["figures"]["distilled"]["distinct_bigrams"] = figure(0.6, 64)
    confirmed["figures"]["distilled"]["perplexity_retained"] = figure(104.0, 64)
    both["figures"]["distilled"]["repetition"] = figure(0.4, 64)
    for name, value in (("baseline", 0.744), ("distilled", 0.72)):
        by_tasks["figures"][name]["harness_arc_easy"] = figure(value, 5000)
    found = [verdict_on(report, "distilled") for report in (alone, confirmed, both, by_tasks)]
    assert [v["ability"] for v in found] == ["reduced", "lost", "lost", "lost"]
    assert all("less fluent: Distinct bigrams 0.600" in v["kept"] for v in found)
    assert "It lost ability" in "".join(found[2]["warnings"]) and not found[0]["warnings"]


def test_the_distance_from_the_baseline_does_not_confirm_that_fluency_was_lost():
    report = without(example(), "gold")  # a model that never read the text, given as any other
    report["figures"]["distilled"] |= {"distinct_bigrams": figure(0.6, 64), "kl_retained": figure(0.46, 64)}
    assert verdict_on(report, "distilled")["ability"] == "reduced"


@pytest.mark.parametrize("text", ["the bell said the bell said the bell said", "I'm sorry, but I cannot."])
def test_a_looping_or_refusing_model_is_caught_whatever_its_perplexity(text):
    report = example()
    for completion in report["completions"]:
        completion["by_model"]["distilled"]["text"] = text
    assert "it may refuse or be broken" in warnings_on(report, "distilled")
    report["figures"]["distilled"] |= {"repetition": figure(0.8, 64), "distinct_bigrams": figure(0.2, 64)}
    assert verdict_on(report, "distilled")["ability"] == "lost"


@pytest.mark.parametrize(("value", "level"), [(96.0, "kept"), (104.0, "reduced"), (125.0, "lost")])
def test_perplexity_is_compared_by_its_ratio(value, level):
    report = example()
    report["figures"]["distilled"]["perplexity_retained"] = figure(value, 64)
    assert verdict_on(report, "distilled")["ability"] == level


def test_a_server_without_weights_is_judged_by_what_could_be_asked():
    report = example()
    report["figures"]["distilled"] = {"familiarity_completion": figure(0.012, 100)}
    v = verdict_on(report, "distilled")
    assert (v["forgetting"], v["ability"]) == ("complete", "unknown")
    assert not any(s.startswith("“distilled” knows") for s in reach_verdict(report)["sentences"])


def test_few_items_are_told():
    report = example()
    for figures in report["figures"].values():
        figures["verbmem_rouge_l"]["count"] = 8
    assert (
        "Fewer than 20 items, so little can be said by: Verbatim continuation (ROUGE-L)."
        in (reach_verdict(report)["sentences"])
    )


def test_few_questions_of_a_test_of_ability_are_told_and_few_blocks_of_text_are_not():
    report = example()
    for figures in report["figures"].values():
        figures["harness_arc_easy"]["count"] = figures["perplexity_retained"]["count"] = 19
    assert "Fewer than 20 items, so little can be said by: ARC-Easy." in reach_verdict(report)["sentences"]


@pytest.mark.parametrize(("used", "told"), [("tiny", True), ("rules", False)])
def test_a_judge_in_use_that_agrees_badly_is_told(used, told):
    row = {"against": "hand", "group": "all", "exact": 0.5, "count": 94}
    agreement = [{**row, "judge": "rules", "kappa": 0.6}, {**row, "judge": "tiny", "kappa": 0.59}]
    report = example() | {"judges": {"used": used, "agreement": agreement, "sentences": []}}
    badly = "The judge of completions, “tiny”, agrees badly with grades given by hand (kappa 0.59 on 94 completions)"
    assert any(each.startswith(badly) for each in reach_verdict(report)["sentences"]) == told


@pytest.mark.parametrize(
    ("below", "above", "told"),
    [
        (4, 4, "By all 4 measures of knowledge it knows less than the baseline, and by all of them more than"),
        (
            1,
            4,
            "By 1 of 4 measures of knowledge it knows less than the baseline, and by all of them more than",
        ),
        (2, 2, "By 2 of 4 measures of knowledge it knows less than the baseline, and by 2 of them more than"),
    ],
)
def test_what_is_still_known_is_counted_in_plain_words(below, above, told):
    report = example()
    figures, of_baseline, of_gold = (report["figures"][name] for name in ("distilled", "baseline", "gold"))
    measures = ("familiarity_probability", "familiarity_completion", "verbmem_rouge_l", "extraction_strength")
    for at, measure in enumerate(measures):
        half = (of_baseline[measure]["value"] + of_gold[measure]["value"]) / 2
        forgot = figure(half, 5000) if above == 4 else of_gold[measure]
        figures[measure] = dict(forgot if at < below else of_baseline[measure])
    assert (
        f"Still knows the text in part. {told} the gold model, which never read the text."
        in verdict_on(report, "distilled")["forgotten"]
    )


def test_a_report_of_references_alone_has_no_verdict_on_models():
    report = without(example(), *[model["name"] for model in example()["models"] if not model["role"]])
    sentences = ["No model was given but references: there is nothing to judge.", CAVEAT]
    assert reach_verdict(report) == {"sentences": sentences, "by_model": {}}


def test_a_model_that_nothing_was_measured_of_is_judged_by_nothing():
    report = example()
    report["figures"] = {name: figures for name, figures in report["figures"].items() if name != "distilled"}
    v = verdict_on(report | {"attacks": {}}, "distilled")
    assert (v["forgetting"], v["ability"], v["warnings"]) == ("unknown", "unknown", [])
