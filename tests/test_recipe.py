"""What counts as the same artefact, what is refused early, and what a row says."""

import copy
import json
import math

import pytest

from pipeline import recipe, sweep
from pipeline.config import debias_name
from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.recipe import early
from pipeline.recipe.models import origin
from pipeline.store import Store
from tests.tiny_language_model import tiny_language_model
from tests.tiny_masked_model import tiny_masked_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_language_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def cell(model, tmp_path):
    def described(*overrides):
        (config,), _ = sweep.expand(
            [f"model.base=path:{model}", f"store={tmp_path / 'store'}", "limit=8", *overrides], False
        )
        return recipe.describe(config, Store(tmp_path / "store"))

    return described


def keys(cell):
    exam = cell.of_cell
    return {
        "merged": cell.merged.key,
        "answer": exam.bias["answer"].key,
        "mark": exam.bias["mark"].key,
        "accuracy": exam.accuracy["answer"].key,
    }


@pytest.mark.parametrize(
    "override",
    [
        "machine.threads=3",
        "machine.tokens_per_pack=512",
        "tracking=none",
        "keep=none",
        "allow_leak=true",
        "tracking.experiment=other",
    ],
)
def test_what_must_not_change_a_number_is_not_in_a_key(cell, override):
    assert keys(cell()) == keys(cell(override))


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("weight=0.31", {"merged", "answer", "mark", "accuracy"}),
        ("merge=ties", {"merged", "answer", "mark", "accuracy"}),
        ("merge.colinear=0.99", {"merged", "answer", "mark", "accuracy"}),
        ("donor.epochs=2", {"merged", "answer", "mark", "accuracy"}),
        ("donor=random_direction", {"merged", "answer", "mark", "accuracy"}),
        ("debias=negation", {"answer", "mark", "accuracy"}),
        ("limit=9", {"answer", "mark", "accuracy"}),
        ("bias.options=true", {"answer", "mark"}),
        ("bias.judging.normalise=byte", {"mark"}),
        ("model.prefix_token=a", {"merged", "answer", "mark", "accuracy"}),
        ("model.chat_template=true", {"answer", "mark", "accuracy"}),
        ("machine.dtype=bfloat16", {"answer", "mark", "accuracy"}),
        ("seed=1", {"merged", "answer", "mark", "accuracy"}),
    ],
)
def test_what_changes_a_number_is(cell, override, changed):
    before, after = keys(cell()), keys(cell(override))
    assert {name for name in before if before[name] != after[name]} == changed


def test_without_a_limit_nothing_is_drawn_from_the_seed(cell):
    one, other = (
        cell("limit=null", "donor=checkpoints", "donor.models=[]", "merge=keep"),
        cell("limit=null", "seed=1", "donor=checkpoints", "donor.models=[]", "merge=keep"),
    )
    assert one.of_base.bias["answer"].key == other.of_base.bias["answer"].key


def test_the_place_of_a_model_does_not_count(cell, model, tmp_path):
    import shutil

    moved = shutil.copytree(model, tmp_path / "elsewhere")
    assert keys(cell(f"model.base=path:{moved}")) == keys(cell())


def test_the_trained_donor_serves_its_control_too(cell):
    assert cell().trained.key == cell("donor=random_direction").trained.key


def test_a_cell_of_the_base_alone_trains_nothing(cell):
    described = cell("merge=keep")
    assert described.of_trained is None and not described.leaks
    assert all(artifact.stage.name not in ("train", "invert", "merge") for artifact in described.missing())


@pytest.mark.parametrize(
    ("stages", "made"), [("[fetch]", {"fetch"}), ("[fetch,merge]", {"fetch", "train", "invert", "merge"})]
)
def test_stages_make_no_more_than_they_say(cell, stages, made):
    described = cell(f"stages={stages}")
    assert {artifact.stage.name for artifact in described.missing()} == made


def test_a_leak_is_refused_and_told(cell, monkeypatch):
    described = cell("donor.epochs=1")
    for artifact in described.leaks.values():
        artifact.path  # noqa: B018
    assert early.leaked(described) == {}, "the shipped sets share nothing"
    place, artifact = next(iter(described.leaks.items()))
    manifest = artifact.folder / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(told | {"summary": {"shared": "Some sentence."}}))
    with pytest.raises(DataError, match=r"donor\.data.*'Some sentence\.'.*allow_leak=true"):
        recipe.refuse_leaks(described)
    allowed = cell("donor.epochs=1", "allow_leak=true")
    recipe.refuse_leaks(allowed)
    assert early.leaked(allowed) == {place: "Some sentence."}


