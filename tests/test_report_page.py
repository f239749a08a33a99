"""The report's page in a real browser: what it shows, how it is worked, and that nothing in it runs or loads.

Without Chromium the tests skip; with REQUIRE_BROWSER=1 they fail instead.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reports
import tiny
import torch
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from generic_logits.evaluation.agreement import demo_rules, judges_on_record
from generic_logits.evaluation.report import Report
from generic_logits.evaluation.verdict import reach_verdict
from generic_logits.ops import correct_logits

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# PyPI has no browser: a machine without one can run every other test, and CI, which installs it, must not skip.
if not CHROMIUM and not os.environ.get("REQUIRE_BROWSER"):
    pytest.skip("needs Chromium (apt-get install chromium)", allow_module_level=True)

WIDE, NARROW = (1280, 900), (360, 740)
PARTS = ["verdict", "picture", "figures", "attacks", "completions", "lens"]
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "REQUIRE_BROWSER is set and there is no Chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> Path:
    judges = judges_on_record(demo_rules())
    return written(reports.example() | {"lens": reports.lens(), "judges": judges}, tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """Nine attacks, of which the eighth gets most and the ninth least, and twenty prompts."""
    report = reports.example()
    attack = report["attacks"]["quantisation"]
    for number in range(9):
        top = {7: 0.2, 8: 0.001}.get(number, 0.01 * (number + 1))
        curves = {name: [dict(point) for point in curve] for name, curve in attack["curves"].items()}
        curves["distilled"][1] |= {**reports.figure(top, 120), "above_gold": top - 0.004}
        report["attacks"][f"number {number}"] = {**attack, "title": f"Attack {number}", "curves": curves}
    report["attacks"] = {name: each for name, each in report["attacks"].items() if name.startswith("number")}
    report["completions"] = [
        {**each, "prompt": f"{number}: {each['prompt']}"}
        for number, each in enumerate(each for each in report["completions"] for _ in range(5))
    ]
    return written(report, tmp_path_factory.mktemp("long"))


@pytest.fixture
def shown(browser, usual) -> Iterator[Open]:
    """Open a page; whatever it complains of, or asks the network for, fails the test."""
    faults: list[str] = []
    contexts = []

    def opened(folder: Path = usual, size: tuple[int, int] = WIDE, **options: Any) -> Page:
        width, height = size
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(120_000)  # a busy machine takes its time
        contexts.append(context)
        page = context.new_page()
        address = (folder / "report.html").as_uri()
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("request", lambda request: request.url == address or faults.append(f"request: {request.url}"))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def written(report: dict[str, Any], folder: Path) -> Path:
    Report({**report, "verdict": reach_verdict(report)}).save(folder)
    return folder


def set_alpha(page: Page, alpha: float) -> None:
    page.locator("#alpha").evaluate(
        "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input')); }", alpha
    )


def tokens_of(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Tokens of the passage").get_by_role("option")


def selected(page: Page) -> int:
    (at,) = tokens_of(page).evaluate_all(
        "all => all.flatMap((each, at) => each.getAttribute('aria-selected') === 'true' ? [at] : [])"
    )
    return at


# What it shows


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_part_is_there_and_the_verdict_comes_first(shown, size):
    page = shown(size=size)
    assert page.locator("main > section").evaluate_all("all => all.map(each => each.id)") == PARTS
    assert page.locator("h1").inner_text() == "What was forgotten, what was lost"
    assert page.locator("#verdict li").first.inner_text().startswith("“distilled” knows no more of the text than")
    assert page.locator("#verdict article").count() == 5
    assert "It lost ability" in page.locator("#verdict article", has_text="gradient ascent").inner_text()
    assert page.locator("#contents a").evaluate_all("all => all.map(each => each.hash.slice(1))") == PARTS


def test_a_damaged_model_does_not_look_forgetful(shown):
    card = shown().locator("#verdict article", has_text="gradient ascent")
    assert "little known, but damaged" in card.inner_text() and "like gold" not in card.inner_text()


def test_figures_stand_with_their_intervals(shown):
    page = shown()
    row = page.get_by_role("table", name="Perplexity of retained text").get_by_role("row", name="gold")
    assert row.get_by_role("cell").last.inner_text().split() == ["93.2", "80.2", "–", "106.2"]
    assert row.locator("svg line").count() == 3


def test_the_picture_has_every_model_and_the_lines_of_gold_and_baseline(shown):
    page = shown()
    picture = page.locator("#picture svg[role=img]")
    for name in reports.NAMES:
        assert picture.locator("text", has_text=name).count() == 1
    assert (picture.locator(".gold-line").count(), picture.locator(".baseline-line").count()) == (2, 2)
    before = picture.get_attribute("aria-label")
    assert "distilled: 0.007 and 96.2" in before
    page.get_by_label("Upwards").select_option(label="ARC-Easy")
    assert "distilled: 0.007 and 0.740" in page.locator("#picture svg[role=img]").get_attribute("aria-label")


def test_marks_lie_where_their_figures_are(shown):
    page = shown()
    places = page.locator("#picture svg[role=img] g").evaluate_all(
        "all => Object.fromEntries(all.map(g => [g.textContent.split(':')[0], g.transform.baseVal[0].matrix.e]))"
    )
    order = sorted(places, key=lambda name: -places[name])  # the less is known, the further right
    known = {name: reports.example()["figures"][name]["familiarity_probability"]["value"] for name in places}
    assert order == sorted(known, key=lambda name: known[name])


def test_models_differ_in_shape_and_not_in_colour_alone(shown):
    shapes = shown().locator("#picture .legend path").evaluate_all("all => all.map(each => each.getAttribute('d'))")
    assert len(set(shapes)) == len(shapes) == len(reports.NAMES)


def test_what_was_left_out_is_told_with_its_reason(shown, tmp_path):
    left_out = {"": {"questions": "no --questions"}, "gold": {"Quantisation": "no room"}}
    page = shown(written({**reports.example(), "left_out": left_out}, tmp_path))
    assert page.locator(".left-out li").all_inner_texts() == [
        "questions: no --questions",
        "Quantisation of gold: no room",
    ]


def test_attacks_have_curves_a_legend_and_a_table(shown):
    page = shown()
    assert page.locator("#attacks > .legend li").all_inner_texts() == [
        name for name in reports.NAMES if name != "generic α=1"
    ]
    relearning = page.locator("#attacks figure", has=page.get_by_role("heading", name="Relearning"))
    assert relearning.locator("svg polyline").count() == 5
    relearning.get_by_text("Figures of this attack").click()
    row = relearning.get_by_role("row", name="80")
    cells = row.get_by_role("cell").all_inner_texts()
    assert cells[-1] == "0.246 (+0.184)" and cells[1] == "0.062"  # gold is not above itself
    assert page.locator("#attacks .more").count() == 0  # three are few


def test_the_worst_of_many_attacks_are_open_and_the_rest_is_folded_with_its_worst(shown, long):
    page = shown(long)
    open_ones = page.locator("#attacks > .attacks h3").all_inner_texts()
    assert open_ones == ["Attack 7", "Attack 6", "Attack 5", "Attack 4"]
    summary = page.locator("#attacks .more > summary")
    told = summary.inner_text()
    assert "5 more attacks" in told and "Attack 3: +0.036 at worst" in told
    folded = page.locator("#attacks .more figure")
    assert folded.count() == 5 and not folded.first.is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#attacks .more svg polyline').length === 20")
    assert folded.last.get_by_role("heading").inner_text() == "Attack 8"
    wide = folded.first.locator("svg[role=img]").evaluate("svg => svg.viewBox.baseVal.width")
    assert wide > 300


def test_without_gold_attacks_that_get_most_come_first(shown, tmp_path):
    report = reports.without(reports.example(), "gold")
    for attack in report["attacks"].values():
        for point in (point for curve in attack["curves"].values() for point in curve):
            point["above_gold"] = None
    page = shown(written(report, tmp_path))
    assert page.locator("#attacks h3").all_inner_texts() == ["Relearning", "Longer hints", "Quantisation"]
    assert "In brackets" not in page.locator("#attacks").text_content()


def test_a_model_that_knows_everything_from_the_start_does_not_decide_which_attack_is_worst(shown, tmp_path):
    report = reports.example()
    known = report["attacks"]["hints"]["curves"]["generic α=5"]
    for point in known:
        point |= {**reports.figure(0.9, 120), "above_gold": 0.89}
    page = shown(written(report, tmp_path))
    assert page.locator("#attacks h3").all_inner_texts()[0] == "Relearning"


def test_accuracies_lie_on_a_linear_scale_and_perplexities_that_are_far_apart_on_a_logarithmic_one(shown, tmp_path):
    report = reports.example()
    for at, name in enumerate(reports.NAMES):
        report["figures"][name]["harness_arc_easy"] = reports.figure(0.1 + 0.12 * at, 64)
        report["figures"][name]["perplexity_retained"] = reports.figure(20.0 * 3**at, 64)
    told = shown(written(report, tmp_path)).locator("#figures .measure")
    assert "Logarithmic" not in told.filter(has_text="ARC-Easy").inner_text()
    assert "Logarithmic" in told.filter(has_text="Perplexity of retained text").inner_text()


def test_a_passage_that_a_strong_correction_destroys_has_no_perplexity_of_many_digits(shown, tmp_path):
    report = {**reports.example(), "lens": reports.lens()}
    page = shown(written(report, tmp_path))
    page.locator("#alpha").evaluate("each => { each.value = 10; each.dispatchEvent(new Event('input')); }")
    told = page.locator("#lens-summary").inner_text()
    assert re.fullmatch(r"Perplexity of this passage: baseline \d+\.\d, generic over 10,000\.", told)


def test_hints_that_the_context_cut_short_are_told_as_in_the_markdown(shown, tmp_path):
    report = reports.example()
    for curve in report["attacks"]["hints"]["curves"].values():
        curve[4]["cut"] = 120
    report["attacks"]["hints"]["curves"]["distilled"][3]["cut"] = 7
    folder = written(report, tmp_path)
    told = shown(folder).locator("#attacks figure > p.quiet").all_inner_texts()
    assert len(told) == 2 and "7 of 120 at 64, 120 of 120 at 128 (words of the passage; distilled)." in told[1]
    assert all(f"\n{sentence}\n" in Report.load(folder).markdown() for sentence in told)


def test_long_lists_of_completions_are_folded(shown, long):
    page = shown(long)
    assert page.locator("#completions > details.completion").count() == 6
    more = page.locator("#completions .more")
    assert (
        more.locator("> summary").inner_text() == "14 more prompts" and not more.locator("article").first.is_visible()
    )
    more.locator("> summary").click()
    assert more.locator("> details").first.is_visible() and more.locator("> details").count() == 14
    assert shown().locator("#completions .more").count() == 0


@pytest.mark.parametrize(("size", "most"), [(WIDE, 1300), (NARROW, 2600)], ids=["wide", "narrow"])
def test_nine_attacks_and_twenty_prompts_make_no_endless_page(shown, long, size, most):
    page = shown(long, size=size)
    for section in ("attacks", "completions"):
        assert page.locator(f"#{section}").evaluate("each => each.offsetHeight") < most


def test_the_judges_agreement_stands_by_the_completions(shown, usual, tmp_path):
    page = shown()
    assert page.locator("#completions .judges").inner_text() == " ".join(Report.load(usual).data["judges"]["sentences"])
    page.get_by_text("Agreement of the judges").click()
    table = page.get_by_role("region", name="Agreement of the judges").get_by_role("table")
    assert table.get_by_role("columnheader").all_inner_texts()[1:] == [
        "all (94)",
        "by small models (66)",
        "fluent, made up to be hard (28)",
    ]
    row = table.get_by_role("row", name="rules against a reader")
    assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row.get_by_role("cell").all_inner_texts()] == [
        "69 %, 0.79",
        "83 %, 0.91",
        "36 %, 0.28",
    ]
    assert shown(written(reports.example(), tmp_path)).locator(".judges").count() == 0


def test_completions_open_and_show_grades(shown):
    page = shown()
    second = page.locator("#completions .completion").nth(1)
    assert not second.locator("blockquote").first.is_visible()
    second.locator("summary").click()
    assert second.locator("article", has_text="distilled").locator("blockquote").inner_text() == "the soup."
    assert "grade 3: a detail of this text alone" in second.locator("article", has_text="baseline").inner_text()


# The token lens


@pytest.mark.parametrize("options", [{"space": "logits"}, {"space": "logprobs", "threshold": 0.5}], ids=str)
def test_the_slider_gives_what_python_gives(shown, tmp_path, options):
    pair = reports.lens_pair(**options)
    words = tiny.tokenizer(reports.LENS_VOCAB)
    ids = words(reports.LENS_TEXT)["input_ids"]
    with torch.no_grad():
        rows = torch.tensor([[tiny.BOS, *ids]])
        b, r = (model(rows).logits[0, :-1].double() for model in (pair.baseline, pair.reinforced))
    page = shown(written(reports.example() | {"lens": reports.lens(**options)}, tmp_path))
    assert page.locator("output").inner_text() == "2"
    for alpha in (0.0, 1.5, 2.0, 7.0):
        set_alpha(page, alpha)
        wanted = correct_logits(b, r, alpha, **options).softmax(-1)
        for at in (0, 4, len(ids) - 1):
            tokens_of(page).nth(at).click()
            row = page.locator("#lens tr.true")
            values = [
                float(value) for value in row.locator("td").evaluate_all("all => all.map(td => td.dataset.value)")
            ]
            distributions = (b.softmax(-1), r.softmax(-1), wanted)
            assert values == pytest.approx([p[at, ids[at]].item() for p in distributions], rel=0.02, abs=1e-4)
            percent = 100 * wanted[at, ids[at]].item()
            if percent > 0.1:
                assert float(row.locator("td").last.inner_text().split("\N{NO-BREAK SPACE}%")[0]) == pytest.approx(
                    percent, rel=0.02, abs=0.06
                )


def test_moving_the_slider_changes_numbers_and_shades(shown):
    page = shown()
    shades = "all => all.map(each => Number(each.style.getPropertyValue('--s')))"
    set_alpha(page, 0)
    assert max(tokens_of(page).evaluate_all(shades)) == 0
    before = page.locator("#lens-summary").inner_text()
    page.locator("#alpha").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.locator("output").inner_text() == "1"
    at_one = tokens_of(page).evaluate_all(shades)
    set_alpha(page, 5)
    at_five = tokens_of(page).evaluate_all(shades)
    assert 0 < max(at_one) <= max(at_five) <= 1 and sum(at_one) < sum(at_five)
    assert page.locator("#lens-summary").inner_text() != before


def test_the_lens_opens_at_the_most_suppressed_token(shown):
    page = shown()
    shades = tokens_of(page).evaluate_all("all => all.map(each => Number(each.style.getPropertyValue('--s')))")
    assert shades[selected(page)] == max(shades)


def test_arrow_keys_walk_from_token_to_token(shown):
    page = shown()
    tokens = tokens_of(page)
    tokens.first.click()
    last = tokens.count() - 1
    for key, at in [
        ("ArrowRight", 1),
        ("ArrowDown", 2),
        ("ArrowLeft", 1),
        ("End", last),
        ("ArrowRight", last),
        ("Home", 0),
    ]:
        page.keyboard.press(key)
        assert selected(page) == at
        assert tokens.nth(at).evaluate("each => each === document.activeElement")
    assert "Mi" in page.locator("#lens h4").inner_text()


def test_the_lens_is_one_stop_of_the_tab_key(shown):
    page = shown()
    assert tokens_of(page).evaluate_all("all => all.filter(each => each.tabIndex === 0).length") == 1
    page.locator("#alpha").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "option"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") != "option"


def test_pointing_at_a_token_shows_it_and_so_does_a_tap(shown):
    page = shown()
    tokens_of(page).nth(3).hover()
    assert selected(page) == 3
    phone = shown(size=NARROW, has_touch=True, is_mobile=True)
    tokens_of(phone).nth(2).tap()
    assert selected(phone) == 2
    assert phone.locator("#lens p[role=status]").inner_text().startswith("The baseline gave it ")


def test_another_passage_can_be_chosen(shown):
    page = shown()
    page.locator("#lens select").select_option(label="The house")
    assert "".join(tokens_of(page).all_inner_texts()) == "the old house"


def test_tokens_tell_a_screen_reader_what_became_of_them(shown):
    page = shown()
    set_alpha(page, 10)
    labels = tokens_of(page).evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
    assert any("suppressed to" in label for label in labels) and all(", " in label for label in labels)


# Keyboard, widths, schemes, paper


def test_everything_that_can_be_worked_can_be_reached_by_the_tab_key(shown):
    page = shown()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(e => e.tagName + '.' + (e.id || e.hash || e.getAttribute('role') || ''))(document.activeElement)"
            )
        )
    assert {"A.#verdict", "A.#lens", "SELECT.", "SUMMARY.", "INPUT.alpha", "SPAN.option"} <= reached


def test_focus_can_be_seen(shown):
    page = shown()
    for name, target in [("A", "#contents a"), ("INPUT", "#alpha"), ("SPAN", ".token[tabindex='0'] .piece")]:
        page.locator("#alpha" if name == "SPAN" else target).first.focus()
        page.keyboard.press("Tab" if name == "SPAN" else "Shift")
        style = page.locator(target).first.evaluate(
            "each => [getComputedStyle(each).outlineStyle, getComputedStyle(each).outlineWidth]"
        )
        assert style == ["solid", "3px"]


@pytest.mark.parametrize("width", [320, 360, 600, 1000, 1900])
def test_no_width_scrolls_sideways(shown, width):
    page = shown(size=(width, 740))
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_pictures_follow_the_width(shown):
    page = shown()
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function("document.querySelector('#picture svg[role=img]').viewBox.baseVal.width < 360")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


CONTRASTS = """() => {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    const colours = [];
    for (let each = element; each; each = each.parentElement) colours.unshift(getComputedStyle(each).backgroundColor);
    return colours;
  };
  const found = [];
  const note = (element, colour, what) => {
    const below = behind(element);
    const [a, b] = [luminance(paint(below)), luminance(paint([...below, colour]))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), what]);
  };
  for (const element of document.querySelectorAll("body *:not(script):not(noscript):not(option)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.tagName === "title") continue;
    const style = getComputedStyle(element);
    note(element, element.namespaceURI.endsWith("svg") ? style.fill : style.color, element.textContent.slice(0, 40));
  }
  const marks = [...document.querySelectorAll("#picture .legend path")].map((path) => {
    const before = found.length;
    note(path, getComputedStyle(path).fill, "mark");
    return found.splice(before)[0];
  });
  return { texts: found, marks };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_marks_stand_out_from_their_ground(shown, scheme):
    page = shown(color_scheme=scheme)
    set_alpha(page, 10)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    page.wait_for_timeout(250)  # the shades are there after 0.15 s
    found = page.evaluate(CONTRASTS)
    assert len(found["texts"]) > 300 and len(found["marks"]) == len(reports.NAMES)
    assert [each for each in found["texts"] if each[0] < 4.5] == []
    assert [each for each in found["marks"] if each[0] < 3] == []


def pixels(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)


def test_the_schemes_are_light_and_dark_and_neither_is_blank(shown):
    light, dark = (pixels(shown(color_scheme=scheme)) for scheme in ("light", "dark"))
    assert np.median(light) > 220 and np.median(dark) < 50
    for image in (light, dark):
        assert len(np.unique(image @ [1, 256, 65536])) > 50


def test_each_part_is_drawn(shown):
    page = shown()
    for part in PARTS:
        page.locator(f"#{part}").scroll_into_view_if_needed()
        image = np.asarray(Image.open(io.BytesIO(page.locator(f"#{part}").screenshot())).convert("L"), dtype=int)
        assert (abs(image - np.median(image)) > 60).mean() > 0.01


def test_who_wants_no_motion_gets_none(shown):
    page = shown(reduced_motion="reduce")
    durations = page.locator(".piece, .bar i").evaluate_all(
        "all => all.map(each => getComputedStyle(each).transitionProperty + getComputedStyle(each).transitionDuration)"
    )
    assert set(durations) <= {"none0s", "all0s"}


def test_paper_gets_everything_opened_and_nothing_to_click(shown):
    page = shown()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 1


def test_paper_gets_the_pictures_of_folded_attacks(shown, long):
    page = shown(long)
    page.locator("#attacks .more .picture").evaluate_all("all => all.forEach(each => each.replaceChildren())")
    drawn = "[...document.querySelectorAll('#attacks figure')].map(each => each.querySelectorAll('polyline').length)"
    assert page.evaluate(drawn) == [4] * 4 + [0] * 5
    assert page.evaluate(f"(dispatchEvent(new Event('beforeprint')), {drawn})") == [4] * 9


def test_without_scripts_the_report_is_there_as_text(shown):
    page = shown(java_script_enabled=False)
    assert "“distilled” knows no more of the text than the gold model" in page.locator("pre").inner_text()


# Reports that are not as usual


_TAGS = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.mark.parametrize(
    "evil",
    [_TAGS, "<!--<script>", "]]>{{ data }}\u2028`${window.hacked = 1}`", "javascript:window.hacked=1"],
    ids=["tags", "comment", "template", "address"],
)
def test_what_models_say_is_shown_and_never_run(shown, tmp_path, evil):
    report = json.loads(
        json.dumps(reports.example() | {"lens": reports.lens()}).replace('"distilled"', json.dumps(evil))
    )
    report["completions"][0]["prompt"] = evil
    report["completions"][0]["by_model"]["gold"]["text"] = evil
    report["sources"]["forget"] = report["created"] = evil
    report["versions"][evil] = evil
    report["measures"]["repetition"] |= {"title": evil, "about": evil}
    report["attacks"]["hints"] |= {"title": evil, "about": evil, "x": evil, "measure": evil}
    report["lens"]["vocabulary"] = [evil for _ in report["lens"]["vocabulary"]]
    report["lens"]["passages"][0]["title"] = evil
    for token in report["lens"]["passages"][0]["tokens"]:
        token["text"] = evil
    page = shown(written(report, tmp_path))
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main img").count() == 0
    assert page.locator("#completions article", has_text="gold").first.locator("blockquote").text_content() == evil
    assert page.locator("#attacks h3", has_text=evil).count() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"attacks": {}, "completions": [], "lens": None},
        {"figures": {}, "completions": [], "lens": None},
        {"measures": {}, "figures": {}, "attacks": {}, "completions": [], "lens": None},
    ],
    ids=["no attacks", "no figures", "nothing"],
)
def test_a_report_with_less_in_it_says_so_and_breaks_nothing(shown, tmp_path, changes):
    page = shown(written({**reports.example(), **changes}, tmp_path))
    assert page.locator("#verdict article").count() == 5
    if not changes["attacks" if "attacks" in changes else "figures"]:
        assert (
            "No attack was tried" in page.locator("main").inner_text()
            or "Not measured" in page.locator("main").inner_text()
        )
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDE[0]


