"""Questions as the user's turn of a chat: what is keyed, what is asked, what is recorded, what is refused."""

import json

import pandas
import pytest
from transformers import AutoTokenizer

from pipeline import recipe, sweep
from pipeline.errors import ConfigError
from pipeline.language_model.harness import HarnessLM
from pipeline.language_model.load import load
from pipeline.recipe import early
from pipeline.requests import LogLikelihood
from pipeline.store import Store
from tests.tiny_language_model import tiny_language_model
from tests.tiny_masked_model import tiny_masked_model

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    folder = tiny_language_model(tmp_path_factory.mktemp("talker") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def cell(talker, tmp_path):
    def described(*overrides, base=talker):
        told = [f"model.base=path:{base}", f"store={tmp_path / 'store'}", "merge=keep", "limit=4", *overrides]
        (config,), _ = sweep.expand(told, False)
        return recipe.describe(config, Store(tmp_path / "store"))

    return described


CHAT = "model.chat_template=true"


@pytest.mark.parametrize(("bias", "changed"), [("pocket_bbq", True), ("pocket_crows_pairs", False)])
def test_questions_are_asked_anew_and_sentences_are_not(cell, bias, changed):
    plain, spoken = cell(f"bias={bias}").of_cell, cell(f"bias={bias}", CHAT).of_cell
    assert (plain.bias["answer"].key != spoken.bias["answer"].key) == changed
    assert plain.accuracy["answer"].key != spoken.accuracy["answer"].key
    assert plain.health.key == spoken.health.key


def test_what_is_asked_and_what_is_recorded(cell, talker):
    """The model reads the template's text; the record is the plain request, by which the answers are judged."""
    told = {}
    for words in ([], [CHAT]):
        described = cell(*words)
        recipe.run(described)
        told[bool(words)] = {
            room: pandas.read_parquet(getattr(described.of_cell, room)["answer"].path / "answers.parquet")
            for room in ("bias", "accuracy")
        }
        assert recipe.collect(described)["row"]["bias_score"] >= 0
    scorer = load(talker)
    for room, plain in told[False].items():
        spoken = told[True][room]
        assert spoken["request"].tolist() == plain["request"].tolist()
        asked = [LogLikelihood(*json.loads(line)[1:]) for line in plain["request"]]
        by_hand = scorer.score(
            [(f"<user>{each.context}</><assistant>", each.continuation.removeprefix(" ")) for each in asked]
        )
        assert spoken["loglikelihood"].tolist() == pytest.approx([each.loglikelihood for each in by_hand], abs=1e-4)
        assert (spoken["loglikelihood"] - plain["loglikelihood"]).abs().max() > 0.01


def test_who_has_no_turns_is_refused_before_anything_is_asked(cell, tmp_path):
    silent = tiny_language_model(tmp_path / "silent")
    with pytest.raises(ConfigError, match="model.chat_template=true needs a tokenizer with a chat template"):
        early.refuse_early(cell(CHAT, base=silent))
    masked = tiny_masked_model(tmp_path / "masked")
    with pytest.raises(ConfigError, match="chat_template should be false for a masked model"):
        early.refuse_early(cell(CHAT, "model.prefix_token=null", base=masked))
    early.refuse_early(cell(CHAT))


@pytest.mark.parametrize("today", ["{{ date_string }}", "{{ strftime_now('%d %b %Y') }}"])
def test_a_template_that_tells_the_date_tells_the_same_one_every_day(talker, today):
    scorer = load(talker)
    scorer.tokenizer.chat_template = f"{today} {TEMPLATE}"
    text = HarnessLM(scorer).apply_chat_template([{"role": "user", "content": "hello"}])
    assert text == "26 Jul 2024 <user>hello</><assistant>"


def test_a_template_whose_date_cannot_be_held_is_refused(talker):
    scorer = load(talker)
    scorer.tokenizer.chat_template = "{% set form = '%d' %}{{ strftime_now(form) }}" + TEMPLATE
    with pytest.raises(ConfigError, match="numbers would depend on the day; set model.chat_template=false"):
        HarnessLM(scorer).apply_chat_template([{"role": "user", "content": "hello"}])
