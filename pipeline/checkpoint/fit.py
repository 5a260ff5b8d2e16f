"""Which of a donor's tensors stands for each of the base's; imports no torch."""

import dataclasses

from pipeline.checkpoint.configs import CHANGE
from pipeline.checkpoint.model import Model
from pipeline.checkpoint.names import is_buffer, renamed
from pipeline.errors import CheckpointError


@dataclasses.dataclass
class Fit:
    """names: base's name -> the donor's own name, None where the base's tensor is kept. notes: sentences."""

    names: dict[str, str | None]
    notes: list[str]


def fit(base: Model, donor: Model) -> Fit:
    """Match a donor's tensors to the base's, whatever their prefix, tied heads and stored buffers.

    Raises CheckpointError naming the tensor, both shapes, and the key to change.
    """
    under, prefix = renamed(base.infos, donor.infos)
    theirs = {name: own for own, name in under.items()}
    found = Fit({}, [])
    if prefix:
        found.notes.append(f"the donor's tensors are named {prefix}: they were matched to the base's")
    _fit_heads(base, donor)
    for name, info in base.infos.items():
        found.names[name] = None if is_buffer(name, info) else _counterpart(base, donor, theirs, name, found.notes)
    _fit_the_rest(base, donor, theirs, found)
    for name, own in found.names.items():
        if own is not None:
            _fit_shapes(base, donor, name, own)
    _fit_copies(base, donor, found)
    return found


def _fit_heads(base: Model, donor: Model) -> None:
    kinds = base.head_kind, donor.head_kind
    # an untied head that still equals its embedding says the same as a tied one
    equal = donor.head is not None and donor.embedding is not None and donor.same(donor.head, donor.embedding)
    if kinds[0] != kinds[1] and kinds != ("untied", "tied") and not (kinds == ("tied", "untied") and equal):
        raise CheckpointError(
            f"the heads should be alike, found {_head(base)} in the base {base.folder} and {_head(donor)} in the donor "
            f"{donor.folder}: {CHANGE}"
        )


def _head(model: Model) -> str:
    what = "no lm_head.weight" if model.head is None else f"{model.head} {list(model.infos[model.head].shape)}"
    return f"{'a tied' if model.head_kind == 'tied' else 'an untied'} head ({what})"


def _counterpart(base: Model, donor: Model, theirs: dict[str, str], name: str, notes: list[str]) -> str:
    """The donor's tensor for one of the base's: of the same name, or the one that it would be a copy of."""
    if name in theirs:
        return theirs[name]
    own = theirs.get(base.original(name))
    if own is None:
        raise _lone(name, base, donor, "base", "donor")
    notes.append(f"the donor stores no {name}, which is its {own} once more: that was taken")
    return own


def _fit_the_rest(base: Model, donor: Model, theirs: dict[str, str], found: Fit) -> None:
    """What only one of them stores: buffers and copies are let go, parameters are refused."""
    for name, own in sorted(theirs.items()):
        if name in base.infos or is_buffer(name, donor.infos[own]):
            continue
        original = donor.original(own)
        if original is None or not donor.same(own, original):
            raise _lone(own, donor, base, "donor", "base")
        found.notes.append(
            f"the donor's {own} is its {original} once more, which the base does not store: it was left out"
        )
    mine = {name for name, own in found.names.items() if own is None}
    its = {name for name, own in theirs.items() if is_buffer(name, donor.infos[own])}
    if differ := sorted(mine ^ its):
        found.notes.append(
            f"{len(differ)} tensors without parameters are stored by one of base and donor only ({differ[0]}"
            f"{', …' if len(differ) > 1 else ''}): the base's are kept"
        )


def _lone(name: str, model: Model, other: Model, have: str, lack: str) -> CheckpointError:
    return CheckpointError(
        f"base and donor should have the same tensors, found {name} {list(model.infos[name].shape)} in the "
        f"{have} ({model.folder}) and not in the {lack} ({other.folder}): {CHANGE}"
    )


def _fit_shapes(base: Model, donor: Model, name: str, own: str) -> None:
    ours, its = base.infos[name], donor.infos[own]
    by_token = name in base.of_vocabulary and own in donor.of_vocabulary
    first = 1 if by_token and base.tokens and donor.tokens else 0
    if len(ours.shape) != len(its.shape) or ours.shape[first:] != its.shape[first:]:
        raise CheckpointError(
            f"{name} should have one shape, found {list(ours.shape)} in the base {base.folder} and "
            f"{list(its.shape)} in the donor {donor.folder}: {CHANGE}"
            + (", or add a tokenizer.json to both: rows are matched by token" if by_token and not first else "")
        )
    if ours.dtype != its.dtype and not (ours.is_float and its.is_float):
        raise CheckpointError(
            f"{name} should be of one kind, found {ours.dtype} in the base {base.folder} and {its.dtype} in the "
            f"donor {donor.folder}: {CHANGE}"
        )


def _fit_copies(base: Model, donor: Model, found: Fit) -> None:
    """A tensor that the base stores twice is merged once, so the donor's two must be one as well."""
    for copy, original in base.copies.items():
        one, other = found.names[copy], found.names[original]
        if one != other and not donor.same(one, other):
            raise CheckpointError(
                f"{one} should equal {other}, as the base's do, found other numbers in the donor {donor.folder}: {CHANGE}"
            )
