"""The loop and the choice among its epochs; a bias that was planted is found and taken out again."""

import copy
import math

import pytest
import torch

from pipeline.debiasing import pcgu, tuning
from pipeline.debiasing.pairs import causal, scores
from pipeline.language_model.load import load
from tests.tiny_language_model import tiny_language_model

FRAMES = ("the nurse said {} was late", "a nurse lost {} book", "the nurse is where {} was", "my nurse and {} dog")
PRONOUNS = ("she", "he")


def record(bias, perplexity=10.0, meaningful=math.nan) -> dict:
    return {"bias": bias, "perplexity": perplexity, "meaningful": meaningful}


@pytest.mark.parametrize(
    ("records", "chosen"),
    [
        ([record(0.4), record(0.2), record(-0.1)], 2),
        ([record(0.4), record(-0.9)], 0),  # PCGU's public code takes the lowest score, however far below even
        ([record(0.1), record(0.1)], 0),
        ([record(0.4), record(0.0, perplexity=10.6), record(0.3, perplexity=10.4)], 2),
        ([record(0.4), record(0.0, perplexity=math.nan)], 0),
        ([record(0.4, meaningful=0.9), record(0.0, meaningful=0.87), record(0.2, meaningful=0.89)], 2),
        ([record(0.4), record(math.nan)], 0),
        ([record(0.4)], 0),
    ],
)
def test_the_nearest_to_even_that_still_speaks_is_taken(records, chosen):
    assert tuning.nearest(perplexity_rise=0.05, meaningful_fall=0.02)(records) == chosen


class Telling:
    """A method that moves nothing, and tells the steps by their number; at an epoch's end what it is given."""

    largest = ("longest",)

    def __init__(self, last_words):
        self.last_words, self.steps = last_words, 0

    def step(self, examples):
        self.steps += 1
        return {"mean": float(self.steps), "longest": float(-self.steps)}

    def end_epoch(self):
        return self.last_words

    def state(self):
        return {}

    def load_state(self, state):
        pass


def told_by(last_words) -> list[dict]:
    method, measure = Telling(last_words), lambda _: record(0.0)
    options = {"epochs": 2, "batch_size": 2, "seed": 0, "measure": measure, "choose": tuning.last}
    return tuning.tune(torch.nn.Linear(1, 1), [1, 2, 3, 4, 5], method, **options)[0]


