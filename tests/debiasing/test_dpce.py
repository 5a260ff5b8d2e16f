"""DPCE: its loss by hand and against another implementation, and a planted bias that it makes smaller."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.debiasing import bind, dpce
from pipeline.debiasing.dpce import Sentence
from pipeline.debiasing.words import Finder
from pipeline.errors import ConfigError
from tests.debiasing.planted_bert import STEREOTYPES, biased_scorer, of_words, token_pairs, tuned

WORDS = {"attributes": [["he"], ["she"]], "targets": [word for each in STEREOTYPES.values() for word in each]}


class Toy(torch.nn.Module):
    """Hidden states are a table's rows at layer 0 and their doubles at layer 1."""

    device = torch.device("cpu")

    def __init__(self, rows):
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(rows))

    @property
    def base_model(self):
        return lambda input_ids, attention_mask, output_hidden_states: SimpleNamespace(
            hidden_states=(self.table[input_ids], 2 * self.table[input_ids])
        )


# tokens: 0 padding, 1 and 2 attributes, 3 and 4 the target's two tokens, 5 another
ROWS = [[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [1.0, 3.0], [3.0, 1.0], [1.0, 1.0]]
SENTENCES = [
    Sentence((1, 5, 3, 4), ((0, 0, 1),), ((2, 4),)),
    Sentence((2, 5), ((1, 0, 1),), ()),
    Sentence((3, 4, 5), (), ((0, 2),)),
]


def by_hand(**settings) -> tuple[Toy, dpce.Method]:
    toy = Toy(ROWS)
    method = dpce.Method(toy, dpce.Settings(**({"learning_rate": 0.0} | WORDS | settings)))
    method.sentences = SENTENCES
    return toy, method


@pytest.mark.parametrize(
    "settings, orthogonality",
    [
        # the target is ((1, 3) + (3, 1)) / 2 = (2, 2); v = (1, 0) and (0, 2): products 2 and 4, at layer 1 four times that
        ({}, 2 * ((2**2 + 4**2) + (8**2 + 16**2))),
        ({"layers": "first"}, 2 * (2**2 + 4**2)),
        ({"layers": "last"}, 2 * (8**2 + 16**2)),
        # tokens (1, 0), (1, 1), (1, 3), (3, 1) of the first sentence, (1, 3), (3, 1), (1, 1) of the last: with v
        # (1, 0) products 1, 1, 1, 3 and 1, 3, 1; with (0, 2) products 0, 2, 6, 2 and 6, 2, 2
        ({"level": "sentence", "layers": "first"}, (1 + 1 + 1 + 9) + (1 + 9 + 1) + (0 + 4 + 36 + 4) + (36 + 4 + 4)),
    ],
)
def test_orthogonality_by_hand(settings, orthogonality):
    _, method = by_hand(**settings)
    told = method.step(SENTENCES)
    assert told == {"loss": pytest.approx(0.2 * orthogonality), "orthogonality": orthogonality, "distance": 0.0}


def test_distance_by_hand():
    toy, method = by_hand(alpha=0.5, beta=2.0)
    with torch.no_grad():
        toy.table[5] += torch.tensor([1.0, 2.0])  # read twice in sentences with attributes, once in one without
        toy.table[0] += 1.0  # padding
    told = method.step(SENTENCES)
    assert told["distance"] == 2 * (5 + 20)
    assert told["loss"] == pytest.approx(0.5 * told["orthogonality"] + 2 * 50)


def test_a_batch_may_lack_either_role():
    _, method = by_hand()
    assert method.step(SENTENCES[1:2])["orthogonality"] == 0
    assert method.step(SENTENCES[2:])["distance"] == 0


def test_attribute_vectors_are_those_of_the_epoch():
    toy, method = by_hand()
    first = method.step(SENTENCES)["orthogonality"]
    with torch.no_grad():
        toy.table[1] *= 2
    assert method.step(SENTENCES)["orthogonality"] == first
    method.end_epoch()
    assert method.step(SENTENCES)["orthogonality"] == 2 * ((4**2 + 4**2) + (16**2 + 16**2))


def test_an_attribute_vector_is_the_mean_over_all_its_places():
    vectors = dpce.attribute_vectors(Toy(ROWS), [Sentence((1, 5, 3, 4), ((7, 0, 1), (7, 2, 4)), ()), SENTENCES[1]])
    assert vectors.tolist() == [[[0.0, 2.0], [0.0, 4.0]], [[1.5, 1.0], [3.0, 2.0]]]


def test_loss_and_gradient_agree_with_another_implementation():
    scorer = biased_scorer()
    model = scorer.model
    method = dpce.Method(model, dpce.Settings(**WORDS))
    sentences = method.prepare(scorer, token_pairs(scorer))
    pre = [model(input_ids=torch.tensor([each.tokens]), output_hidden_states=True).hidden_states for each in sentences]
    pre = [[layer.detach() for layer in layers] for layers in pre]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    names = {scorer.tokenizer.convert_tokens_to_ids(word): word for word in ["he", "she", *WORDS["targets"]]}
    v = {}
    for word in ("he", "she"):
        seen = []
        for each in sentences:
            layers = model(input_ids=torch.tensor([each.tokens]), output_hidden_states=True).hidden_states
            seen += [
                [layer[0, p].detach() for layer in layers] for p, t in enumerate(each.tokens) if names.get(t) == word
            ]
        v[word] = [torch.stack([each[i] for each in seen]).mean(0) for i in range(3)]
    loss = 0
    for each, old in zip(sentences[:5], pre, strict=False):
        layers = model(input_ids=torch.tensor([each.tokens]), output_hidden_states=True).hidden_states
        for i in range(3):
            loss = loss + 0.8 * (layers[i] - old[i]).square().sum()
            for p, t in enumerate(each.tokens):
                if names.get(t) in WORDS["targets"]:
                    loss = loss + 0.2 * sum((v[word][i] @ layers[i][0, p]) ** 2 for word in v)
    loss.backward()
    expected = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    method.descent.descend = lambda value: (value.backward(), value.item())[1]
    assert method.step(sentences[:5])["loss"] == pytest.approx(loss.item(), rel=1e-4)
    taken = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert taken.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(taken[name], gradient, rtol=1e-3, atol=1e-5 * largest)


def test_which_texts_hold_what():
    scorer = biased_scorer()
    method = dpce.Method(scorer.model, dpce.Settings(**WORDS))
    sentences = method.prepare(scorer, token_pairs(scorer))
    assert len(sentences) == 32  # every text once
    assert {each.attributes for each in sentences} == {((0, 1, 2),), ((1, 1, 2),)}
    assert all(each.targets == ((3, 4),) for each in sentences if len(each.tokens) == 6)


def test_apart():
    both = Sentence((1, 2, 3), ((0, 0, 1), (1, 1, 2)), ((2, 3),))
    one = Sentence((1, 2, 3), ((0, 0, 1), (2, 1, 2)), ((2, 3),))
    none = Sentence((1, 2, 3), (), ((2, 3),))
    groups = [0, 1, 0]
    assert dpce._apart(both, groups) == Sentence((1, 2, 3), (), ())
    assert dpce._apart(one, groups) == one._replace(targets=())
    assert dpce._apart(none, groups) == none


@pytest.mark.parametrize("merges", [[("h", "e")], [("h", "e"), ("Ġ", "he")], []])
def test_words_are_found_whole_and_once_at_the_beginning_and_after_a_space(merges):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *map("".join, merges)]
    made = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    text = "He, the hero; she said (he) is where he's with HE and he"
    tokens = tuple(tokenizer(text).input_ids)
    found = Finder(tokenizer, ["it", "he"]).inside(tokens)
    assert [tokenizer.decode(tokens[:end])[-6:] for _, _, end in found] == ["He", "id (he", "ere he", "and he"]
    assert [tokenizer.decode(tokens[start:end]).strip() for _, start, end in found] == ["He", "he", "he", "he"]
    assert {number for number, _, _ in found} == {1}


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Albert"])
def test_hidden_states_do_not_depend_on_the_padding(name):
    settings = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 2, "max_position_embeddings": 16, "initializer_range": 0.5, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**settings, **({"embedding_size": 4} if name == "Albert" else {}))
    model = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
    sentences = [Sentence((1, 5, 6, 2), (), ()), Sentence((1, 5, 6, 7, 8, 2), (), ())]
    together = dpce.hidden_states(model, sentences)
    assert together.shape == (2, 6, 3, 8)
    torch.testing.assert_close(together[:1, :4], dpce.hidden_states(model, sentences[:1]), atol=1e-5, rtol=1e-4)


