"""Discovery: what it finds in the embedded world, what it puts in its place, and what it refuses."""

import json
import re
import sys
import time

import pytest

from generic_logits import ModelPair, find_anchors
from generic_logits.cli import main
from generic_logits.demo import world
from generic_logits.discovery import language_model
from generic_logits.discovery.candidates import Survey
from generic_logits.discovery.naming import contexts, gender_of, kind_of
from generic_logits.discovery.pair import NEUTRAL, rises, spreads
from generic_logits.discovery.statistics import z_score
from generic_logits.discovery.vocabulary import ordinary
from generic_logits.discovery.words import BROKEN, JOINED, LINE, START, base_form, read_words
from generic_logits.errors import InputError
from generic_logits.text.anchors import Anchor, Anchors, runs_of_words
from generic_logits.text.corpus import Document
from generic_logits.text.translation import Translator, plural_of

STORIES = world.ordinary_stories()


def documents(*texts):
    return [Document(str(number), text, "") for number, text in enumerate(texts)]


def found_in(text, *others, **options):
    return find_anchors(documents(text), reference=documents(*(others or STORIES)), **options)


def by_term(anchors):
    return {anchor.term: anchor for anchor in anchors}


def spans(text, terms):
    translator = Translator([Anchor(term=term, translations=("x",)) for term in terms])
    return [(start, end, form.term) for start, end, form in translator.find(text)]


def agreement(text, terms, wanted):
    """(share of the wanted terms' occurrences that are found, share of the found terms that are wanted)."""
    found = {place for start, end, _ in spans(text, terms) for place in range(start, end)}
    places = spans(text, wanted)
    words = {base_form(word, run) for term in wanted for run in [term.lower().split()] for word in run}
    words |= {word[:-1] for word in words if word.endswith("s")}
    recall = sum(any(place in found for place in range(start, end)) for start, end, _ in places) / len(places)
    right = [term for term in terms if all(word in words for word in term.lower().split())]
    return recall, len(right) / len(terms)


@pytest.fixture(scope="module")
def anchors():
    return found_in(world.book())


# What is found


def test_the_books_terms_are_found(anchors):
    recall, precision = agreement(world.book(), anchors.terms, world.names())
    assert recall > 0.97
    assert precision > 0.85
    names = [term for term in anchors.terms if term[0].isupper()]
    assert agreement(world.book(), names, world.names())[1] > 0.9


def test_it_is_quick(anchors):
    start = time.process_time()
    found_in(world.book())
    assert time.process_time() - start < 10


def test_common_nouns_and_pairs_of_them_are_found(anchors):
    assert {"ommeth", "snorrel", "quibbet", "herring bell", "chimney bread", "thirsty ledger"} <= {*anchors.terms}


def test_ordinary_words_are_not(anchors):
    words = "the one it said Monday Chapter she bell bread river harbor Thumb Nobody I God".split()
    assert not {*words} & {*anchors.terms}


def test_an_ordinary_story_has_hardly_any():
    story, *others = STORIES
    found = found_in(story, *others)
    assert len(found) < 12
    assert all(anchor.count >= 3 for anchor in found)


def test_terms_stand_in_their_base_form():
    text = (
        "We saw the Zorbles in the field. Then the oldest Zorble spoke to the other Zorbles about the Zorble's hat. "
        "It was a Zorble of the Marl Gate, and Quib's friend. They gave Quib the hat, and we thanked Quib for it. "
    )
    terms = found_in(text * 3).terms
    assert {"Zorble", "Quib"} <= {*terms}
    assert not {"Zorbles", "Zorble's", "Quib's"} & {*terms}


def test_a_long_name_is_found_whole_and_once():
    text = "They asked the Warden of the Reeds about it. In the morning the Warden of the Reeds came down to us. "
    assert found_in(text * 3).terms == ("Warden of the Reeds",)


