"""Partitioned contrastive gradient unlearning: change the few weights that tell the two sides of a pair apart.

Of a batch of pairs, with A their advantaged sides, D their disadvantaged ones, s the score of pairs.py:

    g_A = grad sum s(A),    g_D = grad sum s(D)
    c_u = <g_A,u , g_D,u> / (||g_A,u|| ||g_D,u||)      of every unit u: a row or a column of a weight
    U   = the k units of the smallest c_u               those on whose direction the two sides agree the least
    theta_u <- theta_u - eta d_u  for u in U            d = g_A: the advantaged side becomes less likely,
                                                        d = -g_D: the disadvantaged one more likely, or both: d = g_A - g_D

The length of a step is not bounded by that, for c_u says nothing of how steep a unit is. On SmolLM2-135M some are
very steep: the first layers' norms, values and outputs, and the embedding of the token that every text begins with. A batch
in which these happened to be chosen moved the model up to six times as far as others do, past where its gradient holds: both
sides of its pairs became less likely. With a `clip` C, d is scaled by min(1, C / ||d_U||), which is ours.

The advantaged side is the stereotype: the pronoun of those who mostly work in an occupation. With `dynamic` it is, pair
by pair, the side that the model itself finds likelier now, so that no pair is pushed beyond even.

A unit without a gradient on either side has no direction and is never chosen. Of equal c_u the one that comes first,
by tensor and then by place, is taken. c_u is summed in float64. The biases of BERT's keys have no gradient but for rounding,
for a softmax does not see them: where norms take part they may be chosen, and hardly move.
Where the public code errs, this does not: it chose the epoch with the lowest stereotype score (here: the nearest to
even, see tuning.py), masked the last token of a CrowS-Pairs sentence whatever differed, and wrote "[MASK]" into texts
for models whose mask is another token.

Reference: Yu, Jeoung, Kasi, Yu, Ji (2023), Unlearning Bias in Language Models by Partitioning Gradients, Findings of ACL.
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from pipeline.debiasing.pairs import OBJECTIVES, TokenPair, scores
from pipeline.errors import ConfigError

PARTITIONS = ("rows", "columns")
SIGNS = {"decrease_advantaged": (1, 0), "increase_disadvantaged": (0, -1), "both": (1, -1)}  # of g_A and g_D in d
DIRECTIONS = tuple(SIGNS)
EVERY = ("batch", "epoch")
BLOCK = 1 << 15  # entries whose float64 copies are alive at a time: they stay in the cache, of one core
PIECE = 1 << 12  # entries of a vector that are summed at once: longer ones numpy adds otherwise where one is alone


@dataclasses.dataclass(frozen=True)
class Settings:
    """What conf/debias/pcgu.yaml may say of the method.

    learning_rate  eta of plain gradient descent; gradients are sums over a batch, as in the authors' code
    units          k
    share          k as a share of all units, in the place of `units`; 1: all
    partition      rows: a unit is what goes into one output (the paper's input aggregation), or one token's embedding;
                   columns: what comes from one input
    direction      decrease_advantaged, increase_disadvantaged or both
    dynamic        the likelier side of each pair is the advantaged one
    every          batch: units are chosen anew for each batch; epoch: one step an epoch, with the gradients of all pairs
    objective      log_probability, or logit, as the authors do at the mask
    embeddings     whether embeddings and the head have units
    norms          whether tensors of one dimension (norms, biases) are units, each a whole
    clip           Euclidean norm of d over all chosen units above which it is scaled down to it; null: as in the paper, never.
                   Gradients are sums: the same bound is a tighter one for a larger batch
    micro_batch    pairs that are read at once; a batch is the sum of them; null: the batch
    low_memory     the two gradients are kept in files, of which only what is being used lies in memory
    """

    learning_rate: float = 1e-5
    units: int = 10_000
    share: float | None = None
    partition: str = "rows"
    direction: str = "decrease_advantaged"
    dynamic: bool = False
    every: str = "batch"
    objective: str = "log_probability"
    embeddings: bool = True
    norms: bool = True
    clip: float | None = None
    micro_batch: int | None = None
    low_memory: bool = False

    def check(self) -> None:
        for name, choices in (
            ("partition", PARTITIONS),
            ("direction", DIRECTIONS),
            ("every", EVERY),
            ("objective", OBJECTIVES),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"debias.{name} should be {', '.join(choices)}, found {getattr(self, name)!r}; change debias.{name}"
                )
        if self.units < 1:
            raise ConfigError(f"debias.units should be at least 1, found {self.units}; change debias.units")
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(
                f"debias.share should be null or above 0 and at most 1, found {self.share}; change debias.share"
            )
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"debias.clip should be null or above 0, found {self.clip}; change debias.clip")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError(
                f"debias.micro_batch should be null or at least 1, found {self.micro_batch}; change debias.micro_batch"
            )


class Method:
    """The method on one model, which it changes in place.

    Of an epoch's steps the longest is told, as `moved`.

    model    causal or masked, in evaluation mode: without dropout, so that a step has one value
    scratch  where the gradients lie with low_memory
    Raises ConfigError for settings that mean nothing, and for more units than there are.
    """

    largest = ("moved",)

    def __init__(self, model: torch.nn.Module, settings: Settings, scratch: Path | None = None, seed: int = 0):
        settings.check()
        self.model, self.settings = model, settings
        self.partition = Partition(model, settings)
        self.count = _count(self.partition.total, settings)
        kept = scratch if settings.low_memory else None
        self.advantaged, self.disadvantaged = (
            Gradients(self.partition.parameters, kept and kept / name) for name in ("advantaged", "disadvantaged")
        )
        self.chosen = {name: torch.zeros(count, dtype=torch.int64) for name, count in self.partition.counts.items()}
        self.updates, self.moved = 0, 0.0

    def step(self, pairs: Sequence[TokenPair]) -> dict[str, float]:
        """One batch: its gradients and, with every=batch, the update.

        margin  mean score of the stereotypes - of the anti-stereotypes, before the update
        moved   with every=batch, Euclidean length of the update
        """
        size, margin = self.settings.micro_batch or len(pairs), 0.0
        for start in range(0, len(pairs), size):
            margin += self._contrast(pairs[start : start + size])
        if self.settings.every == "batch":
            self._update()
            return {"margin": margin / len(pairs), "moved": self.moved}
        return {"margin": margin / len(pairs)}

    def end_epoch(self) -> dict[str, float] | None:
        """With every=epoch, the one update of the epoch, and its length."""
        by_epoch = self.settings.every == "epoch"
        if by_epoch:
            self._update()
        for gradients in (self.advantaged, self.disadvantaged):
            gradients.give_back()
        return {"moved": self.moved} if by_epoch else None

    def state(self) -> dict:
        """What a resumed run must know besides the weights."""
        return {"chosen": {name: counts.clone() for name, counts in self.chosen.items()}, "updates": self.updates}

    def load_state(self, state: dict) -> None:
        self.chosen = {name: counts.clone() for name, counts in state["chosen"].items()}
        self.updates = state["updates"]

    def report(self) -> list[dict]:
        """One row a unit that was ever chosen: its tensor, its place among the tensor's units, in how many of the updates."""
        return [
            {"tensor": name, "unit": unit, "units": len(counts), "chosen": int(counts[unit]), "updates": self.updates}
            for name, counts in self.chosen.items()
            for unit in counts.nonzero()[:, 0].tolist()
        ]

    def _contrast(self, pairs: Sequence[TokenPair]) -> float:
        """Add the two gradients of some pairs; returns the sum of their margins. Two backward passes."""
        stereotypes, others = [pair.stereotype for pair in pairs], [pair.anti_stereotype for pair in pairs]
        ask = self.settings.objective
        with untied(self.model) as aliases:
            if not self.settings.dynamic:
                stereotype = self.advantaged.add(scores(self.model, stereotypes, ask).sum(), aliases)
                return stereotype - self.disadvantaged.add(scores(self.model, others, ask).sum(), aliases)
            # which role a side has is known when both have been read
            stereotype_B, anti_B = (scores(self.model, sides, ask) for sides in (stereotypes, others))
            likelier_B = stereotype_B.detach() >= anti_B.detach()
            self.advantaged.add(torch.where(likelier_B, stereotype_B, anti_B).sum(), aliases, again=True)
            self.disadvantaged.add(torch.where(likelier_B, anti_B, stereotype_B).sum(), aliases)
            return (stereotype_B - anti_B).sum().item()

    @torch.no_grad()
    def _update(self) -> None:
        settings = self.settings
        similarity = {
            name: self.partition.similarity(name, self.advantaged[name], self.disadvantaged[name])
            for name in self.partition.parameters
            if name in self.advantaged and name in self.disadvantaged
        }
        chosen = smallest(similarity, self.count)
        signs = SIGNS[settings.direction]
        parts = [
            (sign, gradients)
            for sign, gradients in zip(signs, (self.advantaged, self.disadvantaged), strict=True)
            if sign
        ]
        length = math.hypot(
            *(
                self.partition.length(name, units, [(sign, gradients[name]) for sign, gradients in parts])
                for name, units in chosen.items()
            )
        )
        rate = settings.learning_rate
        if settings.clip is not None and length > settings.clip:
            rate *= settings.clip / length
        for name, units in chosen.items():
            self.chosen[name] += units.cpu()
            self.partition.move(name, units, [(-sign * rate, gradients[name]) for sign, gradients in parts])
        self.moved = rate * length
        self.advantaged.clear()
        self.disadvantaged.clear()
        self.updates += 1


def fits(model: torch.nn.Module, settings: Settings) -> None:
    """Raises ConfigError for more units than a model of this shape has; its weights are not looked at."""
    _count(Partition(model, settings).total, settings)


def _count(total: int, settings: Settings) -> int:
    """k, of so many units; raises ConfigError where there are fewer."""
    count = settings.units if settings.share is None else max(1, round(settings.share * total))
    if count > total:
        raise ConfigError(
            f"debias.units should be at most the {total} units of the model, found {settings.units}; "
            "change debias.units, or say debias.share"
        )
    return count


class Partition:
    """The units of a model's parameters. Shapes: U units of one tensor.

    A tensor of two or more dimensions is cut along its last dimension (rows) or the one before (columns); the two change
    places where a layer stores its weight as [in, out] (GPT-2). A tensor of one dimension is one unit. Parameters that
    have no units need no gradient, and get none.
    """

    def __init__(self, model: torch.nn.Module, settings: Settings):
        stored_in_out = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
        tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
        head = model.get_output_embeddings()
        if head is not None:
            tables |= {id(parameter) for parameter in head.parameters()}
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.along: dict[str, int | None] = {}  # the dimension within a unit; null: all
        for name, parameter in model.named_parameters():
            of_table = id(parameter) in tables  # the head's bias among them
            wanted = (settings.embeddings or not of_table) and (settings.norms or parameter.dim() > 1)
            parameter.requires_grad_(wanted)
            if not wanted:
                continue
            self.parameters[name] = parameter
            rows = (settings.partition == "rows") != (id(parameter) in stored_in_out)
            self.along[name] = None if parameter.dim() < 2 else -1 if rows else -2
        self.counts = {
            name: 1 if self.along[name] is None else parameter.numel() // parameter.shape[self.along[name]]
            for name, parameter in self.parameters.items()
        }

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def similarity(self, name: str, one: Tensor, other: Tensor) -> Tensor:
        """c_U in float64; inf where either gradient is zero."""
        pairs = zip(self._tables(name, one), self._tables(name, other), strict=True)
        aa, ab, bb = torch.cat([_dots(a, b) for a, b in pairs], 1)
        lengths = aa.sqrt() * bb.sqrt()
        return torch.where(lengths > 0, ab / lengths, torch.inf)

    def length(self, name: str, chosen: Tensor, parts: Sequence[tuple[int, Tensor]]) -> float:
        """Euclidean norm, over the chosen_U units of one tensor, of the sum of sign * gradient; in float64."""
        squares, first = [0.0], 0
        for tables in zip(*(self._tables(name, gradient) for _, gradient in parts), strict=True):
            taken = chosen[first : first + len(tables[0])].nonzero()[:, 0]
            first += len(tables[0])
            for units in taken.split(_fitting(tables[0].shape[-1])):
                summed = sum(sign * table[units].double() for (sign, _), table in zip(parts, tables, strict=True))
                squares.extend(_dots(summed, summed)[0].tolist())
        return math.sqrt(math.fsum(squares))

    def move(self, name: str, chosen: Tensor, parts: Sequence[tuple[float, Tensor]]) -> None:
        """Add factor * gradient to the chosen_U units of one tensor; of the others nothing is read."""
        parameter, along = self.parameters[name], self.along[name]
        one = torch.ones((), dtype=parameter.dtype, device=parameter.device)
        if along is None:
            for factor, gradient in parts if chosen.any() else ():
                parameter.addcmul_(gradient.to(parameter), one, value=factor)
            return
        table = parameter.movedim(along, -1)
        for units in chosen.nonzero()[:, 0].split(_fitting(table.shape[-1])):
            place = torch.unravel_index(units, table.shape[:-1])
            moved = table[place]
            for factor, gradient in parts:
                moved.addcmul_(gradient.movedim(along, -1)[place].to(moved), one, value=factor)
            table[place] = moved

    def _tables(self, name: str, gradient: Tensor) -> Iterator[Tensor]:
        """A gradient as matrices [units, entries of one], one after the other where its units have two indices."""
        along = self.along[name]
        table = gradient.reshape(1, -1) if along is None else gradient.movedim(along, -1)
        yield from (table,) if table.dim() == 2 else table.flatten(0, -3)


@contextlib.contextmanager
def untied(model: torch.nn.Module) -> Iterator[dict[torch.nn.Parameter, list[torch.nn.Parameter]]]:
    """Within it, of a parameter that several layers share (a tied head) all but the first have an alias, of the same memory.

    Yields the aliases of each. Their gradients come one after the other: of one parameter autograd would hold all of them,
    and their sum, at a time.
    """
    aliases: dict[torch.nn.Parameter, list[torch.nn.Parameter]] = {}
    seen, places = set(), []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                alias = torch.nn.Parameter(parameter.detach(), parameter.requires_grad)
                aliases.setdefault(parameter, []).append(alias)
                places.append((module, name, parameter, alias))
            seen.add(parameter)
    try:
        for module, name, _, alias in places:
            setattr(module, name, alias)
        yield aliases
    finally:
        for module, name, parameter, _ in places:
            setattr(module, name, parameter)


class Gradients:
    """One gradient of every parameter, summed over backward passes: in memory, or in files under `folder`.

    A parameter's gradient is added to the sum as soon as the backward pass has it, and is then gone: of a pass, no more than
    the largest lies beside the sums. The room of the sums is kept from step to step, until `give_back`: given back and
    taken anew each time, what lies between would break it up.
    """

    def __init__(self, parameters: dict[str, torch.nn.Parameter], folder: Path | None = None):
        self.parameters, self.folder = parameters, folder
        self.sums: dict[str, Tensor] = {}  # of the passes since the last `clear`
        self._room: dict[str, Tensor] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, value: Tensor, aliases: dict[torch.nn.Parameter, list] | None = None, again: bool = False) -> float:
        """Add the gradient of a scalar, and return the scalar.

        aliases  of `untied`: what else stands for a parameter
        again    the scalar's graph is needed once more
        """
        hooks = [
            each.register_post_accumulate_grad_hook(lambda each, name=name: self._take(name, each))
            for name, parameter in self.parameters.items()
            for each in (parameter, *(aliases or {}).get(parameter, ()))
        ]
        try:
            value.backward(retain_graph=again)
        finally:
            for hook in hooks:
                hook.remove()
        return value.item()

    def __contains__(self, name: str) -> bool:
        return name in self.sums

    def __getitem__(self, name: str) -> Tensor:
        return self.sums[name]

    def clear(self) -> None:
        """Sum anew."""
        self.sums.clear()

    def give_back(self) -> None:
        """Clear, and hold no memory."""
        self.sums.clear()
        self._room.clear()

    def _take(self, name: str, parameter: torch.nn.Parameter) -> None:
        gradient, parameter.grad = parameter.grad, None
        if name in self.sums:
            self.sums[name] += gradient.to(self.sums[name].device)
            return
        if name not in self._room:
            self._room[name] = self._new(name, gradient)
        self.sums[name] = self._room[name].copy_(gradient)

    def _new(self, name: str, gradient: Tensor) -> Tensor:
        if self.folder is None:
            return torch.empty_like(gradient)
        file = str(self.folder / hashlib.sha256(name.encode()).hexdigest())
        return torch.from_file(file, shared=True, size=gradient.numel(), dtype=gradient.dtype).view(gradient.shape)


