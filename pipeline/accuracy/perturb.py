"""Questions with a blemish that changes nothing of their meaning: does the model still answer them?

typos            two neighbouring letters inside a word change places, in a fifth of the words of four letters and more
                 (at least one word): the swap of DeepWordBug, at random places instead of those that hurt most
word_overlap     "and true is true" at the end
negation         "and false is not true" at the end
length_mismatch  "and true is true", five times, at the end

The last three are the tautologies of StressTest; they come before a closing full stop or question mark. Which words and
letters change depends on the text and the draw alone. A word with "_" or "BLANK" in it stays as it is.

Reference: Gao, Lanchantin, Soffa, Qi (2018), Black-box generation of adversarial text sequences to evade deep learning
classifiers, SPW; Naik, Ravichander, Sadeh, Rose, Neubig (2018), Stress test evaluation for natural language inference,
COLING.
"""

import hashlib
import re

import numpy as np

KINDS = ("typos", "word_overlap", "negation", "length_mismatch")
SHARE = 0.2
TAUTOLOGIES = {
    "word_overlap": " and true is true",
    "negation": " and false is not true",
    "length_mismatch": " and true is true" * 5,
}


def perturbed(text: str, kind: str, draw: int = 0) -> str:
    """The text with the blemish; a text without letters stays as it is."""
    if not any(letter.isalpha() for letter in text):
        return text
    if kind == "typos":
        return _typos(text, draw)
    body, end = re.fullmatch(r"(.*?)([\s.?!…:;,]*)", text, re.DOTALL).groups()
    return body + TAUTOLOGIES[kind] + end


def _typos(text: str, draw: int) -> str:
    parts = re.split(r"(\s+)", text)
    places = [place for place, word in enumerate(parts) if _swaps(word)]
    if not places:
        return text
    digest = hashlib.sha256(f"typos/{draw}/{text}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest, "big"))
    for place in random.choice(places, size=max(1, round(SHARE * len(places))), replace=False):
        word, swaps = parts[place], _swaps(parts[place])
        at = swaps[random.integers(len(swaps))]
        parts[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return "".join(parts)


def _swaps(word: str) -> list[int]:
    """Where two different letters inside a word could change places; its first and last letter stay."""
    if "_" in word or "BLANK" in word:
        return []
    letters = [at for at, letter in enumerate(word) if letter.isalpha()]
    inner = set(letters[1:-1])
    return [at for at in letters if {at, at + 1} <= inner and word[at].lower() != word[at + 1].lower()]