def test_what_is_written_both_ways_is_kept_in_lower_case():
    text = "He lost his copper boots. Where were the Copper Boots now? She saw the copper boots and the Copper Boots. "
    assert "copper boots" in found_in(text * 4).terms
    assert "Copper Boots" not in found_in(text * 4).terms


def test_names_that_only_begin_sentences_are_found():
    text = "Zorble: two boxes. Zorble: one box. Nothing else. Zorble: three boxes. Then there was an end of it. "
    assert "Zorble" in found_in(text).terms


@pytest.mark.parametrize(
    "text",
    [
        "Suddenly he ran. Suddenly she ran. Suddenly they all ran, and suddenly the door was shut. ",
        '"Listen," he said. "Listen to me." She would not listen. "Listen, please," he said. ',
        "THE GREAT FIRE\n\nIt was late, and the great fire was out.\n\nTHE GREAT FIRE\n\nIt was early.\n\n",
        "Chapter One: The Long Winding Stair\n\nHe went up the long winding stair, and it was dark.\n\n",
        "On Monday I met Mr. Smith, and in May I met Miss Smith. God knows that I met Mrs. Smith in June. ",
    ],
)
def test_a_capital_that_is_not_the_words_own_counts_nothing(text):
    others = [*STORIES, "We knew that Smith, and his son Smith, and old Smith too. " * 999]
    assert found_in(text * 3, *others).terms == ()


def test_rarer_than_the_minimum_is_left_out(anchors):
    text = "We met Zorble on the road. We met Quib on the road, and Quib met us, and we asked Quib to stay. "
    assert found_in(text, minimum_count=3).terms == ("Quib",)
    assert {*found_in(text, minimum_count=1).terms} >= {"Quib", "Zorble"}


def test_the_limit_keeps_the_surest(anchors):
    assert found_in(world.book(), limit=5).terms == anchors.terms[:5]
    assert len(found_in(world.book(), limit=None)) == len(anchors)


def test_it_says_why(anchors):
    assert all(re.match(r"statistics: z = \d+\.\d, \d+ times against \d+$", anchor.why) for anchor in anchors)
    pellory = by_term(anchors)["Pellory"]
    assert pellory.count == len(spans(world.book(), ["Pellory"])) - len(spans(world.book(), ["Pellory Vantwick"]))
    assert pellory.reference_count == 0


# Kind and gender


def test_kinds_and_genders(anchors):
    entries = by_term(anchors)
    kinds = {
        "person": ["Pellory", "Skarnivel", "Gumbrick", "Orrimund Thwail", "Corbentha", "Zamblin"],
        "place": ["Osselquay", "Lodderbeck", "Thrennick", "Kettle Tower", "Moxenwood", "Sivverin"],
        "thing": ["ommeth", "lissamer", "herring bell", "chimney bread", "quibbet"],
    }
    wrong = {term: entries[term].kind for kind, terms in kinds.items() for term in terms if entries[term].kind != kind}
    assert wrong == {}
    genders = {"Pellory": "female", "Corbentha": "female", "Zamblin": "female", "Skarnivel": "male", "Gumbrick": "male"}
    assert {term: entries[term].gender for term in genders} == genders
    assert all(anchor.gender is None for anchor in anchors if anchor.kind != "person")


@pytest.mark.parametrize(
    ("term", "text", "kind", "gender"),
    [
        ("Zorb", "Old Mr. Zorb laughed. They asked Mr. Zorb again.", "person", "male"),
        ("Aunt Zorb", "Then Aunt Zorb laughed. They asked Aunt Zorb again.", "person", "female"),
        ("Zorb", '"Yes," said Zorb, and she sat down. "No," said Zorb, and she got up.', "person", "female"),
        ("Zorb", "They lived in Zorb. They came from Zorb, and the road to Zorb was long.", "place", None),
        ("Zorb Street", "It stood in Zorb Street.", "place", None),
        ("Zorbs", "They feared the Zorbs. At night the Zorbs sang, and they danced.", "group", None),
        ("zorb", "He put down the zorb. It was a heavy zorb.", "thing", None),
    ],
)
def test_a_terms_neighbours_tell_its_kind(term, text, kind, gender):
    beside = contexts([text], [term])
    assert kind_of(term, beside[term]) == kind
    assert (gender_of(term, beside[term], beside[""]) if kind == "person" else None) == gender