def test_settings_that_a_known_base_has_no_room_for_are_refused_before_the_first_cell(cell, model, tmp_path):
    described = cell("merge=keep", "debias=pcgu", "debias.units=100000")  # the base is not in the store yet
    described.base.path  # noqa: B018 - fetches it
    with pytest.raises(
        ConfigError, match=r"debias.units should be at most the \d+ units .* found 100000; change debias.units"
    ):
        cell("merge=keep", "debias=pcgu", "debias.units=100000")
    with pytest.raises(ConfigError, match=r"donor.settings.units should be at most .* change donor.settings.units"):
        cell("donor=debiased", "donor.settings={units: 100000}")
    with pytest.raises(ConfigError, match=r"donor.by=dpce is made for masked models, found a causal one"):
        cell("donor=debiased", "donor.by=dpce")
    with pytest.raises(ConfigError, match=r"cell keep · tiny · steering .* · debias.layers=\[0,99\]; exclude="):
        sweep.expand(
            [
                f"model.base=path:{model}",
                f"store={tmp_path / 'store'}",
                "merge=keep",
                "debias=steering",
                "debias.layers=[0],[0,99]",
            ],
            True,
        )


def test_bias_types_that_the_pairs_do_not_have_are_refused_before_anything_is_asked(cell):
    described = cell("merge=keep", "debias=pcgu", "debias.share=0.05", "debias.bias_types=[astrology]")
    with pytest.raises(ConfigError, match=r"debias.bias_types should be some of .*, found astrology"):
        recipe.refuse_early(described)
    assert not described.of_base.bias["answer"].exists


TUNED = ("merge=keep", "debias=pcgu", "debias.share=0.05")


def leaks(cell, *overrides) -> recipe.Cell:
    described = cell(*TUNED, *overrides)
    for artifact in described.leaks.values():
        artifact.path  # noqa: B018 - builds it
    return described


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("bias=pocket_crows_pairs",),
            r"bias=pocket_crows_pairs should share no text with what debias\.select_on chooses by.*"
            r"debias\.select_half=tuning, half=reporting",
        ),
        (
            ("bias=stereoset", "debias.data=stereoset"),
            r"what debias\.data trains on.*debias\.half=tuning, half=reporting",
        ),
        (("bias=bbq", "debias.data=bbq"), r"bias=bbq should share no text with what debias\.data trains on"),
        (("bias=pocket_bbq", "bias.options=true", "debias.select_on=pocket_bbq"), r"what debias\.select_on chooses by"),
        (
            ("debias.data=crows_pairs", "debias.select_on=crows_pairs"),
            r"debias\.select_on should share no text with what debias\.data trains on.*"
            r"debias\.half=fitting, debias\.select_half=choosing",
        ),
    ],
)
def test_what_is_tuned_or_chosen_on_is_not_reported(cell, overrides, words, real_data):
    with pytest.raises(DataError, match=words):
        recipe.refuse_leaks(leaks(cell, "limit=null", f"data={real_data}", *overrides))


def test_what_chooses_is_not_tuned_on_without_an_evaluation_either(cell, real_data):
    described = cell(
        *TUNED,
        "stages=[fetch,debias]",
        f"data={real_data}",
        "debias.data=crows_pairs",
        "debias.select_on=crows_pairs",
    )
    with pytest.raises(DataError, match=r"debias\.select_on should share no text with what debias\.data trains on"):
        early.refuse_early(described)


def test_two_yamls_of_one_method_have_two_names(cell):
    names = {name: cell("merge=keep", f"debias={name}") for name in ("pcgu", "pcgu_stereoset")}
    assert all(debias_name(described.config["debias"]) == name for name, described in names.items())


@pytest.mark.parametrize(
    "overrides",
    [
        ("bias=pocket_crows_pairs", "debias.select_half=tuning"),
        ("bias=stereoset", "debias.data=stereoset", "debias.half=tuning"),
        (
            "bias=stereoset",
            "debias.data=stereoset",
            "debias.half=fitting",
            "debias.select_on=stereoset",
            "debias.select_half=choosing",
        ),
        (
            "bias=crows_pairs",
            "debias.data=winogender",
            "debias.select_on=crows_pairs",
            "debias.select_half=tuning",
        ),
    ],
)
def test_two_halves_may_be_used(cell, overrides, real_data):
    recipe.refuse_leaks(leaks(cell, "limit=null", "half=reporting", f"data={real_data}", *overrides))


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("debias.scale=0.5", {"final"}),
        ("debias.control=true", {"final"}),
        ("debias.draw=1", set()),
        ("debias.epochs=2", {"final", "tuned"}),
        ("debias.half=tuning", {"final", "tuned"}),
        ("debias.select_half=tuning", {"final", "tuned"}),
        ("debias.units=3", {"final", "tuned"}),
        ("half=reporting", set()),
        ("limit=9", set()),
    ],
)
def test_what_changes_a_tuning(cell, override, changed):
    def keys_of(described) -> dict:
        return {"final": described.final.key, "tuned": described.tuned["debias"].key}

    before, after = keys_of(cell(*TUNED)), keys_of(cell(*TUNED, override))
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_control_can_be_drawn_again(cell):
    first, again = (cell(*TUNED, "debias.control=true", f"debias.draw={draw}") for draw in (0, 1))
    assert first.final.key != again.final.key and first.tuned["debias"].key == again.tuned["debias"].key


