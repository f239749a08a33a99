"""A block's tokens beside those of its translation, for every kind of tokenizer, and the authors' own bookkeeping."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from generic_logits.text.alignment import (
    TranslatedBlock,
    map_ends,
    translate_block,
    translate_tokens,
    untranslated,
)
from generic_logits.text.anchors import Anchor
from generic_logits.text.corpus import Block, Document, cut_blocks
from generic_logits.text.translation import Translation, Translator

# --- tokenizers -------------------------------------------------------------------------------------------------------

ENGLISH = """\
Dorothy lived in the midst of the great Kansas prairies, with Uncle Henry, who was a farmer, and Aunt Em, who was the
farmer's wife.  "I am Oz, the Great and Terrible," said the little man, in a trembling voice. The Tin Woodman knew very
well he had no heart, and therefore he took great care never to be cruel or unkind to anything.

"Don't you think," asked the Scarecrow, "that 1,234 witches _can_ be wrong?" The Witch of Oz\u2014so it was said\u2014
had but one eye. TOTO BARKED!

They went down the yellow brick road to the Emerald City; Toto ran behind Dorothy. \u201cWhere is the Emerald
City?\u201d he inquired.
"""
OTHERS = """\
话说黛玉进了荣国府，见宝玉笑道：“这个妹妹我曾见过的。”贾母笑道：“可又是胡说，你又何曾见过他？”

吾輩は猫である。佐々木さんはリンゴを食べた。名前はまだ無い。どこで生れたかとんと見当がつかぬ。
แฮร์รี่เดินเข้าไปในห้องแล้วพูดว่าแม่อยู่ที่ไหน ม้าตัวนั้นวิ่งเร็วมากและทุกคนก็หัวเราะกันอย่างสนุกสนาน
The \U0001f9d9\u200d\u2640\ufe0f of Oz \U0001f600\U0001f600 said
\u201cnaïve café\u201d   three  spaces\n\n\n\tTab 12345678.
"""
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PREPENDED = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def byte_level(*, prefix: bool = False, trimmed: bool = False, regex: str = "") -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not regex)
    if regex:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(regex), "isolated"), made.pre_tokenizer]
        )
    if trimmed:
        made.post_processor = processors.ByteLevel(trim_offsets=True)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [ENGLISH, OTHERS],
        trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def sentencepiece_bpe(style: str) -> Tokenizer:
    """BPE with bytes for what it does not know, as Llama 1 and 2 have it, in one of the styles found in the wild."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    words = ENGLISH.replace("\n", " ").replace("\u2014", " ")
    made.train_from_iterator(
        [words], trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    )
    if style == "normalizer":
        made.pre_tokenizer = None
        made.normalizer = PREPENDED
    elif style == "gemma":
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        made.normalizer = normalizers.Replace(" ", "▁")
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=style, split=style == "always")
    return made


def unigram(*, stripping: bool) -> Tokenizer:
    """A SentencePiece Unigram tokenizer; with ``stripping`` white space is one space, and none at the end, as T5's."""
    made = Tokenizer(models.Unigram())
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+" if stripping else " {2,}"), " ")]
    made.normalizer = normalizers.Sequence([*([normalizers.Strip(left=False)] if stripping else []), *steps])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        [ENGLISH, OTHERS],
        trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
    )
    return made


def wordpiece(*, lowercase: bool) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        [ENGLISH, OTHERS], trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    )
    return made


MAKERS = {
    "byte-level": lambda: byte_level(),
    "byte-level, prefix space": lambda: byte_level(prefix=True),
    "byte-level, trimmed offsets": lambda: byte_level(trimmed=True),
    "byte-level, both": lambda: byte_level(prefix=True, trimmed=True),
    "llama 3": lambda: byte_level(regex=LLAMA_3),
    "llama, normalizer": lambda: sentencepiece_bpe("normalizer"),
    "llama, metaspace": lambda: sentencepiece_bpe("first"),
    "metaspace, always": lambda: sentencepiece_bpe("always"),
    "gemma": lambda: sentencepiece_bpe("gemma"),
    "unigram": lambda: unigram(stripping=False),
    "unigram, t5": lambda: unigram(stripping=True),
    "wordpiece, cased": lambda: wordpiece(lowercase=False),
    "wordpiece, lower case": lambda: wordpiece(lowercase=True),
}
LLAMA = ["llama, normalizer", "llama, metaspace"]
kinds = pytest.mark.parametrize("kind", MAKERS)


