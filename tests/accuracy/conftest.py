import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class FakeAnswer(NamedTuple):
    loglikelihood: float
    greedy: bool
    tokens: int


def hashed(context: str, continuation: str) -> FakeAnswer:
    """A model with firm but senseless opinions: the same for the same request, in any process."""
    digest = hashlib.sha256(f"{context}\0{continuation}".encode()).digest()
    return FakeAnswer(-int.from_bytes(digest[:4], "big") / 2**28, digest[4] < 64, len(continuation.split()))


def declaration(name: str) -> dict:
    return yaml.safe_load((ROOT / "conf" / "accuracy" / f"{name}.yaml").read_text(encoding="utf-8"))


def chatted(turns: list[dict], add_generation_prompt: bool = True) -> str:
    """A chat template: each turn in brackets, the answer opened."""
    text = "".join(f"<{turn['role']}>{turn['content']}</{turn['role']}>" for turn in turns)
    return text + "<assistant>" if add_generation_prompt else text.removesuffix(f"</{turns[-1]['role']}>")


class Chatting:
    """What lm-eval asks of a model besides its answers, where a chat template is applied."""

    tokenizer_name = "none"

    def chat_template(self, chat_template=False):
        return "a template"

    def apply_chat_template(self, turns, add_generation_prompt=True):
        return chatted(turns, add_generation_prompt)


@pytest.fixture
def answer():
    return lambda requests: [hashed(*request[:2]) for request in requests]


@pytest.fixture
def evaluated():
    """lm-eval's own evaluate() of the fake model on one task: results and the metrics of every item."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    class HashLM(Chatting, LM):
        def loglikelihood(self, requests):
            return [hashed(*request.args)[:2] for request in requests]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

        def generate_until(self, requests):
            raise NotImplementedError

    def run(folder, task, rows, limit, cache, split="validation", chat=False):
        overrides = {
            "dataset_path": "json",
            "dataset_name": None,
            "training_split": None,
            "dataset_kwargs": {"data_files": {split: str(rows)}, "cache_dir": str(cache)},
        }
        manager = TaskManager(include_defaults=False, include_path=str(folder))
        found = manager.load({"group": "redirected", "task": [{"task": task, **overrides}]})
        output = evaluate(
            HashLM(),
            {"tasks": found["tasks"]},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        return output["results"][task], sorted(output["samples"][task], key=lambda sample: sample["doc_id"])

    return run


@pytest.fixture
def pocket():
    settings = declaration("pocket")
    return settings, {name: ROOT / "pipeline" / "pocket" / file["package"] for name, file in settings["files"].items()}


@pytest.fixture
def superglue():
    folder = os.environ.get("PIPELINE_DATA")
    if not folder:
        pytest.skip("PIPELINE_DATA names no folder of real data")
    settings = declaration("superglue")
    files = {name: Path(folder) / file["path"] for name, file in settings["files"].items()}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        pytest.skip(f"PIPELINE_DATA has no {missing[0]}")
    return settings, files


@pytest.fixture
def superglue_declared():
    return declaration("superglue")
