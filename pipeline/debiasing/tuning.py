"""The loop of every method that tunes a model on pairs, or on what it makes of them, and the choice among its epochs.

After every epoch the model is measured on a development set; so is the model that came in, as epoch 0. Chosen is the
epoch whose bias score there is smallest, of those that

    perplexity <= (1 + perplexity_rise) * perplexity of epoch 0
    meaningful >= meaningful of epoch 0 - meaningful_fall        where the development set measures it (StereoSet's LMS)

Epoch 0 is among them: a tuning that only harms is not taken. Of equal ones the earliest is.
Neither the set nor the text of the perplexity is one that is reported: the recipe refuses the one, the stage has another
text.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy
import torch

from pipeline import progress
from pipeline.checkpoint.training_state import keep, kept
from pipeline.precision import computing

# (model) -> bias (the score, with the sign of the signed bias), perplexity, meaningful (nan where it is not measured)
Measure = Callable[[torch.nn.Module], dict[str, float]]


class Method(Protocol):
    """What the loop asks of a method, which changes its model in place.

    One that must know all examples has `begin(examples)` too, called first, on the model that came in, in a resumed run as well.
    One that asks other models has them in `references`; of what it tells by a name in `largest`, an epoch has the largest,
    of all else the mean.
    """

    def step(self, examples: Sequence) -> dict[str, float]:
        """One batch of pairs, or of what `prepare` made; returned is what is to be told of it."""

    def end_epoch(self) -> dict[str, float] | None:
        """After the last batch of an epoch; what is returned is told of the epoch."""

    def state(self) -> dict:
        """What a resumed run must know besides the weights: tensors and plain values."""

    def load_state(self, state: dict) -> None:
        """Take up what `state` gave."""


def tune(
    model: torch.nn.Module,
    examples: Sequence,
    method: Method,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    measure: Measure,
    choose: Callable[[list[dict]], int],
    precision: str = "float32",
    scratch: Path | None = None,
) -> tuple[list[dict], int]:
    """Run `epochs` passes over the examples and leave the chosen epoch in the model and in the method.

    examples            pairs in tokens, or what the method's `prepare` made
    epochs, batch_size  each pass is in an order of its own, keyed by (seed, epoch); the last batch may be smaller
    measure             of the model after every epoch, and before the first
    choose              the records so far -> the epoch to take
    precision           of the method's passes, see precision.py; `measure` has the model in float32
    scratch             folder in which the state is kept after every epoch, to go on after a kill with the same bits

    Returns one record an epoch, 0 for the model that came in, and the chosen epoch. Raises FloatingPointError as soon as
    what a method tells is not finite, and in the end where the weights or the perplexity of the chosen epoch are not.
    """
    models = (model, *getattr(method, "references", ()))
    if hasattr(method, "begin"):
        with computing(models, precision):
            method.begin(examples)
    state, best = kept(scratch), kept(scratch, "best")
    if state is None or best is None:
        records, best = [{"epoch": 0, **measure(model)}], _kept_best(model, method, scratch)
        keep(scratch, _state(model, method, records))
    else:
        _restore(model, state["model"])
        method.load_state(state["method"])
        records = state["records"]
        best = None  # it lies in its file, not in the memory
    first = len(records) - 1
    steps = -(-len(examples) // batch_size)
    label = "tuning" if first == 0 else f"tuning, resumed after epoch {first}"
    with progress.bar(epochs * steps, label, unit="step", done=first * steps) as bar:
        for epoch in range(first + 1, epochs + 1):
            order, told = numpy.random.default_rng([seed, epoch]).permutation(len(examples)), []
            for start in range(0, len(examples), batch_size):
                with computing(models, precision):
                    told.append(method.step([examples[place] for place in order[start : start + batch_size]]))
                _refuse_what_is_not_finite(told[-1], f"at step {start // batch_size} of epoch {epoch}")
                bar.set_postfix({name: f"{value:.3g}" for name, value in told[-1].items()}, refresh=False)
                bar.update(1)
            with computing(models, precision):
                last_words = method.end_epoch() or {}
            _refuse_what_is_not_finite(last_words, f"at the end of epoch {epoch}")
            largest = getattr(method, "largest", ())
            summed_up = {
                name: float((numpy.max if name in largest else numpy.mean)([each[name] for each in told]))
                for name in told[0]
            }
            records.append({"epoch": epoch, **summed_up, **last_words, **measure(model)})
            if choose(records) == epoch:
                best = _kept_best(model, method, scratch)
            keep(scratch, _state(model, method, records))
            progress.say(_in_words(records, choose(records)))
    best = best or kept(scratch, "best")
    _restore(model, best["model"])
    method.load_state(best["method"])
    _refuse_broken(model, records, choose(records))
    return records, choose(records)


def _in_words(records: list[dict], chosen: int) -> str:
    """What the last epoch came to beside the model that came in, and which epoch would be taken by now."""
    first, now = records[0], records[-1]
    told = [
        f"{name} {now[key]:{form}} ({first[key]:{form}})"
        for name, key, form in (
            ("bias", "bias", "+.3f"),
            ("sense", "meaningful", ".3f"),
            ("perplexity", "perplexity", ".1f"),
        )
        if not math.isnan(now[key])
    ]
    best = f"epoch {chosen}" if chosen else "the model that came in"
    return f"epoch {now['epoch']}: {', '.join(told)}" + ("" if math.isnan(now["bias"]) else f"; best so far: {best}")


def _refuse_what_is_not_finite(told: dict[str, float], when: str) -> None:
    for name, value in told.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} became {value} {when}; lower the learning_rate of the debiasing")


def _refuse_broken(model: torch.nn.Module, records: list[dict], chosen: int) -> None:
    """What a method tells of a step was taken before it: what the last one did shows in the model alone."""
    if not chosen:
        return
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        raise FloatingPointError(
            f"{broken[0]} is no longer finite after epoch {chosen}; lower the learning_rate of the debiasing"
        )
    before, after = (records[epoch]["perplexity"] for epoch in (0, chosen))
    if math.isfinite(before) and not math.isfinite(after):
        raise FloatingPointError(
            f"perplexity became {after} in epoch {chosen}; lower the learning_rate of the debiasing"
        )


def last(records: list[dict]) -> int:
    """Take the last epoch, whatever it did."""
    return len(records) - 1


def nearest(perplexity_rise: float, meaningful_fall: float) -> Callable[[list[dict]], int]:
    """The choice of this module: the smallest |bias| within the bounds; nan is never better."""

    def choose(records: list[dict]) -> int:
        start = records[0]

        def allowed(record: dict) -> bool:
            speaks = record["perplexity"] <= (1 + perplexity_rise) * start["perplexity"]
            return speaks and not record["meaningful"] < start["meaningful"] - meaningful_fall

        able = [0] + [place for place, record in enumerate(records) if place and allowed(record)]
        return min(able, key=lambda place: (math.isnan(records[place]["bias"]), abs(records[place]["bias"]), place))

    return choose


def _kept_best(model: torch.nn.Module, method: Method, scratch: Path | None) -> dict | None:
    """Model and method as they are, in a file of `scratch`; without one, a copy of them."""
    state = {"model": _weights(model), "method": method.state()}
    if scratch is None:
        return copy.deepcopy(state)
    keep(scratch, state, "best")
    return None


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _restore(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)


def _state(model: torch.nn.Module, method: Method, records: list[dict]) -> dict:
    return {"model": _weights(model), "method": method.state(), "records": records}
