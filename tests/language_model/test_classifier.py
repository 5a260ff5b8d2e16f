"""A text classifier's probabilities, by a tiny model made on the spot."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from pipeline.errors import SourceError
from pipeline.language_model.classifier import labels_of, probabilities

WORDS = ["[PAD]", "[UNK]", "a", "b", "c", "d"]


def saved(folder, model_class=BertForSequenceClassification, **settings):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
        **settings,
    )
    model_class(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [None, "multi_label_classification"])
def test_probabilities_are_those_of_one_text_at_a_time(tmp_path, kind):
    folder = saved(tmp_path / "model", problem_type=kind)
    texts = ["a b c", "d", "", "a " * 40, "b b"]
    found = probabilities(folder, texts)
    assert list(found) == ["fine", "toxic"]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    for place, text in enumerate(texts):
        if not text:
            assert found["toxic"][place] != found["toxic"][place]
            continue
        ids = torch.tensor([[WORDS.index(word) for word in text.split()][:16]])
        logits = model(input_ids=ids).logits.double()[0]
        wanted = logits.sigmoid() if kind else logits.softmax(-1)
        assert found["toxic"][place] == pytest.approx(wanted[1].item(), abs=1e-6)


def test_a_model_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"bias\.judging"):
        probabilities(saved(tmp_path / "model", BertModel), ["a"])
    with pytest.raises(SourceError, match="it is a BertModel"):
        labels_of(tmp_path / "model")


def test_a_folder_that_is_no_whole_classifier_is_refused(tmp_path):
    folder = saved(tmp_path / "model")
    assert labels_of(folder) == ["fine", "toxic"]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SourceError):
        probabilities(folder, ["a"])
    weights = saved(tmp_path / "cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SourceError, match=r"transformers says"):
        probabilities(tmp_path / "cut", ["a"])
    with pytest.raises(SourceError, match=r"bias\.judging"):
        labels_of(tmp_path / "nowhere")


def test_a_shape_that_does_not_fit_is_refused(tmp_path):
    folder = saved(tmp_path / "model")
    saved(tmp_path / "wide", type_vocab_size=5)
    (folder / "model.safetensors").write_bytes((tmp_path / "wide" / "model.safetensors").read_bytes())
    with pytest.raises(SourceError):
        probabilities(folder, ["a"])