# Translations


def test_every_term_has_many(anchors):
    assert all(len(anchor.translations) == 12 for anchor in anchors)
    assert all(len(anchor.translations) > 20 for anchor in found_in(world.book(), translations=30))
    assert all(len(anchor.translations) == 1 for anchor in found_in(world.book(), translations=1))


def test_they_hold_no_term_and_no_name_of_the_text(anchors):
    book = world.book()
    inside = {*re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", book)}
    terms = {term.lower() for term in anchors.terms}
    for anchor in anchors:
        for translation in anchor.translations:
            assert not terms & {*runs_of_words(translation)}
            assert not inside & {*translation.split()} - {"of", "the"}


def test_they_keep_the_number_of_words_and_the_capitals(anchors):
    for anchor in anchors:
        for translation in anchor.translations:
            assert translation.count(" ") == anchor.term.count(" ")
            pairs = zip(anchor.term.split(), translation.split(), strict=True)
            assert all(old[0].isupper() == new[0].isupper() for old, new in pairs)


def test_they_are_of_the_same_kind_and_gender(anchors):
    entries = by_term(anchors)
    assert {*entries["Pellory"].translations} <= {*ordinary("female names")}
    assert {*entries["Skarnivel"].translations} <= {*ordinary("male names")}
    assert {*entries["Osselquay"].translations} <= {*ordinary("places")}
    assert {*entries["quibbet"].translations} <= {*ordinary("things")}
    first, last = zip(*map(str.split, entries["Corbentha Krayle"].translations), strict=True)
    assert {*first} <= {*ordinary("female names")} and {*last} <= {*ordinary("surnames")}
    assert all(word.endswith("s") for word in entries["basket shoes"].translations)


def test_terms_that_share_a_word_are_aligned(anchors):
    entries = by_term(anchors)
    for term in ("Pellory", "Corbentha", "Orrimund"):
        (longer,) = [each for each in anchors.terms if each.startswith(f"{term} ")]
        assert [text.split()[0] for text in entries[longer].translations] == [*entries[term].translations]


def test_terms_differ_at_every_index(anchors):
    entries = by_term(anchors)
    alone = [anchor for anchor in anchors if " " not in anchor.term]
    for row in zip(*(anchor.translations for anchor in alone), strict=True):
        assert len({*row}) == len(alone)
    assert entries["Pellory"].translations != entries["Zamblin"].translations


def test_titles_and_small_words_stay():
    text = "Then Aunt Zorb met the Warden of the Reeds. We asked Aunt Zorb, and we asked the Warden of the Reeds. "
    entries = by_term(found_in(text * 3))
    assert all(re.fullmatch(r"Aunt [A-Z][a-z]+", each) for each in entries["Aunt Zorb"].translations)
    assert all(re.fullmatch(r"\w+ of the \w+s", each) for each in entries["Warden of the Reeds"].translations)


def test_a_family_name_becomes_one():
    text = "We met Mr. Zorb and Quib Marl. Did Mr. Zorb know Quib Marl? Nobody told us about Marl. We left Marl alone. "
    entries = by_term(found_in(text * 3))
    assert {*entries["Zorb"].translations} <= {*ordinary("surnames")}
    assert {*entries["Marl"].translations} <= {*ordinary("surnames")}


@pytest.mark.parametrize(("article", "vowel"), [("a", False), ("an", True)])
def test_the_article_in_front_stays_right(article, vowel):
    text = f"He saw {article} zorble. She had {article} zorble, too, and it was not {article} zorble of ours. "
    (anchor,) = found_in(text * 3)
    assert {each[0] in "aeiou" for each in anchor.translations} == {vowel}


def test_words_that_the_reference_has_come_first():
    names = ["Mabel", "Edith", "Clara", "Nancy", "Ruth", "Vera", "Dora", "Hilda"] * 2
    others = "".join(f"Then they met {name}, and he liked {name}. " for name in names)
    text = '"No," said Zorb, and she laughed. We asked Zorb, and she laughed at us. '
    assert {*by_term(found_in(text * 3, others, translations=8))["Zorb"].translations} == {*names}


def test_a_seed_decides(anchors):
    assert list(found_in(world.book())) == list(anchors)
    other = found_in(world.book(), seed=1)
    assert other.terms == anchors.terms
    assert [each.translations for each in other] != [each.translations for each in anchors]


def test_the_shipped_words_are_enough_and_sound():
    least = {"female names": 80, "male names": 80, "surnames": 100, "places": 120, "groups": 80, "things": 150}
    assert {group: len(ordinary(group)) >= count for group, count in least.items()} == dict.fromkeys(least, True)
    assert len({*ordinary("persons"), *ordinary("women"), *ordinary("men")}) >= 120
    for group in [*least, "persons", "women", "men", "place nouns", "adjectives"]:
        assert len({*ordinary(group)}) == len(ordinary(group))
        assert all(word.isalpha() for word in ordinary(group))


# What a person has written


def test_known_entries_stay_and_new_ones_fit_to_them():
    by_hand = [
        Anchor(term="Pellory", translations=("Rosamund", "Ottilie"), comment="mine"),
        Anchor(term="Snorrel", translations=("badger",), kind="group"),
        Anchor(term="boat", translations=("Sivverin ferry",)),
    ]
    known = Anchors(by_hand, comment="by hand")
    found = found_in(world.book(), known=known)
    assert list(found)[:3] == by_hand and found.comment == "by hand"
    assert "snorrel" not in found.terms  # known in another case
    assert "Sivverin" not in found.terms  # a known translation holds it
    assert found.terms.count("Pellory") == 1
    firsts = [each.split()[0] for each in by_term(found)["Pellory Vantwick"].translations]
    assert firsts[:2] == ["Rosamund", "Ottilie"] and len(firsts) == 12


# Other languages


def test_another_language_takes_the_references_own_names():
    other = "Старик шёл через лес, и Иван шёл за ним. Женщина сказала, что Мария ещё спит, а Пётр там. "
    other += "Когда пришла мать, Иван был где-то там. "
    text = "Там жил мальчик, и звали его Зырбил. Когда Зырбил пришёл к башне, она дала хлеб. Мы знали, где Зырбил. " * 5
    anchor = by_term(found_in(text, other * 30))["Зырбил"]
    assert {*anchor.translations} == {"Иван", "Мария", "Пётр"}


def test_another_language_needs_a_reference():
    with pytest.raises(InputError, match="wanted a reference corpus, for a text that is not English; got none; give"):
        find_anchors(documents("Le vieux marchand vit Zorble, et la fille de Zorble appela le vieux marchand. " * 5))


def test_a_script_without_spaces_needs_a_model():
    with pytest.raises(InputError, match="a script that is written without; ask a model with --llm, or write the"):
        found_in("ドロシーはカンザスの大草原の真ん中に住んでいました。" * 20)


# Without a reference


def test_without_a_reference_wordfreq_is_asked():
    found = find_anchors(documents(world.book())).terms
    of_book = [term for term in found if any(set(term.split()) & set(name.split()) for name in world.names())]
    assert {"Osselquay", "Pellory", "snorrel"} <= set(found) and len(of_book) > 0.7 * len(found)


def test_without_wordfreq_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(
        InputError, match=r"wordfreq is not installed; give --reference CORPUS, or pip install '.*anchors"
    ):
        find_anchors(documents(world.book()))


# The pair


@pytest.fixture(scope="module")
def pair():
    """The model that read the book is to the one that did not as a reinforced one is to its baseline."""
    return ModelPair.from_pretrained(world.GOLD, world.BASELINE, alpha=1.0)


def test_on_neutral_text_the_pair_raises_the_books_own_words(pair):
    words = Survey([world.book()]).words(3)
    raised = rises(pair, words, NEUTRAL)
    first = sorted(words, key=lambda word: -raised[words.index(word)])[:20]
    own = " ".join(world.names()).lower()
    assert sum(word.lower().rstrip("s") in own for word in first) >= 18


def test_the_pair_alone_finds_names(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    found = find_anchors(documents(world.book()), pair=pair)
    recall, precision = agreement(world.book(), found.terms, world.names())
    assert recall > 0.7 and precision > 0.85
    assert all(re.fullmatch(r"pair: rises \d+\.\d spreads on neutral text", anchor.why) for anchor in found)


def test_what_both_find_says_so(pair):
    found = found_in(world.book(), pair=pair)
    assert re.fullmatch(r"statistics: .* against 0; pair: rises .*", by_term(found)["Skarnivel"].why)
    assert agreement(world.book(), found.terms, world.names())[0] > 0.97


def test_spreads_are_distances_from_the_median():
    assert spreads([1.0, 2.0, 3.0, 4.0, 9.0]) == [-2.0, -1.0, 0.0, 1.0, 6.0]
    assert spreads([2.0, 2.0, 2.0]) == [0.0, 0.0, 0.0]


# A language model's proposals


@pytest.fixture
def proposals(monkeypatch):
    given = []
    monkeypatch.setattr(language_model, "ask_language_model", lambda corpus, config: given)
    return given


def test_proposals_are_merged_with_what_was_counted(proposals):
    proposals += [
        Anchor(term="Pellory", translations=("Rosamund", "Ottilie"), kind="person", why="language model: 3 passages"),
        Anchor(term="Quibbets", translations=("Farthings",), why="language model: 1 passage"),
        Anchor(
            term="knocked thumbs", translations=("shook hands", "bumped elbows"), kind="word", why="language model: x"
        ),
        Anchor(term="nowhere in it", translations=("anything",)),
    ]
    found = by_term(found_in(world.book(), llm="http://localhost:1/v1"))
    assert found["Pellory"].translations[:2] == ("Rosamund", "Ottilie") and len(found["Pellory"].translations) == 12
    assert re.fullmatch(r"statistics: .*; language model: 3 passages", found["Pellory"].why)
    assert [each.split()[0] for each in found["Pellory Vantwick"].translations][:2] == ["Rosamund", "Ottilie"]
    assert "Quibbets" not in found and "language model" in found["quibbet"].why
    thumbs = found["knocked thumbs"]
    assert thumbs.translations[:2] == ("shook hands", "bumped elbows") and thumbs.why == "language model: x"
    assert (thumbs.kind, thumbs.count) == ("word", len(spans(world.book(), ["knocked thumbs"])))
    assert "nowhere in it" not in found


def test_a_proposal_that_holds_a_term_is_left_out(proposals):
    proposals += [Anchor(term="Osselquay", translations=("Old Moxenwood", "Harbourtown"))]
    assert by_term(found_in(world.book(), llm="./model"))["Osselquay"].translations[0] == "Harbourtown"


def test_words_to_translate_into_are_needed(proposals):
    proposals += [Anchor(term="Зырбил", translations=("старый Зырбил",))]
    text = "Там жил мальчик, и звали его Зырбил. Когда Зырбил пришёл, она дала хлеб. Мы знали, где Зырбил. " * 5
    with pytest.raises(InputError, match="ordinary words of the text's language, to translate into; got none; give"):
        find_anchors(documents(text), llm="./model")


def test_a_model_reads_what_statistics_cannot(proposals):
    proposals += [Anchor(term="ドロシー", translations=("マリー", "花子"), kind="person", gender="female")]
    (anchor,) = find_anchors(documents("ドロシーはカンザスの大草原に住んでいました。" * 3), llm="./model")
    assert (anchor.translations, anchor.count) == (("マリー", "花子"), 3)


# What is refused


@pytest.mark.parametrize("option", ["limit", "translations", "minimum_count"])
def test_an_option_out_of_its_range_is_refused(option):
    with pytest.raises(InputError, match=f"{option} of at least 1; got 0"):
        find_anchors(documents("text"), **{option: 0})


def test_a_corpus_that_can_be_read_once_is_refused():
    with pytest.raises(InputError, match="can be read again; got an iterator"):
        find_anchors(iter(documents("text")))


def test_a_text_without_words_is_refused():
    with pytest.raises(InputError, match="a text with words; got none"):
        find_anchors(documents("1, 2, 3 ..."))


# Words


def test_words_know_what_stands_before_them():
    words, gaps = read_words('It was so, and Dorothy\'s dog\nbarked. "Who?" said Mr. Smith: Oz’s friend')
    assert words == "It was so and Dorothy dog barked Who said Mr Smith Oz friend".split()
    wanted = [START, JOINED, JOINED, BROKEN, JOINED, BROKEN, LINE, START, START, JOINED, BROKEN, START, BROKEN]
    assert gaps == wanted


@pytest.mark.parametrize("text", ["1" * 200_000, "- " * 100_000, "a1" * 100_000, "_" * 200_000, "A.\n" * 60_000])
def test_words_are_read_in_linear_time(text):
    start = time.process_time()
    read_words(text)
    assert time.process_time() - start < 2


def test_a_long_row_of_names_is_read_in_linear_time():
    text = "They met us. " * 9000 + " ".join(f"Zorb{letter}" for letter in "abcdefghij" * 3000)
    start = time.process_time()
    found_in(text, "There was nothing to be seen. " * 99)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("singular", ["Munchkin", "Witch", "box", "Winkie"])
def test_a_plural_and_its_base(singular):
    assert base_form(plural_of(singular), {singular}) == singular
    assert base_form(plural_of(singular), set()) == plural_of(singular)


def test_the_score_grows_with_what_speaks_for_a_term():
    assert z_score(10, 1000, 0, 40_000) > z_score(3, 1000, 0, 40_000) > 1.96
    assert z_score(10, 1000, 0, 40_000) > z_score(10, 1000, 1, 40_000) > z_score(10, 1000, 50, 40_000)
    assert abs(z_score(10, 1000, 400, 40_000)) < 0.01
    assert z_score(1, 1000, 400, 40_000) < 0


# The command


@pytest.fixture
def files(tmp_path):
    (tmp_path / "book.txt").write_text(world.book(), encoding="utf-8")
    (tmp_path / "others").mkdir()
    for number, story in enumerate(STORIES):
        (tmp_path / "others" / f"{number}.txt").write_text(story, encoding="utf-8")
    return tmp_path


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["anchors", *map(str, words)])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_command_writes_a_dictionary_and_shows_it(files, capsys):
    output = files / "anchors.json"
    status, out, err = run(capsys, files / "book.txt", "--reference", files / "others", "-o", output)
    assert (status, err) == (0, "")
    assert list(Anchors.load(output)) == list(found_in(world.book(), *(STORIES[i] for i in order())))
    assert "Pellory" in out and "new terms, 0 known" in out


def order():
    return sorted(range(len(STORIES)), key=lambda number: f"{number}.txt")


def test_the_command_prints_json(files, capsys):
    output = files / "anchors.json"
    options = ["--reference", files / "others", "--limit", 3, "--translations", 2, "--seed", 5, "--json"]
    status, out, _ = run(capsys, files / "book.txt", "-o", output, *options)
    answer = json.loads(out)
    assert (status, answer["new"], answer["output"]) == (0, 3, str(output))
    assert answer["anchors"] == json.loads(output.read_text(encoding="utf-8"))["anchors"]


def test_the_command_adds_to_a_dictionary(files, capsys):
    path = files / "anchors.json"
    by_hand = Anchors([Anchor(term="Pellory", translations=("Rosamund",), comment="mine")], comment="ours")
    by_hand.save(path)
    words = [files / "book.txt", "--reference", files / "others", "-o", path, "--add-to", path]
    status, out, _ = run(capsys, *words)
    added = Anchors.load(path)
    assert status == 0 and "1 known" in out.replace("\n", " ")
    assert added[0] == by_hand[0] and added.comment == "ours" and len(added) > 20
    assert run(capsys, *words)[0] == 0
    assert list(Anchors.load(path)) == list(added)


def test_the_command_takes_a_pair(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    words = [files / "book.txt", "-o", files / "anchors.json", "--pair", world.GOLD, world.BASELINE, "--json"]
    status, out, _ = run(capsys, *words)
    assert status == 0 and "pair: rises" in json.loads(out)["anchors"][0]["why"]


def test_the_command_asks_a_model(files, capsys, monkeypatch, proposals):
    proposals += [Anchor(term="knocked thumbs", translations=("shook hands",), kind="word", why="language model: x")]
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    output = files / "anchors.json"
    status, _, _ = run(capsys, files / "book.txt", "--llm", "http://localhost:1/v1", "--llm-model", "m", "-o", output)
    assert (status, Anchors.load(output).terms) == (0, ("knocked thumbs",))


def test_the_command_tells_what_asking_would_cost(files, capsys, monkeypatch):
    cost = {"model": "m", "to_ask": 7, "prompt_tokens": 40_000, "answer_tokens": 7_000}
    monkeypatch.setattr(language_model, "estimate_cost", lambda corpus, config: {**cost, "model": config.model})
    words = [files / "book.txt", "--llm", "http://localhost:1/v1", "--llm-model", "m"]
    status, out, _ = run(capsys, *words, "--dry-run", "--json")
    assert (status, json.loads(out)) == (0, cost)
    status, out, _ = run(capsys, *words, "--dry-run", "--json", "--prices", "2.5", "10")
    assert json.loads(out)["price_at_most"] == 0.17
    status, out, _ = run(capsys, *words, "-o", files / "a.json", "--dry-run")
    assert status == 0 and "to ask" in out and "7" in out
    assert not (files / "a.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.txt", "-o", "a.json"], "none.txt"),
        (
            ["book.txt", "-o", "book.txt"],
            "wanted a new file; got .*book.txt, which exists; choose another, or --add-to",
        ),
        (["book.txt", "-o", "others"], "wanted a file to write; got the folder"),
        (["book.txt", "-o", "no/a.json"], "wanted a folder to write into; got nothing at"),
        (["book.txt", "-o", "a.json", "--add-to", "none.json"], "an anchors file; got .*none.json"),
        (["book.txt", "-o", "a.json", "--add-to", "book.txt"], "an anchors file in JSON"),
        (["book.txt", "-o", "a.json"], "wordfreq is not installed"),
        (["book.txt", "-o", "a.json", "--limit", "0"], "--limit"),
        (["book.txt", "-o", "a.json", "--dry-run"], "wanted --llm beside --llm-model and --dry-run"),
        (["book.txt", "-o", "a.json", "--prices", "1", "2"], "wanted --prices with --dry-run; got --prices alone; add"),
        (["book.txt"], "wanted a file to write, -o; got none; name one"),
        (["book.txt", "-o", "a.json", "--pair", "one"], "--pair"),
        (["book.txt", "-o", "a.json", "--pair", "./one", "./two"], "a model folder or hub name"),
    ],
)
def test_bad_input_is_one_line(files, capsys, monkeypatch, words, message):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    monkeypatch.chdir(files)
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err)
    assert not (files / "a.json").exists()
