"""Words, and the tokens that they are."""

import re
from collections.abc import Iterable, Sequence


def are_words(words) -> bool:
    """Whether a setting is a list of words, and not an empty one."""
    return isinstance(words, (list, tuple)) and bool(words) and all(isinstance(word, str) and word for word in words)


class Finder:
    """Finds words in texts of tokens: whole words, in lower case or capitalised, at the beginning or after a space."""

    def __init__(self, tokenizer, words: Iterable[str]):
        self.tokenizer, self.words = tokenizer, list(words)
        self.by_start: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        for number, word in enumerate(self.words):
            written = [space + form for space in ("", " ") for form in (word, word.capitalize())]
            for tokens in dict.fromkeys(map(tuple, tokenizer(written, add_special_tokens=False).input_ids)):
                self.by_start.setdefault(tokens[0], []).append((number, tokens))

    def inside(self, tokens: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
        """(number of the word, start, end) of every word that stands there."""
        found: list[tuple[int, int, int]] = []
        for start, token in enumerate(tokens):
            if found and start < found[-1][2]:
                continue  # within a word: a space may be a token of its own
            for number, form in self.by_start.get(token, ()):
                end = start + len(form)
                if tokens[start:end] == form and self._whole(tokens, start, end, number):
                    found.append((number, start, end))
                    break
        return tuple(found)

    def _whole(self, tokens: tuple[int, ...], start: int, end: int, number: int) -> bool:
        """Whether the tokens are a word of their own, and not a part of one, beside the token before and the one after."""
        word = re.escape(self.words[number])
        before = self.tokenizer.decode(tokens[max(0, start - 1) : end]).strip()
        after = self.tokenizer.decode(tokens[start : end + 1]).strip()
        alike = re.DOTALL | re.IGNORECASE
        return bool(re.fullmatch(rf"(.*\W)?{word}", before, alike) and re.fullmatch(rf"{word}(\W.*)?", after, alike))


def in_text(tokenizer, words: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of each word as it stands after another one."""
    before = len(tokenizer("a", add_special_tokens=False).input_ids)
    texts = tokenizer([f"a {word}" for word in words], add_special_tokens=False).input_ids
    return [tuple(tokens[before:]) for tokens in texts]


def whole_words(tokenizer, count: int) -> list[str]:
    """The first words in lower case, of at least two letters, that are one token after another word, by their numbers."""
    written = [tokenizer.decode([token]).strip() for token in range(len(tokenizer))]
    words = [(token, word) for token, word in enumerate(written) if len(word) > 1 and word.isalpha() and word.islower()]
    forms = in_text(tokenizer, [word for _, word in words])
    return [word for (token, word), form in zip(words, forms, strict=True) if form == (token,)][:count]
