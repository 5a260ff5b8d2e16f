"""A blemish changes what it says it changes, and nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.accuracy.perturb import KINDS, SHARE, perturbed


def test_by_hand():
    assert perturbed("Is it so?", "word_overlap") == "Is it so and true is true?"
    assert perturbed("It is.", "negation") == "It is and false is not true."
    assert perturbed("It is", "length_mismatch") == "It is" + " and true is true" * 5
    assert perturbed("Which word", "typos") in {"Whcih word", "Wihch word", "Which wrod"}


@given(st.text(max_size=60), st.integers(0, 3))
def test_typos_swap_neighbours_inside_words(text, draw):
    found = perturbed(text, "typos", draw)
    assert found == perturbed(text, "typos", draw) and len(found) == len(text)
    old, new = re.split(r"(\s+)", text), re.split(r"(\s+)", found)
    changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    for a, b in changed:
        assert sorted(a) == sorted(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 2
        letters = [at for at, letter in enumerate(a) if letter.isalpha()]
        assert a[letters[0]] == b[letters[0]] and a[letters[-1]] == b[letters[-1]]


def test_a_fifth_of_the_words():
    text = " ".join(f"wording{letter}" for letter in "abcdefghijklmnopqrst")
    changed = sum(a != b for a, b in zip(text.split(), perturbed(text, "typos").split(), strict=True))
    assert changed == SHARE * 20
    assert perturbed(text, "typos", 1) != perturbed(text, "typos", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_blanks_and_texts_without_letters_stay(kind):
    assert perturbed("12 + 3 = ?", kind) == "12 + 3 = ?"
    assert "_" in perturbed("They saw _ there.", kind) and "BLANK" in perturbed("The BLANK", kind)
