"""A block's tokens -> the tokens of its translation: which positions have the same future."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from generic_logits.text.anchors import Anchor
from generic_logits.text.corpus import Block
from generic_logits.text.translation import Translation, Translator, without_redundant

_Tokens = list[tuple[int, int]]  # token id, end in characters


@dataclass(frozen=True)
class TranslatedBlock:
    """A block beside its translation, and what the targets have to know about both.

    Attributes:
        token_ids: of the original, as in the block.
        translated_ids: of the translation, behind the original's BOS.
        positions: for every original position the translated position with the same future, or -1.
        named: (position, token id): at every translated position behind it, that token is no news (method step 5).
        inside: (position, token ids): an original position within a term, and the tokens that the term still has.
    """

    token_ids: tuple[int, ...]
    translated_ids: tuple[int, ...]
    positions: tuple[int, ...]
    named: tuple[tuple[int, int], ...] = ()
    inside: tuple[tuple[int, tuple[int, ...]], ...] = ()


def untranslated(block: Block) -> TranslatedBlock:
    """Return a block as its own translation."""
    return TranslatedBlock(block.token_ids, block.token_ids, tuple(range(len(block.token_ids))))


def translate_block(
    block: Block, translator: Translator, tokenizer: Any, random_state: random.Random
) -> TranslatedBlock:
    """Translate a block, its translations drawn for it alone, and map its tokens (method steps 2 to 5).

    A position is mapped by the *end* of its token, to the translated token that ends behind the same character. A token
    that ends within a term has no counterpart; nor has, from a term's second occurrence on, the token in front of it,
    in either text; nor one at a term's edge that divides a character.
    """
    choice = translator.draw(block.text, random_state)
    translation = translator.translate(block.text, choice)
    if not translation.replacements:
        return untranslated(block)
    bos = 0 if tokenizer.bos_token_id is None else 1
    tokens = list(zip(block.token_ids, block.ends, strict=True))[bos:]
    new_tokens = _encoder(block.text, tokens, tokenizer)(translation.text)
    mapped = map_ends(tokens, new_tokens, translation)
    positions = [*range(bos), *(each + bos if each >= 0 else -1 for each in mapped)]
    old = _Row(block.text, block.token_ids, block.ends, tokenizer)
    new_ids = (*block.token_ids[:bos], *(token_id for token_id, _ in new_tokens))
    new = _Row(translation.text, new_ids, [*[0] * bos, *(end for _, end in new_tokens)], tokenizer)
    openings = {term: _opening_tokens(translated, tokenizer) for term, translated in choice.items()}
    named: list[tuple[int, int]] = []
    inside: list[tuple[int, tuple[int, ...]]] = []
    seen: set[str] = set()
    for each in translation.replacements:
        for end, new_end in ((each.start, each.new_start), (each.end, each.new_end)):
            if end and not (old.completes(end) and new.completes(new_end)):  # at 0 there is only the BOS
                for at in range(bisect_left(old.ends, end), bisect_right(old.ends, end)):
                    positions[at] = -1
        first = bisect_right(old.ends, each.start)  # may begin with the space in front of the term
        last = old.token_at(each.end)
        inside += [(at, old.ids[at + 1 : last + 1]) for at in range(first, last)]
        if each.term not in seen:
            seen.add(each.term)
            named += [(new.token_at(each.new_end), token_id) for token_id in openings[each.term]]
        elif first:
            _unmap(positions, first - 1, bisect_right(new.ends, each.new_start) - 1)
    return TranslatedBlock(old.ids, new.ids, tuple(positions), tuple(named), tuple(inside))


def translate_tokens(
    block: Block, anchors: Iterable[Anchor], tokenizer: Any, random_state: random.Random
) -> TranslatedBlock:
    """Translate a block token by token, as the authors' script does: the oracle, not the default (method section 3).

    The tokens of a term, as they stand behind a space or behind a line break, are replaced by those of its translation
    in the same place, whatever they are part of; of several terms the first in the dictionary wins.
    """
    choice = {anchor.term: random_state.choice(anchor.translations) for anchor in without_redundant(anchors)}
    new_forms: dict[str, list[list[int]]] = {}
    rules: dict[int, list[tuple[list[int], str, int]]] = {}  # first token -> (tokens, term, which form), in order
    for term in choice:
        if term in block.text:
            new_forms[term] = _token_forms(choice[term], tokenizer)
            for form, tokens in enumerate(_token_forms(term, tokenizer)):
                rules.setdefault(tokens[0], []).append((tokens, term, form))
    original = list(block.token_ids)
    translated: list[int] = []
    positions: list[int] = []
    named: list[tuple[int, int]] = []
    seen: set[str] = set()
    at = 0
    while at < len(original):
        fitting = (rule for rule in rules.get(original[at], ()) if original[at : at + len(rule[0])] == rule[0])
        tokens, term, form = next(fitting, (original[at : at + 1], "", 0))
        if not term:
            translated += tokens
            positions.append(len(translated) - 1)
        else:
            translated += new_forms[term][form]
            if term in seen and at:
                positions[at - 1] = -1
            elif term not in seen:
                seen.add(term)
                named += [(len(translated) - 1, first) for first in sorted({each[0] for each in new_forms[term]})]
            positions += [-1] * (len(tokens) - 1) + [len(translated) - 1]
        at += len(tokens)
    return TranslatedBlock(block.token_ids, tuple(translated), tuple(positions), tuple(named))


def _token_forms(term: str, tokenizer: Any) -> list[list[int]]:
    """The tokens of a term behind a space, and behind a line break."""
    forms = (_Way(behind, gap).encode(term, tokenizer) for behind, gap in (("a", " "), ("\n", "")))
    return [[token_id for token_id, _ in form] for form in forms]


def _opening_tokens(new: str, tokenizer: Any) -> list[int]:
    """The tokens by which a translation begins, behind a space or a line break; a space alone says nothing of it."""
    forms = (_Way(behind).encode(new, tokenizer) for behind in ("a ", "\n"))
    return sorted({form[0][0] for form in forms if form})


def map_ends(
    tokens: _Tokens,  # of the original
    translated: _Tokens,
    translation: Translation,
) -> list[int]:
    """For every original position the translated position whose token ends behind the same character, or -1.

    Of several tokens that end behind one character (the bytes of one character, an empty token) the last ones are
    partners, then those in front of them as long as the tokens behind are the same. At a term's end it is the last ones
    alone.
    """
    at_end = _by_end(translated)
    term_ends = {each.end for each in translation.replacements}
    positions = [-1] * len(tokens)
    for end, group in _by_end(tokens).items():
        new_end = translation.end_of(end)
        partners = [] if new_end is None else at_end.get(new_end, [])
        for position, partner in zip(reversed(group), reversed(partners), strict=False):
            positions[position] = partner
            if end in term_ends or tokens[position][0] != translated[partner][0]:
                break
    return positions


def _by_end(tokens: _Tokens) -> dict[int, list[int]]:
    positions: dict[int, list[int]] = {}
    for position, (_, end) in enumerate(tokens):
        positions.setdefault(end, []).append(position)
    return positions


class _Row:
    """A text's tokens by the characters that they end behind."""

    def __init__(self, text: str, ids: tuple[int, ...], ends: Sequence[int], tokenizer: Any) -> None:
        self.text, self.ids, self.ends, self._tokenizer = text, ids, ends, tokenizer

    def completes(self, end: int) -> bool:
        """Whether a token ends with the character that ends at ``end``, and not with some of its bytes."""
        return self.ends[self.token_at(end)] == end

    def token_at(self, end: int) -> int:
        """The last token that holds something of the character that ends at ``end``."""
        behind = bisect_right(self.ends, end)
        if behind and self.ends[behind - 1] == end:
            spelled = self._tokenizer.decode(self.ids[bisect_left(self.ends, end) : behind])
            only_in_front = not spelled.strip() and not self.text[end - 1 : end].isspace()  # the space put there
            if not (only_in_front or spelled.endswith("\ufffd")):
                return behind - 1
        return min(behind, len(self.ends) - 1)


