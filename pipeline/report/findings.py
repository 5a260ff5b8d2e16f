"""What a report is made of: the table and what stands around it, as plain values."""

from dataclasses import dataclass, field
from typing import TypedDict

from pandas import DataFrame


class Donor(TypedDict, total=False):
    """The strength report of one donor (DESIGN 6); an absent or None entry is printed as "not measured"."""

    model: str  # the base's name, as in the table
    donor: str  # as in the table: bias_inverted, random_direction, checkpoints, task_vector
    data: str  # what it was trained on
    norm_ratio: float  # ||tau|| / ||theta||
    loss_before: float  # stereotype loss of the base, nats a token
    loss_after: float  # the same after training
    shift_set: str  # the held-out bias set
    shift_items: int
    shift: float  # signed bias of theta_bias minus that of the base on it
    shift_low: float  # 95 % interval
    shift_high: float


class Flip(TypedDict):
    """One item whose answer differs between the base and a merged model."""

    cell: str  # "ties 0.5"
    bias: str  # the bias set
    id: str
    group: str
    prompt: str
    base_answer: str
    merged_answer: str
    base_biased: bool | None  # None: the item cannot tell
    merged_biased: bool | None


class Provenance(TypedDict, total=False):
    """Where the numbers come from. Every entry of a list is a dict of printable values; its keys become columns."""

    models: list[dict]  # name, source, sha256, licence
    data: list[dict]  # name, role, revision, sha256, licence (the full licence line)
    versions: dict[str, str]
    method: list[str]  # sentences: how the intervals were made, which metric, which machine


@dataclass(frozen=True)
class Findings:
    """All that the page and report.md print.

    table:      DESIGN 4's columns, one row a cell and one for every base (`merge` = keep). `status` is "done" or
                "found" for a finished cell; anything else ("failed", "killed", "missing") is shown as failed, with
                `error`. Bias numbers on [-1, 1], accuracies on [0, 1]. Columns named `<accuracy_set>.<task>` are the
                accuracies by task, `<bias>.<metric>` the benchmark's own metrics.
                Optional columns: `accuracy_items`, `weights_sha256`.
    command:    the exact command, as typed.
    axes:       names of the other swept overrides, which have a column each.
    controls:   as pairs, of every cell and its control: model, bias, accuracy_set, seed, of, cell, control, and the same.
    pairs:      one row for two cells of a base: model, bias, accuracy_set, seed, cell, other, and of bias and accuracy
                change, low, high, p, p_holm, effect.
    warnings:   sentences, most often from `words.warnings`.
    """

    table: DataFrame
    command: str
    axes: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    donors: list[Donor] = field(default_factory=list)
    flips: list[Flip] = field(default_factory=list)
    provenance: Provenance = field(default_factory=dict)
    pairs: DataFrame | None = None
    controls: DataFrame | None = None
    title: str = "Bias and accuracy of merged models"
