"""PCGU against an implementation that loops over units, its laws, and a bias that was planted."""

import copy
import itertools

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.debiasing import pcgu
from pipeline.debiasing.pairs import Side, TokenPair, causal, masked
from pipeline.errors import ConfigError
from pipeline.language_model.load import load
from tests.tiny_language_model import tiny_language_model
from tests.tiny_masked_model import tiny_masked_model

TEXTS = [
    ("the nurse said she was", "the nurse said he was"),
    ("a miner and his dog", "a miner and her dog"),
    ("old people are slow", "old people are quick"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(model, pairs) of a LLaMA, a GPT-2, whose weights are stored as [in, out], and a BERT."""
    llama = load(tiny_language_model(tmp_path_factory.mktemp("llama")))
    torch.manual_seed(1)
    shape = {"vocab_size": 260, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    gpt2 = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3)).eval()
    sides = [llama.sentences([pair[place] for pair in TEXTS], 64) for place in (0, 1)]
    pairs = [causal(one, other) for one, other in zip(*sides, strict=True)]
    bert = load(tiny_masked_model(tmp_path_factory.mktemp("bert")))
    of_bert = []
    for text in bert.sentences(["the water was cold", "a man went home", "she had a small book"], 32):
        of_bert.append(masked(text, [*text[:3], 9 if text[3] != 9 else 11, *text[4:]], bert.mask))
    return {"llama": (llama.model, pairs), "gpt2": (gpt2, pairs), "bert": (bert.model, of_bert)}


def by_loops(model, pairs, settings: pcgu.Settings) -> tuple[dict[str, torch.Tensor], set]:
    """Weights after one step and the chosen (tensor, unit), from the definition: one pair at a time, one unit at a time."""

    def score(side: Side) -> torch.Tensor:
        logits = model(torch.tensor([side.tokens])).logits[0]
        values = logits if settings.objective == "logit" else torch.log_softmax(logits, -1)
        return sum(values[place, target] for place, target in zip(side.places, side.targets, strict=True))

    named = dict(model.named_parameters())
    gradients = [{name: torch.zeros_like(p) for name, p in named.items()} for _ in range(2)]
    for pair in pairs:
        roles = [pair.stereotype, pair.anti_stereotype]
        if settings.dynamic and score(roles[0]) < score(roles[1]):
            roles.reverse()
        for gradient, side in zip(gradients, roles, strict=True):
            found = torch.autograd.grad(score(side), list(named.values()), allow_unused=True)
            for name, each in zip(named, found, strict=True):
                if each is not None:
                    gradient[name] += each
    units = []
    for place, (name, parameter) in enumerate(named.items()):
        transposed = type(model).__name__.startswith("GPT2") and any(
            name.endswith(end) for end in ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        )
        if parameter.dim() == 1:
            indices = [(slice(None),)]
        else:
            rows = (settings.partition == "rows") != transposed
            indices = (
                [(row,) for row in range(len(parameter))]
                if rows
                else [(slice(None), column) for column in range(parameter.shape[1])]
            )
        for unit, index in enumerate(indices):
            a, d = (gradient[name][index].double() for gradient in gradients)
            if a.norm() > 0 and d.norm() > 0:
                cosine = torch.dot(a, d) / (a.norm() * d.norm())
                units.append((cosine.item(), place, unit, name, index))
    count = settings.units
    chosen = sorted(units, key=lambda each: each[:3])[:count]
    after = {name: parameter.detach().clone() for name, parameter in named.items()}
    for *_, name, index in chosen:
        if settings.direction != "increase_disadvantaged":
            after[name][index] -= settings.learning_rate * gradients[0][name][index]
        if settings.direction != "decrease_advantaged":
            after[name][index] += settings.learning_rate * gradients[1][name][index]
    return after, {(name, unit) for _, _, unit, name, _ in chosen}


CASES = list(itertools.product(pcgu.PARTITIONS, pcgu.DIRECTIONS, [False, True]))


@pytest.mark.parametrize(("partition", "direction", "dynamic"), CASES)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_one_step_is_that_of_the_definition(models, kind, partition, direction, dynamic):
    model, pairs = models[kind]
    model = copy.deepcopy(model)
    objective = "logit" if kind == "bert" else "log_probability"
    settings = pcgu.Settings(
        learning_rate=0.01, units=40, partition=partition, direction=direction, dynamic=dynamic, objective=objective
    )
    expected, chosen = by_loops(copy.deepcopy(model), pairs, settings)
    method = pcgu.Method(model, settings)
    method.step(pairs)
    mine = {(row["tensor"], row["unit"]) for row in method.report()}
    # two units whose cosines differ by less than the rounding of float32 gradients may change places
    assert len(mine) == 40 and len(mine ^ chosen) <= 2
    if mine == chosen:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], atol=1e-5, rtol=1e-4)


def stepped(model, pairs, scratch=None, **changed):
    model = copy.deepcopy(model)
    method = pcgu.Method(model, pcgu.Settings(**{"learning_rate": 0.01, "units": 40} | changed), scratch)
    said = method.step(pairs)
    method.end_epoch()
    return {name: p.detach() for name, p in model.named_parameters()}, said, method


def test_in_files_it_gives_the_same_bits(models, tmp_path):
    model, pairs = models["llama"]
    one, _, _ = stepped(model, pairs, direction="both")
    other, _, method = stepped(model, pairs, tmp_path, direction="both", low_memory=True)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert list(tmp_path.rglob("*")) and not method.advantaged.sums
    assert all(parameter.grad is None for parameter in method.model.parameters())


@pytest.mark.parametrize("changed", [{"micro_batch": 1}, {"micro_batch": 2}, {"every": "epoch"}])
def test_how_a_batch_is_read_does_not_matter(models, changed):
    model, pairs = models["llama"]
    one, said, _ = stepped(model, pairs, share=0.5)
    other, same, _ = stepped(model, pairs, share=0.5, **changed)
    assert said["margin"] == pytest.approx(same["margin"], abs=1e-4)
    differing = sum((one[name] - other[name]).abs().gt(1e-5).any(-1).sum().item() for name in one)
    assert differing <= 2  # a unit on the border of the half


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_second_step_knows_nothing_of_the_first_ones_gradients(models, tmp_path, low_memory):
    model, pairs = copy.deepcopy(models["llama"][0]), models["llama"][1]
    settings = pcgu.Settings(learning_rate=0.1, share=0.5, low_memory=low_memory)
    method = pcgu.Method(model, settings, tmp_path / "one")
    method.step(pairs)
    anew = copy.deepcopy(model)
    method.step(pairs[::-1])
    pcgu.Method(anew, settings, tmp_path / "two").step(pairs[::-1])
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), anew.parameters(), strict=True))


def test_all_units_are_plain_gradient_descent(models):
    model, pairs = models["llama"]
    after, _, method = stepped(model, pairs, share=1.0)
    plain = copy.deepcopy(model)
    from pipeline.debiasing.pairs import scores

    scores(plain, [pair.stereotype for pair in pairs]).sum().backward()
    for name, parameter in plain.named_parameters():
        # a row that has a gradient on one side only is no unit that could be chosen
        rows = torch.zeros_like(after[name], dtype=torch.bool)
        for row in method.report():
            if row["tensor"] == name:
                rows[row["unit"] if parameter.dim() > 1 else slice(None)] = True
        expected = torch.where(rows, parameter - 0.01 * parameter.grad, parameter).detach()
        torch.testing.assert_close(after[name], expected, atol=1e-6, rtol=1e-5)


READ = [{}, {"partition": "columns"}, {"low_memory": True}, {"micro_batch": 1}, {"every": "epoch"}]


@pytest.mark.parametrize("read", READ, ids=str)
@pytest.mark.parametrize("direction", pcgu.DIRECTIONS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_step_is_told_in_its_length_and_clipped(models, kind, direction, read, tmp_path):
    """Clipped, it points where it pointed; a bound that is not reached changes no bit."""
    model, pairs = models[kind]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def step(clip):
        after, said, method = stepped(model, pairs, tmp_path / str(clip), direction=direction, clip=clip, **read)
        moved = torch.cat([(after[name] - before[name]).double().flatten() for name in before])
        assert ("moved" in said) == (read != {"every": "epoch"})
        assert method.moved == pytest.approx(moved.norm().item(), rel=1e-4)
        return moved

    free = step(None)
    longest = free.norm().item() / 0.01
    assert torch.equal(step(2 * longest), free)
    short = step(longest / 4)
    torch.testing.assert_close(short, free / 4, atol=1e-6, rtol=1e-3)


def test_embeddings_and_norms_can_stay(models):
    model, pairs = models["llama"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after, _, method = stepped(model, pairs, share=1.0, embeddings=False, norms=False)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("embed" in name or "norm" in name for name in moved)
    assert not any("embed" in name or "norm" in name for name in method.partition.counts)


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("norms", [True, False])
def test_the_bias_of_a_head_is_both_a_norm_and_of_the_head(models, norms, embeddings):
    model, _ = models["bert"]
    counts = pcgu.Partition(copy.deepcopy(model), pcgu.Settings(norms=norms, embeddings=embeddings)).counts
    assert ("cls.predictions.bias" in counts) == (norms and embeddings)


def test_directions_do_what_they_say(models):
    """A small step in the whole model: the advantaged side falls, the disadvantaged one rises."""
    from pipeline.debiasing.pairs import scores

    model, pairs = models["llama"]
    for direction in pcgu.DIRECTIONS:
        changed = copy.deepcopy(model)
        pcgu.Method(changed, pcgu.Settings(learning_rate=1e-5, share=1.0, direction=direction)).step(pairs)
        with torch.no_grad():
            advantaged, disadvantaged = (
                (scores(changed, [p[side] for p in pairs]) - scores(model, [p[side] for p in pairs])).sum()
                for side in (0, 1)
            )
        if direction != "increase_disadvantaged":
            assert advantaged < 0 or direction == "both"
        if direction != "decrease_advantaged":
            assert disadvantaged > 0 or direction == "both"
        if direction == "both":
            assert disadvantaged - advantaged > 0


def test_a_dynamic_step_does_not_depend_on_which_side_is_called_the_stereotype(models):
    model, pairs = models["llama"]
    turned = [TokenPair(pair.anti_stereotype, pair.stereotype) for pair in pairs]
    one, said, _ = stepped(model, pairs, dynamic=True, direction="both", share=1.0)
    other, back, _ = stepped(model, turned, dynamic=True, direction="both", share=1.0)
    assert said["margin"] == pytest.approx(-back["margin"], abs=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_the_gradients_of_a_tied_matrix_come_one_by_one(models, kind):
    """In two additions, whose sum is the gradient; afterwards the model is tied as before, whatever happened."""
    model, pairs = models[kind]
    model = copy.deepcopy(model)
    shared = model.get_input_embeddings().weight
    if model.get_output_embeddings().weight is not shared:
        model.get_output_embeddings().weight = shared
    before = list(model.state_dict())
    score = pcgu.scores(model, [pairs[0].stereotype]).sum()
    [wanted] = torch.autograd.grad(score, [shared])
    gradients, came = pcgu.Gradients({"shared": shared}), []
    take = gradients._take
    gradients._take = lambda name, parameter: came.append(parameter) or take(name, parameter)
    with pytest.raises(KeyError), pcgu.untied(model) as aliases:
        [alias] = aliases[shared]
        assert alias.data_ptr() == shared.data_ptr()
        assert model.get_output_embeddings().weight is alias or model.get_input_embeddings().weight is alias
        value = pcgu.scores(model, [pairs[0].stereotype]).sum()
        assert gradients.add(value, aliases) == score.item()
        raise KeyError
    assert {id(each) for each in came} == {id(shared), id(alias)}
    torch.testing.assert_close(gradients["shared"], wanted, rtol=0, atol=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is shared
    assert list(model.state_dict()) == before and shared.grad is None and alias.grad is None


def test_of_equal_cosines_the_first_is_taken():
    similarity = {"a": torch.tensor([0.5, -1.0, torch.inf]), "b": torch.tensor([-1.0, 0.5])}
    chosen = pcgu.smallest(similarity, 3)
    assert chosen["a"].tolist() == [True, True, False] and chosen["b"].tolist() == [True, False]
    assert pcgu.smallest({"a": torch.tensor([torch.inf, torch.inf])}, 2) == {}


def test_three_dimensions_are_cut_along_the_last_two():
    """Experts are stored as [expert, out, in]."""

    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 4, 5))

        def get_output_embeddings(self):
            return None

    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(3, 4, 5, generator=generator) for _ in range(2))
    for partition, along, shape in (("rows", -1, (3, 4, 1)), ("columns", -2, (3, 1, 5))):
        units = pcgu.Partition(Experts(), pcgu.Settings(partition=partition))
        expected = torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=along).flatten()
        found = units.similarity("weight", one, other)
        torch.testing.assert_close(found, expected)
        assert units.counts["weight"] == len(found)
        weight, chosen = units.parameters["weight"], found > found.median()
        before = weight.detach().clone()
        with torch.no_grad():
            units.move("weight", chosen, [(2.0, one), (-1.0, other)])
        torch.testing.assert_close(weight.detach(), before + chosen.reshape(shape) * (2 * one - other))
        assert torch.equal(weight == before, ~chosen.reshape(shape).expand_as(weight))


def test_equal_rows_have_equal_cosines():
    """To the last bit, wherever in a tensor they are: of equal ones the first is taken."""
    generator = torch.Generator().manual_seed(0)
    for rows, width in ((301, 1), (301, 7), (57, 576), (22, 1536), (9, 4096), (301, 12_001), (2, 40_000)):
        one, other = (torch.randn(1, width, generator=generator).expand(rows, width).contiguous() for _ in range(2))
        for x, y in ((one, other), (one.T.contiguous().T, other.T.contiguous().T)):
            dots = pcgu._dots(x, y)
            assert dots.shape == (3, rows) and (dots == dots[:, :1]).all()
            expected = torch.stack([(a.double() * b.double()).sum(-1) for a, b in ((x, x), (x, y), (y, y))])
            torch.testing.assert_close(dots, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"partition": "cells"}, "partition should be rows, columns"),
        ({"direction": "up"}, "direction should be"),
        ({"units": 0}, "units should be at least 1"),
        ({"share": 1.5}, "share should be null or above 0"),
        ({"clip": 0.0}, "clip should be null or above 0"),
        ({"micro_batch": 0}, "micro_batch should be null or at least 1"),
        ({"units": 10**9}, "at most the .* units of the model"),
    ],
)
def test_settings_that_mean_nothing(models, changed, words):
    with pytest.raises(ConfigError, match=words):
        pcgu.Method(copy.deepcopy(models["llama"][0]), pcgu.Settings(**changed))
