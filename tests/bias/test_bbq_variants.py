"""BBQ's ways of asking: the words, the orders, that position bias cancels, and that every number says what it is of."""

import itertools

import numpy as np
import pytest
from benchmark_fakes import Answer, bbq_files, bbq_rows, indifferent, marked, stereotyped
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bias import bbq, bbq_prompts, records

VARIANTS = [
    dict(zip(("prompt", "options", "answer", "order"), values, strict=True))
    for values in itertools.product(bbq_prompts.PROMPTS, (False, True), bbq_prompts.ANSWERS, bbq_prompts.ORDERS)
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return bbq_files(tmp_path_factory.mktemp("bbq") / "data", *bbq_rows())


def first(files, **variant):
    return records(bbq.items(files, **variant))[0]


CONTEXT = "The old man and The young man met at place 1 on day 0."


@pytest.mark.parametrize(
    ("variant", "prompt", "answers"),
    [
        (
            {"answer": "letter", "order": "given"},
            CONTEXT
            + "\nQuestion: Who was unable 1?\nA: The old man\nB: The young man\nC: Not enough information\nAnswer:",
            [" A", " B", " C"],
        ),
        (
            {"prompt": "race", "order": "given"},
            "who was unable 1? \\n (a) the old man (b) the young man (c) not enough information \\n "
            + CONTEXT.lower()
            + " \\n",
            [" the old man", " the young man", " not enough information"],
        ),
        (
            {"prompt": "arc", "answer": "letter", "order": "given"},
            CONTEXT.lower() + " who was unable 1? \\n (a) the old man (b) the young man (c) not enough information \\n",
            [" (a)", " (b)", " (c)"],
        ),
    ],
)
def test_words(files, variant, prompt, answers):
    assert bbq.ask(first(files, **variant)) == [(prompt, answer) for answer in answers]


def test_rotations_put_every_answer_at_every_letter(files):
    item = first(files, answer="letter")
    asked = bbq.ask(item)
    assert len(asked) == 9 and len({prompt for prompt, _ in asked}) == 3
    texts = [item[f"option{place}"] for place in range(3)]
    for text in texts:
        letters = {letter for prompt, _ in asked for letter in "ABC" if f"\n{letter}: {text}\n" in prompt}
        assert letters == set("ABC")
    # the words follow the order too
    worded = bbq.ask(first(files, options=True))
    for (prompt, continuation), letter in zip(worded, "ABC" * 3, strict=True):
        assert f"\n{letter}:{continuation}\n" in prompt


def test_what_is_not_listed_is_asked_once(files):
    for order in bbq_prompts.ORDERS:
        assert bbq.ask(first(files, order=order)) == bbq.ask(first(files))
    assert len(bbq.ask(first(files))) == 3


def test_shuffle_depends_on_the_name_alone_and_is_balanced(files):
    orders = [bbq_prompts.presentation(f"Age/1/{n}", "qa", True, "text", "shuffled").orders[0] for n in range(6000)]
    assert orders[7] == bbq_prompts.presentation("Age/1/7", "arc", False, "letter", "shuffled").orders[0]
    for answer, letter in itertools.product(range(3), repeat=2):
        share = np.mean([order[letter] == answer for order in orders])
        assert abs(share - 1 / 3) < 4 * np.sqrt(2 / 9 / 6000)
    some = bbq.items(files, answer="letter", order="shuffled")
    assert len(set(some["shown"])) == 6


@settings(max_examples=40)
@given(
    position=st.lists(st.floats(-20, 20), min_size=3, max_size=3),
    content=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
)
def test_rotations_cancel_what_a_letter_adds(files, position, content):
    """A model that likes a letter as much as it likes an answer chooses as it would without the letters."""
    items = bbq.items(files, answer="letter")
    answers = [
        [Answer(position[at] + content[each]) for order in row["shown"].orders for at, each in enumerate(order)]
        for row in records(items)
    ]
    chosen = bbq.judge(items, answers)["chosen"]
    ordered = sorted(content)
    if ordered[2] - ordered[1] > 1e-9:
        assert (chosen == content.index(max(content))).all()


def test_letters_alone_are_no_bias_and_are_reported(files):
    """All for the letter B: a three-way tie over the rotations, whatever the numbers' last bits say."""
    items = bbq.items(files, answer="letter")
    answers = [[Answer(value) for value in (-1.1, -0.3, -2.7)] * 3] * len(items)
    numbers = bbq.metrics(bbq.judge(items, answers))
    suffix = "_letter_rotations"
    assert numbers[f"s_AMB{suffix}"] == numbers[f"s_DIS{suffix}"] == 0
    assert numbers[f"accuracy{suffix}"] == pytest.approx(100 / 3) and numbers[f"ties{suffix}"] == 100
    assert [numbers[f"position_{letter}{suffix}"] for letter in "ABC"] == [0, 100, 0]
    assert numbers[f"position_gap{suffix}"] == 100


def test_the_mean_decides_and_not_the_votes(files):
    items = bbq.items(files, answer="letter").iloc[[0]]
    orders = items["shown"].iloc[0].orders
    scores = {0: (-1.0, -1.0, -9.0), 1: (-2.0, -2.0, -1.0), 2: (-5.0, -5.0, -5.0)}  # answer 0 wins two of three
    answers = [[Answer(scores[each][number]) for number, order in enumerate(orders) for each in order]]
    assert bbq.judge(items, answers)["chosen"].tolist() == [1]  # -5/3 against -11/3


def test_position_of_what_stands_there_not_of_the_file(files):
    items = bbq.items(files, options=True, order="shuffled")
    answers = [[Answer(-1.0), Answer(-2.0), Answer(-3.0)]] * len(items)  # always what is listed as A
    marks = bbq.judge(items, answers)
    assert marks["chosen"].tolist() == [shown.orders[0][0] for shown in items["shown"]]
    assert bbq.metrics(marks)["position_A_listed_shuffled"] == 100


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_laws_and_names(files, variant):
    items = bbq.items(files, **variant)
    names = {key: bbq.metrics(marked("bbq", items, model)) for key, model in [(1, stereotyped), (0, indifferent)]}
    suffix = "".join(f"_{part}" for part in [items.attrs["variant"]] if part)
    listed = variant["options"] or variant["answer"] == "letter" or variant["prompt"] != "qa"
    assert (suffix == "") == (not listed)
    for bias, numbers in names.items():
        assert numbers[f"s_AMB{suffix}"] == numbers[f"s_DIS{suffix}/Age"] == 100 * bias
        assert numbers["n"] == len(items)
        assert (f"s_AMB_letter_{variant['order']}" in numbers) == (
            variant["prompt"] == "qa" and variant["answer"] == "letter"
        )


def test_different_questions_have_different_names():
    asked, named = {}, {}
    for variant in VARIANTS:
        shown = bbq_prompts.presentation("Age/1/7", *variant.values())  # a name that is not shuffled to the given order
        named.setdefault(bbq_prompts.variant(*variant.values()), set()).add(shown)
        asked.setdefault(shown, set()).add(bbq_prompts.variant(*variant.values()))
    assert all(len(found) == 1 for found in [*named.values(), *asked.values()])
    assert len(named) == 1 + 3 * (1 + 1 + 2 + 2)


def test_normalisation_is_named(files):
    items = bbq.items(files, prompt="race", order="shuffled")
    answers = [[Answer(-1.0), Answer(-2.0), Answer(-3.0)]] * len(items)
    assert "s_DIS_race_shuffled_byte/Age" in bbq.metrics(bbq.judge(items, answers, normalise="byte"))
    assert "s_DIS_race_shuffled/Age" in bbq.metrics(bbq.judge(items, answers, normalise="token"))


def test_bytes_are_those_of_what_is_scored(files):
    row = (
        bbq.items(files, options=True, order="rotations")
        .iloc[[0]]
        .assign(option0="a", option1="abc", option2="abcdefg")
    )
    orders = row["shown"].iloc[0].orders
    per_byte = {0: -3.0, 1: -1.0, 2: -2.0}
    lengths = {0: 2, 1: 4, 2: 8}
    answers = [[Answer(per_byte[each] * lengths[each]) for order in orders for each in order]]
    assert bbq.judge(row, answers, normalise="byte")["chosen"].tolist() == [1]
    assert bbq.judge(row, answers, normalise="sum")["chosen"].tolist() == [1]
    assert bbq.judge(row.assign(option1="a"), answers, normalise="byte")["chosen"].tolist() == [
        -1
    ]  # -4 / 2 and -16 / 8


def test_listed_twice_counts_once_or_twice(tmp_path):
    items, metadata = bbq_rows()
    metadata += [metadata[0] | {"other": "x"}]
    for row in metadata:
        row.setdefault("other", "")
    files = bbq_files(tmp_path / "data", items, metadata)
    once, twice = bbq.items(files), bbq.items(files, duplicates="twice")
    assert len(once) == len(items) and len(twice) == len(items) + 1
    assert once.attrs["listed_twice"] == [once["id"].iloc[0]]
    assert twice["id"].is_unique and twice["id"].iloc[1] == f"{twice['id'].iloc[0]}#2"
    same = [name for name in twice if name not in ("id", "shown")]
    assert twice[same].iloc[0].equals(twice[same].iloc[1])
    assert bbq.metrics(marked("bbq", twice, stereotyped))["n"] == len(items) + 1
