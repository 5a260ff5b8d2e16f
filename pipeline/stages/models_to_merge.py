"""Base and donors as the merge sees them: fitted to each other, lazily read, with a method bound."""

import json
from pathlib import Path

from pipeline.checkpoint import Reader, TensorInfo, align
from pipeline.errors import CheckpointError


class Models:
    """Base and donors, fitted to each other, with a method bound: what can be refused early is refused here."""

    def __init__(self, base, donors, method: dict, weight, shares, statistics, vocab: str):
        from pipeline.merging import bind
        from pipeline.merging.mixup import mixed

        self.method = bind(
            method["name"], {key: value for key, value in method.items() if key not in ("name", "version")}
        )
        self.method.check(weight, shares, len(donors))
        self.aligned = align(base, donors, vocab)
        self.infos: dict[str, TensorInfo] = self.aligned.infos
        self.floats = {name for name, info in self.infos.items() if info.is_float and name not in self.aligned.buffers}
        # a stored copy (a tied head) is the merge of what it is a copy of, and counts once
        self.original = {name: self.aligned.copies.get(name, name) for name in self.infos}
        self.views = [self.aligned.base, *self.aligned.donors]
        self.given_shares = shares
        settings = self.method.settings
        self.shares = mixed(shares, settings.get("mixup"), settings.get("draw", 0), len(donors))
        self.statistics = [Reader(folder) for folder in statistics] if statistics else None
        self.model_type = json.loads((Path(base) / "config.json").read_text()).get("model_type")
        # once, before the first tensor: in a thread of its own the coordinator asks for it
        self._whole, self._surveyed = None, False

    @property
    def as_stored(self) -> bool:
        """Whether the models are merged as their files have them: names, rows and heads needed no fitting."""
        names = all(own == name for view in self.views for name, own in view.names.items())
        stored = Reader(self.aligned.folder).infos
        return (
            names and not self.aligned.by_row and all(stored[name].shape == i.shape for name, i in self.infos.items())
        )

    def tensors(self, name: str, checked: bool = False) -> tuple:
        """(base, donors, statistics) of one tensor, lazily; `checked`: refused where they are not finite as they are read."""
        from pipeline.checkpoint.read import dtypes
        from pipeline.merging.blocks import Stored

        info = self.infos[name]
        base, *donors = (
            Stored(
                lambda start, stop, view=view: view.part(name, start, stop),
                info.shape,
                dtypes()[info.dtype],
                lambda part, place=place: _refuse_not_finite(name, place, part),
                checked,
            )
            for place, view in enumerate(self.views)
        )
        return base, donors, self._statistics(name)

    def _statistics(self, name: str) -> list | None:
        """What calibration text says of one tensor in each model; None where it says nothing."""
        from pipeline.checkpoint.read import dtypes
        from pipeline.merging.blocks import Stored

        if self.statistics is None:
            return None
        found = []
        for view, reader in zip(self.views, self.statistics, strict=True):
            own = view.names[name]  # statistics have the names of the model's own files
            info = reader.infos.get(own) if name not in self.aligned.by_row else None
            part = lambda start, stop, reader=reader, own=own: reader.part(own, start, stop)  # noqa: E731
            found.append(None if info is None else Stored(part, info.shape, dtypes()[info.dtype]))
        return found

    def given(self, name: str) -> dict:
        """What the method may ask for besides base, donors, weight and notes."""
        from pipeline.merging.orientation import is_transposed

        return {
            "shares": self.given_shares,
            "whole": self.whole(),
            "name": name,
            "transposed": is_transposed(self.model_type, name),
            "statistics": self._statistics(name),
        }

    def whole(self):
        """What the method must know of the whole model, found when it is first asked for."""
        if not self._surveyed:
            names = [name for name in self.infos if name in self.floats and self.original[name] == name]
            self._whole = self.method.survey(
                lambda: ((name, *self.tensors(name, checked=True)) for name in names),
                len(self.views) - 1,
                self.given_shares,
            )
            self._surveyed = True
        return self._whole

    def empty(self, name: str):
        """No entries, of a tensor's dtype."""
        return self.aligned.base.part(name, 0, 0)


def _refuse_not_finite(name: str, place: int, part) -> None:
    from pipeline.checkpoint.read import count_not_finite

    if bad := count_not_finite(part):
        whose = f"donor {place} (donor.models)" if place else "the base (model.base)"
        raise CheckpointError(
            f"{name} should hold finite numbers, found NaN or infinity in {bad} of {part.numel()} entries of a block of "
            f"{whose}: use another checkpoint"
        )
