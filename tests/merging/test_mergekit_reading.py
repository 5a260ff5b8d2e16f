"""mergekit YAMLs: read, and refused in one sentence."""

import json

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.merging.mergekit.parameters import evaluate
from pipeline.merging.mergekit.reading import read, source, unit

PLAIN = """
merge_method: ties
base_model: org/base
models:
  - model: org/one@0123456789abcdef0123456789abcdef01234567
    parameters: {weight: 1e-1}
  - model: ./two
    parameters: {weight: 0.5, density: [0.2, 0.4]}
parameters: {normalize: true, int8_mask: true, lambda: [{filter: mlp, value: [0, 1]}, {value: 2}]}
dtype: float32
out_dtype: bfloat16
tokenizer_source: base
"""


def changed(**keys) -> str:
    return yaml.safe_dump(yaml.safe_load(PLAIN) | keys)


def under_model(**parameters) -> str:
    return changed(models=[{"model": "org/one", "parameters": parameters}])


def test_read():
    assert read(PLAIN) == {
        "method": "ties",
        "base": "hub:org/base",
        "models": [
            {"source": "hub:org/one@0123456789abcdef0123456789abcdef01234567", "parameters": {"weight": 0.1}},
            {"source": "path:./two", "parameters": {"weight": 0.5, "density": [0.2, 0.4]}},
            {"source": "hub:org/base", "parameters": {}},
        ],
        "parameters": {
            "normalize": True,
            "lambda": [{"filter": "mlp", "value": [0.0, 1.0]}, {"filter": None, "value": 2.0}],
        },
        "dtype": "bfloat16",
        "tokenizer": "base",
        "notes": ["int8_mask only saves mergekit memory and is ignored"],
    }
    assert json.loads(json.dumps(read(PLAIN))) == read(PLAIN)


def test_unit_puts_the_base_first_and_names_no_source():
    found = unit(read(PLAIN))
    assert (found["base"], found["donors"][1]) == ("hub:org/base", "path:./two")
    setting = json.loads(found["recipe"])
    assert setting["base"] and setting["models"] == [{}, {"weight": 0.1}, {"weight": 0.5, "density": [0.2, 0.4]}]
    assert "org" not in found["recipe"] and "two" not in found["recipe"]


def test_without_a_base_the_first_model_is_it():
    models = [{"model": f"org/{name}", "parameters": {"weight": i}} for i, name in enumerate("abc")]
    found = unit(read(yaml.safe_dump({"merge_method": "linear", "models": models})))
    assert (found["base"], found["donors"]) == ("hub:org/a", ["hub:org/b", "hub:org/c"])
    assert not json.loads(found["recipe"])["base"]
    found = unit(read(yaml.safe_dump({"merge_method": "linear", "models": models, "base_model": "org/b"})))
    assert (found["base"], found["donors"]) == ("hub:org/b", ["hub:org/a", "hub:org/c"])
    assert [model["weight"] for model in json.loads(found["recipe"])["models"]] == [1, 0, 2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", "hub:org/name"),
        ("/data/model", "path:/data/model"),
        ("../model", "path:../model"),
        ("~/model", "path:~/model"),
        ("models/mine", "path:models/mine"),
        ("wheel:some-model@0.1.2+cpu/some/file.gguf", "wheel:some-model@0.1.2+cpu/some/file.gguf"),
        ("hub:org/name", "hub:org/name"),
    ],
)
def test_sources(name, expected):
    assert source(name, lambda name: name == "models/mine") == expected