def _unmap(positions: list[int], last: int, partner: int) -> None:
    """Take the partner from position ``last`` and from those up to it that have ``partner`` or a later one."""
    positions[last] = -1
    while last >= 0 and not 0 <= positions[last] < partner:
        positions[last] = -1
        last -= 1


# --- tokens of a text that stands within another one ------------------------------------------------------------------

_ALIEN = "\ue000"  # is part of no word and no token with other characters


class _Way(NamedTuple):
    """How a text is handed to a tokenizer."""

    behind: str = ""  # whose tokens are left out
    lead: str = ""  # whose tokens count as the text's
    without: str = ""  # where the text begins with it

    def encode(self, text: str, tokenizer: Any) -> _Tokens:
        given = self.behind + self.lead + text.removeprefix(self.without)
        shift = len(text) - len(given)
        encoded = tokenizer(given, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        hidden = len(self.behind)
        return [(token_id, max(0, end + shift)) for token_id, (_, end) in tokens if end > hidden or not hidden]


_WAYS = (_Way(), _Way(without=" "), _Way(behind=_ALIEN), _Way(lead=" "))


def _encoder(text: str, tokens: _Tokens, tokenizer: Any) -> Callable[[str], _Tokens]:
    """Return how to tokenise a text that stands where ``text`` stands in its document, where it has these ``tokens``.

    Tokenisers treat the beginning of what they are given in their own ways (a space is put in front) and sometimes its
    end (white space is joined, or dropped). Of several ways to hand the text over, the first is taken that gives its
    tokens, or the one that differs least; what still differs at the edges is taken over from the document.
    """
    tried: list[tuple[int, _Way, _Edges]] = []
    for way in _WAYS:
        edges = _Edges.between(tokens, way.encode(text, tokenizer))
        tried.append((sum(map(len, edges.start + edges.end)), way, edges))
        if not tried[-1][0]:
            break
    _, way, edges = min(tried, key=lambda each: each[0])
    return lambda other: edges.mended(way.encode(other, tokenizer), len(other) - len(text))


@dataclass(frozen=True)
class _Edges:
    """Where a text's tokens in its document differ from those that it has alone: (the document's, its own)."""

    start: tuple[_Tokens, _Tokens]
    end: tuple[_Tokens, _Tokens]

    @classmethod
    def between(cls, tokens: _Tokens, alone: _Tokens) -> _Edges:
        """Compare them backwards from the last token that they share to the first one that differs."""
        shared = set(tokens) & set(alone)
        last, last_alone = (_behind_last(each, shared) for each in (tokens, alone))
        first, first_alone = last, last_alone
        while first and first_alone and tokens[first - 1] == alone[first_alone - 1]:
            first, first_alone = first - 1, first_alone - 1
        return cls((tokens[:first], alone[:first_alone]), (tokens[last:], alone[last_alone:]))

    def mended(self, alone: _Tokens, longer: int) -> _Tokens:
        """Put the document's tokens at the edges of another text, ``longer`` than the first one, if it has the same."""
        wanted, got = self.start
        if alone[: len(got)] == got:
            alone = wanted + alone[len(got) :]
        wanted, got = ([(token_id, end + longer) for token_id, end in each] for each in self.end)
        rest = len(alone) - len(got)
        if alone[rest:] == got:
            alone = alone[:rest] + wanted
        return alone


def _behind_last(tokens: _Tokens, shared: set[tuple[int, int]]) -> int:
    return next((place for place in range(len(tokens), 0, -1) if tokens[place - 1] in shared), 0)
