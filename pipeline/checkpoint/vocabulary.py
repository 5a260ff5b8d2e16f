"""Which row of a donor belongs to which token of the result; imports no torch."""

import dataclasses
from array import array
from collections.abc import Sequence
from typing import Literal, get_args

from pipeline.checkpoint.configs import CHANGE
from pipeline.checkpoint.fit import Fit
from pipeline.checkpoint.model import Model
from pipeline.checkpoint.tokens import same_other_vocabulary
from pipeline.errors import CheckpointError

Mode = Literal["strict", "base", "union"]
ABSENT = -1
CHOOSE = f"{CHANGE}, or say vocab=base (the base's tokens) or vocab=union (all tokens)"
SAY_BASE = f"{CHANGE}, or say vocab=base (the base's tokens)"


@dataclasses.dataclass
class Vocabulary:
    """What the result's rows are.

    size    how many rows it has, None where the base has no known embedding
    new     the tokens that the base's tokenizer lacks -> their entries among its added tokens
    base    for each row of the result the base's row, or ABSENT; None where it is the row of the same number
    donors  the same for each donor
    notes   of each donor, in sentences
    """

    size: int | None
    new: dict[str, dict]
    base: array | None
    donors: list[array | None]
    notes: list[list[str]]


def match_vocabularies(base: Model, donors: Sequence[Model], fits: Sequence[Fit], mode: Mode) -> Vocabulary:
    """Match the rows of the vocabularies by token.

    strict  the same tokens with the same ids; only the number of rows beyond them may differ
    base    the base's tokens: those that a donor lacks keep the base's rows, those that only donors have are dropped
    union   the base's tokens, then what donors have besides, in the order of the donors and of their ids
    Raises CheckpointError naming a token and the key to change.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"expected one of {get_args(Mode)}, then came {mode!r}")
    for donor in donors:
        if mode != "strict":
            _refuse_without_tokens(base, donor, mode)
        elif base.tokens and donor.tokens:
            _refuse_other_tokens(base, donor)
    new = _new_tokens(base, donors) if mode == "union" else {}
    size = _size(base, donors, new) if mode == "union" else base.rows
    maps = [_rows(base, donor, fitted, new, size) for donor, fitted in zip(donors, fits, strict=True)]
    notes = [_notes(base, donor, mode) for donor in donors]
    ids = {entry["id"] for entry in new.values()}
    mine = None
    if ids or size != base.rows:
        mine = array("q", (row if row < base.rows and row not in ids else ABSENT for row in range(size)))
        _refuse_gaps(base, mine, maps)
        for told, donor in zip(notes, donors, strict=True):
            told += _told_of_new(donor, new)
    return Vocabulary(size, new, mine, maps, notes)


def _refuse_without_tokens(base: Model, donor: Model, mode: str) -> None:
    for model, which in ((base, "base"), (donor, "donor")):
        if model.tokens is None:
            lacks = "a tokenizer.json"
        elif base.tokens and donor.tokens and model.embedding is None and base.tokens.ids != donor.tokens.ids:
            lacks = "an embedding under a known name"
        else:
            continue
        raise CheckpointError(
            f"vocab={mode} needs {lacks} in the {which} {model.folder}, found none: {CHANGE}, or say vocab=strict"
        )


def _refuse_other_tokens(base: Model, donor: Model) -> None:
    mine, theirs = base.tokens.ids, donor.tokens.ids
    differ = (token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token))
    if (token := min(differ, key=lambda token: (mine.get(token, theirs.get(token)), token), default=None)) is not None:
        raise CheckpointError(
            f"the vocabularies should be the same, found token {token!r} with id {mine.get(token, 'none')} in the "
            f"base {base.folder} and {theirs.get(token, 'none')} in the donor {donor.folder}: {CHOOSE}"
        )
    if base.rows is None or donor.rows is None:
        return
    few, many = sorted((base.rows, donor.rows))
    if lone := sorted((number, token) for token, number in mine.items() if few <= number < many):
        raise CheckpointError(
            f"the vocabularies should have the same rows, found {base.rows} in the base {base.folder} and {donor.rows} "
            f"in the donor {donor.folder}, so that only one has a row for the token {lone[0][1]!r}: {CHOOSE}"
        )


def _new_tokens(base: Model, donors: Sequence[Model]) -> dict[str, dict]:
    """Tokens that donors have a row for and the base's tokenizer lacks -> their entries, with their new ids."""
    new: dict[str, dict] = {}
    start = max(base.tokens.next_id, len(base.tokens.ids))
    for donor in donors:
        for _, token in sorted((number, token) for token, number in donor.tokens.ids.items()):
            if token in base.tokens.ids or donor.row(token) is None:
                continue
            if token not in donor.tokens.added:
                raise CheckpointError(
                    f"a token that the base lacks should be an added token, found {token!r} among the ordinary ones of "
                    f"the donor {donor.folder}, which a tokenizer cannot be given faithfully: {SAY_BASE}"
                )
            if token not in new:
                new[token] = donor.tokens.added[token] | {"id": start + len(new)}
    return new


