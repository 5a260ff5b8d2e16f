"""Low-rank training: what it adds, what it leaves, and that the task vector is the product and nothing else."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from pipeline import low_rank, recipe, sweep
from pipeline.errors import ConfigError
from pipeline.store import Store
from pipeline.training import causal, pretraining
from tests.debiasing import planted
from tests.tiny_language_model import tiny_language_model

MODELS = [planted.llama, planted.gpt2, planted.bert]
IDS = torch.tensor([[0, 1, 5, 6, 8], [0, 4, 9, 7, 8]])
OPTIONS = {"epochs": 3, "learning_rate": 0.01, "batch_size": 3, "warmup": 0.1, "weight_decay": 0.1, "seed": 5}
SENTENCES = [text for pair in planted.texts(planted.VERBS) for text in pair]


def logits(model):
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def drawn(adapters, seed: int = 0):
    """B is 0 at the start; here it is not."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for up in adapters.up:
            up.copy_(0.1 * torch.randn(up.shape, generator=generator))
    return adapters


def is_adapted(model, name: str) -> bool:
    """Whether low-rank training may touch a parameter: the weight of a linear map that is not the head."""
    module = model.get_submodule(name.rpartition(".")[0])
    linear = isinstance(module, (torch.nn.Linear, Conv1D)) and module is not model.get_output_embeddings()
    return linear and name.endswith(".weight")


@pytest.mark.parametrize("make", MODELS)
def test_it_starts_as_the_model_that_came_in(make):
    model = make()
    start, before = planted.weights(model), logits(model)
    adapters = low_rank.LowRank(model, 3, 6.0)
    adapters.unfold()
    assert torch.equal(logits(model), before)
    adapters.fold()
    assert torch.equal(logits(model), before) and planted.same_bits(start, planted.weights(model))


@pytest.mark.parametrize("make", MODELS)
def test_folded_and_unfolded_are_one_model(make):
    model = make()
    before = logits(model)
    adapters = drawn(low_rank.LowRank(model, 3, 6.0))
    adapters.unfold()
    along = logits(model)
    with adapters.without():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), along)
    adapters.fold()
    torch.testing.assert_close(logits(model), along, atol=1e-5, rtol=1e-5)
    assert (along - before).abs().max() > 0.01


@pytest.mark.parametrize("make", MODELS)
def test_the_task_vector_is_the_product(make):
    rank, alpha = 3, 5.0
    model = make()
    start = planted.weights(model)
    adapters = drawn(low_rank.LowRank(model, rank, alpha))
    adapters.unfold()
    assert planted.same_bits(start, planted.weights(model))
    adapters.fold()
    products = iter(zip(adapters.up, adapters.down, strict=True))
    touched = 0
    for name, weight in planted.weights(model).items():
        if not is_adapted(model, name):
            assert torch.equal(weight, start[name]), name
            continue
        up, down = next(products)
        product = alpha / rank * up.detach().double() @ down.detach().double()
        if isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D):
            product = product.T
        assert torch.equal(weight, (start[name].double() + product).float())
        touched += 1
    assert touched == len(adapters.up) > 5
    adapters.unfold()
    assert planted.same_bits(start, planted.weights(model))