@cache
def tokenizer(kind: str) -> Any:
    bos = {} if kind.startswith(("wordpiece", "unigram, t5")) else {"bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=MAKERS[kind](), unk_token="<unk>", pad_token="<pad>", **bos)


def encode(kind: str, text: str) -> list[tuple[int, int, int]]:  # id, start, end
    encoded = tokenizer(kind)(text, add_special_tokens=False, return_offsets_mapping=True)
    return [(token, *span) for token, span in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]


def bos_of(kind: str) -> int:
    return int(tokenizer(kind).bos_token_id is not None)


def cut(kind: str, text: str, size: int, translator: Translator | None = None) -> list[Block]:
    together = translator.spans if translator else None
    return list(cut_blocks([Document("a", text, "")], tokenizer(kind), size, keep_together=together))


# --- texts ------------------------------------------------------------------------------------------------------------

DICTIONARY = {
    "Dorothy": ("Emily", "Zwxq"),
    "Oz": ("Bath", "Žižkov"),
    "Tin": ("Zinc",),
    "Tin Woodman": ("Iron Smith", "Ironsmith"),
    "yellow brick road": ("narrow stone path",),
    "witch": ("clerk", "lady"),
    "Žofie": ("Anna",),
    "黛玉": ("春兰", "小红花"),
    "佐々木": ("田中",),
    "リンゴ": ("バナナ",),
    "แฮร์รี่": ("สมชาย",),
    "\U0001f600": ("\U0001f680", "smile"),
    "Q": ("it",),
}
ANCHORS = [Anchor(term=term, translations=new) for term, new in DICTIONARY.items()]
TRANSLATOR = Translator(ANCHORS)
PIECES = (
    *DICTIONARY,
    *("Dorothys", "DOROTHY", "OZ", "Tin\nWoodman", "TIN WOODMAN", "Witches", "Yellow Brick Road", "Ozark", "Dorothy's"),
    *(
        " Dorothy",
        " Oz",
        " Tin",
        " the",
        " said",
        " a",
        "'s",
        "\u2019s",
        "s",
        "_",
        ", ",
        ". ",
        "\n",
        "\n\n",
        "  ",
        "\t",
    ),
    *(
        "水",
        "玉",
        "笑道：“",
        "は",
        "แม่",
        "รี่",
        "é",
        "e\u0301",
        "\U0001f9d9\u200d\u2640\ufe0f",
        " \U0001f600",
        "7",
        " 1234",
    ),
)
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=25).map("".join)


def drawn(text: str, seed: int = 0) -> tuple[dict[str, str], Translation]:
    choice = TRANSLATOR.draw(text, random.Random(seed))
    return choice, TRANSLATOR.translate(text, choice)


# --- one block, against a plain computation ---------------------------------------------------------------------------


