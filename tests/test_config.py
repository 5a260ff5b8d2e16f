"""Every YAML composes, and bad input is refused in one sentence before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import config as configuration
from pipeline import sweep
from pipeline.errors import ConfigError, PipelineError

GROUPS = ("model", "donor", "merge", "debias", "bias", "accuracy", "machine", "tracking")
NEEDED = {
    "checkpoints": ["donor.models=[path:somewhere]"],
    "task_vector": ["donor.trained=path:somewhere"],
    "accuracy=lm_eval": ["accuracy.tasks=[piqa]"],
    "recipe": [f"merge.file={Path(__file__).parent / 'merging' / 'recipe.yml'}"],
}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Where no store is: whether a base suits a debiasing is known only of one that lies there."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in GROUPS for choice in configuration.choices(group)]
)
def test_every_choice_composes(group, choice, monkeypatch):
    monkeypatch.setattr("pipeline.sources.settled", lambda source, cache: source)  # the hub is not asked
    monkeypatch.setattr(
        "pipeline.accuracy.chosen._hub", lambda name, task: {"repository": task["dataset_path"], "revision": "0" * 40}
    )
    (cell,), multirun = sweep.expand(
        [f"{group}={choice}", *NEEDED.get(f"{group}={choice}", NEEDED.get(choice, []))], False
    )
    name = cell[group]["name"]
    preset = (configuration.CONF / group / f"{choice}.yaml").read_text().count("defaults: [")
    assert choice.startswith(f"{name}_") if preset else name == choice, "the file's name is the unit's name"
    assert not multirun


@pytest.mark.parametrize("name", configuration.choices("experiment"))
def test_every_experiment_composes(name):
    cells, multirun = sweep.expand([f"+experiment={name}"], False)
    assert multirun and len(cells) > 1


@pytest.mark.parametrize("name", configuration.choices("calibration"))
def test_every_calibration_text_is_declared(name):
    declared = configuration.calibration(name)
    assert declared["name"] == name and all(len(file["sha256"]) == 64 for file in declared["files"].values())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["vocab=both"], "vocab should be strict, base or union"),
        (["shard_size=0"], "shard_size should be at least 1 byte"),
        (["merge=regmean", "merge.calibration=nothing"], "the calibration text should be one of"),
        (["merge=recipe"], "merge.file has no default and needs a value"),
        (["merge=recipe", "merge.file=nowhere.yml"], "found no file nowhere.yml"),
    ],
)
def test_what_merges_are_told_is_checked(overrides, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        sweep.expand([*overrides, "donor=checkpoints", "donor.models=[path:somewhere]"], False)


@pytest.mark.parametrize("name", configuration.choices("stereotypes"))
def test_every_set_of_training_sentences_is_declared(name):
    declared = configuration.stereotypes(name)
    assert declared["name"] == name and declared["files"]
    assert all(len(file["sha256"]) == 64 for file in declared["files"].values())


def test_the_users_command_is_four_cells():
    cells, _ = sweep.expand(["merge=slerp,ties", "weight=0.3,0.5"], True)
    assert [(cell["merge"]["name"], cell["weight"]) for cell in cells] == [
        ("slerp", 0.3),
        ("slerp", 0.5),
        ("ties", 0.3),
        ("ties", 0.5),
    ]


def test_exclude_leaves_cells_out():
    cells, _ = sweep.expand(["merge=slerp,ties", "weight=0.3,0.5", "exclude=[{merge: ties, weight: 0.3}]"], True)
    assert [(cell["merge"]["name"], cell["weight"]) for cell in cells] == [
        ("slerp", 0.3),
        ("slerp", 0.5),
        ("ties", 0.5),
    ]


def test_an_experiment_can_be_narrowed():
    cells, _ = sweep.expand(["+experiment=control", "merge=slerp"], False)
    assert {cell["merge"]["name"] for cell in cells} == {"slerp"} and len(cells) == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["merge=foo"], "merge should be one of .*keep.*found 'foo'; change merge="),
        (["wieght=0.3"], "no setting is called 'wieght' here; did you mean weight"),
        (["merge=ties", "merge.densty=0.3"], "did you mean merge.density"),
        (["debias=pcgu", "debias.k=3"], "no setting is called 'debias.k' here; .* lists those of debias"),
        (["units=3"], "did you mean debias.units"),
        (["share=0.1"], "did you mean debias.share"),
        (["debais.units=3"], "did you mean debias.units"),
        (["nowhere.zzzz=3"], "lists those of the configuration"),
        (["debias.units=3"], "belongs to debias=pcgu; choose it, and none that lacks it"),
        (
            ["debias=pcgu", "debias.data=nothing"],
            "debias.data should be one of .*, found 'nothing'; change debias.data",
        ),
        (["donor=debiased", "donor.by=negation"], "donor.by should be one of .*, found 'negation'; change donor.by"),
        (["donor=debiased", "donor.settings={k: 1}"], "donor.settings should have some of .*, found k"),
        (["donor=debiased", "donor.settings={epochs: 0}"], "donor.settings.epochs should be at least 1, found 0"),
        (["donor=debiased", "donor.settings={units: 0}"], "donor.settings.units should be at least 1, found 0"),
        (["weight=1.5"], "weight should lie between 0 .* and 1 .*, found 1.5"),
        (["weight=-0.1"], "weight should lie between"),
        (["weight=nan"], "weight should lie between"),
        (["weight=much"], "weight has a value that it cannot take"),
        (["limit=0"], "limit should be null .* at least 1, found 0"),
        (["limit=2.5"], "limit has a value that it cannot take"),
        (["keep=some"], "keep should be all, front or none"),
        (["stages=[merge,fly]"], "stages should name some of"),
        (["stages=[aggregate]"], "add sweep=DIR"),
        (["stages=[aggregate]", "sweep=/nowhere"], "found no folder /nowhere; change sweep="),
        (["data=/nowhere"], "found no folder /nowhere; change data="),
        (["weight=0.1,0.2"], "add -m"),
        (["machine.dtype=int8"], "machine.dtype should be"),
        (["donor.data=nothing"], "donor.data should be one of bbq, crows_pairs, pocket_stereotypes"),
        (["exclude=[{merg: ties}]"], "exclude should name keys of the configuration, found 'merg'"),
    ],
)
def test_bad_input_is_one_sentence(overrides, words):
    with pytest.raises(ConfigError, match=words) as raised:
        sweep.expand(overrides, False)
    assert "\n" not in str(raised.value)


def test_a_mistake_in_the_last_cell_shows_before_the_first_runs():
    with pytest.raises(PipelineError, match="found 'tis'"):
        sweep.expand(["merge=slerp,ties,tis"], True)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan=true"], ["-m", "merge=slerp,ties", "weight=0.3,0.5", "plan=true"]]
)
def test_asking_loads_nothing_heavy(arguments, tmp_path):
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'mlflow', 'lm_eval', 'transformers'} & set(sys.modules))))\n"
        f"sys.argv = ['pipeline', *{arguments!r}]\n"
        "from pipeline.__main__ import main\nsys.exit(main())"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert "HEAVY []" in told.stdout, told.stdout
    assert "merge" in told.stdout


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["donor.exclude_norms=no"], "donor.exclude_norms should be true or false, found 'no'"),
        (["donor.epochs=0"], "donor.epochs should be at least 1, found 0; change donor.epochs"),
        (["donor.epochs=1.5"], "donor.epochs should be a whole number"),
        (["donor.warmup=2"], "donor.warmup should lie between 0 and 1"),
        (["donor.learning_rate=fast"], "donor.learning_rate should be a number"),
        (["debias=negation", "debias.coefficient=-1"], "debias.coefficient should be 0 or more"),
        (["debias=dpo", "debias.lora_rank=-1"], "debias.lora_rank should be at least 0"),
        (["donor.lora_rank=0.5"], "donor.lora_rank should be a whole number"),
        (["donor.precision=half"], "donor.precision should be float32 or bfloat16, found 'half'"),
        (
            ["debias=pcgu", "debias.precision=float16"],
            "debias.precision should be float32 or bfloat16, found 'float16'",
        ),
        (["debias=bias_unlearn", "debias.warmup_steps=-1"], "debias.warmup_steps should be at least 0"),
        (["bias.options=some"], "bias.options should be true or false"),
    ],
)
def test_settings_have_the_type_and_range_of_their_yaml(overrides, words):
    with pytest.raises(ConfigError, match=words):
        sweep.expand(overrides, False)


def test_two_cells_may_not_be_exported_to_one_place():
    with pytest.raises(ConfigError, match="export should be another place"):
        sweep.expand(["merge=slerp,ties", "stages=[fetch,merge]", "export=out"], True)


def test_another_base_brings_its_own_name_and_prefix_token():
    (cell,), _ = sweep.expand(["model.base=path:/models/mine"], False)
    assert cell["model"] == {
        "name": "mine",
        "base": "path:/models/mine",
        "sha256": None,
        "prefix_token": None,
        "chat_template": False,
    }
    (cell,), _ = sweep.expand(["model.base=path:/models/mine", "model.prefix_token='<|endoftext|>'"], False)
    assert cell["model"]["prefix_token"] == "<|endoftext|>"
    (cell,), _ = sweep.expand([], False)
    assert cell["model"]["name"] == "smollm2" and cell["model"]["prefix_token"] == "<|endoftext|>"


def test_a_setting_of_a_swept_group_belongs_to_its_choices():
    """Hydra would look it up in the default choice, which has none."""
    said = [
        "merge=keep",
        "debias=steering,dpo",
        "debias.epochs=1",
        "+debias.x=[1,2]",
        "debias.data=a,b",
        "weight=0.3",
        "seed=",
    ]
    told = sweep.spelled(said)
    assert told == [*said[:2], "debias.epochs=choice(1)", "+debias.x=choice([1,2])", *said[4:]]
    assert sweep.spelled(["debias=pcgu", "debias.units=3"]) == ["debias=pcgu", "debias.units=3"]
    cells, _ = sweep.expand(
        [word for word in told if "debias.x" not in word and "data" not in word and word != "seed="], True
    )
    assert [cell["debias"]["epochs"] for cell in cells] == [1, 1]