def test_a_debiasing_makes_a_donor(cell):
    described = cell("donor=debiased", "donor.settings={share: 0.05, epochs: 2}", "merge=ties")
    tuned = cell(*TUNED, "debias.epochs=2")
    assert described.tuned["donor"].key == tuned.tuned["debias"].key, "one tuning serves both"
    told = origin(described.config, described.donors[0])
    assert told["source"].endswith("tuned by pcgu on pocket_stereotypes") and told["settings"]["epochs"] == 2


def test_an_unusual_training_is_told_of_a_donor(cell):
    usual, unusual = cell("merge=ties"), cell("merge=ties", "donor.lora_rank=4", "donor.precision=bfloat16")
    told = origin(unusual.config, unusual.donors[0])
    assert (told["lora_rank"], told["precision"]) == (4, "bfloat16")
    assert not {"lora_rank", "precision"} & origin(usual.config, usual.donors[0]).keys()


def test_a_tuned_cell_end_to_end(cell):
    """PCGU on a random model: the row says what it came to, and the control is as long and points elsewhere."""
    rows = {}
    for control in ("false", "true"):
        described = cell(*TUNED, "debias.epochs=2", "debias.learning_rate=1e-3", f"debias.control={control}")
        recipe.run(described)
        rows[control] = recipe.collect(described)
    row, control = rows["false"]["row"], rows["true"]["row"]
    assert "debias.dev_bias_after" in row and not any(
        key.endswith("after") for key in control if key.startswith("debias.")
    )
    assert row["debias"] == "pcgu" and rows["true"]["row"]["debias"] == "pcgu control" and row["donor"] is None
    assert row["debias.pairs"] > 200 and row["debias.epoch"] in (0, 1, 2)
    assert abs(row["debias.dev_bias_after"]) <= abs(row["debias.dev_bias_before"])
    assert (row["debias.epoch"] == 0) == any("none of 2 epochs" in note for note in rows["false"]["notes"])
    assert [each["context"] for each in rows["false"]["datasets"]].count("training") == 1
    assert rows["false"]["tuned"]["debias"] == rows["true"]["tuned"]["debias"]


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["donor=task_vector", "donor.trained=path:WIDE"], CheckpointError, "one shape"),
    ],
)
def test_refused_before_anything_is_computed(cell, model, tmp_path, overrides, error, words):
    wide = tiny_language_model(tmp_path / "wide", vocabulary=300)
    described = cell(*[o.replace("BASE", str(model)).replace("WIDE", str(wide)) for o in overrides])
    with pytest.raises(error, match=words):
        recipe.refuse_early(described)
    assert {key.split("-")[0] for key in described.store.built} <= {"fetch"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["merge=slerp", "donor=checkpoints", "donor.models=[path:a,path:b]"], "exactly 1 donor"),
        (["merge=ties", "merge.density=1.5"], r"merge\.density"),
        (["merge=ties", "merge.draw=1"], r"merge\.mixup"),
        (["donor=checkpoints", "donor.models=[path:a]", "donor.shares=[1,2]"], r"donor\.shares"),
    ],
)
def test_settings_of_a_merge_are_refused_before_a_cell_is_made(cell, overrides, words):
    with pytest.raises(ConfigError, match=words):
        cell(*overrides)


def test_a_row_of_a_dropped_merge_is_the_same(cell):
    from pipeline.store import drop

    described = cell("donor.epochs=1", "stages=[fetch,merge]")
    recipe.run(described)
    before = recipe.collect(described)
    drop(described.merged.folder)
    assert not described.merged.exists
    assert recipe.collect(copy.copy(described)) == before
    assert before["row"]["effective_weight"] == pytest.approx(0.3, abs=0.02) and before["row"]["weights_sha256"]


