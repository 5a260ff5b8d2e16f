"""tsvm, r_tsvm, iso_c and iso_cts: against plain full SVDs, by hand, and where they degenerate."""

import inspect
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.merging import blocks, merge
from pipeline.merging.iso_c import iso_c
from pipeline.merging.iso_cts import iso_cts, subspaces
from pipeline.merging.r_tsvm import EVEN, RECONSTRUCTED, outlier_share, r_tsvm, sparsity, weights
from pipeline.merging.spectral import (
    CROWDED,
    DEPENDENT,
    LOW_RANK,
    UNMOVED,
    is_embedding,
    leading,
    whitened,
)
from pipeline.merging.tsvm import tsvm
from tests.merging.merge_tables import declared

SHAPES = [(12, 12), (9, 31), (31, 9), (8, 13), (7, 7), (40, 6), (2, 50)]
METHODS = [tsvm, r_tsvm, iso_c, iso_cts]
each = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


# --- naive twins: full SVDs of everything, in the authors' layout ------------------------------------------------------
def svd(matrix):
    return np.linalg.svd(matrix, full_matrices=False)


def polar(matrix):
    P, _, Qt = svd(matrix)
    return P @ Qt


def concatenated(taus, ranks):
    """Zeros of full size, filled from the left: where T does not divide q the last columns stay zero."""
    if not any(ranks):
        return np.zeros_like(taus[0])
    (m, n), at = taus[0].shape, 0
    U, S, Vt = np.zeros((m, min(m, n))), np.zeros(min(m, n)), np.zeros((min(m, n), n))
    for tau, rank in zip(taus, ranks, strict=True):
        u, s, vt = svd(tau)
        U[:, at : at + rank], S[at : at + rank], Vt[at : at + rank] = u[:, :rank], s[:rank], vt[:rank]
        at += rank
    return polar(U) @ np.diag(S) @ polar(Vt)