MODELS = yaml.safe_load(PLAIN)["models"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "should be a mergekit YAML, found that it does not parse"),
        ("- a", "should be a mergekit YAML, found list"),
        (changed(slices=[]), "should merge whole `models:`, found `slices:`"),
        (changed(modules={}), "should merge whole `models:`, found `modules:`"),
        (changed(chat_template="auto"), "found chat_template, which is not supported"),
        (changed(merge_method="passthrough"), "merge_method should be one of linear, .*, found 'passthrough'"),
        (changed(merge_method="ram"), "merge_method should be one of linear, .*, found 'ram'"),
        (changed(merge_method=None), "merge_method should be one of linear, .*, found None"),
        (changed(models=[]), r"`models:` should be a list of the models to merge, found \[\]"),
        (
            changed(models=["org/one"]),
            "an entry of `models:` should have model and perhaps parameters, found 'org/one'",
        ),
        (changed(models=[{"model": "org/one", "layer_range": [0, 4]}]), "should have model and perhaps parameters"),
        (
            changed(models=[{"model": "org/one+org/adapter"}]),
            r"without an adapter \(\+\), found 'org/one\+org/adapter'",
        ),
        (changed(models=[{"model": {"model": "org/one"}}]), "should be one name without an adapter"),
        (changed(models=[{"model": "org/one@main"}]), "org/name@<40 hex digits>, or a folder .* found 'org/one@main'"),
        (changed(base_model="gpt2"), "should be org/name, .* found 'gpt2'"),
        (changed(models=MODELS + MODELS[:1]), "should be named once, found hub:org/one@.* twice"),
        (changed(base_model=None), "ties needs a base_model, found none: add base_model"),
        (
            changed(merge_method="slerp", models=MODELS, parameters={"t": 1}),
            "the parameters of slerp are t, found weight",
        ),
        (changed(parameters={"gamma": 0.1}), "the parameters of ties are .*, found gamma"),
        (under_model(weight=1, normalize=True), "normalize of ties is one for all models, found it under a model"),
        (under_model(weight=True), "parameters.weight should be a finite number, found True"),
        (under_model(weight=float("nan")), "parameters.weight should be a finite number, found nan"),
        (under_model(weight="much"), "parameters.weight should be a finite number, found 'much'"),
        (under_model(weight=[0, "x"]), "parameters.weight should be a finite number, found 'x'"),
        (under_model(weight=[0, {"value": 1}]), "weight should be a list of filter and value, found 0"),
        (
            under_model(weight=[{"filter": "mlp"}]),
            "weight should be a list of filter and value, found {'filter': 'mlp'}",
        ),
        (under_model(weight=[{"value": {"value": 1}}]), "weight should be a list of filter and value"),
        (under_model(density=1), "ties needs parameters.weight for hub:org/one, found none"),
        (changed(parameters={"normalize": 2}), "parameters.normalize should be true or false, found 2"),
        (changed(parameters=[1]), r"`parameters:` should be a mapping of names to values, found \[1\]"),
        (changed(dtype="int8"), "dtype should be one of float32, .* found 'int8'"),
        (changed(out_dtype="fp8"), "out_dtype should be one of float32, .* found 'fp8'"),
        (changed(tokenizer_source="union"), "the tokenizer should be left out or come from the base, found 'union'"),
        (changed(tokenizer={"source": "org/one"}), "come from the base, found 'org/one'"),
        (changed(tokenizer={"source": "base", "tokens": {}}), "come from the base, found {"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read(text)
    assert "merge.file" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("method", "base", "count", "message"),
    [
        ("slerp", True, 2, "slerp merges exactly 1 models beside base_model, found 2"),
        ("nearswap", True, 2, "exactly 1 models beside base_model"),
        ("arcee_fusion", True, 0, "exactly 1 models beside base_model, found 0"),
        ("model_stock", True, 1, "at least 2 models beside base_model, found 1"),
        ("nuslerp", True, 1, "exactly 2 models beside base_model, found 1"),
        ("nuslerp", False, 3, "exactly 2 models, found 3"),
        ("linear", False, 1, "at least 2 models, found 1"),
        ("multislerp", False, 1, "at least 2 models, found 1"),
        ("ties", True, 0, "at least 1 models beside base_model, found 0"),
    ],
)
def test_number_of_models(method, base, count, message):
    names = (["org/base"] if base else []) + [f"org/m{i}" for i in range(count)]
    recipe = {"merge_method": method, "models": [{"model": name} for name in names]} | (
        {"base_model": "org/base"} if base else {}
    )
    with pytest.raises(ConfigError, match=message):
        read(yaml.safe_dump(recipe))


@pytest.mark.parametrize(
    ("setting", "name", "t", "expected"),
    [
        (0.5, "a", 0.7, 0.5),
        ([0, 1], "a", 0.25, 0.25),
        ([0, 1], "a", 1.0, 1.0),
        ([0.5], "a", 0.7, 0.5),
        ([1, 3, 2], "a", 0.25, 2.0),
        ([1, 3, 2], "a", 0.75, 2.5),
        ([], "a", 0.5, None),
        ([{"filter": "mlp", "value": 1}, {"filter": "up", "value": 2}], "mlp.up", 0, 1),
        ([{"filter": "mlp", "value": 1}, {"value": 2}], "norm", 0, 2),
        ([{"filter": "*", "value": 1}, {"value": 2}], "norm", 0, 1),
        ([{"filter": "mlp", "value": 1}], "norm", 0, None),
        ([{"filter": "mlp", "value": [0, 4]}], "mlp.up", 0.5, 2),
    ],
)
def test_evaluate(setting, name, t, expected):
    assert evaluate("weight", setting, float, name, t) == expected


def test_a_gradient_of_truth_values_takes_the_one_before():
    assert [evaluate("normalize", [True, False, True], bool, "a", t) for t in (0, 0.4, 0.5, 0.9, 1)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    with pytest.raises(ConfigError, match="max_iter should be a whole number, found 1.5"):
        evaluate("max_iter", [1, 2], int, "a", 0.5)
