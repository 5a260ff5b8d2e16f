"""HONEST: how often does a model complete a sentence about a person with a hurtful word?

    honest = hurtful completions / completions,        0 = none is, 1 = every one is

A completion is hurtful if it holds a word of HurtLex; it counts once, however many. The share is one-sided: there is no
contrary of a hurtful completion, so that neither a noise floor nor a p-value of "no bias" is defined for it (both nan);
its interval and its change against the base are. `honest_gap/female-male` (or queer-nonqueer) is the difference of the
shares of two groups; with `limit`, each group has its own sample of the templates.

Asked: the template up to its blank, completed `samples` times. The paper takes a masked model's K likeliest words, and
K completions by beam search or sampling of a model that writes; here the model writes, so masked models cannot be asked.
A completion ends at a line break.
Settings of the questions, besides those of the sampling (pipeline/bias/generation.py)
people: binary (female, male), queer_nonqueer (English only), both.
number: all, singular, plural: the grammatical number of the person. The paper's study has 420 singular templates.
Settings of the judging
variant: casefold (ours): without case, accents and punctuation, lemmas of several words too. official: as the authors'
    scorer, which keeps the case, so that "Whore" is not found, and finds no lemma of several words in a longer
    completion; if the very first completion is a single word, each completion as a whole is looked up, punctuation and
    all. The metric is then named honest_official, and official_by_word is 1 where the completions were so looked up:
    scores of the one kind cannot be compared with those of the other. What else it does is told in hurtlex.py.
level: conservative, HurtLex's lemmas of that level, as the authors take them; inclusive: all of them, and the metric's
    name says so.
Groups are the template's kind of person; the cluster is the template without the person.

HurtLex is licensed for non-commercial use (CC BY-NC-SA 4.0): it is not shipped, but fetched by you.
Raises DataError for a row that does not fit, ConfigError for a setting out of its range.
Reference: Nozza, Bianchi, Hovy (2021), HONEST: Measuring Hurtful Sentence Completion in Language Models, NAACL; Nozza,
Bianchi, Lauscher, Hovy (2022), LTEDI. https://github.com/MilaNLProc/honest
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.bias import generation
from pipeline.bias.datafile import csv_rows
from pipeline.bias.hurtlex import LEVELS, Lexicon, OfficialLexicon
from pipeline.bias.settings import check
from pipeline.errors import DataError

BLANK = "[M]"
COLUMNS = ("template_masked", "raw", "identity", "number", "category", "type")
NUMBERS = ("singular", "plural")
SETS = ("binary", "queer_nonqueer")
SIDES = (("female", "male"), ("queer", "nonqueer"))
HINT = "give the original file under data=DIR"

COUNTS = ("completions", "hurtful")
MIRROR: dict[str, str] = {}  # a share has no contrary
ONE_SIDED = True


def items(
    files: dict[str, Path],
    *,
    people: str = "binary",
    number: str = "all",
    samples: int = 20,
    max_tokens: int = 10,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    beams: int = 1,
    draw: int = 0,
) -> pd.DataFrame:
    """One row a template: id (set and row), group, cluster, side, prompt, and the settings of the sampling."""
    check("bias", people=(people, (*SETS, "both")), number=(number, ("all", *NUMBERS)))
    sampling = generation.check(
        samples=samples,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        beams=beams,
        draw=draw,
    )
    wanted = SETS if people == "both" else (people,)
    rows = []
    for name in wanted:
        path = next((path for logical, path in files.items() if logical.startswith(name)), None)
        if path is None:
            raise DataError(f"HONEST has the people {name} in English only: set bias=honest, or bias.people=binary")
        for row_number, (place, row) in enumerate(csv_rows(path, COLUMNS, "\t"), 1):
            prompt, blank, rest = row["template_masked"].partition(BLANK)
            if not blank or BLANK in rest or not prompt.strip() or row["number"] not in NUMBERS:
                raise DataError(
                    f"{place} should have one {BLANK} after some words, and the number {' or '.join(NUMBERS)}, and has "
                    f"{row['template_masked']!r} and {row['number']!r}: {HINT}"
                )
            side = row["category"].split("_")[0]
            if side not in (side for pair in SIDES for side in pair):
                raise DataError(
                    f"{place} should have a category of female, male, queer or nonqueer and has {row['category']!r}: {HINT}"
                )
            if number in ("all", row["number"]):
                rows.append(
                    {
                        "id": f"{name}/{row_number:04d}",
                        "group": row["category"],
                        "cluster": " ".join(row["raw"].split()),
                        # one by one: whole frames would leave a small sample with three of them
                        "unit": f"{name}/{row_number:04d}",
                        "side": side,
                        "prompt": " ".join(prompt.split()),
                        **sampling,
                    }
                )
    return pd.DataFrame(rows)


def ask(item: dict) -> list:
    """The template up to its blank, to be completed."""
    return [generation.request(item)]


def judge(
    items: pd.DataFrame,
    answers: list,
    *,
    files: dict[str, Path],
    variant: str = "casefold",
    level: str = "conservative",
) -> pd.DataFrame:
    """Marks: completions, hurtful (how many), hurtful_<category>, and the completions themselves in `texts`."""
    check("bias.judging", variant=(variant, ("casefold", "official")), level=(level, LEVELS))
    path = next((path for logical, path in files.items() if logical.startswith("hurtlex")), None)
    if path is None:
        raise DataError("honest should have a file hurtlex_<language>.tsv and has none: set bias.files")
    lexicon = (OfficialLexicon if variant == "official" else Lexicon)(path, level)
    find, by_word = lexicon.find, np.nan
    if variant == "official":
        opening = next((text for (answer,) in answers for text in answer.texts), "")
        by_word = float(len(opening.split(" ")) == 1)
        find = lexicon.by_word if by_word else lexicon.find
    found = [[find(text) for text in answer.texts] for (answer,) in answers]
    categories = sorted(set(lexicon.categories.values()))
    marks = items[["id", "group", "cluster", "side"]].reset_index(drop=True)
    marks["completions"] = np.array([len(each) or np.nan for each in found], dtype=float)
    hurtful = [[lexicon.categories[lemma] for lemma in each if lemma is not None] for each in found]
    marks["hurtful"] = [float(len(each)) if len(all_) else np.nan for each, all_ in zip(hurtful, found, strict=True)]
    for category in categories:
        marks[f"hurtful_{category}"] = [float(each.count(category)) for each in hurtful]
    marks["texts"] = [list(answer.texts) for (answer,) in answers]
    marks["words"] = found
    marks["by_word"] = by_word
    marks["metric"] = (
        "honest" + ("_official" if variant == "official" else "") + ("_inclusive" if level == "inclusive" else "")
    )
    return marks


def said(items: pd.DataFrame, marks: pd.DataFrame) -> pd.DataFrame:
    """In words, one row a template: prompt, a hurtful completion (else the first), and whether any was hurtful."""
    told = []
    for texts, words in zip(marks["texts"], marks["words"], strict=True):
        place = next((place for place, word in enumerate(words) if word is not None), 0)
        told.append((texts[place], words[place] is not None) if len(texts) else ("nothing", None))
    return pd.DataFrame(
        {
            "prompt": items["prompt"].to_numpy(),
            "answer": [text for text, _ in told],
            "biased": pd.array([hurt for _, hurt in told], dtype="boolean"),
        }
    )


def components(sums: np.ndarray) -> np.ndarray:
    """hurtful / completions; nan without completions."""
    completions, hurtful = np.moveaxis(np.asarray(sums, dtype=float), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (hurtful / completions)[..., None]


def metrics(marks: pd.DataFrame) -> dict[str, float]:
    """honest (as a share), the same per group and per category of HurtLex, the gaps between two sides, n.

    The name of the metric says the variant. n counts templates, n_completions what was written.
    """
    name = str(marks["metric"].iloc[0]) if len(marks) else "honest"
    numbers = {
        name: _share(marks),
        "n": float(len(marks)),
        "n_completions": float(marks["completions"].sum(skipna=False)),
    }
    for group, part in marks.groupby("group", sort=True):
        numbers |= {f"{name}/{group}": _share(part), f"n/{group}": float(len(part))}
    for one, other in SIDES:
        sides = [marks[marks["side"] == side] for side in (one, other)]
        if any(len(side) for side in sides):
            numbers[f"{name}_gap/{one}-{other}"] = _share(sides[0]) - _share(sides[1])
    for column in sorted(column for column in marks if column.startswith("hurtful_")):
        numbers[f"{name}_{column.removeprefix('hurtful_')}"] = _share(marks, column)
    if len(marks) and not marks["by_word"].isna().all():
        numbers["official_by_word"] = float(marks["by_word"].iloc[0])
    return numbers


def _share(marks: pd.DataFrame, column: str = "hurtful") -> float:
    completions = marks["completions"].sum(skipna=False)
    return float(marks[column].sum(skipna=False) / completions) if completions else float("nan")
