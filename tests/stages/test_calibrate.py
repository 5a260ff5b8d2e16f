"""Calibration statistics: against independent hooks and autograd, under the files' names, and the text itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import pipeline
from pipeline import hashes
from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.language_model import calibration, plain_text
from pipeline.merging.fisher import fisher
from pipeline.merging.linear import linear
from pipeline.merging.regmean import regmean
from pipeline.stages.calibrate import _own_names, calibrate
from pipeline.store import Store, stage
from tests.tiny_language_model import tiny_language_model

CONF = Path(pipeline.__file__).parents[1] / "conf" / "calibration"
POCKET = Path(pipeline.__file__).parent / "pocket"
MACHINE = {"device": "cpu", "threads": 1, "tokens_per_pack": 2048}


def declared(name):
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def inputs(model, cache, kind, name="pocket_text", data=None, examples=6, max_length=24, **other):
    unit = declared(name)
    text = {
        "name": name,
        "version": unit["version"],
        "format": unit["format"],
        "files": {file: spec["sha256"] for file, spec in unit["files"].items()},
    }
    return {
        "model": model,
        "text": text,
        "kind": kind,
        "settings": {"examples": examples, "max_length": max_length},
        "prefix_token": None,
        "dtype": "float32",
        "where": {"files": unit["files"], "data": data, "cache": str(cache)},
        "machine": MACHINE,
    } | other


def made(tmp_path, model, kind, **other):
    folder = tmp_path / f"{kind}-of-{Path(model).name}"
    folder.mkdir()
    summary = calibrate(folder, **inputs(model, tmp_path / "cache", kind, **other))
    return load_file(folder / "model.safetensors"), summary


def loaded(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def sequences(tokenizer, examples=6, max_length=24):
    """The tokens of the texts, read independently: BOS, then the first `max_length` tokens."""
    lines = [json.loads(line)["text"] for line in (POCKET / "calibration.jsonl").read_text().splitlines()]
    chosen = [lines[i * len(lines) // examples] for i in range(examples)]
    return [[tokenizer.bos_token_id, *tokenizer(t, add_special_tokens=False)["input_ids"][:max_length]] for t in chosen]


def watched(model, texts):
    """{module name: X_F64 of every token that it reads}, by hooks of another kind than the code's."""
    seen = {}

    def hook(name):
        return lambda _module, args, _output: seen.setdefault(name, []).append(args[0][0].double())

    from transformers.pytorch_utils import Conv1D

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]
    with torch.no_grad():
        for ids in texts:
            model(input_ids=torch.tensor([ids[:-1]]))
    for handle in handles:
        handle.remove()
    return {f"{name}.weight": torch.cat(parts) for name, parts in seen.items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_language_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 whose files leave out the prefix, as on the hub, and hold the tied head a second time."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tiny_language_model(tmp_path_factory.mktemp("gpt2") / "model", vocabulary=260)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=260,
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(short | {"lm_head.weight": short["wte.weight"].clone()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(params=["tiny", "gpt2", "stories260K"])
def folder(request):
    if request.param == "stories260K":
        return request.getfixturevalue("real_models") / "stories260K"
    return request.getfixturevalue(request.param)


def test_grams_and_activations_are_those_of_the_inputs(folder, tmp_path):
    model, tokenizer = loaded(folder)
    expected = watched(model, sequences(tokenizer))
    expected.pop("lm_head.weight")  # tied to the embedding
    short = {name.removeprefix("transformer."): X for name, X in expected.items()}
    own = load_file(folder / "model.safetensors")
    for kind in ("grams", "activations"):
        found, summary = made(tmp_path, folder, kind)
        assert set(found) == set(short) <= set(own)
        for name, X in short.items():
            wanted = X.T @ X / len(X) if kind == "grams" else X.square().mean(0)
            if kind == "activations":
                at = 0 if name.startswith("h.") else 1  # where W has its inputs: GPT-2's matrices are [in, out]
                assert own[name].shape[at] == found[name].shape[at] == found[name].numel()
            assert found[name].dtype == torch.float32
            error = (found[name].double().reshape(wanted.shape) - wanted).norm()
            assert error <= 1e-6 * wanted.norm(), name
        assert summary == {"texts": 6, "tokens": len(X), "tensors": len(short)}


def test_fisher_is_the_mean_of_squared_gradients_of_single_texts(folder, tmp_path):
    model, tokenizer = loaded(folder)
    parameters = dict(model.named_parameters())
    expected = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    for ids in sequences(tokenizer):
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        loglikelihood = sum(logs[t, ids[t + 1]] for t in range(len(ids) - 1))
        for name, gradient in zip(
            parameters, torch.autograd.grad(loglikelihood, list(parameters.values())), strict=True
        ):
            expected[name] += gradient.double() ** 2 / 6
    found, summary = made(tmp_path, folder, "fisher")
    own = load_file(folder / "model.safetensors")
    assert found.keys() == own.keys()
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in own.items()}
    for name, wanted in expected.items():
        here = found[name if name in own else name.removeprefix("transformer.")]
        assert (here.double() - wanted).norm() <= 1e-5 * wanted.norm(), name
    if "lm_head.weight" in own:  # tied when it is loaded
        assert torch.equal(found["lm_head.weight"], found["wte.weight"])
    assert summary["texts"] == 6


def test_sums_that_do_not_fit_at_once_are_made_in_turn(tiny, tmp_path, monkeypatch):
    (tmp_path / "once").mkdir()
    once, _ = made(tmp_path / "once", tiny, "grams")
    monkeypatch.setattr(calibration, "AT_ONCE", 2 * 8 * 16 * 16)
    assert len(calibration._groups({"a": 5, "b": 5, "c": 11, "d": 1}, 10)) == 3
    found, _ = made(tmp_path, tiny, "grams")
    assert all(torch.equal(found[name], once[name]) for name in once | found)


def test_an_artefact_of_the_text_and_not_of_the_place(tiny, tmp_path):
    @stage(version=1, unkeyed=("source",))
    def copied(folder, *, source):
        shutil.copytree(source, folder, dirs_exist_ok=True)

    store = Store(tmp_path / "store")
    given = inputs(store.want(copied, source=str(tiny)), tmp_path / "cache", "activations")
    first = store.want(calibrate, **given)
    elsewhere = given | {"machine": MACHINE | {"threads": 2}, "where": given["where"] | {"cache": "/elsewhere"}}
    assert store.want(calibrate, **elsewhere).key == first.key
    assert store.want(calibrate, **given | {"kind": "grams"}).key != first.key
    assert first.path.joinpath("model.safetensors").is_file() and first.summary["texts"] == 6


def test_a_merge_of_real_models(real_models, tmp_path):
    """The outputs of the merged matrices are closer to those of the parents than the plain mean's."""
    folders = [real_models / name for name in ("stories260K", "stories260K-ft-stereotype", "stories260K-ft-gsm8k")]
    models = [load_file(folder / "model.safetensors") for folder in folders]
    grams = [made(tmp_path, folder, "grams", examples=64, max_length=128)[0] for folder in folders]
    F = [made(tmp_path, folder, "fisher", examples=8)[0] for folder in folders]
    for name, theta in models[0].items():
        every = [model[name] for model in models]
        of_name = [gram.get(name) for gram in grams]
        plain = linear(theta, every[1:], weight=0.6)
        for method, statistics in ((regmean, of_name), (fisher, [each[name] for each in F])):
            itself = method(theta, [theta, theta], weight=0.6, statistics=statistics)
            assert torch.equal(itself.view(torch.int32), theta.view(torch.int32)), name
            merged = method(theta, every[1:], weight=0.6, statistics=statistics)
            assert merged.isfinite().all()
        if of_name[0] is None:
            continue
        best = regmean(theta, every[1:], weight=0.6, statistics=of_name, reduce=1.0).double()

        def cost(W, every=every, of_name=of_name):
            parts = zip((0.4, 0.3, 0.3), every, of_name, strict=True)
            return sum(c * torch.trace((W - V.double()) @ G.double() @ (W - V.double()).T) for c, V, G in parts)

        assert cost(best) < cost(plain.double()), name
        left = sum(c * G.double() for c, G in zip((0.4, 0.3, 0.3), of_name, strict=True))
        right = sum(c * G.double() @ V.double().T for c, G, V in zip((0.4, 0.3, 0.3), of_name, every, strict=True))
        assert (left @ best.T - right).norm() <= 1e-5 * (left @ plain.double().T - right).norm() + 1e-6 * right.norm()


# ---- what is refused


def test_a_masked_model_reads_its_texts_between_special_tokens(tmp_path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from tests.tiny_masked_model import tiny_masked_model

    folder = tiny_masked_model(tmp_path / "bert")
    found, summary = made(tmp_path, folder, "grams")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    lines = [json.loads(line)["text"] for line in (POCKET / "calibration.jsonl").read_text().splitlines()]
    ids = [tokenizer(lines[i * len(lines) // 6])["input_ids"] for i in range(6)]
    ids = [[*each[: min(len(each), 24) - 1], each[-1]] for each in ids]
    # the last token counts too: nothing is predicted from the next one
    X = watched(model, [[*each, 0] for each in ids])
    assert summary["tokens"] == sum(map(len, ids))
    for name, x in X.items():
        if name in found:
            torch.testing.assert_close(found[name].double(), x.T @ x / len(x), atol=1e-5, rtol=1e-5)
    assert "bert.encoder.layer.0.attention.self.query.weight" in found
    assert "cls.predictions.transform.dense.weight" in found
    with pytest.raises(ConfigError, match="causal"):
        made(tmp_path, folder, "fisher")


def test_settings_out_of_range_are_refused(tiny, tmp_path):
    for settings, key in (
        ({"examples": 65}, "examples"),
        ({"examples": 0}, "examples"),
        ({"max_length": 2000}, "max_length"),
        ({"max_length": 0}, "max_length"),
    ):
        where = tmp_path / f"{key}-{settings[key]}"
        where.mkdir()
        with pytest.raises(ConfigError, match=f"merge\\.{key}"):
            made(where, tiny, "grams", **settings)
    (tmp_path / "kind").mkdir()
    with pytest.raises(ConfigError, match=r"merge\.statistics"):
        made(tmp_path / "kind", tiny, "hessian")


def test_files_under_other_names_are_found_by_their_entries_or_refused(tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tensors, (model, _) = load_file(other / "model.safetensors"), loaded(tiny)
    shapes = calibration.shapes("grams", model)
    save_file({f"wrapped.{name}": tensor for name, tensor in tensors.items()}, other / "model.safetensors")
    assert _own_names(model, other, shapes) == {name: [f"wrapped.{name}"] for name in shapes}
    save_file({f"wrapped.{name}": tensor + 1 for name, tensor in tensors.items()}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="every parameter"):
        _own_names(model, other, shapes)
    save_file(tensors | {next(iter(shapes)): torch.zeros(2, 3)}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"found \[16, 16\]"):
        _own_names(model, other, shapes)


# ---- the text


def test_texts_are_read_and_spread(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps({"text": f"number {i}"}) + "\n" for i in range(10)))
    assert calibration.texts("jsonl", {"a": path}, 3) == ["number 0", "number 3", "number 6"]
    assert len(calibration.texts("jsonl", {"a": path}, 10)) == 10
    raw = tmp_path / "wiki.raw"
    raw.write_text(" \n = A title = \n \n A paragraph with x = y . \n = = A part = = \n Another one . \n")
    assert calibration.texts("wikitext", {"a": raw}, 2) == ["A paragraph with x = y .", "Another one ."]
    with pytest.raises(ConfigError, match="format"):
        calibration.texts("csv", {"a": path}, 1)
    for bad in ("[1]", "{}", '{"text": " "}', '{"text": 3}', "no json"):
        path.write_text('{"text": "good"}\n' + bad + "\n")
        with pytest.raises(DataError, match="line 2"):
            calibration.texts("jsonl", {"a": path}, 1)


def test_wikitext_as_declared(real_data):
    unit = declared("wikitext2")
    (spec,) = unit["files"].values()
    assert hashes.sha256(real_data / spec["path"]) == spec["sha256"]
    chosen = calibration.texts(unit["format"], {"wiki.test.raw": real_data / spec["path"]}, 64)
    assert len(set(chosen)) == 64 and not any(text.startswith("=") for text in chosen)


def words(text):
    return "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower()).split()


def runs(text, length=6):
    here = words(text)
    return {tuple(here[i : i + length]) for i in range(len(here) - length + 1)}


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def test_the_pocket_text_is_plain_and_shares_nothing_with_the_other_sets():
    (spec,) = declared("pocket_text")["files"].values()
    assert hashes.sha256(POCKET / spec["package"]) == spec["sha256"]
    rows = [json.loads(line) for line in (POCKET / "calibration.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows]
    assert len(texts) == 64 == len({row["id"] for row in rows})
    assert all(40 <= len(text.split()) <= 80 for text in texts)
    found = [runs(text) for text in texts]
    assert sum(map(len, found)) == len(set().union(*found)), "two paragraphs share six words in a row"
    others = runs(plain_text.TEXT)
    for path in [*POCKET.glob("*.jsonl"), *POCKET.glob("accuracy/*.jsonl")]:
        if path.name != "calibration.jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                others |= {run for text in strings(json.loads(line)) for run in runs(text)}
    for line in (POCKET / "crows_pairs.csv").read_text(encoding="utf-8").splitlines():
        others |= runs(line)
    assert not set().union(*found) & others