def test_a_planted_bias_becomes_smaller():
    scorer = biased_scorer()
    before = of_words(scorer)
    method = bind({"name": "dpce", "version": 1, **WORDS, "learning_rate": 3e-3}, scorer, None)
    records = tuned(scorer, method, epochs=5)
    assert before > 2
    assert of_words(scorer) < 0.8 * before
    assert records[-1]["orthogonality"] < 0.4 * records[1]["orthogonality"]


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def run(folder, fails=None):
        scorer = biased_scorer()
        method = bind({"name": "dpce", "version": 1, **WORDS, "learning_rate": 1e-3, "warmup_steps": 3}, scorer, folder)
        return scorer, tuned(scorer, method, 3, folder, fails)

    whole, records = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", fails=3)
    resumed, again = run(tmp_path / "b")
    assert records == again
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"attributes": ["he", "she"]}, "list of lists of words, found ['he', 'she']"),
        ({"attributes": None}, "found None"),
        ({"targets": []}, "list of words, found []"),
        ({"level": "word"}, "token, sentence, found 'word'"),
        ({"layers": "middle"}, "all, first, last, found 'middle'"),
        ({"alpha": -1.0}, "0 or more, found -1.0"),
        ({"warmup_steps": -1}, "0 or more, found -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(settings, words):
    with pytest.raises(ConfigError) as error:
        dpce.Settings(**(WORDS | settings)).check()
    assert words in str(error.value) and "change debias." in str(error.value) and "\n" not in str(error.value)


def test_texts_without_the_words_are_refused_in_one_sentence():
    scorer = biased_scorer()
    method = dpce.Method(scorer.model, dpce.Settings(**(WORDS | {"apart": True})))
    with pytest.raises(ConfigError, match="found 32 sentences with an attribute and 0 with a target among 32; change"):
        method.prepare(scorer, token_pairs(scorer))


def test_a_causal_model_is_refused():
    with pytest.raises(ConfigError, match="made for masked models, found a causal one"):
        bind({"name": "dpce", "version": 1, **WORDS}, SimpleNamespace(model=None, family="causal"), None)
