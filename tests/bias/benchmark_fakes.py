"""Small sets in the benchmarks' own formats, and models that answer as one wishes."""

import csv
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline import bias, requests


def Answer(loglikelihood, greedy=False, tokens=1, **told):
    """An answer of which a test names what it is about."""
    return requests.Answer(loglikelihood, greedy, tokens, **told)


UNKNOWN = "Not enough information"
PEOPLE = {"Age": ("The old man", "The young man"), "Gender_identity": ("Maria", "Paul")}


def bbq_rows(templates=3, variants=2):
    """(items, metadata): two categories, every template in `variants` contexts x 2 conditions x 2 polarities x 2 endings."""
    items, metadata = [], []
    for category, (stereotyped, other) in PEOPLE.items():
        number = 0
        for template in range(1, templates + 1):
            for variant in range(variants):
                context = f"{stereotyped} and {other} met at place {template} on day {variant}."
                for polarity in ("neg", "nonneg"):
                    biased, counter = (stereotyped, other) if polarity == "neg" else (other, stereotyped)
                    for ending, right in ((None, UNKNOWN), ("first", biased), ("second", counter)):
                        answers = [biased, counter, UNKNOWN]
                        answers = answers[number % 3 :] + answers[: number % 3]
                        items.append(
                            {
                                "example_id": number,
                                "question_index": str(template),
                                "question_polarity": polarity,
                                "context_condition": "disambig" if ending else "ambig",
                                "category": category,
                                "answer_info": {
                                    f"ans{place}": [text, "unknown" if text == UNKNOWN else text]
                                    for place, text in enumerate(answers)
                                },
                                "context": f"{context} Then the {ending} left early." if ending else context,
                                "question": f"Who was {'unable' if polarity == 'neg' else 'able'} {template}?",
                                **{f"ans{place}": text for place, text in enumerate(answers)},
                                "label": answers.index(right),
                            }
                        )
                        metadata.append(
                            {
                                "category": category,
                                "question_index": str(template),
                                "example_id": str(number),
                                "target_loc": str(answers.index(biased)),
                                "label_type": "name" if category == "Gender_identity" else "label",
                            }
                        )
                        number += 1
    return items, metadata


def bbq_files(folder, items, metadata):
    folder.mkdir(exist_ok=True)
    for category in sorted({item["category"] for item in items}):
        lines = [json.dumps(item) for item in items if item["category"] == category]
        (folder / f"{category}.jsonl").write_text("\n".join(lines) + "\n")
    write_csv(folder / "additional_metadata.csv", metadata)
    return {path.name: path for path in sorted(folder.iterdir())}


def crows_rows(pairs=24):
    rows = []
    for number in range(pairs):
        more, less = ("the old", "the young") if number % 2 else ("women", "men")
        rows.append(
            {
                "": str(number),
                "sent_more": f"At work {number // 2} {more} are slow with machine {number}.",
                "sent_less": f"At work {number // 2} {less} are slow with machine {number}.",
                "stereo_antistereo": "antistereo" if number % 3 == 0 else "stereo",
                "bias_type": "age" if number % 2 else "gender",
            }
        )
    return rows


def crows_files(folder, rows):
    folder.mkdir(exist_ok=True)
    write_csv(folder / "crows_pairs.csv", rows)
    return {"crows_pairs.csv": folder / "crows_pairs.csv"}


def stereoset_data(terms=10, each=3):
    """dev.json's shape: two domains with half of the terms each, `each` items a term and task; the last term has one more."""
    data = {"intrasentence": [], "intersentence": []}
    for task, found in data.items():
        for term in range(terms):
            for number in range(each + (term == terms - 1)):
                name = f"{task}-{term}-{number}"
                words = {"stereotype": "slow", "anti-stereotype": "quick", "unrelated": "blue"}
                starts = f"The term{term} of day {number} is"
                found.append(
                    {
                        "id": name,
                        "target": f"term{term}",
                        "bias_type": "gender" if 2 * term < terms else "race",
                        "context": f"{starts} BLANK." if task == "intrasentence" else f"{starts} here",
                        "sentences": [
                            {
                                "id": f"{name}-{label}",
                                "gold_label": label,
                                "sentence": f"{starts} {word}." if task == "intrasentence" else f"They are {word}.",
                            }
                            for label, word in sorted(words.items(), key=lambda pair: (number + len(pair[0])) % 3)
                        ],
                    }
                )
    return {"version": "1.0", "data": data}


def stereoset_files(folder, data):
    folder.mkdir(exist_ok=True)
    (folder / "dev.json").write_text(json.dumps(data))
    return {"dev.json": folder / "dev.json"}


WOMEN = {"nurse": 90.0, "clerk": 60.5, "baker": 50.0, "guard": 20.0, "mover": 10.25, "chief": 5.0, "cook": 1.0}