def naive_tsvm(taus):
    return concatenated(taus, [min(taus[0].shape) // len(taus)] * len(taus))


def naive_r_tsvm(taus, weighting="mitigate", rank="sparsity", k=3.0, kappa=0.01, c=1.0):
    q, T = min(taus[0].shape), len(taus)
    x, ranks = [], []
    for tau in taus:
        size = np.abs(tau)
        o = size[size > size.mean() + k * size.std()].sum() / size.sum()
        x.append({"mitigate": 1 / (1 + o), "keep": o, "none": 1.0}[weighting])
        sparse = (size < kappa * size.max()).mean()
        ranks.append(int(np.clip(np.round((1 - sparse) * q / T * c), 1, q // T)) if rank == "sparsity" else q // T)
    w = T * np.array(x) / sum(x) if sum(x) else np.ones(T)
    return concatenated([w_i * tau for w_i, tau in zip(w, taus, strict=True)], ranks)


def naive_iso_c(taus):
    U, S, Vt = svd(sum(taus))
    return S.mean() * U @ Vt


def naive_iso_cts(taus, common=0.8):
    q, T = min(taus[0].shape), len(taus)
    total = round((q - int(q * common)) / T) * T
    total = total if total <= q else q // T * T  # the authors' c would be negative
    c, n = q - total, total // T
    U_c, S_c, Vt_c = (part[..., :c] if i < 2 else part[:c] for i, part in enumerate(svd(sum(taus))))
    own = [svd(tau - U_c @ U_c.T @ tau) for tau in taus]
    U = np.hstack([u[:, :n] for u, _, _ in own] + [U_c])
    S = np.concatenate([s[:n] for _, s, _ in own] + [S_c])
    Vt = np.vstack([vt[:n] for _, _, vt in own] + [Vt_c])
    return S.mean() * polar(U) @ polar(Vt)


NAIVE = {tsvm: naive_tsvm, r_tsvm: naive_r_tsvm, iso_c: naive_iso_c, iso_cts: naive_iso_cts}
SETTINGS = [
    (tsvm, {}),
    (iso_c, {}),
    (iso_cts, {}),
    (iso_cts, {"common": 0.5}),
    (iso_cts, {"common": 0.0}),
    (iso_cts, {"common": 1.0}),
    (r_tsvm, {}),
    (r_tsvm, {"weighting": "keep", "k": 2.0}),
    (r_tsvm, {"rank": "fixed"}),
    (r_tsvm, {"kappa": 0.4, "c": 1.5}),
    (r_tsvm, {"weighting": "none", "rank": "fixed"}),
]


def drawn(shape, count, seed=0, dtype=torch.float64, spread=0.1):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    donors = [base + spread * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    return base.to(dtype), [donor.to(dtype) for donor in donors]


def expected(method, base, donors, shares=None, **settings):
    shares = [1.0] * len(donors) if shares is None else shares
    base, *donors = (tensor.double().numpy() for tensor in (base, *donors))
    return base + NAIVE[method]([s * (donor - base) for s, donor in zip(shares, donors, strict=True)], **settings)


def error(end, exact, base, donors):
    """Of the end, relative to what moved."""
    moved = max(float((donor.double() - base.double()).norm()) for donor in donors)
    return float(np.linalg.norm(end.double().numpy() - exact)) / moved


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_with_full_svds(shape, count):
    for seed, shares in ((0, None), (1, [0.3, 1.7, 0.9, 0.2][:count])):
        base, donors = drawn(shape, count, seed)
        for method, settings in SETTINGS:
            end = method(base, donors, shares=shares, **settings)
            exact = expected(method, base, donors, shares, **settings)
            assert error(end, exact, base, donors) < 1e-9, (method.__name__, settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each
def test_lower_precision_costs_one_rounding(method, dtype):
    for shape in ((24, 17), (10, 60)):
        base, donors = drawn(shape, 2, 3, dtype)
        end = method(base, donors)
        assert end.dtype == torch.float32 and end.shape == base.shape
        exact = expected(method, base, donors)
        assert np.abs(end.double().numpy() - exact).max() <= 2.0**-24 * 1.01 * np.abs(exact).max()


@given(
    rows=st.integers(1, 14),
    columns=st.integers(1, 14),
    count=st.integers(2, 3),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1e-200, 1e-3, 1.0, 1e150]),
)
def test_any_shape_and_size(rows, columns, count, seed, size):
    base, donors = drawn((rows, columns), count, seed)
    base, donors = base * size, [donor * size for donor in donors]
    for method in (tsvm, iso_c):
        exact = expected(method, base, donors) if min(rows, columns) >= count or method is iso_c else base.numpy()
        # a nearly singular factor carries the rounding of its SVD; 1e-6 tells any wrong formula
        end = method(base, donors) / size
        assert error(end, exact / size, base / size, [donor / size for donor in donors]) < 1e-6


@each
def test_order_of_donors_with_their_shares(method):
    base, donors = drawn((13, 22), 3, 5)
    shares, order = [0.2, 1.0, 0.6], [2, 0, 1]
    end = method(base, donors, shares=shares)
    turned = method(base, [donors[i] for i in order], shares=[shares[i] for i in order])
    assert (end - turned).norm() < 1e-9 * end.norm()


# --- by hand ----------------------------------------------------------------------------------------------------------
def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def direction(degrees):
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()])


ORIGIN = torch.zeros(2, 2, dtype=torch.float64)


def test_tsvm_keeps_one_direction_each_of_two():
    end = tsvm(ORIGIN, [matrix([3, 0], [0, 1]), matrix([1, 0], [0, 5])])
    assert torch.allclose(end, matrix([3, 0], [0, 5]), atol=1e-12)


def test_tsvm_turns_two_directions_apart_by_the_same_angle():
    # 60 degrees lie between the two; each turns by 15 degrees, and they are at a right angle
    first, second = direction(0.0), direction(60.0)
    end = tsvm(ORIGIN, [2 * torch.outer(first, first), 4 * torch.outer(second, second)])
    first, second = direction(-15.0), direction(75.0)
    assert torch.allclose(end, 2 * torch.outer(first, first) + 4 * torch.outer(second, second), atol=1e-12)


def interference(U, S, V):
    """The singular task interference of Gargiulo et al. 2024: sum |(U^T U - I) diag(S) (V^T V - I)|."""
    identity = torch.eye(len(S), dtype=S.dtype)
    return float((((U.T @ U - identity) * S) @ (V.T @ V - identity)).abs().sum())


def test_interference_by_hand_and_gone_after_whitening():
    U = torch.stack([direction(0.0), direction(60.0)], 1)
    S = torch.tensor([2.0, 4.0], dtype=torch.float64)
    # U^T U - I = [[0, 1/2], [1/2, 0]]; times diag(2, 4) and itself: diag(1, 1/2)
    assert interference(U, S, U) == pytest.approx(1.5, abs=1e-12)
    apart = whitened(U, torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert interference(apart, S, apart) == pytest.approx(0, abs=1e-12)


def test_interference_of_task_vectors_falls_to_zero():
    _, donors = drawn((10, 14), 2)
    parts = [leading(donor, 5) for donor in donors]
    U, S, V = (torch.cat([part[i] for part in parts], dim) for i, dim in ((0, 1), (1, 0), (2, 1)))
    one = torch.ones_like(S)
    polar_U = whitened(U, one, torch.eye(len(S), dtype=S.dtype))
    polar_V = whitened(V, one, torch.eye(len(S), dtype=S.dtype))
    assert interference(U, S, V) > 1 and interference(polar_U, S, polar_V) < 1e-10


def test_iso_c_gives_every_direction_the_mean():
    assert torch.allclose(iso_c(ORIGIN, [matrix([3, 0], [0, 1])]), matrix([2, 0], [0, 2]), atol=1e-12)
    # the sum is [[0, -8], [2, 0]]: singular values 8 and 2
    end = iso_c(ORIGIN, [matrix([0, -7], [2, 1]), matrix([0, -1], [0, -1])])
    assert torch.allclose(end, matrix([0, -5], [5, 0]), atol=1e-12)


def test_iso_cts_by_hand():
    # c = 1: the first axis, 8; of its own the first donor has the second axis, 4, the second donor the third, 2
    donors = [torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([5.0, 4.0, 1.0], [3.0, -1.0, 2.0])]
    assert subspaces(3, 2, 0.4) == (1, 1)
    end = iso_cts(torch.zeros(3, 3, dtype=torch.float64), donors, common=0.4)
    assert torch.allclose(end, torch.eye(3, dtype=torch.float64) * 14 / 3, atol=1e-12)


def test_a_half_of_a_direction_goes_to_the_even_number():
    assert subspaces(5, 2, 0.8) == (5, 0)  # 1 / 2 -> 0
    assert subspaces(15, 2, 0.8) == (11, 2)  # 3 / 2 -> 2
    assert subspaces(25, 2, 0.8) == (21, 2)  # 5 / 2 -> 2
    assert subspaces(896, 2, 0.8) == (716, 90) and subspaces(896, 3, 0.8) == (716, 60)
    assert subspaces(2, 3, 0.0) == (2, 0)  # 2 / 3 -> 1 would make three of two
    assert subspaces(4, 2, 1.0) == (4, 0) and subspaces(4, 2, 0.0) == (0, 2) and subspaces(1, 1, 0.8) == (0, 1)


def test_iso_cts_without_own_directions_and_of_one_donor_is_iso_c():
    base, donors = drawn((11, 8), 2)
    assert torch.equal(iso_cts(base, donors, common=1.0), iso_c(base, donors))
    assert torch.equal(iso_cts(base, donors[:1]), iso_c(base, donors[:1]))
    assert (
        error(iso_cts(base, donors[:1]), base.numpy() + naive_iso_cts([(donors[0] - base).numpy()]), base, donors)
        < 1e-9
    )


def test_iso_cts_spans_outputs_however_the_matrix_is_stored():
    base, donors = drawn((9, 14), 2)
    end = iso_cts(base, donors, common=0.5)
    turned = iso_cts(base.T, [donor.T for donor in donors], common=0.5, transposed=True)
    assert torch.allclose(turned.T, end, atol=1e-12)
    assert not torch.allclose(iso_cts(base.T, [donor.T for donor in donors], common=0.5).T, end, atol=1e-3)


@pytest.mark.parametrize("method", [tsvm, r_tsvm, iso_c], ids=lambda method: method.__name__)
def test_the_others_do_not_mind_how_it_is_stored(method):
    base, donors = drawn((9, 14), 2)
    assert torch.allclose(method(base.T, [donor.T for donor in donors]).T, method(base, donors), atol=1e-12)


# --- r_tsvm -----------------------------------------------------------------------------------------------------------
def test_r_tsvm_says_wherever_it_is_seen_that_it_is_ours():
    for base, donors in (drawn((4, 5), 2), drawn((7,), 2), drawn((), 2), drawn((0, 4), 1)):
        notes = Counter()
        r_tsvm(base, donors, notes=notes)
        assert notes[RECONSTRUCTED] == 1
    assert "our own reconstruction" in RECONSTRUCTED and "not available" in RECONSTRUCTED
    document = " ".join(inspect.getdoc(r_tsvm).split())
    assert "OUR OWN RECONSTRUCTION" in document and "not available" in document


def test_r_tsvm_without_weights_and_ranks_is_tsvm():
    base, donors = drawn((12, 20), 3)
    assert torch.equal(r_tsvm(base, donors, weighting="none", rank="fixed"), tsvm(base, donors))
    one = r_tsvm(base, donors[:1], weighting="keep", rank="fixed")
    assert torch.allclose(one, donors[0], atol=1e-12)


def test_outliers_weights_and_sparsity_by_hand():
    tau = torch.zeros(2, 10, dtype=torch.float64)
    tau[0, 0], tau[1, :9] = -10.0, 1.0
    # mean 0.95, variance 109 / 20 - 0.95^2 = 4.5475, so the mean + 3 std is 7.35
    assert outlier_share(tau, 3.0) == pytest.approx(10 / 19)
    assert outlier_share(tau, 5.0) == 0.0
    assert sparsity(tau, 0.05) == 0.5 and sparsity(tau, 0.5) == 0.95 and sparsity(tau, 0.0) == 0.0
    assert weights([0.0, 1.0], "mitigate") == pytest.approx([4 / 3, 2 / 3])
    assert weights([0.1, 0.3], "keep") == pytest.approx([0.5, 1.5])
    assert weights([0.1, 0.3], "none") == [1.0, 1.0]
    zero = torch.zeros(2, 2, dtype=torch.float64)
    assert outlier_share(zero, 3.0) == 0.0 and sparsity(zero, 0.5) == 0.0


def test_no_outlier_to_keep_weighs_all_the_same():
    base, donors = drawn((6, 6), 2)
    notes = Counter()
    end = r_tsvm(base, donors, weighting="keep", k=50.0, rank="fixed", notes=notes)
    assert torch.equal(end, tsvm(base, donors)) and notes[EVEN] == 1


def test_a_sparse_task_vector_has_a_lower_rank():
    base = torch.zeros(4, 4, dtype=torch.float64)
    donor = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    # 12 of 16 entries are 0: (1 - 3/4) 4 = 1; with c = 2.6: 2.6 -> 3
    assert torch.allclose(r_tsvm(base, [donor]), torch.diag(donor.diagonal() * (donor.diagonal() > 3)), atol=1e-12)
    assert torch.allclose(
        r_tsvm(base, [donor], c=2.6).diagonal(), donor.diagonal() * (donor.diagonal() > 1), atol=1e-12
    )
    assert torch.allclose(r_tsvm(base, [donor], c=100.0), donor, atol=1e-12)


# --- what is no matrix, embeddings ------------------------------------------------------------------------------------
@each
def test_what_is_no_matrix_is_the_mean_of_the_task_vectors(method):
    for shape in ((), (5,), (2, 3, 4), (0, 4), (4, 0)):
        base, donors = drawn(shape, 2, dtype=torch.float32)
        mean = (0.5 * (donors[0] - base) + 2.0 * (donors[1] - base)) / 2
        assert torch.allclose(method(base, donors, shares=[0.5, 2.0]), base + mean, atol=1e-6)
        assert torch.equal(method(base, donors[:1]), donors[0])


@each
def test_embeddings_are_the_mean_unless_asked(method):
    base, donors = drawn((20, 6), 2)
    mean = base + sum(donor - base for donor in donors) / 2
    assert torch.allclose(method(base, donors, name="model.embed_tokens.weight"), mean)
    assert torch.equal(
        method(base, donors, name="lm_head.weight", embeddings="svd"), method(base, donors, name="layers.0.up.weight")
    )


def test_names_of_embeddings():
    for name in (
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "bert.embeddings.word_embeddings.weight",
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        "lm_head.weight",
        "cls.predictions.decoder.weight",
        "model.decoder.embed_positions.weight",
    ):
        assert is_embedding(name), name
    for name in ("", "model.layers.0.self_attn.q_proj.weight", "transformer.h.0.mlp.c_fc.weight", "decoder.weight"):
        assert not is_embedding(name), name


# --- where the definitions degenerate ---------------------------------------------------------------------------------
def low_rank(shape, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(side, rank, generator=generator, dtype=torch.float64) for side in shape)
    return left @ right.T


@each
def test_zero_task_vectors_give_the_base_bit_for_bit(method):
    base = drawn((5, 8), 1, dtype=torch.float32)[0]
    base[0, 0] = -0.0
    for donors, shares in (([base.clone()] * 3, None), (drawn((5, 8), 2, 4)[1], [0.0, 0.0])):
        notes = Counter()
        end = method(base, [donor.float() for donor in donors], shares=shares, notes=notes)
        assert torch.equal(end.view(torch.int32), base.view(torch.int32))
        assert notes[UNMOVED] == 1


def test_one_donor_of_tsvm_is_the_donor():
    base, (donor,) = drawn((6, 9), 1, dtype=torch.bfloat16)
    assert torch.equal(tsvm(base, [donor]), donor.float())
    half = tsvm(base, [donor], shares=[0.5])
    assert torch.allclose(half, (base.float() + donor.float()) / 2)
    end = expected(tsvm, base, [donor])
    assert error(tsvm(base, [donor]), end, base, [donor]) < 1e-9


def test_equal_donors_of_tsvm_are_one_donor_of_half_the_rank():
    base, (donor,) = drawn((10, 7), 1)
    u, s, vt = svd((donor - base).numpy())
    for shares in ([1.0, 1.0], [0.3, 1.1]):
        notes = Counter()
        end = tsvm(base, [donor, donor.clone()], shares=shares, notes=notes)
        exact = base.numpy() + sum(shares) / 2 * u[:, :3] * s[:3] @ vt[:3]
        assert error(end, exact, base, [donor]) < 1e-12
        assert notes == {DEPENDENT: 1}


def test_a_donor_that_has_not_moved_leaves_the_other_at_half_the_rank():
    base, (donor,) = drawn((8, 8), 1)
    u, s, vt = svd((donor - base).numpy())
    notes = Counter()
    end = tsvm(base, [base.clone(), donor], notes=notes)
    assert error(end, base.numpy() + u[:, :4] * s[:4] @ vt[:4], base, [donor]) < 1e-12
    assert notes == {LOW_RANK: 1}
    assert torch.equal(end, tsvm(base, [drawn((8, 8), 1, 7)[1][0], donor], shares=[0.0, 1.0]))


def isometry(matrix):
    """The polar factor of a matrix of low rank, by an SVD."""
    P, D, Qt = svd(matrix)
    return P[:, D > 1e-6] @ Qt[D > 1e-6]


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)], ids=str)
def test_adapters_of_low_rank(shape):
    base = torch.zeros(shape, dtype=torch.float64)
    donors = [low_rank(shape, 3, seed) for seed in (0, 1)]
    triples = [svd(donor.numpy()) for donor in donors]
    U = np.hstack([t[0][:, :3] for t in triples])
    S = np.concatenate([t[1][:3] for t in triples])
    Vt = np.vstack([t[2][:3] for t in triples])
    notes = Counter()
    end = tsvm(base, donors, notes=notes)
    assert error(end, isometry(U) * S @ isometry(Vt), base, donors) < 1e-10 and notes == {LOW_RANK: 1}
    notes = Counter()
    end = iso_c(base, donors, notes=notes)
    total = sum(donors).numpy()
    assert error(end, np.linalg.svd(total)[1].mean() * isometry(total), base, donors) < 1e-10
    assert notes == {LOW_RANK: 1}
    # all of the six directions are common, so that nothing is left of either donor
    notes = Counter()
    assert torch.allclose(iso_cts(base, donors, notes=notes), end, atol=1e-9) and notes == {LOW_RANK: 1}


def test_equal_donors_of_iso_cts_share_their_own_directions():
    base, (donor,) = drawn((10, 16), 1)
    c, own = subspaces(10, 2, 0.6)
    assert (c, own) == (6, 2)
    u, s, vt = svd((donor - base).numpy())
    notes = Counter()
    end = iso_cts(base, [donor, donor.clone()], common=0.6, notes=notes)
    # 6 common ones of 2 tau, 2 of tau for each donor; the last two of tau are in neither
    mean = (2 * s[:6].sum() + 2 * s[6:8].sum()) / 10
    assert error(end, base.numpy() + mean * u[:, :8] @ vt[:8], base, [donor]) < 1e-12 and notes == {DEPENDENT: 1}


def test_sums_that_cancel():
    base, (donor,) = drawn((6, 8), 1)
    other = base - (donor - base) / 3
    notes = Counter()
    end = iso_c(base, [donor, other], shares=[0.1, 0.3], notes=notes)
    assert torch.allclose(end, base, atol=1e-15) and notes == {LOW_RANK: 1}
    # nothing is common; what is its own of one donor is that of the other with the opposite sign
    notes = Counter()
    assert torch.allclose(iso_cts(base, [donor, other], shares=[0.1, 0.3], notes=notes), base, atol=1e-12)
    assert notes[LOW_RANK] == notes[DEPENDENT] == 1


@pytest.mark.parametrize("method", [tsvm, r_tsvm], ids=lambda method: method.__name__)
def test_more_donors_than_singular_values(method):
    base, donors = drawn((1, 9), 2)
    notes = Counter()
    assert torch.equal(method(base, donors, notes=notes), base) and notes[CROWDED] == 1


@each
def test_not_finite_is_nan(method):
    base, donors = drawn((4, 5), 2)
    donors[1][2, 3] = float("inf")
    assert method(base, donors).isnan().all()


@each
def test_magnitudes_that_square_out_of_range(method):
    base, donors = torch.zeros(6, 9, dtype=torch.float64), drawn((6, 9), 2)[1]
    plain = method(base, donors)
    for size in (2.0**-700, 2.0**700):
        assert torch.allclose(method(base, [donor * size for donor in donors]) / size, plain, atol=1e-12)


# --- linear algebra ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(30, 30), (12, 50), (50, 12)], ids=str)
def test_singular_values_over_six_orders_of_magnitude(shape):
    q = min(shape)
    left, right = (torch.linalg.qr(low_rank((side, q), q, side))[0] for side in shape)
    S = torch.logspace(0, -6, q, dtype=torch.float64)
    A = (left * S) @ right.T
    U, found, V = leading(A, q)
    assert torch.allclose(found, S, rtol=1e-7, atol=1e-13)
    assert ((U * found) @ V.T - A).abs().max() < 1e-13
    identity = torch.eye(q, dtype=torch.float64)
    for vectors, known in ((U, left), (V, right)):
        assert (vectors.T @ vectors - identity).abs().max() < 1e-7
        assert ((vectors.T @ known).abs() - identity).abs().max() < 1e-7
    assert torch.allclose(
        leading(A, 3).S, found[:3], rtol=1e-13, atol=0
    )  # products of three columns may round otherwise


def test_singular_values_that_count_as_zero():
    S = leading(torch.diag(torch.tensor([1.0, 1e-10, 1e-12], dtype=torch.float64)), 3).S
    assert torch.allclose(S, torch.tensor([1, 1e-10], dtype=torch.float64), rtol=1e-9)
    assert len(leading(torch.zeros(3, 4, dtype=torch.float64), 3).S) == 0
    assert len(leading(torch.eye(3, dtype=torch.float64), 3, floor=2.0).S) == 0
    assert len(leading(low_rank((40, 25), 4, 0), 25).S) == 4
    assert leading(torch.eye(3, dtype=torch.float64)[:, :0], 0).U.shape == (3, 0)


def test_equal_singular_values():
    Q = torch.linalg.qr(low_rank((20, 20), 20, 0))[0]
    assert torch.allclose(iso_c(torch.zeros_like(Q), [Q, 2 * Q]), 3 * Q, atol=1e-12)
    assert torch.allclose(r_tsvm(torch.zeros_like(Q), [Q], kappa=0.0), Q, atol=1e-12)


# --- through the engine -----------------------------------------------------------------------------------------------
@each
def test_streamed_and_plain_are_the_same_bits(method):
    base, donors = drawn((30, 40), 2, dtype=torch.float32)
    name = method.__name__
    merged = merge({"w": base}, [{"w": donor} for donor in donors], name, 1.0)["w"]
    assert torch.equal(merged, method(base, donors))
    with blocks.workers(2):
        end = method(blocks.lazy(base), [blocks.lazy(donor) for donor in donors])
        assert torch.equal(end.whole(torch.float32), merged)


def test_scale_and_weight_multiply():
    base, donors = drawn((6, 6), 2)
    end = tsvm(base, donors)
    merged = merge({"w": base}, [{"w": donor} for donor in donors], "tsvm", 0.5, scale=3.0)["w"]
    assert torch.allclose(merged, base + 1.5 * (end - base), atol=1e-12)


def test_the_yaml_of_r_tsvm_says_that_it_is_ours():
    from tests.merging.merge_tables import CONF

    assert "OUR OWN RECONSTRUCTION" in (CONF / "r_tsvm.yaml").read_text()
    assert {"tsvm", "r_tsvm", "iso_c", "iso_cts"} <= set(declared())