def _size(base: Model, donors: Sequence[Model], new: dict[str, dict]) -> int | None:
    """Rows of a union: the base's, and as many more as its tokens need that it, or a donor, has a row for."""
    if base.rows is None:
        return None
    needed = [entry["id"] for entry in new.values()]
    needed += [
        number
        for token, number in base.tokens.ids.items()
        if number >= base.rows and any(donor.row(token) is not None for donor in donors)
    ]
    return max(base.rows, max(needed, default=-1) + 1)


def _rows(base: Model, donor: Model, fitted: Fit, new: dict[str, dict], size: int | None) -> array | None:
    """For each row of the result the donor's row of the same token; None where it is the row of the same number."""
    if base.tokens is None or donor.tokens is None or base.rows is None or donor.rows is None:
        return None
    mine, theirs = base.tokens.ids, donor.tokens.ids
    if size == base.rows == donor.rows and not new and mine == theirs:
        return None
    rows = array("q", [ABSENT]) * size
    for token, number in [*mine.items(), *((token, entry["id"]) for token, entry in new.items())]:
        # two tokens may share an id: the first that the donor has counts
        if number < size and rows[number] == ABSENT and (row := donor.row(token)) is not None:
            rows[number] = row
    if all(row == place for place, row in enumerate(rows)):
        return None  # the donor may have more rows after these
    _refuse_unknown(base, donor, fitted)
    return rows


def _refuse_unknown(base: Model, donor: Model, fitted: Fit) -> None:
    """A tensor as long as the vocabulary that no table knows would be merged row by row, of different tokens."""
    for name, info in base.infos.items():
        own = fitted.names[name]
        known = name in base.of_vocabulary and own in donor.of_vocabulary
        if own is not None and info.is_float and not known and base.rows in info.shape:
            raise CheckpointError(
                f"{name} should have no side as long as the vocabulary, found {list(info.shape)} in the base {base.folder}: "
                f"whether its rows belong to tokens is not known, and the vocabulary of the donor {donor.folder} is "
                f"another; {CHANGE}"
            )


def _refuse_gaps(base: Model, mine: array, maps: Sequence[array | None]) -> None:
    for row, own in enumerate(mine):
        if own == ABSENT and not any(rows is None or rows[row] != ABSENT for rows in maps):
            raise CheckpointError(
                f"every row of the union should belong to a token that some model has a row for, found none for the id {row}, "
                f"beyond the {base.rows} rows of the base {base.folder}: {SAY_BASE}"
            )


def _notes(base: Model, donor: Model, mode: str) -> list[str]:
    if base.tokens is None or donor.tokens is None:
        return _notes_without_tokens(base, donor)
    notes, mine, theirs = [], base.tokens.ids, donor.tokens.ids
    if base.tokens.kind != donor.tokens.kind:
        notes.append(f"the tokenizers are of different kinds, {base.tokens.kind} and {donor.tokens.kind}")
    if mine != theirs:
        moved = sum(theirs.get(token, number) != number for token, number in mine.items())
        notes.append(
            f"vocab={mode}: {len(mine.keys() - theirs.keys())} of the base's {len(mine)} tokens are not the donor's and keep "
            f"the base's rows, {moved} have another id there, {len(theirs.keys() - mine.keys())} of the donor's are not the "
            f"base's{' and were dropped' if mode == 'base' else ''}"
        )
    elif base.rows != donor.rows:
        notes.append(
            f"the vocabularies are the same and have {base.rows} rows in the base, {donor.rows} in the donor: "
            f"rows beyond the tokens are the base's"
        )
    return notes


def _notes_without_tokens(base: Model, donor: Model) -> list[str]:
    sizes = base.config.get("vocab_size"), donor.config.get("vocab_size")
    if None not in sizes and sizes[0] != sizes[1]:
        raise CheckpointError(
            f"vocab_size should be the same, found {sizes[0]} in the base {base.folder} and {sizes[1]} in the donor "
            f"{donor.folder}: {CHANGE}"
        )
    if same_other_vocabulary(base.folder, donor.folder, CHANGE):
        return []
    return [
        f"the vocabularies were not compared: the {'base' if base.tokens is None else 'donor'} has no tokenizer.json, and "
        f"there is no other vocabulary that both have"
    ]


def _told_of_new(donor: Model, new: dict[str, dict]) -> list[str]:
    here = [token for token in new if token in donor.tokens.ids]
    shown = ", ".join(repr(token) for token in here[:3]) + (", …" if len(here) > 3 else "")
    return [f"vocab=union: tokens that the base lacks were added, {len(here)} of this donor ({shown})"] if here else []