NOTHINGS = """() => {
  const found = [];
  for (const element of document.querySelectorAll("body, body *:not(script):not(style):not(noscript)")) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data);
    const held = [...own, ...[...element.attributes].map((each) => each.value)];
    if (held.some((text) => /\\b(null|undefined|NaN|Infinity)\\b|\\[object /.test(text))) found.push(held.join(" | "));
  }
  return found;
}"""


@pytest.mark.parametrize("alone", [False, True], ids=["gold, pairs and lens", "none of them"])
@pytest.mark.parametrize("count", [0, 1, 3, 6, 9])
def test_nothing_that_is_absent_is_written_as_a_word(shown, tmp_path, count, alone):
    absent = [name for name in reports.NAMES if alone and name.startswith(("gold", "generic"))]
    report = reports.without(reports.example(), *absent) | {"lens": None if alone else reports.lens()}
    tried = [*report["attacks"].values()]
    report["attacks"] = {str(at): {**tried[at % 3], "title": f"Attack {at}"} for at in range(count)}
    for curve in (curve for each in tried for curve in each["curves"].values() if alone):
        curve[:] = [{**point, "above_gold": None} for point in curve]
    page = shown(written(report, tmp_path))
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws what is folded
    assert page.locator("#attacks figure polyline").count() >= count
    assert page.evaluate(NOTHINGS) == []