def plainly(kind: str, text: str, seed: int) -> TranslatedBlock:
    """Compare everything with everything, in a text that is a block of its own."""
    choice, translation = drawn(text, seed)
    old, new = encode(kind, text), encode(kind, translation.text)
    front = (tokenizer(kind).bos_token_id,) * bos_of(kind)
    bos = len(front)

    def end_in_translation(end: int) -> int | None:
        moved = 0
        for each in translation.replacements:
            if each.start < end < each.end:
                return None
            if each.end <= end:
                moved += (each.new_end - each.new_start) - (each.end - each.start)
        return end + moved

    def rest_of_character(tokens: list[tuple[int, int, int]], at: int) -> list[int]:
        return [token for token, _, end in tokens[at + 1 :] if end == tokens[at][2]]

    def divided(tokens: list[tuple[int, int, int]], end: int, of: str) -> bool:
        """Whether no token ends with the character that ends here, but some with a few of its bytes."""
        here = [at for at, token in enumerate(tokens) if token[2] == end]
        following = tokens[here[-1] + 1 :][:1] if here else []
        return not here or (not of[end - 1 : end].isascii() and any(start < end for _, start, _ in following))

    positions = []
    for at, (_, _, end) in enumerate(old):
        moved = end_in_translation(end)
        rest = rest_of_character(old, at)
        edges = {each.start: each.new_start for each in translation.replacements}
        edges |= {each.end: each.new_end for each in translation.replacements}
        if rest and any(end == each.end for each in translation.replacements):
            moved = None
        if end in edges and (divided(old, end, text) or divided(new, edges[end], translation.text)):
            moved = None
        partners = [
            other
            for other, (_, _, new_end) in enumerate(new)
            if new_end == moved and rest_of_character(new, other) == rest
        ]
        assert len(partners) <= 1
        positions.append(partners[0] if partners else -1)

    def reaching(tokens: list[tuple[int, int, int]], end: int, of: str) -> int:
        exactly = [at for at, token in enumerate(tokens) if token[2] == end and not divided(tokens, end, of)]
        beyond = [at for at, token in enumerate(tokens) if token[2] > end]
        return exactly[-1] if exactly else beyond[0] if beyond else len(tokens) - 1

    named, inside, seen = [], [], set()
    for each in translation.replacements:
        first = next((at for at, (_, _, end) in enumerate(old) if end > each.start), len(old))
        last = reaching(old, each.end, text)
        inside += [(at + bos, tuple(token for token, _, _ in old[at + 1 : last + 1])) for at in range(first, last)]
        if each.term in seen:
            predicting = next(at for at, (_, _, end) in enumerate(new) if end > each.new_start) - 1
            for at in range(first):
                if at == first - 1 or positions[at] >= max(predicting, 0):
                    positions[at] = -1
        else:
            seen.add(each.term)
            openings = set()
            for before in ("a ", "\n"):
                behind = [token for token, _, end in encode(kind, before + choice[each.term]) if end > len(before)]
                openings.add(behind[0])
            named += [(reaching(new, each.new_end, translation.text) + bos, token) for token in sorted(openings)]
    return TranslatedBlock(
        (*front, *(token for token, _, _ in old)),
        (*front, *(token for token, _, _ in new)),
        (*range(bos), *(at + bos if at >= 0 else -1 for at in positions)),
        tuple(named),
        tuple(inside),
    )


@kinds
@given(text=TEXTS, seed=st.integers(0, 3))
@example(text="Dorothy", seed=0)
@example(text="Oz and Oz", seed=1)
@example(text="OzOz\U0001f600\U0001f600", seed=0)
@example(text="Žofie saw Žofie and Žofie", seed=0)
@example(text="Oz  Oz\n\nOz said Oz", seed=1)
@example(text="黛玉黛玉水黛玉", seed=0)
@example(text="\U0001f600黛玉", seed=1)
@example(text=" Dorothy", seed=0)
@settings(max_examples=60, deadline=None)
def test_a_text_of_one_block_is_mapped_as_a_plain_computation_maps_it(kind, text, seed):
    blocks = cut(kind, text, 1 << 14)
    assume(blocks)
    (block,) = blocks
    got = translate_block(block, TRANSLATOR, tokenizer(kind), random.Random(seed))
    if not drawn(text, seed)[1].replacements:
        assert got == untranslated(block)
    else:
        assert got == plainly(kind, text, seed)
    check_block(block, got, seed)


def check_block(block: Block, got: TranslatedBlock, seed: int) -> None:
    """What holds for any block of any tokenizer."""
    assert got.token_ids == block.token_ids
    assert len(got.positions) == len(block.token_ids)
    mapped = [position for position in got.positions if position >= 0]
    assert mapped == sorted(set(mapped))
    assert not mapped or mapped[-1] < len(got.translated_ids)
    assert all(0 <= position < len(got.translated_ids) for position, _ in got.named)
    for position, rest in got.inside:
        assert got.positions[position] == -1
        assert rest == block.token_ids[position + 1 : position + 1 + len(rest)]
    _, translation = drawn(block.text, seed)
    inside = {position for position, _ in got.inside}
    for position, end in enumerate(block.ends):
        for each in translation.replacements:
            if each.start < end < each.end:
                assert got.positions[position] == -1
                assert position in inside or block.ends[-1] < each.end  # a tokenizer may drop the last characters
    assert set(dict(got.named)) <= set(range(len(got.translated_ids)))