def smallest(similarity: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """chosen_U of every tensor that has any of the `count` smallest; of equal ones the first, and none at inf."""
    if not similarity:
        return {}
    values = torch.cat(list(similarity.values()))
    order = values.argsort(stable=True)[:count]
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[order] = values[order].isfinite()
    parts = chosen.split([len(part) for part in similarity.values()])
    return {name: part for name, part in zip(similarity, parts, strict=True) if part.any()}


def _fitting(entries: int) -> int:
    """How many vectors of so many entries make up a block."""
    return max(1, BLOCK // max(1, entries))


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """<a_i, a_i>, <a_i, b_i> and <b_i, b_i> of the rows of two matrices [U, n], in float64: [3, U].

    Block by block in the order of the memory, be that along rows or across them, which is the first's. On a CPU equal rows
    have equal ones, to the last bit, wherever they are, if both matrices lie in one way.
    """
    (count, entries), found = one.shape, torch.zeros(3, len(one), dtype=torch.float64, device=one.device)
    if one.stride(1) == 1:
        wide = max(1, min(entries, PIECE))
        high = _fitting(wide)
    else:
        wide, high = _fitting(count), max(1, count)
    for row in range(0, count, high):
        for column in range(0, entries, wide):
            block = slice(row, row + high), slice(column, column + wide)
            a, b = one[block].double(), other[block].double()
            if found.device.type != "cpu":
                found[:, block[0]] += torch.stack([torch.linalg.vecdot(x, y) for x, y in ((a, a), (a, b), (b, b))])
                continue
            a, b, sums = a.numpy(), b.numpy(), found.numpy()  # torch would write down all products
            for sum_, (x, y) in zip(sums, ((a, a), (a, b), (b, b)), strict=True):
                sum_[block[0]] += np.einsum("ij,ij->i", x, y)
    return found