def test_what_a_method_tells_of_an_epoch():
    """Three steps an epoch: of some the mean, of some the largest, and its last words."""
    _, first, second = told_by({"end": 7.0})
    assert (first["mean"], first["longest"], first["end"]) == (2.0, -1.0, 7.0)
    assert (second["mean"], second["longest"], second["end"]) == (5.0, -4.0, 7.0)
    assert "end" not in told_by(None)[1]
    with pytest.raises(FloatingPointError, match="end became inf at the end of epoch 1; lower the learning_rate"):
        told_by({"end": math.inf})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A model, trained in the MLP of its second layer alone, to say she of a nurse; of a miner it was taught neither.

    Returns the scorer, the pairs about nurses, and the pairs about miners.
    """
    torch.manual_seed(0)
    scorer = load(tiny_language_model(tmp_path_factory.mktemp("planted")))
    of = {
        who: [
            causal(*(scorer.sentences([frame.replace("nurse", who).format(word)], 64)[0] for word in PRONOUNS))
            for frame in FRAMES
        ]
        for who in ("nurse", "miner")
    }
    with torch.no_grad():
        before = {who: margins(scorer.model, pairs) for who, pairs in of.items()}
    layer = scorer.model.model.layers[1].mlp
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        nurse, miner = (margins(scorer.model, of[who]) for who in ("nurse", "miner"))
        # twelve nats towards she for nurses, nothing new for miners
        loss = (nurse - before["nurse"] - 12).square().mean() + (miner - before["miner"]).square().mean()
        loss.backward()
        optimizer.step()
    return scorer, of


def margins(model, pairs) -> torch.Tensor:
    return scores(model, [p.stereotype for p in pairs]) - scores(model, [p.anti_stereotype for p in pairs])


def measured(pairs):
    def measure(model) -> dict:
        with torch.no_grad():
            found = margins(model, pairs)
        return {"bias": (2 * (found > 0).float().mean() - 1).item(), "perplexity": 1.0, "meaningful": math.nan}

    return measure


def tuned(model, pairs, scratch=None, epochs=12, choose=tuning.last, **settings):
    model = copy.deepcopy(model)
    method = pcgu.Method(
        model, pcgu.Settings(**{"learning_rate": 2e-3, "share": 0.1, "direction": "both"} | settings), scratch
    )
    records, epoch = tuning.tune(
        model,
        pairs,
        method,
        epochs=epochs,
        batch_size=2,
        seed=0,
        measure=measured(pairs),
        choose=choose,
        scratch=scratch,
    )
    return model, records, epoch, method


def test_a_planted_bias_is_taken_out(planted):
    scorer, of = planted
    with torch.no_grad():
        nurse, miner = (margins(scorer.model, of[who]) for who in ("nurse", "miner"))
    assert (nurse > 4).all(), "the plant took"
    model, records, epoch, _ = tuned(
        scorer.model, of["nurse"], dynamic=True, choose=tuning.nearest(math.inf, math.inf), epochs=30
    )
    with torch.no_grad():
        after, others = (margins(model, of[who]) for who in ("nurse", "miner"))
    assert records[0]["bias"] == 1 and abs(records[epoch]["bias"]) <= 0.5
    assert after.abs().mean() < 0.5 * nurse.abs().mean()
    assert (others - miner).abs().mean() < (after - nurse).abs().mean()


def test_a_planted_neuron_is_found(tmp_path):
    """One neuron of the second layer writes x - y whatever it reads: of all rows, its two have the lowest cosines.

    Its gate and up rows are alike, so it is never below zero; every other neuron writes at random, and what the sides
    say of it changes from context to context.
    """
    torch.manual_seed(2)
    scorer = load(tiny_language_model(tmp_path))
    model, neuron = scorer.model, 5
    mlp, words = model.model.layers[1].mlp, model.get_input_embeddings().weight
    x, y = (scorer.tokenizer(letter)["input_ids"][0] for letter in "xy")
    with torch.no_grad():
        mlp.gate_proj.weight[neuron] = mlp.up_proj.weight[neuron]
        mlp.down_proj.weight[:, neuron] = 0.1 * (words[x] - words[y])
    texts = [
        "a nurse",
        "the old man",
        "so it",
        "we saw",
        "where is",
        "in town",
        "my dear",
        "not now",
        "he took",
        "blue",
    ]
    pairs = [causal(*(scorer.sentences([f"{text} {letter}"], 64)[0] for letter in "xy")) for text in texts]
    method = pcgu.Method(model, pcgu.Settings(learning_rate=0.0, units=2, embeddings=False, norms=False))
    method.step(pairs)
    assert [(row["tensor"], row["unit"]) for row in method.report()] == [
        ("model.layers.1.mlp.gate_proj.weight", neuron),
        ("model.layers.1.mlp.up_proj.weight", neuron),
    ]


def test_killed_after_an_epoch_it_gives_the_same_bits(planted, tmp_path, monkeypatch):
    scorer, of = planted
    settings = {"epochs": 3, "choose": tuning.nearest(math.inf, math.inf)}
    whole, expected, chosen, report = tuned(scorer.model, of["nurse"], **settings)
    kept = tuning.keep

    def dies(folder, state, *name):
        kept(folder, state, *name)
        if not name and len(state["records"]) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "keep", dies)
    with pytest.raises(KeyboardInterrupt):
        tuned(scorer.model, of["nurse"], tmp_path, **settings)
    monkeypatch.undo()
    resumed, records, again, other = tuned(scorer.model, of["nurse"], tmp_path, **settings)
    # nan is not equal to itself
    assert str(records) == str(expected) and chosen == again and report.report() == other.report()
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_torn_state_starts_again(planted, tmp_path):
    scorer, of = planted
    whole, *_ = tuned(scorer.model, of["nurse"], tmp_path, epochs=2)
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:1000])
    again, *_ = tuned(scorer.model, of["nurse"], tmp_path, epochs=2)
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_epoch_0_is_what_came_in(planted):
    scorer, of = planted
    model, _, epoch, _ = tuned(scorer.model, of["nurse"], choose=lambda records: 0, epochs=2)
    assert epoch == 0
    for one, two in zip(scorer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_step_that_is_not_finite_stops(planted):
    scorer, of = planted
    broken = copy.deepcopy(scorer.model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"margin became nan .* lower the learning_rate"):
        tuned(broken, of["nurse"], epochs=3)


class Breaking(Telling):
    """A method whose steps tell nothing of what they do to the model."""

    def __init__(self, model, value):
        super().__init__(None)
        self.model, self.value = model, value

    def end_epoch(self):
        with torch.no_grad():
            self.model.weight.fill_(self.value)


@pytest.mark.parametrize(
    ("value", "perplexity", "said"),
    [
        (math.inf, 1.0, "weight is no longer finite after epoch 1"),
        (2.0**99, math.inf, "perplexity became inf in epoch 1"),
        (2.0**99, math.nan, "perplexity became nan in epoch 1"),
    ],
)
def test_what_the_last_step_breaks_is_told(value, perplexity, said):
    """A loss is taken before its step. Where the model that came in is taken, nothing is broken."""
    model = torch.nn.Linear(1, 1)

    def measure(model):
        return record(0.0) | ({"perplexity": perplexity} if float(model.weight.detach()) == value else {})

    options = {"epochs": 1, "batch_size": 5, "seed": 0, "measure": measure}
    with pytest.raises(FloatingPointError, match=f"{said}; lower the learning_rate"):
        tuning.tune(model, [1, 2], Breaking(model, value), choose=tuning.last, **options)
    model = torch.nn.Linear(1, 1)
    before = model.weight.item()
    assert tuning.tune(model, [1, 2], Breaking(model, value), choose=lambda _: 0, **options)[1] == 0
    assert model.weight.item() == before