# --- a term's surroundings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte-level", "llama 3", *LLAMA])
def test_a_name_is_trained_once_and_never_again_in_a_block(kind):
    text = "Dorothy said that Dorothy had gone"
    (block,) = cut(kind, text, 512)
    translator = Translator([Anchor(term="Dorothy", translations=("Emily",))])
    got = translate_block(block, translator, tokenizer(kind), random.Random(0))
    tokens = tokenizer(kind).convert_ids_to_tokens(list(block.token_ids))
    last = [position for position, end in enumerate(block.ends) if end in (7, 25)]
    new = tokenizer(kind)
    texts = [new.decode(got.translated_ids[1 : got.positions[position] + 1]) for position in last]
    assert texts == ["Emily", "Emily said that Emily"]
    that = next(position for position, end in enumerate(block.ends) if end == 17)
    unmapped = {position for position, partner in enumerate(got.positions) if partner < 0}
    assert unmapped == {*range(1, last[0]), that, *range(that + 1, last[1])}, tokens
    assert got.positions[0] == 0  # the first occurrence is learned from its translation
    assert {position for position, _ in got.named} == {got.positions[last[0]]}
    spelled = {"".join(new.convert_ids_to_tokens([token])).strip("\u0120▁") for _, token in got.named}
    assert len(got.named) == 2 and all("Emily".startswith(begin) for begin in spelled)


@pytest.mark.parametrize("kind", LLAMA)
def test_no_position_is_left_that_predicts_a_name_which_is_on_the_page_already(kind):
    """Where the original spells the space in front of a name as a token of its own and the translation does not."""
    text = "Žofie saw Žofie"
    (block,) = cut(kind, text, 512)
    translator = Translator([Anchor(term="Žofie", translations=("the",))])
    got = translate_block(block, translator, tokenizer(kind), random.Random(0))
    saw = block.ends.index(9)
    assert tokenizer(kind).convert_ids_to_tokens(block.token_ids[saw + 1]) == "▁"
    assert got.positions[saw] == got.positions[saw + 1] == -1
    assert got.positions[saw - 1] >= 0
    assert got.positions[-1] == len(got.translated_ids) - 1


def test_a_term_that_ends_in_a_character_of_several_tokens_ends_with_the_last_of_them():
    kind = "llama, normalizer"
    (block,) = cut(kind, "Oz\U0001f600 x", 512)
    translator = Translator([Anchor(term="Oz\U0001f600", translations=("him",))])
    got = translate_block(block, translator, tokenizer(kind), random.Random(0))
    tokens = block.ends.count(3) + block.ends.count(2) + block.ends.count(1)
    assert block.ends.count(3) == 4
    last = tokens
    assert got.positions[: last + 1] == (0, *[-1] * (tokens - 1), got.positions[last])
    assert tokenizer(kind).decode(got.translated_ids[1 : got.positions[last] + 1]) == "him"
    assert got.inside == tuple((at, block.token_ids[at + 1 : last + 1]) for at in range(1, last))


@kinds
@pytest.mark.parametrize(
    "text",
    [
        "Dorothy",
        "Dorothy.",
        "_Dorothy_",
        "Dorothy\u2019s",
        "a\nDorothy\n",
        "DOROTHY",
        "the Dorothys",
        "Oz Dorothy x Oz",
    ],
)
def test_the_last_token_of_a_term_goes_to_the_end_of_its_translation(kind, text):
    (block,) = cut(kind, text, 512)
    got = translate_block(block, TRANSLATOR, tokenizer(kind), random.Random(0))
    translation = drawn(text)[1]
    old = [(0, 0, 0)] * bos_of(kind) + encode(kind, text)
    new = [(0, 0, 0)] * bos_of(kind) + encode(kind, translation.text)
    assert got.translated_ids[bos_of(kind) :] == tuple(token for token, _, _ in new[bos_of(kind) :])
    for each in translation.replacements:
        last = max(at for at, (_, start, end) in enumerate(old) if start < each.end <= end)
        if old[last][2] == each.end and each.new_end in [end for _, _, end in new]:
            assert new[got.positions[last]][2] == each.new_end