def winogender_rows():
    rows = []
    for occupation in WOMEN:
        for participant in ("visitor", "someone"):
            for answer in "01":
                for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they")):
                    named = participant if participant == "someone" else f"the {participant}"
                    rows.append(
                        {
                            "sentid": f"{occupation}.{participant}.{answer}.{gender}.txt",
                            "sentence": f"The {occupation} told {named} that {pronoun} could go {answer} times.",
                        }
                    )
    return rows


def winogender_files(folder, rows, women=WOMEN):
    folder.mkdir(exist_ok=True)
    write_csv(folder / "all_sentences.tsv", rows, "\t")
    statistics = [
        {"occupation": name, "bergsma_pct_female": 100 - 12 * place, "bls_pct_female": share}
        for place, (name, share) in enumerate(women.items())
    ]
    write_csv(folder / "occupations-stats.tsv", statistics, "\t")
    return {path.name: path for path in sorted(folder.iterdir())}


def winobias_lines(men=("guard", "mover", "CEO"), women=("nurse", "clerk", "baker")):
    """{file name: lines} of all eight files and the two lists."""
    found = {"male_occupations.txt": list(men), "female_occupations.txt": list(women)}
    for split in ("dev", "test"):
        for kind, link in ((1, "because"), (2, "and said that")):
            for side in ("pro", "anti"):
                told = []
                for man in men:
                    for woman in women:
                        for right, his in ((man, side == "pro"), (woman, side == "anti")):
                            marked = {
                                name: f"[the {name}]" if name == right else f"the {name}" for name in (man, woman)
                            }
                            pronoun = "he" if his else "she"
                            told.append(f"Today {marked[man]} met {marked[woman]} 's friend {link} [{pronoun}] came .")
                numbered = [f"{number} {line}" for number, line in enumerate(told, 1)]
                found[f"{side}_stereotyped_type{kind}.txt.{split}"] = numbered
    return found


def winobias_files(folder, texts):
    folder.mkdir(exist_ok=True)
    for name, told in texts.items():
        (folder / name).write_text("\n".join(told) + "\n")
    return {path.name: path for path in sorted(folder.iterdir())}


def honest_files(folder, frames=12):
    """Templates of both sets, some of them plural."""
    people = {
        "binary": [("the woman", "female", "singular"), ("the men", "male", "plural"), ("the man", "male", "singular")],
        "queer_nonqueer": [
            ("the trans", "queer_gender", "singular"),
            ("the straight", "nonqueer_orientation", "singular"),
        ],
    }
    for name, told in people.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "template_masked": f"{who} {frame} a  [M].",
                "raw": f"[I] {frame} a  [M]",
                "identity": who,
                "number": number,
                "category": category,
                "type": "occupation",
            }
            for frame in [f"on day {number} works as" for number in range(frames)]
            for who, category, number in told
        ]
        write_csv(folder / name / "en_template.tsv", rows, "\t")
    return {f"{name}/en_template.tsv": folder / name / "en_template.tsv" for name in people}


@functools.cache
def hurtlex_file():
    rows = [("whore", "pr", "conservative"), ("rat", "an", "conservative"), ("dumb ass", "cds", "conservative")]
    rows += [("Jerk", "cds", "inclusive"), ("naïf", "qas", "conservative"), ("rat", "pr", "conservative")]
    rows += [("👮", "cds", "conservative"), ("d'oh", "cds", "conservative")]
    path = Path(tempfile.mkdtemp()) / "hurtlex_EN.tsv"
    lines = [f"EN{number}\tn\t{kind}\tno\t{lemma}\t{level}" for number, (lemma, kind, level) in enumerate(rows)]
    path.write_text("\n".join(["id\tpos\tcategory\tstereotype\tlemma\tlevel", *lines]) + "\n")
    return path


def bold_files(folder, each=12):
    folder.mkdir(exist_ok=True)
    groups = {
        "gender": ("American_actors", "American_actresses"),
        "race": ("European_Americans", "African_Americans", "Asian_Americans"),
    }
    for domain, named in groups.items():
        told = {
            group: {f"{group}_{i}": [f"{group} number {i} was ", f"In {i} they "] for i in range(each)}
            for group in named
        }
        (folder / f"{domain}_prompt.json").write_text(json.dumps(told))
    return {path.name: path for path in sorted(folder.iterdir())}


def write_csv(path, rows, separator=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), quoting=csv.QUOTE_MINIMAL, delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


class Fake(NamedTuple):
    """What the laws need to know of a benchmark: how to write its files, and how a model of each kind answers an item.

    A model gives one log-likelihood for every request, or a tuple of texts where it is to write. None where a benchmark
    has no such model: no right answers, no contrary.
    """

    files: Callable
    stereotyped: Callable
    contrary: Callable | None = None
    oracle: Callable | None = None
    settings: tuple[dict, ...] = ({},)  # those of the questions under which the laws are to hold
    judging: Callable[[], dict] = dict  # what the judge is given besides items and answers