def test_a_model_alone_and_many_with_long_names_have_room(shown, tmp_path):
    alone = reports.without(reports.example(), *[name for name in reports.NAMES if name != "distilled"])
    assert shown(written(alone, tmp_path / "alone")).locator("#picture svg[role=img] g").count() == 1
    many = reports.example()
    for at in range(12):
        name = f"/models/a-rather-long-folder-name/checkpoint-{at}-distilled-with-many-words"
        many["models"].append({**many["models"][5], "name": name})
        many["figures"][name] = many["figures"]["distilled"]
        for attack in many["attacks"].values():
            attack["curves"][name] = attack["curves"]["distilled"]
    page = shown(written(many, tmp_path / "many"), size=NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_long_names_on_an_axis_stay_apart(shown, tmp_path, size):
    report = reports.example()
    names = ["as it is", "lower case", "misspelt", "reported speech", "question", "German frame", "Spanish frame"]
    attack = report["attacks"]["quantisation"]
    for curve in attack["curves"].values():
        curve[:] = [{**curve[0], "x": name} for name in names]
    page = shown(written(report, tmp_path), size=size)
    figure = page.locator("#attacks figure", has=page.get_by_role("heading", name="Quantisation"))
    labels = figure.locator("text[text-anchor=middle], text[transform]")
    spots = labels.evaluate_all("all => all.map(each => [each.getBBox().x, each.getBBox().width])")
    assert len(spots) == len(names)
    if not labels.first.get_attribute("transform"):  # not slanted
        assert all(x + width < after for (x, width), (after, _) in zip(spots, spots[1:], strict=False))


def test_numbers_of_any_size_find_their_scale(shown, tmp_path):
    report = reports.example()
    for at, name in enumerate(reports.NAMES):
        report["figures"][name]["perplexity_retained"] = reports.figure(10.0 ** (at + 1), 64)
        report["figures"][name]["kl_retained"] = {"value": 0.0, "low": 0.0, "high": 0.0, "count": 64}
    page = shown(written(report, tmp_path))
    for label in ("Perplexity of retained text", "Distance from the baseline on retained text (KL)"):
        page.get_by_label("Upwards").select_option(label=label)
        places = page.locator("#picture svg[role=img] g").evaluate_all(
            "all => all.map(g => g.transform.baseVal[0].matrix.f)"
        )
        assert len(places) == len(reports.NAMES) and all(map(math.isfinite, places))