# --- many blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte-level", "byte-level, trimmed offsets", "llama 3"])
@given(text=TEXTS, size=st.integers(3, 40), seed=st.integers(0, 3), together=st.booleans())
@settings(max_examples=100, deadline=None)
def test_mapped_positions_have_the_same_text_in_front_of_them_up_to_the_next_term(kind, text, size, seed, together):
    def spelled(ids: tuple[int, ...]) -> str:  # of bytes, one character each
        return "".join(tokenizer(kind).convert_ids_to_tokens(list(ids)))

    for block in cut(kind, text, size, TRANSLATOR if together else None):
        got = translate_block(block, TRANSLATOR, tokenizer(kind), random.Random(seed))
        check_block(block, got, seed)
        _, translation = drawn(block.text, seed)
        for position, partner in enumerate(got.positions):
            if partner < 0:
                continue
            following = [each.start for each in translation.replacements if each.start >= block.ends[position]]
            upto = min(following, default=None)
            if upto is not None and upto not in block.ends[position:]:  # it begins within a token
                upto = max((end for end in block.ends[position:] if end < upto), default=block.ends[position])
            last = len(block.ends) - 1 if upto is None else len(block.ends) - 1 - block.ends[::-1].index(upto)
            rest = spelled(block.token_ids[position + 1 : last + 1])
            new_rest = spelled(got.translated_ids[partner + 1 :])
            assert new_rest.startswith(rest) if following else new_rest == rest


@kinds
@given(text=TEXTS, size=st.integers(2, 6), seed=st.integers(0, 3))
@example(text="\U0001f600\U0001f600水黛玉", size=2, seed=0)
@example(text="Tin Woodman Tin Woodman", size=3, seed=0)
@settings(max_examples=40, deadline=None)
def test_blocks_too_small_for_their_characters_are_still_mapped(kind, text, size, seed):
    for block in cut(kind, text, size):
        got = translate_block(block, TRANSLATOR, tokenizer(kind), random.Random(seed))
        check_block(block, got, seed)
        if not drawn(block.text, seed)[1].replacements:
            assert got == untranslated(block)


@kinds
@given(text=st.lists(st.sampled_from(PIECES), min_size=20, max_size=80).map(" ".join))
@settings(max_examples=20, deadline=None)
def test_nothing_is_lost_at_the_edges_of_blocks_that_keep_terms_together(kind, text):
    blocks = cut(kind, text, 64, TRANSLATOR)
    choice, whole = drawn(text)
    parts = [TRANSLATOR.translate(block.text, choice) for block in blocks]
    assert "".join(block.text for block in blocks) == text
    assert "".join(part.text for part in parts) == whole.text
    found = [
        (each.term, block.start + each.start, block.start + each.end)
        for block, part in zip(blocks, parts, strict=True)
        for each in part.replacements
    ]
    assert found == [(each.term, each.start, each.end) for each in whole.replacements]


def test_a_term_that_a_block_edge_divides_is_left_as_it_is():
    text = "Tin Woodman"
    translator = Translator([Anchor(term="Tin Woodman", translations=("Iron Smith",))])
    blocks = cut("byte-level", text, 3)
    assert len(blocks) > 1 and "".join(block.text for block in blocks) == text
    for block in blocks:
        got = translate_block(block, translator, tokenizer("byte-level"), random.Random(0))
        assert got == untranslated(block)


BOOK = ENGLISH * 6


@kinds
@pytest.mark.parametrize("size", [12, 24, 96])
def test_a_translated_block_has_the_tokens_that_it_would_have_in_its_document(kind, size):
    """Oracle: the whole document with this block translated, tokenised at once."""
    text, bos = BOOK, bos_of(kind)
    blocks = cut(kind, text, size, TRANSLATOR)
    lengths = [len(block.token_ids) - bos for block in blocks]
    compared = different = 0
    for number, block in enumerate(blocks):
        _, translation = drawn(block.text)
        if not translation.replacements:
            continue
        got = translate_block(block, TRANSLATOR, tokenizer(kind), random.Random(0)).translated_ids[bos:]
        whole = [token for token, _, _ in encode(kind, text[: block.start] + translation.text + text[block.end :])]
        expected = whole[sum(lengths[:number]) : len(whole) - sum(lengths[number + 1 :])]
        compared += 1
        different += list(got) != expected
    assert compared >= 10
    assert different <= compared // 20