@pytest.mark.parametrize("make", MODELS)
def test_the_gradients_are_those_of_a_weight_that_is_a_product(make):
    """Held against torch's own parametrisation of the weights, which knows no hooks."""

    class Sum(torch.nn.Module):
        def __init__(self, up, down, scale, turned):
            super().__init__()
            self.up, self.down = (torch.nn.Parameter(each.detach().clone()) for each in (up, down))
            self.scale, self.turned = scale, turned

        def forward(self, weight):
            product = self.scale * self.up @ self.down
            return weight + (product.T if self.turned else product)

    model, other = make(), make()
    adapters = drawn(low_rank.LowRank(model, 2, 3.0))
    adapters.unfold()
    logits(model).log_softmax(-1)[..., 6].sum().backward()
    layers = [
        other.get_submodule(name[: -len(".weight")]) for name, _ in model.named_parameters() if is_adapted(model, name)
    ]
    sums = [
        Sum(up, down, 3.0 / 2, isinstance(layer, Conv1D))
        for layer, up, down in zip(layers, adapters.up, adapters.down, strict=True)
    ]
    for layer, sum_ in zip(layers, sums, strict=True):
        parametrize.register_parametrization(layer, "weight", sum_)
    logits(other).log_softmax(-1)[..., 6].sum().backward()
    for sum_, up, down in zip(sums, adapters.up, adapters.down, strict=True):
        torch.testing.assert_close(up.grad, sum_.up.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(down.grad, sum_.down.grad, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("make", [planted.llama, planted.gpt2])
def test_pretraining_at_low_rank(make):
    """Law: of every matrix the task vector has rank r at most; of everything else it is 0. Full training has more."""
    rank = 2
    ranks = {}
    for asked in (rank, 0):
        model = make()
        start = planted.weights(model)
        losses = pretraining.continue_pretraining(
            model, SENTENCES, causal.loss, **OPTIONS, lora_rank=asked, lora_alpha=8.0
        )
        assert losses[-1]["loss"] < losses[0]["loss"]
        for name, weight in planted.weights(model).items():
            moved = weight.double() - start[name].double()
            if is_adapted(model, name):
                values = torch.linalg.svdvals(moved)
                # folding rounds to float32, which is of full rank and of no size
                ranks.setdefault(asked, []).append(int((values > 1e-5 * values[0]).sum()))
            elif asked:
                assert not moved.any(), name
    assert set(ranks[rank]) == {rank}
    assert min(ranks[0]) > rank


def test_pretraining_at_low_rank_killed_and_resumed(tmp_path, monkeypatch):
    lora = {"lora_rank": 2, "lora_alpha": 8.0}
    whole, killed, resumed = (planted.gpt2() for _ in range(3))
    pretraining.continue_pretraining(whole, SENTENCES, causal.loss, **OPTIONS, **lora)

    def dying(model, sentences, epoch):
        if epoch == 1:
            raise planted.Killed
        return causal.loss(model, sentences, epoch)

    with pytest.raises(planted.Killed):
        pretraining.continue_pretraining(killed, SENTENCES, dying, **OPTIONS, **lora, scratch=tmp_path)
    pretraining.continue_pretraining(resumed, SENTENCES, causal.loss, **OPTIONS, **lora, scratch=tmp_path)
    assert planted.same_bits(planted.weights(whole), planted.weights(resumed))


def test_the_first_matrix_depends_on_the_seed_and_on_the_layer():
    one, again, other = (low_rank.LowRank(planted.llama(), 2, 1.0, seed) for seed in (0, 0, 1))
    shapes = {}
    for place, down in enumerate(one.down):
        assert torch.equal(down, again.down[place]) and not torch.equal(down, other.down[place])
        assert down.abs().max() <= down.shape[1] ** -0.5
        assert not any(torch.equal(down, seen) for seen in shapes.setdefault(down.shape, []))
        shapes[down.shape].append(down)


def test_refused():
    with pytest.raises(ConfigError, match="lora_alpha should be above 0, found 0; change lora_alpha"):
        low_rank.LowRank(planted.llama(), 2, 0.0)
    with pytest.raises(ConfigError, match="lora_rank should be 0 .* or more, found -1; change lora_rank"):
        low_rank.LowRank(planted.llama(), -1, 1.0)
    bare = copy.deepcopy(planted.llama())
    bare.model.layers = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match="LlamaForCausalLM, which has no linear layers"):
        low_rank.LowRank(bare, 2, 1.0)


@pytest.mark.parametrize("group", ["donor", "debias"])
def test_what_a_rank_changes_in_the_store(tmp_path, group):
    """Without a rank a training keeps the key that it had before there was one; alpha counts with a rank alone."""
    base = tiny_language_model(tmp_path / "base")

    def trained(*overrides):
        (config,), _ = sweep.expand([f"model.base=path:{base}", f"store={tmp_path / 'store'}", *overrides], False)
        cell = recipe.describe(config, Store(tmp_path / "store"))
        return cell.trained if group == "donor" else cell.final.inputs["trained"]

    told = [] if group == "donor" else ["debias=negation"]
    full, other, low, lower = (
        trained(*told, *settings)
        for settings in (
            [],
            [f"{group}.lora_alpha=2.0"],
            [f"{group}.lora_rank=4"],
            [f"{group}.lora_rank=4", f"{group}.lora_alpha=2.0"],
        )
    )
    assert full.inputs["settings"].keys() == {
        "epochs",
        "learning_rate",
        "batch_size",
        "warmup",
        "weight_decay",
        "max_length",
    }
    assert full.key == other.key and len({full.key, low.key, lower.key}) == 3


def test_debiasing_through_the_whole_pipeline(tmp_path):
    """dpo and bias_unlearn on a merged model, negation and the donor at low rank: each gives a model of its own."""
    base = tiny_language_model(tmp_path / "base")
    quick = ["debias.epochs=1", "debias.learning_rate=0.001"]
    rank = 3
    for method in ("dpo", "bias_unlearn", "negation"):
        (config,), _ = sweep.expand(
            [
                *(f"model.base=path:{base}", f"store={tmp_path / 'store'}", "weight=0.5", "merge=linear"),
                *("stages=[fetch,donor,merge,debias]", f"debias={method}", f"debias.lora_rank={rank}", *quick),
                *(f"donor.lora_rank={rank}", "donor.epochs=1", "machine.threads=1"),
                *([] if method == "negation" else ["debias.select_on=null"]),
            ],
            False,
        )
        cell = recipe.describe(config, Store(tmp_path / "store"))
        recipe.run(cell)
        for before, after in ((cell.merged, cell.final), (cell.base, cell.trained)):
            one, other = (load_file(each.path / "model.safetensors") for each in (before, after))
            for name, weight in one.items():
                moved = other[name].double() - weight.double()
                adapted = name.endswith("proj.weight")
                if not adapted:
                    assert not moved.any(), name
                else:
                    values = torch.linalg.svdvals(moved)
                    assert values[rank - 1] > 0 and int((values > 1e-2 * values[0]).sum()) <= rank, name
