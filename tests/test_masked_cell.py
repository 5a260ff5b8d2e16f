"""A masked model through the whole pipeline: trained, inverted, merged, asked and judged."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from tests.tiny_masked_model import tiny_masked_model


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Path]:
    """Where it ran, and the base."""
    where = tmp_path_factory.mktemp("masked")
    base = tiny_masked_model(where / "bert")
    told = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "-m", f"model.base=path:{base}", "model.prefix_token=null"),
            *("merge=slerp", "weight=0.5", "bias=pocket_crows_pairs", "accuracy=pocket", "donor=bias_inverted"),
            *(
                "donor.epochs=1",
                "machine=local",
                "machine.device=cpu",
                "machine.threads=1",
                "limit=24",
                "tracking=none",
            ),
        ],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return where, base


def test_a_table_with_numbers_comes_out(done):
    [path] = done[0].glob("runs/sweeps/*/*/results/table.parquet")
    table = pandas.read_parquet(path)
    assert list(table["merge"]) == ["keep", "slerp"]
    assert table.status.isin(["done", "found"]).all() and table.error.fillna("").eq("").all()
    for name in ("bias_score", "bias_low", "bias_high", "bias_signed", "accuracy", "accuracy_low", "perplexity"):
        assert table[name].map(math.isfinite).all(), name
    assert table["effective_weight"].tolist() == pytest.approx([0, 0.5], abs=0.05)
    assert table["perplexity"].nunique() == 2


def summaries(where: Path, stage: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in where.glob(f"runs/store/{stage}/*/manifest.json")]


def test_the_training_was_a_masked_one(done):
    [manifest] = summaries(done[0], "train")
    told = manifest["summary"]
    assert told["stereotype_loss_after"] < told["stereotype_loss_before"]
    assert 0 < told["relative_norm"] < 1


def test_the_answers_are_pseudo_log_likelihoods(done):
    from pipeline.language_model.load import load
    from pipeline.requests import LogLikelihood

    where, base = done
    scorer, seen = load(base), set()
    for path in where.glob("runs/store/answer/*/answers.parquet"):
        assert (path.parent / "family").read_text() == "masked"
        table = pandas.read_parquet(path)
        kinds = [json.loads(asked) for asked in table["request"]]
        requests = [LogLikelihood(*parts) for _, *parts in kinds[:20]]
        now = [answer.loglikelihood for answer in scorer.answer(requests)]
        seen.add(now == pytest.approx(table["loglikelihood"][:20].tolist(), abs=1e-4))
    # the base's, and the others'
    assert seen == {True, False}