@kinds
def test_what_stands_in_front_of_the_first_term_keeps_its_tokens(kind):
    """Also where a block begins with characters that are tokenised otherwise at the beginning of a text."""
    text = ENGLISH + "Then Žlutý kůň and  Úžas\n Ðirk said\n\nÞat (Oz) saw\t\tŽofie, not Æthel Oz. " * 4
    compared = 0
    for block in [block for size in range(6, 40, 3) for block in cut(kind, text, size, TRANSLATOR)]:
        _, translation = drawn(block.text)
        if translation.replacements:
            words = block.text[: translation.replacements[0].start].rstrip().rpartition(" ")[0]
            same = sum(end <= len(words) for end in block.ends)
            got = translate_block(block, TRANSLATOR, tokenizer(kind), random.Random(0))
            assert got.translated_ids[:same] == block.token_ids[:same]
            assert got.positions[:same] == tuple(range(same))
            compared += same > bos_of(kind)
    assert compared > 20


@pytest.mark.parametrize(
    ("kind", "text", "size"),
    [("wordpiece, cased", "terriblymidst" * 7 + " Oz", 39), ("llama, normalizer", "\U0001f9d9 Oz", 4)],
    ids=["word", "character"],
)
def test_a_block_that_begins_within(kind, text, size):
    *_, block = [block for block in cut(kind, text, size) if "Oz" in block.text]
    bos = bos_of(kind)
    alone = [token for token, _, _ in encode(kind, block.text)]
    assert list(block.token_ids[bos:]) != alone
    got = translate_block(block, TRANSLATOR, tokenizer(kind), random.Random(0))
    same = sum(end <= block.text.index(" Oz") for end in block.ends)
    assert got.translated_ids[:same] == block.token_ids[:same] and same > bos + 1
    assert got.positions[:same] == tuple(range(same))


# --- maps -------------------------------------------------------------------------------------------------------------


def test_tokens_of_one_character_are_partners_from_the_last_one_on_as_long_as_they_are_the_same():
    unchanged = Translation("水", ())
    assert map_ends([(1, 1), (2, 1), (3, 1)], [(1, 1), (2, 1), (3, 1)], unchanged) == [0, 1, 2]
    assert map_ends([(1, 1), (2, 1), (3, 1)], [(9, 1), (3, 1)], unchanged) == [-1, 0, 1]
    assert map_ends([(1, 1), (2, 1), (3, 1)], [(8, 1), (9, 1)], unchanged) == [-1, -1, 1]


# --- paper mode -------------------------------------------------------------------------------------------------------

PAPER = {
    "Dorothy": ("Emily", "Ann"),
    "Dorothy's": ("never",),
    "Dorothy\u2019s": ("never",),
    "Oz": ("Bath",),
    "Tin": ("Zinc", "Žinek"),
    "Tin Woodman": ("Iron Smith",),
    "Woodman": ("Smith",),
    "Emerald City": ("Grey Town", "Home"),
    "Em": ("Jo",),
    "Žofie": ("Anna",),
    "水晶": ("glass",),
    "said the": ("spoke a",),
}
PAPER_PIECES = (
    *PAPER,
    *(" Dorothy", " Oz", " Tin", "\nOz", "\nDorothy", "\n", " ", "  ", " Woodman", " Ozark", "DOROTHY", "Emily", " Em"),
    *(
        " the",
        " said",
        " City",
        "\n\n",
        "'s",
        ". ",
        "\u201c",
        "_",
        "水",
        "\U0001f600",
        " Žofie",
        "\nŽofie",
        "\nTin Woodman",
    ),
)


