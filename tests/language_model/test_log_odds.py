"""Log-probabilities and first choices, against float64 and argmax."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.language_model import log_odds as module
from pipeline.language_model.log_odds import log_odds


@settings(max_examples=80)
@given(
    st.integers(1, 30),
    st.integers(1, 50),
    st.integers(0, 10**6),
    st.sampled_from([1.0, 30.0]),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_they_are_those_of_float64(count, vocabulary, seed, scale, blocks, whole):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, vocabulary, generator=generator) * scale
    if whole:
        logits = logits.round()  # several are the largest
    rows = torch.randint(count, (40,), generator=generator)
    tokens = torch.randint(vocabulary, (40,), generator=generator)
    before, module.BLOCK = module.BLOCK, vocabulary * blocks
    try:
        found, likeliest = log_odds(logits, rows, tokens)
    finally:
        module.BLOCK = before
    expected = logits.double().log_softmax(-1)[rows, tokens]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(likeliest, logits.argmax(-1)[rows] == tokens)


def test_of_equal_ones_the_first_is_the_choice():
    logits = torch.tensor([[0.0, 5.0, 5.0, -9.0], [4.0, 4.0, 4.0, 4.0], [-1e30, -1e30, 7.0, 7.0]])
    rows, tokens = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 3, 2, 3])
    assert log_odds(logits, rows, tokens)[1].tolist() == [True, False, True, False, True, False]


def test_what_is_no_number_stays_none():
    logits = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 1.0, float("-inf")]])
    found, likeliest = log_odds(logits, torch.tensor([0, 1]), torch.tensor([2, 1]))
    assert found.isnan().tolist() == [True, False] and likeliest.tolist() == [False, True]


def test_the_logits_stay_as_they_are():
    logits = torch.randn(5, 7)
    before = logits.clone()
    log_odds(logits, torch.arange(5), torch.arange(5))
    assert torch.equal(logits, before)


def test_a_large_vocabulary_costs_no_precision():
    """torch.log_softmax in float32 is off by 1e-5 here, mostly to one side: a hundred tokens would make it 1e-3."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 49152, generator=generator)
    logits[:, 5] += 13
    rows, tokens = torch.arange(50), torch.randint(0, 49152, (50,), generator=generator)
    found, _ = log_odds(logits, rows, tokens)
    assert (found - logits.double().log_softmax(-1)[rows, tokens]).abs().max() < 4e-6
