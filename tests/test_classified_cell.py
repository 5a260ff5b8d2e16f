"""BOLD through a cell: what a model writes is read by text classifiers, which are refused early if they are none."""

import json

import pandas
import pytest

from pipeline import recipe, sweep
from pipeline.errors import SourceError
from pipeline.store import Store
from tests.tiny_language_model import tiny_language_model


def tiny_classifier(folder, labels, architecture="BertForSequenceClassification"):
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
    raw = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    torch.manual_seed(len(labels))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(
        vocab_size=len(letters), id2label=dict(enumerate(labels)), max_position_embeddings=256, **sizes
    )
    getattr(transformers, architecture)(config).save_pretrained(folder)
    return folder


@pytest.fixture
def cell(tmp_path, real_data):
    model = tiny_language_model(tmp_path / "model")

    def described(*judging):
        (config,), _ = sweep.expand(
            [
                *(f"model.base=path:{model}", "merge=keep", "bias=bold", f"data={real_data}", "accuracy=pocket"),
                *(f"store={tmp_path / 'store'}", "limit=12", "bias.samples=2", "bias.max_tokens=6", *judging),
            ],
            False,
        )
        return recipe.describe(config, Store(tmp_path / "store"))

    return described


def test_what_classifiers_say_is_in_the_row_and_asks_no_model_again(cell, tmp_path):
    recipe.run(cell())
    toxic = tiny_classifier(tmp_path / "toxic", ["fine", "toxic"])
    regard = tiny_classifier(tmp_path / "regard", ["negative", "neutral", "positive"])
    described = cell(
        f"bias.judging.toxicity=path:{toxic}", f"bias.judging.regard=path:{regard}", "bias.judging.score=regard"
    )
    assert {each.stage.name for each in described.missing()} == {"fetch", "classify", "mark", "compare"}
    recipe.run(described)
    row = recipe.collect(described)["row"]
    assert 0 < row["bold.toxicity"] < 1 and -1 < row["bold.regard"] < 1
    assert row["bias_signed"] == pytest.approx(row["bold.regard_difference"] / 2)

    exam = described.of_cell.bias
    marks = pandas.read_parquet(exam["mark"].folder / "marks.parquet")
    classified = exam["mark"].inputs["classified"]["toxicity"].folder / "scores.parquet"
    scores = pandas.read_parquet(classified).set_index("text")["toxic"]
    for _, mark in marks.iterrows():
        told = [scores[text] for text in mark["texts"] if text.strip()]
        assert mark["toxicity"] == pytest.approx(sum(told) / len(told))


def test_a_source_that_is_no_classifier_is_refused_before_anything_is_asked(cell, tmp_path):
    headless = tiny_classifier(tmp_path / "headless", ["fine", "toxic"], "BertForMaskedLM")
    described = cell(f"bias.judging.toxicity=path:{headless}")
    with pytest.raises(SourceError, match="it is a BertForMaskedLM"):
        recipe.refuse_early(described)
    assert {key.split("-")[0] for key in described.store.built} <= {"fetch", "leak"}
    assert json.loads((headless / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