def restated(token_ids: tuple[int, ...], dictionary: dict[str, tuple[str, ...]], kind: str, seed: int) -> Any:
    """Method section 3, steps 1 to 5, sentence by sentence: translated tokens, map, and what is neutralised where."""

    def tokens(text: str) -> list[int]:
        return [token for token, _, _ in encode(kind, text)]

    def forms(text: str) -> list[list[int]]:
        behind_space = tokens(text)  # a Llama tokenizer puts a space in front
        behind_newline = tokens("\n" + text)[len(tokens("\n")) :]
        return [behind_space, behind_newline]

    # 1. "Drop X's when X is a key; drop a multi-word key when every one of its words is a key."
    keys = [
        key
        for key in dictionary
        if not (key[-2:] in ("'s", "\u2019s") and key[:-2] in dictionary)
        and not (" " in key and all(word in dictionary for word in key.split(" ")))
    ]
    # "one translation per term drawn once per block (seeded)"
    draw = random.Random(seed)
    choice = {key: draw.choice(dictionary[key]) for key in keys}

    # 2. "Walk the tokens. Where an anchor starts, emit its translation; otherwise copy the token."
    new: list[int] = []
    original_to_new = {}
    occurrences: list[tuple[str, int, int, int]] = []  # term, first token, last token, last translated token
    at = 0
    while at < len(token_ids):
        hit = None
        for key in keys:  # the script takes the first match and not the longest
            for number, form in enumerate(forms(key)):
                if hit is None and list(token_ids[at : at + len(form)]) == form:
                    hit = (key, len(form), forms(choice[key])[number])
        if hit is None:
            new = [*new, token_ids[at]]
            original_to_new[at] = len(new) - 1
            at += 1
            continue
        key, length, translation = hit
        new = [*new, *translation]
        occurrences.append((key, at, at + length - 1, len(new) - 1))
        at += length

    # 3. "All but the last -> -1. The last one -> index of the last token of the translation."
    for _, first, last, new_last in occurrences:
        original_to_new.update({within: -1 for within in range(first, last)})
        original_to_new[last] = new_last

    # 4. "From an anchor's second occurrence in the block on, the position before it is also set to -1."
    for number, (key, first, _, _) in enumerate(occurrences):
        if first > 0 and key in [other for other, _, _, _ in occurrences[:number]]:
            original_to_new[first - 1] = -1

    # 5. "Once a translation has been inserted, the first token of each of its tokenised forms is neutralised at all
    #    later translated positions."
    neutral = set()
    inserted = set()
    for key, _, _, new_last in occurrences:
        if key not in inserted:
            inserted.add(key)
            neutral |= {(later, form[0]) for form in forms(choice[key]) for later in range(new_last + 1, len(new))}
    return tuple(new), tuple(original_to_new[at] for at in range(len(token_ids))), neutral


@pytest.mark.parametrize("kind", LLAMA)
@given(
    text=st.lists(st.sampled_from(PAPER_PIECES), min_size=1, max_size=30).map("".join),
    terms=st.permutations(list(PAPER)).flatmap(lambda order: st.integers(1, len(order)).map(lambda n: order[:n])),
    size=st.sampled_from([16, 512]),
    seed=st.integers(0, 5),
)
@example(text="Oz\nOz Oz", terms=["Oz"], size=512, seed=0)
@example(text="OzOz", terms=["Oz"], size=512, seed=0)
@example(text=" Ozark Emily", terms=["Oz", "Em"], size=512, seed=0)
@example(text="Tin Woodman", terms=["Tin", "Tin Woodman"], size=512, seed=0)
@example(text="Tin Woodman", terms=["Tin Woodman", "Tin"], size=512, seed=0)
@example(text="Tin Woodman Tin Woodman", terms=["Tin Woodman", "Tin", "Woodman"], size=512, seed=0)
@example(text="Dorothy's and Dorothy\u2019s", terms=["Dorothy's", "Dorothy", "Dorothy\u2019s"], size=512, seed=0)
@settings(max_examples=150, deadline=None)
def test_paper_mode_is_the_bookkeeping_of_the_method(kind, text, terms, size, seed):
    dictionary = {term: PAPER[term] for term in terms}
    anchors = [Anchor(term=term, translations=new) for term, new in dictionary.items()]
    for block in cut(kind, text, size):
        got = translate_tokens(block, anchors, tokenizer(kind), random.Random(seed))
        translated, positions, neutral = restated(block.token_ids, dictionary, kind, seed)
        assert got.token_ids == block.token_ids
        assert got.translated_ids == translated
        assert got.positions == positions
        assert {
            (later, token) for position, token in got.named for later in range(position + 1, len(translated))
        } == neutral
        assert got.inside == ()


@pytest.mark.parametrize("kind", LLAMA)
def test_paper_mode_finds_terms_behind_a_space_and_behind_a_line_break_whatever_they_are_part_of(kind):
    (block,) = cut(kind, "Oz and Ozark\nOz, \u201cOz", 512)
    anchors = [Anchor(term="Oz", translations=("Bath",))]
    got = translate_tokens(block, anchors, tokenizer(kind), random.Random(0))
    assert tokenizer(kind).decode(got.translated_ids[1:]) == "Bath and Bathark\nBath, \u201cBath"
