"""Models that do not quite fit, fitted to the base: said from headers, configs and tokenizers; imports no torch."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pipeline.checkpoint.companions import copy_companions
from pipeline.checkpoint.configs import compare_configs
from pipeline.checkpoint.fit import fit
from pipeline.checkpoint.header import TensorInfo
from pipeline.checkpoint.model import Model
from pipeline.checkpoint.names import is_buffer
from pipeline.checkpoint.read import Reader
from pipeline.checkpoint.tokens import grown_config, grown_tokenizer
from pipeline.checkpoint.view import View, mean
from pipeline.checkpoint.vocabulary import Mode, match_vocabularies


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Base and donors as tensors of the same names and shapes.

    folder   the base's
    notes    what is worth saying, in sentences
    infos    the tensors of the result: the base's names, order and dtypes, with more rows where tokens were added
    buffers  names without parameters, floats among them (a stored causal mask): the result has the base's
    copies   name -> the tensor that it repeats (a stored tied head -> the embedding): the result repeats the merged one
    by_row   names whose rows are not the stored ones in all models: matched by token
    base, donors  views: `part(name, start, stop)`, `dtype(name)`
    changed  companions of the result that are not the base's, file name -> text
    """

    folder: Path
    notes: list[str]
    infos: dict[str, TensorInfo]
    buffers: set[str]
    copies: dict[str, str]
    by_row: set[str]
    base: View
    donors: list[View]
    changed: dict[str, str]

    def write_companions(self, folder: Path) -> list[str]:
        """Config, tokenizer and licences of the result: the base's, byte for byte where no token was added."""
        names = copy_companions(self.folder, folder)
        for name, text in self.changed.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return names


def align(base: Path, donors: Sequence[Path], vocabulary: Mode = "strict") -> Alignment:
    """Fit donors to the base, or refuse them in one sentence before a tensor is read.

    vocabulary  what is done about tokens that not all have (the key `vocab`):
                strict  refused; only rows beyond the tokens may differ in number, and are the base's
                base    the base's tokens; one that a donor lacks keeps the base's row, so that it does not move
                union   the base's tokens, then the donors' added tokens; the base's row of a new one is the mean over the
                        donors that have it, and so is the row of a donor that lacks it

    Handled with a note: another prefix of the names, tied heads that are stored or not, tensors without parameters,
    padded vocabularies, configs that differ in what leaves the tensors' meaning alone. Floating-point dtypes may differ.
    Stored heads that may be copies of the embedding are compared with it, block by block, up to the first difference.
    Raises CheckpointError naming the tensor or token, what was found where, and the key to change.
    """
    mine, others = Model(base), [Model(donor) for donor in donors]
    fits = [fit(mine, other) for other in others]
    configs = [compare_configs(mine.folder, other.folder, mine.config, other.config) for other in others]
    matched = match_vocabularies(mine, others, fits, vocabulary)
    infos = dict(mine.infos)
    for name in mine.of_vocabulary:
        infos[name] = dataclasses.replace(infos[name], shape=(matched.size, *infos[name].shape[1:]))
    views: list[View] = []

    def rows_of_donors(name: str, start: int, stop: int):
        return mean(views, infos[name], name, start, stop)

    theta = View(Reader(base), infos, {name: name for name in infos}, mine.of_vocabulary, matched.base, rows_of_donors)
    for other, fitted, rows in zip(others, fits, matched.donors, strict=True):
        views.append(View(Reader(other.folder), infos, fitted.names, mine.of_vocabulary, rows, theta.part))
    changed = grown_tokenizer(mine.folder, matched.new) if matched.new else {}
    if matched.size != mine.rows:
        changed |= grown_config(mine.folder, matched.size)
    told = zip((fitted.notes for fitted in fits), configs, matched.notes, strict=True)
    return Alignment(
        folder=mine.folder,
        notes=[f"{note}; donor {i}" for i, parts in enumerate(told, 1) for part in parts for note in part],
        infos=infos,
        buffers={name for name, info in infos.items() if is_buffer(name, info)},
        copies=mine.copies,
        by_row=set() if all(rows is None for rows in (matched.base, *matched.donors)) else mine.of_vocabulary,
        base=theta,
        donors=views,
        changed=changed,
    )