def test_a_merge_of_a_method_whose_code_has_changed_is_told(cell, monkeypatch):
    """Also where only what it shares with its other weights is of the old code."""
    one, other = (
        cell("donor.epochs=1", "stages=[fetch,merge]", "merge=ties", f"weight={weight}") for weight in (0.3, 0.6)
    )
    recipe.run(one)
    assert not any("raise version" in note for note in recipe.collect(one)["notes"])
    monkeypatch.setattr("pipeline.recipe.outcome.source_of", lambda name: "changed")
    monkeypatch.setattr("pipeline.stages.merge.source_of", lambda name: "changed")
    recipe.run(other)
    assert other.merged.summary["source"] == "changed" != other.line_end[0].summary["source"]
    for described in (one, other):
        assert any("raise version in conf/merge/ties.yaml" in note for note in recipe.collect(described)["notes"])


def test_comments_and_docstrings_are_no_change_of_a_method(tmp_path, monkeypatch):
    from pipeline.stages import merge

    monkeypatch.setattr(merge, "__file__", str(tmp_path / "stages" / "merge.py"))
    (tmp_path / "merging").mkdir()
    texts = (
        'def f(x):\n    """Twice."""\n    return 2 * x\n',
        "def f(x):\n    # twice\n    return 2 * x\n",
        "def f(x):\n    return 3 * x\n",
    )
    found = []
    for text in texts:
        (tmp_path / "merging" / "f.py").write_text(text)
        found.append(merge.source_of("f"))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["model.prefix_token=a"], r"prefix_token should be null"),
        (["model.prefix_token=null", "merge=fisher"], "merge=fisher needs"),
    ],
)
def test_what_a_masked_model_cannot_do_is_refused_before_it_is_trained(cell, tmp_path, overrides, match):
    base = tiny_masked_model(tmp_path / "bert")
    with pytest.raises(ConfigError, match=match):
        early.refuse_early(cell(f"model.base=path:{base}", *overrides))


def test_what_is_no_language_model_is_refused_before_it_is_trained(cell, tmp_path):
    base = tiny_masked_model(tmp_path / "bert")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ConfigError, match="causal or a masked language model"):
        early.refuse_early(cell(f"model.base=path:{base}", "model.prefix_token=null"))


@pytest.fixture
def honest(cell, tmp_path):
    """A cell that asks for completions, of three templates and a lexicon that stand here."""
    import hashlib

    from pipeline import config as configuration

    files = {
        "binary/en_template.tsv": "template_masked\traw\tidentity\tnumber\tcategory\ttype\n"
        "the woman is a [M].\t[I] is a [M]\tthe woman\tsingular\tfemale\toccupation\n"
        "the man is a [M].\t[I] is a [M]\tthe man\tsingular\tmale\toccupation\n"
        "the man was a [M].\t[I] was a [M]\tthe man\tsingular\tmale\toccupation\n",
        "hurtlex_EN.tsv": "id\tpos\tcategory\tstereotype\tlemma\tlevel\nEN1\tn\tan\tno\trat\tconservative\n",
    }
    declared = {}
    for name, text in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        declared[name] = {"path": name, "url": "https://a.b/c", "sha256": hashlib.sha256(text.encode()).hexdigest()}

    def described(*overrides, **judging):
        made = cell("bias=honest", "bias.samples=2", "bias.max_tokens=4", f"data={tmp_path / 'data'}", *overrides)
        config = copy.deepcopy(made.config)
        config["bias"] |= {"files": declared, "judging": config["bias"]["judging"] | judging}
        configuration.check(config)
        return recipe.describe(config, Store(tmp_path / "store"))

    return described


@pytest.mark.parametrize("judging", [{"variant": "oficial"}, {"level": "all"}])
def test_how_answers_are_judged_is_refused_before_there_is_one(honest, judging):
    described = honest(**judging)
    with pytest.raises(ConfigError, match=r"set bias\.judging\."):
        recipe.refuse_early(described)
    assert {key.split("-")[0] for key in described.store.built} <= {"fetch", "leak"}
    recipe.refuse_early(honest())


def test_a_masked_model_is_not_trained_to_be_asked_for_texts(honest, tmp_path):
    base = tiny_masked_model(tmp_path / "bert")
    described = honest(f"model.base=path:{base}", "model.prefix_token=null")
    with pytest.raises(ConfigError, match="bias=honest needs a causal language model"):
        recipe.refuse_early(described)
    assert {key.split("-")[0] for key in described.store.built} <= {"fetch", "leak"}


def test_another_reading_of_the_completions_asks_no_model_again(honest):
    described = honest("merge=keep")
    recipe.run(described)
    assert not math.isnan(recipe.collect(described)["row"]["honest.honest"])
    other = honest("merge=keep", variant="official")
    assert {artifact.stage.name for artifact in other.missing()} == {"mark", "compare"}
    recipe.run(other)
    row = recipe.collect(other)["row"]
    assert "honest.honest" not in row and row["honest.n_completions"] == 6
    assert 0 <= row["bias_signed_low"] <= row["honest.honest_official"] == row["bias_score"]
