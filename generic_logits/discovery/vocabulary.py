"""What discovery knows of English: what is no name, what stands beside names, and words to translate into."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_ORDINARY = Path(__file__).with_name("generic_terms.json")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@cache
def ordinary(group: str) -> tuple[str, ...]:
    """The shipped ordinary words of a group, e.g. "female names" or "things"."""
    groups: dict[str, list[str]] = json.loads(_ORDINARY.read_text(encoding="utf-8"))
    return tuple(word for row in groups[group] for word in row.split())


ABBREVIATIONS = _words(
    "Mr Mrs Ms Dr St Messrs Mme Mlle Prof Rev Capt Col Gen Lt Sgt Hon"
)  # a full stop ends no sentence
HONORIFICS = ABBREVIATIONS | _words("Miss Sir Madam Ma'am Mister Monsieur Madame Mademoiselle Herr Frau")
FEMALE_TITLES = _words(
    "Mrs Ms Miss Mme Mlle Madam Madame Mademoiselle Frau Lady Queen Princess Aunt Sister Mother Dame"
)
FEMALE_TITLES |= _words("Duchess Countess Grandmother")
MALE_TITLES = _words("Mr Sir Monsieur Herr Lord King Prince Uncle Brother Father Duke Count Squire Master Grandfather")
TITLES = FEMALE_TITLES | MALE_TITLES | HONORIFICS
TITLES |= _words(
    "Captain Colonel Major General Lieutenant Sergeant Doctor Professor Judge Cousin Saint President Nurse"
)
CONNECTORS = _words("of the de la le du des del della di da von van der den zu")
NOT_NAMES = HONORIFICS | _words(
    """I I'm I'll I've I'd O Oh Ah Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April
    May June July August September October November December Christmas Easter God Lord Heaven Bible English Englishman
    French German American British Latin Greek Roman Spanish Italian Indian Chinese Russian Chapter Contents Volume
    II III IV VI VII VIII IX XI XII XIII XIV XV XVI XVII XVIII XIX XX XXI XXII XXIII XXIV XXV XXVI XXVII XXX XXXI"""
)
FUNCTION_WORDS = _words(
    """a about above across after again against all almost alone along already also although always am among an and
    another any anybody anything are aren't around as at away back be because been before began behind being below
    beside besides between beyond both but by came can can't cannot come could couldn't did didn't do does doesn't done
    don't down during each either else enough even ever every everybody everything except far few first for from gave
    get give go goes going gone got had hadn't has hasn't have haven't having he he'd he'll he's her here hers herself
    him himself his how however i if in indeed instead into is isn't it it's its itself just keep kept knew know last
    least left less let like little long look looked made make many may me might mine more most much must my myself
    near nearly never next no nobody none nor not nothing now of off often on once one only onto or other others ought
    our ours ourselves out over own perhaps please put quite rather really said same saw say says see seem seemed seen
    shall shan't she she'd she'll she's should shouldn't since so some somebody something soon still such take taken
    than that that's the their theirs them themselves then there there's these they they'd they'll they're they've
    thing things think this those though thought three through till to together told too took toward towards two under
    until unto up upon us used very want wanted was wasn't we we'll we're we've well went were weren't what what's when
    where whether which while who whole whom whose why will with within without won't would wouldn't yes yet you you'd
    you'll you're you've your yours yourself"""
)
DETERMINERS = _words(
    """the a an his her their my your our its this that these those of some every no any each another with and one two
    three four five six seven eight nine ten many few several"""
)
ARTICLES = _words("the a an this that these those every")
SAYING = _words(
    """said says asked replied answered cried exclaimed remarked whispered shouted inquired returned declared added
    called continued observed thought told laughed murmured muttered growled began went explained roared hissed"""
)
LOCATIVES = _words("in at into near through across beyond inside outside around within throughout")
WAYS = _words("to from towards toward for of")  # they stand before places without an article, too
ACTING = SAYING | _words(
    """was had looked went came sat stood ran walked turned took gave put felt knew thought saw could would did made
    held got found nodded smiled sighed stopped started heard opened lay let kept shook threw pulled"""
)
FAMILY_NAME_TITLES = HONORIFICS | _words(
    "Captain Colonel Major General Lieutenant Sergeant Doctor Professor Judge Lord"
)
HE, SHE, THEY = _words("he him his himself"), _words("she her hers herself"), _words("they them their themselves")
PLACES = _words(
    """city town village tower castle river lake mount mountain mountains street bridge wood woods forest island islands
    valley hill hills road lane house hall bay sea ocean harbour harbor land lands country kingdom palace park garden
    gardens square station school inn church abbey farm field fields gate gates room cave caverns desert plains beach
    point cape coast county province canyon court place shore pond brook creek marsh moor swamp market port quay avenue
    north south east west tavern hotel"""
)


def is_english(words: Mapping[str, int], total: int) -> bool:
    """Whether a fifth of a text are English function words; a half is usual, and a tenth in its neighbours."""
    return sum(words.get(word, 0) for word in FUNCTION_WORDS) > total / 5
