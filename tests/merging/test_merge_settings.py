"""What is refused before anything is computed, and how it is said."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.errors import CheckpointError, ConfigError
from pipeline.merging import bind, defaults, merge, methods

BASE = {"w": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("tiess", {}, f"merge should be one of {', '.join(methods())}, found 'tiess'"),
        ("line", {}, "found 'line'"),
        ("diagnose", {}, "found 'diagnose'"),
        ("../x", {}, "found '../x'"),
        ("__init__", {}, "merge should be"),
        ("ties", {"densty": 0.1}, "found densty: leave out merge.densty"),
        ("linear", {"density": 0.1}, "settings of merge=linear are mixup, draw, compat, found density"),
        ("ties", {"density": 1.5}, r"merge.density should be a number in \[0, 1\], found 1.5: change merge.density"),
        ("ties", {"density": -0.1}, "merge.density"),
        ("ties", {"density": math.nan}, "merge.density"),
        ("ties", {"density": "0.1"}, "merge.density should be a number"),
        ("ties", {"density": True}, "merge.density"),
        ("ties", {"density": None}, "merge.density"),
        ("ties", {"scale": -1}, "merge.scale"),
        ("ties", {"scale": math.inf}, "merge.scale"),
        ("ties", {"trim": "layer"}, "merge.trim should be one of model, tensor, found 'layer'"),
        ("slerp", {"colinear": 1}, r"in \[0, 1\), found 1"),
    ],
)
def test_bad_settings(name, changed, said):
    known = defaults(name) if name in ("ties", "linear", "slerp") else {}
    with pytest.raises(ConfigError, match=said):
        bind(name, {**known, **changed})


def test_a_missing_setting():
    with pytest.raises(ConfigError, match=r"found no density: add merge.density"):
        bind("ties", {key: value for key, value in defaults("ties").items() if key != "density"})


def test_whole_numbers_are_numbers():
    assert bind("ties", defaults("ties") | {"density": 1, "scale": 2}).settings["scale"] == 2


@pytest.mark.parametrize(
    ("name", "weight", "shares", "count", "said"),
    [
        ("linear", 1.1, None, 1, "weight should lie between 0"),
        ("linear", -0.1, None, 1, "weight"),
        ("linear", math.nan, None, 1, "weight"),
        ("linear", None, None, 1, "weight"),
        ("linear", True, None, 1, "weight"),
        ("linear", 0.5, None, 0, "merge=linear takes at least 1 donor, found 0: change donor.models"),
        ("slerp", 0.5, None, 2, "merge=slerp takes exactly 1 donor, found 2: change donor.models"),
        ("linear", 0.5, [1.0], 2, "one number for each of the 2 donors, found 1"),
        ("linear", 0.5, [0, 0], 2, "not all 0"),
        ("linear", 0.5, [1, math.nan], 2, "finite"),
        ("linear", 0.5, [2, -1], 2, "at least 0"),
        ("linear", 0.5, [1, "a"], 2, "finite"),
    ],
)
def test_bad_weights_shares_and_numbers_of_donors(name, weight, shares, count, said):
    with pytest.raises(ConfigError, match=said):
        merge(BASE, [BASE] * count, name, weight, shares)


def test_dicts_that_do_not_fit():
    with pytest.raises(
        CheckpointError, match=r"w should have one shape, found \[2, 2\] in the base and \[3\] in donor 0"
    ):
        merge(BASE, [{"w": torch.ones(3)}], "linear", 0.5)
    with pytest.raises(CheckpointError, match="found v only in donor 1"):
        merge(BASE, [BASE, BASE | {"v": torch.ones(1)}], "linear", 0.5)


@pytest.mark.parametrize(
    ("models", "given", "said"),
    [
        ((BASE, BASE), {}, "found one dict: put it in brackets"),
        ((BASE, [{"w": np.ones((2, 2))}]), {}, "w of donor 0 should be a torch.Tensor, found ndarray: use"),
        (({"w": [1.0]}, [BASE]), {}, "w of the base should be a torch.Tensor, found list"),
        ((BASE, [torch.ones(2)]), {}, "donor 0 should be a dict of tensors by their names, found Tensor"),
        ((BASE, [BASE]), {"statistics": BASE}, "statistics should be a list of 2 dicts, .* found one dict"),
        ((BASE, [BASE]), {"statistics": [BASE]}, "statistics should be a list of 2 dicts, .* found 1"),
        ((BASE, [BASE]), {"statistics": iter([BASE])}, "statistics should be a list of 2 dicts, .* found one"),
        ((BASE, [BASE]), {"statistics": [{}, {}]}, r"statistics\[0\] should have .* one at least, found none"),
        ((BASE, [BASE]), {"statistics": [BASE, {}]}, r"statistics\[1\] should have .* found none"),
        ((BASE, [BASE]), {"statistics": [BASE, {"v": torch.ones(2)}]}, r"statistics\[1\] .* found v"),
        ((BASE, [BASE]), {"statistics": [BASE, {"w": 1}]}, r"w of statistics\[1\] should be a torch.Tensor, found int"),
        ((BASE, [BASE]), {"statistics": [BASE, {"w": -torch.eye(2)}]}, "should hold no negative squares"),
        ((BASE, [BASE]), {"model_type": "GPT2"}, "model_type should be as in config.json, such as gpt2, found 'GPT2'"),
    ],
)
def test_what_is_no_list_of_dicts_of_tensors(models, given, said):
    with pytest.raises(ConfigError, match=said):
        merge(*models, "regmean", 0.5, **given)


def test_what_a_merge_of_dicts_cannot_know_is_said(caplog):
    """Which way a matrix lies, and where a definition degenerates; a tied head counts once."""
    names = {"h.0.attn.c_attn.weight": torch.randn(3, 4)}
    merge(names, [names], "nuslerp", 0.5, flatten=False)
    assert "merge nuslerp goes by rows, and h.0.attn.c_attn.weight is named as GPT-2 names" in caplog.text
    caplog.clear()
    merge(names, [names], "nuslerp", 0.5, flatten=False, model_type="gpt2")
    merge(names, [names], "linear", 0.5)
    assert not caplog.text
    merge({"w": torch.zeros(2)}, [{"w": torch.ones(2)}], "slerp", 0.5)
    assert "merge slerp: on 1 of 1 tensors one of the two is zero" in caplog.text
    x, y = torch.randn(3), torch.randn(3)
    F = [{"w": torch.ones(3), "v": torch.full((3,), 4.0)}, {"w": torch.full((3,), 2.0), "v": torch.ones(3)}]
    tied = merge({"w": x, "v": x}, [{"w": y, "v": y}], "fisher", 0.5, statistics=F)
    alone = merge({"w": x}, [{"w": y}], "fisher", 0.5, statistics=[{"w": each["w"]} for each in F])
    assert torch.equal(tied["w"], alone["w"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["regmean", "fisher", "lewis"])
def test_statistics_that_are_no_numbers(name, bad):
    with pytest.raises(CheckpointError, match=r"w should hold finite numbers, .* in statistics\[1\]"):
        merge(BASE, [BASE], name, 0.5, statistics=[{"w": torch.eye(2)}, {"w": torch.full((2, 2), bad)}])
    with pytest.raises(ConfigError, match=r"w of statistics\[0\] should be floating point, found torch.int64"):
        merge(BASE, [BASE], name, 0.5, statistics=[{"w": torch.eye(2).long()}, {"w": torch.eye(2)}])


@pytest.mark.parametrize(
    ("base", "donor", "given"),
    [
        (torch.ones(2), torch.tensor([1e39, 2.0], dtype=torch.float64), {}),
        (torch.ones(2, dtype=torch.float16), torch.tensor([1e6, 2.0]), {}),
        (torch.ones(2), torch.full((2,), 3e38), {"scale": 10.0}),
    ],
)
def test_a_result_beyond_the_dtype_of_the_base(base, donor, given):
    with pytest.raises(CheckpointError, match="the merge of w should be finite, found [12] of 2 entries beyond"):
        merge({"w": base}, [{"w": donor}], "task_arithmetic", 0.5, **given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("ties", {"density": np.float32(0.5)}),
        ("dare", {"density": np.float32(0.5), "draw": np.int64(3)}),
        ("breadcrumbs", {"gamma": np.float32(0.25)}),
        ("della", {"epsilon": Fraction(1, 4)}),
    ],
)
def test_numbers_of_other_libraries(name, given):
    """They are what they are; and so are shares and a weight."""
    base, donors = {"w": torch.randn(4, 8)}, [{"w": torch.randn(4, 8)} for _ in range(2)]
    own = {key: int(value) if key == "draw" else float(value) for key, value in given.items()}
    wanted = merge(base, donors, name, 0.5, [1.0, 2.0], **own)
    found = merge(base, donors, name, Fraction(1, 2), np.array([1.0, 2.0]), **given)
    assert torch.equal(found["w"], wanted["w"])
    found = merge(base, donors, "task_arithmetic", np.float64(0.5), np.array([1, 2]))
    assert torch.equal(found["w"], merge(base, donors, "task_arithmetic", 0.5, [1.0, 2.0])["w"])


@pytest.mark.parametrize(("donors", "shares", "said"), [
    (None, None, "donors should be a list of dicts of tensors, found NoneType"),
    ([BASE], 5, "shares should be one number for each donor, found 5"),
])  # fmt: skip
def test_what_is_no_list(donors, shares, said):
    with pytest.raises(ConfigError, match=said):
        merge(BASE, donors, "linear", 0.5, shares)


def test_keep_needs_neither_weight_nor_donors():
    assert torch.equal(merge(BASE, [], "keep", None)["w"], BASE["w"])


def test_the_example_of_the_room():
    import doctest

    import pipeline.merging

    result = doctest.testmod(pipeline.merging)
    assert result.attempted >= 4 and not result.failed


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("ties", {"vote": "weighted"}, "merge.vote should be plain where merge.mixup is set, found weighted"),
        ("ties", {"combine": "sum"}, "merge.combine should be mean or weighted_mean where merge.mixup is set"),
        ("dare", {"vote": "weighted"}, "merge.vote should be plain"),
        ("dare", {"combine": "mean"}, "merge.combine should be sum where"),
        ("dare", {"vote": "plain", "combine": "max"}, "merge.combine should be sum or weighted_mean"),
    ],
)
def test_m3_overrules_no_setting_in_silence(name, changed, said):
    with pytest.raises(ConfigError, match=said):
        bind(name, defaults(name) | {"mixup": 0.5} | changed)
    bind(name, defaults(name) | changed)