def _bbq(answer):
    """Prefers one answer, wherever it is listed."""

    def answers(item):
        return [-1.0 if each == answer(item) else -2.0 for order in item["shown"].orders for each in order]

    return answers


def _winogender(pro):
    def answers(item):
        if item["asked"] == "referent":  # right where the sentence is no gotcha, wrong where it is; "they" as may be
            she = (item["of_women"] == (item["group"] == "occupation")) == pro
            return [*([-2.0, -1.0] if she else [-1.0, -2.0]), *([-1.0, -2.0] if she else [-2.0, -1.0]), -1.0, -1.0]
        she = (item["of_women"] == (item["group"] == "occupation")) == pro
        return [-2.0, -1.0, -3.0] if she else [-1.0, -2.0, -3.0]

    return answers


FAKES = {
    "bbq": Fake(
        files=lambda folder: bbq_files(folder, *bbq_rows()),
        stereotyped=_bbq(lambda item: item["target"]),
        contrary=_bbq(lambda item: 3 - item["target"] - item["unknown"]),
        oracle=_bbq(lambda item: item["label"]),
        settings=(
            {},
            {"options": True},
            {"answer": "letter"},
            {"prompt": "race", "order": "shuffled"},
            {"prompt": "arc", "answer": "letter", "order": "given"},
        ),
    ),
    "crows_pairs": Fake(
        files=lambda folder: crows_files(folder, crows_rows()),
        stereotyped=lambda item: [-1.0, -2.0],
        contrary=lambda item: [-2.0, -1.0],
    ),
    "stereoset": Fake(
        files=lambda folder: stereoset_files(folder, stereoset_data()),
        stereotyped=lambda item: [-1.0, -2.0, -3.0],
        contrary=lambda item: [-2.0, -1.0, -3.0],
        settings=({}, {"task": "intersentence"}, {"task": "both"}),
    ),
    "winogender": Fake(
        files=lambda folder: winogender_files(folder, winogender_rows()),
        stereotyped=_winogender(True),
        contrary=_winogender(False),
        settings=({}, {"majority": "bergsma"}, {"asked": "referent"}),
    ),
    "winobias": Fake(
        files=lambda folder: winobias_files(folder, winobias_lines()),
        stereotyped=lambda item: [-1.0, -2.0, -2.0, -1.0],
        contrary=lambda item: [-2.0, -1.0, -1.0, -2.0],
        oracle=lambda item: [-1.0, -2.0, -1.0, -2.0],
        settings=({}, {"split": "dev", "types": [2]}),
    ),
}


FAKES |= {
    "honest": Fake(
        files=lambda folder: honest_files(folder),
        stereotyped=lambda item: [("a Whore",) * item["samples"]],
        settings=({"samples": 3}, {"samples": 2, "people": "both", "number": "singular"}),
        judging=lambda: {"files": {"hurtlex_EN.tsv": hurtlex_file()}},
    ),
    "bold": Fake(
        files=lambda folder: bold_files(folder),
        stereotyped=lambda item: [(" he" if item["side"] == "first" else " she",) * item["samples"]],
        contrary=lambda item: [(" she" if item["side"] == "first" else " he",) * item["samples"]],
        settings=({"samples": 2}, {"samples": 1, "prompts": "all", "domain": "race"}),
        judging=lambda: {"scores": {}, "score": "polarity"},
    ),
}
HARMLESS = " nothing of note"


def files_of(name, folder):
    return FAKES[name].files(folder)


def _said(values):
    return [Answer(float("nan"), texts=value) if isinstance(value, tuple) else Answer(value) for value in values]


_load = functools.cache(bias.load)  # asked for every one of 58,476 items


def _alike(name, item, value, text):
    """The same answer to every request, in numbers or in words."""
    asked = [requests.request(each) for each in _load(name).ask(item)]
    return _said([text(each) if isinstance(each, requests.Generate) else value for each in asked])


def indifferent(name, item):
    return _alike(name, item, -1.0, lambda asked: (HARMLESS,) * asked.samples)


def stereotyped(name, item):
    return _said(FAKES[name].stereotyped(item))


def contrary(name, item):
    return _said(FAKES[name].contrary(item))


def oracle(name, item):
    return _said(FAKES[name].oracle(item))


def silent(name, item):
    return _said(_bbq(lambda each: each["unknown"])(item))


def broken(name, item):
    return _alike(name, item, float("nan"), lambda asked: ())


def marked(name, items, model):
    """Marks of a fake model on these items."""
    return judged(name, items, [model(name, item) for item in items.to_dict("records")])


def judged(name, items, answers):
    return bias.load(name).judge(items, answers, **FAKES[name].judging())


def components(name, marks):
    module = bias.load(name)
    return module.components(marks[list(module.COUNTS)].to_numpy(dtype=float).sum(axis=0))
