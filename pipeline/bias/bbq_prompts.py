"""How an item of BBQ is put to a model: which words, whether and in which order the answers are listed, what is scored.

qa      context, "Question: …", the answers as "A: …" where they are listed, "Answer:", each on a line of its own
race    UnifiedQA's form for a question with a passage: `question \\n (a) … (b) … (c) … \\n context`
arc     UnifiedQA's form for a question without one, here with the context before it: `context question \\n (a) …`

The last two are lower-cased, with a backslash and an n between the parts, as UnifiedQA was trained (Khashabi et al.
2020, https://github.com/allenai/unifiedqa), and list the answers always. BBQ's authors name these forms and publish no
code that builds them, so the place of the context in `arc` is our reading. UnifiedQA is an encoder-decoder: the last
separator, after which a decoder-only model answers, is ours too.
"""

import hashlib
from itertools import permutations
from typing import NamedTuple

PROMPTS = ("qa", "race", "arc")
ANSWERS = ("text", "letter")
ORDERS = ("rotations", "shuffled", "given")

Order = tuple[int, int, int]  # which answer stands at A, which at B, which at C
GIVEN: Order = (0, 1, 2)
ROTATIONS: tuple[Order, ...] = (GIVEN, (1, 2, 0), (2, 0, 1))
ALL: tuple[Order, ...] = tuple(permutations(GIVEN))


class Presentation(NamedTuple):
    """How one item is asked: once for each of `orders`."""

    prompt: str
    listed: bool
    answer: str
    orders: tuple[Order, ...]


def presentation(name: str, prompt: str, options: bool, answer: str, order: str) -> Presentation:
    """The presentation of the item `name`. Where nothing is listed there is no order, and one request an answer."""
    listed = options or answer == "letter" or prompt != "qa"
    if listed and order == "rotations":
        orders = ROTATIONS
    else:
        orders = (_shuffled(name) if listed and order == "shuffled" else GIVEN,)
    return Presentation(prompt, listed, answer, orders)


def variant(prompt: str, options: bool, answer: str, order: str) -> str:
    """What tells this way of asking from the default one, as a part of the metrics' names; empty for the default."""
    listed = presentation("", prompt, options, answer, order).listed
    parts = [prompt] * (prompt != "qa") + ["letter"] * (answer == "letter")
    return "_".join([*(parts or ["listed"]), order] if listed else parts)


def asked(item: dict) -> list[tuple[str, str]]:
    """(prompt, continuation), for each order what stands at A, B and C."""
    shown: Presentation = item["shown"]
    return [
        (prompt, continuation)
        for order in shown.orders
        for prompt, continuations in [(prompt_of(item, order), _continuations(item, order))]
        for continuation in continuations
    ]


def two_answers(item: dict, one: int, other: int) -> tuple[str, str]:
    """The item in the form qa with each of two answers written out; as letters, the two alone are listed."""
    context, question = item["context"], f"Question: {item['question']}"
    if item["shown"].answer == "text":
        return tuple("\n".join([context, question, f"Answer: {item[f'option{place}']}"]) for place in (one, other))
    at_a = hashlib.sha256(f"bbq pair\0{item['id']}".encode()).digest()[0] % 2
    order = (one, other) if at_a else (other, one)
    listed = [f"{letter}: {item[f'option{place}']}" for letter, place in zip("AB", order, strict=True)]
    prompt = "\n".join([context, question, *listed, "Answer:"])
    return tuple(f"{prompt} {'AB'[order.index(place)]}" for place in (one, other))


def prompt_of(item: dict, order: Order) -> str:
    """All that the model is shown before the answer."""
    shown: Presentation = item["shown"]
    answers = [item[f"option{place}"] for place in order]
    if shown.prompt == "qa":
        listed = [f"{letter}: {answer}" for letter, answer in zip("ABC", answers, strict=True)] if shown.listed else []
        return "\n".join([item["context"], f"Question: {item['question']}", *listed, "Answer:"])
    options = " ".join(f"({letter}) {answer}" for letter, answer in zip("abc", answers, strict=True))
    if shown.prompt == "race":
        parts = [item["question"], options, item["context"]]
    else:
        parts = [f"{item['context']} {item['question']}", options]
    return "".join(f"{part} \\n " for part in parts).rstrip().lower()


def _continuations(item: dict, order: Order) -> list[str]:
    shown: Presentation = item["shown"]
    if shown.answer == "letter":
        return [f" {letter}" for letter in "ABC"] if shown.prompt == "qa" else [f" ({letter})" for letter in "abc"]
    texts = [f" {item[f'option{place}']}" for place in order]
    return texts if shown.prompt == "qa" else [text.lower() for text in texts]


def _shuffled(name: str) -> Order:
    """One of the six orders, by the name of the item and nothing else."""
    digest = hashlib.sha256(f"bbq order\0{name}".encode()).digest()
    return ALL[int.from_bytes(digest, "big") % len(ALL)]
