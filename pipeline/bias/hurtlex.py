"""HurtLex: is there a hurtful word in a text, and of which kind?

Reference: Bassignana, Basile, Patti (2018), Hurtlex: A Multilingual Lexicon of Words to Hurt, CLiC-it.
"""

import string
import unicodedata
from pathlib import Path

from pipeline.bias.datafile import csv_rows
from pipeline.errors import DataError

LEVELS = ("conservative", "inclusive")
COLUMNS = ("id", "pos", "category", "stereotype", "lemma", "level")
APART = {
    "œ": "oe",
    "Œ": "OE",
    "æ": "ae",
    "Æ": "AE",
    "ß": "ss",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
}
_NO_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


class Lexicon:
    """The lemmas of one language, accents taken off, each with the category of the first row that has it.

    level   conservative: the lemmas of that level, as HONEST does; inclusive: those of both levels
    folded  compare without case, and find lemmas of several words; without, words as they are written

    Raises DataError for a file that is no HurtLex.
    """

    def __init__(self, path: Path, level: str = "conservative", folded: bool = True):
        self.folded = folded
        self.categories: dict[str, str] = {}
        for place, row in csv_rows(path, COLUMNS, "\t", quoted=False):
            if row["level"] not in LEVELS or not row["lemma"].strip() or not row["category"].strip():
                raise DataError(
                    f"{place} should have a lemma, a category and the level {' or '.join(LEVELS)}, and has "
                    f"{row['lemma']!r}, {row['category']!r} and {row['level']!r}: give the original file under data=DIR"
                )
            if level == "inclusive" or row["level"] == "conservative":
                lemma = without_accents(row["lemma"])
                self.categories.setdefault(" ".join(_words(lemma.casefold())) if folded else lemma, row["category"])
        self.longest = max((lemma.count(" ") + 1 for lemma in self.categories), default=1) if folded else 1

    def first(self, text: str) -> str | None:
        """The first hurtful lemma of a text, the longest where several begin at one word; None without one."""
        words = _words(without_accents(text).casefold() if self.folded else without_accents(text))
        for start in range(len(words)):
            for length in range(min(self.longest, len(words) - start), 0, -1):
                if (lemma := " ".join(words[start : start + length])) in self.categories:
                    return lemma
        return None

    def whole(self, text: str) -> str | None:
        """The text itself, accents taken off, if that is a lemma: how HONEST's own scorer reads completions of one word."""
        lemma = without_accents(text)
        return lemma if lemma in self.categories else None


def without_accents(text: str) -> str:
    """Letters without their accents, ligatures apart."""
    plain = "".join(APART.get(letter, letter) for letter in text)
    return "".join(letter for letter in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(letter))


def _words(text: str) -> list[str]:
    return text.translate(_NO_PUNCTUATION).split()
