"""The merge of every tensor, and what is learned on the way: numbers by layer, and notes in words."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.checkpoint import Reader
from pipeline.errors import CheckpointError
from pipeline.stages.models_to_merge import Models

REASONS = "reasons.json"
CHANGED_NORM = 2.0  # a tensor whose norm changed by this factor is named


class Reasons:
    """Where a method's definition degenerated: a counter for each tensor, because several threads may note at once."""

    def __init__(self):
        self.by_tensor: dict[str, Counter] = {}

    def of(self, name: str) -> Counter:
        """What a method is given to note in."""
        return self.by_tensor.setdefault(name, Counter())

    def counted(self) -> Counter:
        """On how many tensors, by reason."""
        return Counter(reason for notes in self.by_tensor.values() for reason, times in notes.items() if times > 0)

    def write(self, folder: Path) -> dict[str, int]:
        """Beside the end of a line, for the merges that walk along it."""
        counted = dict(sorted(self.counted().items()))
        (Path(folder) / REASONS).write_text(json.dumps(counted, indent=1) + "\n")
        return counted

    @staticmethod
    def read(end: Reader | None) -> Counter:
        """What was noted when the end of the line was made; nothing where there is none."""
        return Counter(json.loads((end.folder / REASONS).read_text()) if end is not None else {})


class Merged:
    """The merge of every tensor, and what is learned on the way."""

    def __init__(self, models: Models, weight: float | None, end: Reader | None):
        from pipeline.merging.diagnose import Sums

        self.models, self.weight, self.end = models, weight, end
        self.reasons = Reasons()
        self.sums = {name: Sums() for name in models.infos if name in models.floats}
        places = ["base", *(f"donor {i}" for i in range(1, len(models.views)))]
        self.same = dict.fromkeys(places, True)

    def jobs(self, order: list[str]) -> Iterator[tuple]:
        """(name, result, work) of every tensor, for `streamed`."""
        from pipeline.merging.blocks import Stored

        for name in order:
            original = self.models.original[name]
            base, donors, _ = self.models.tensors(original)
            if name not in self.models.floats:
                yield name, base, lambda start, stop, name=name: self._copied(name, start, stop)
                continue
            given = {}
            if self.end is not None:
                part = lambda start, stop, name=original: self.end.part(name, start, stop)  # noqa: E731
                given = {"end": Stored(part, base.shape, base.dtype)}
            else:
                given = {"notes": self.reasons.of(original), **self.models.given(original)}
            result = self.models.method(base, donors, weight=self.weight, **given)
            yield name, result, self._work(name, base, donors, result)

    def _work(self, name: str, base, donors: list, result):
        from pipeline.merging.blocks import refuse_not_finite, working_dtype
        from pipeline.merging.diagnose import rounded

        dtype, shares = working_dtype(base), self.models.shares

        def work(start: int, stop: int) -> tuple:
            merged = result.read(start, stop, dtype)
            mine, *theirs = (model.raw(start, stop, dtype) for model in (base, *donors))
            merged, sums = rounded(mine, theirs, merged, base.dtype, shares)
            if not all(map(math.isfinite, sums)):
                refuse_not_finite([base, *donors], [mine, *theirs])
                _refuse_overflow(name, merged)
            self._compare(name, start, stop, merged)
            return merged.cpu(), sums

        return work

    def _copied(self, name: str, start: int, stop: int) -> tuple:
        part = self.models.views[0].part(name, start, stop)
        self._compare(name, start, stop, part)
        return part, None

    def _compare(self, name: str, start: int, stop: int, merged) -> None:
        """Whether the result is still the same, bit for bit, as one of the models."""
        for place, view in zip(self.same, self.models.views, strict=True):
            if self.same[place] and not _same_bits(merged.cpu(), view.part(name, start, stop)):
                self.same[place] = False

    def add(self, name: str, sums) -> None:
        """The sums of one more block."""
        if sums is not None:
            self.sums[name] = self.sums[name] + sums

    def by_layer(self) -> dict:
        """Effective weight, off-axis and norm ratio of each layer."""
        from pipeline.merging.diagnose import Sums, layer

        layers: dict[str, Sums] = {}
        for name, sums in self.sums.items():
            layers[layer(name)] = layers.get(layer(name), Sums()) + sums
        return {
            name: {"effective_weight": sums.effective_weight, "off_axis": sums.off_axis, "norm_ratio": sums.norm_ratio}
            for name, sums in sorted(layers.items(), key=lambda item: _by_number(item[0]))
        }

    def summary(self) -> dict:
        """The numbers of the whole model, and its notes."""
        from pipeline.merging.diagnose import Sums

        models, total = self.models, sum(self.sums.values(), Sums())
        reasons = Reasons.read(self.end) + self.reasons.counted()
        ratios = {name: sums.norm_ratio for name, sums in self.sums.items() if not math.isnan(sums.norm_ratio)}
        extremes = {**_extreme("largest", ratios, max), **_extreme("smallest", ratios, min)}
        notes = models.aligned.notes + [
            f"on {count} of {len(models.floats)} tensors {reason}" for reason, count in sorted(reasons.items())
        ]
        if models.statistics and models.aligned.by_row:
            notes.append(
                f"statistics of {len(models.aligned.by_row)} tensors were not used, because their rows were fitted to "
                "another vocabulary: these tensors are plain means"
            )
        notes += _words(total, self.same, len(models.views) - 1, len(models.infos) - len(models.floats))
        notes += _norm_words(extremes)
        mixup = models.method.settings.get("mixup")
        drawn = {} if mixup is None else {"lambda": models.shares[0]}
        if drawn:
            notes.append(f"M3: the donors' shares were drawn: {', '.join(f'{share:.4f}' for share in models.shares)}")
        return {
            "effective_weight": total.effective_weight,
            "off_axis": total.off_axis,
            "norm_ratio": total.norm_ratio,
            **extremes,
            **drawn,
            "tensors": len(models.infos),
            "notes": notes,
        }


def _refuse_overflow(name: str, merged) -> None:
    from pipeline.checkpoint.read import count_not_finite

    if bad := count_not_finite(merged):
        raise CheckpointError(
            f"the merge of {name} should be finite, found {bad} of {merged.numel()} entries of a block beyond the range "
            f"of {merged.dtype}, the base's dtype: lower weight or merge.scale, or use a base in a wider dtype"
        )


def _same_bits(mine, theirs) -> bool:
    import torch

    return mine.dtype == theirs.dtype and torch.equal(mine.view(torch.uint8), theirs.view(torch.uint8))


def _words(total, same: dict[str, bool], donors: int, not_merged: int) -> list[str]:
    words = [f"the result is bit-identical to the {model}" for model, is_same in same.items() if is_same]
    if donors and total.dd == 0:
        words.append(
            "no tensor differs between the base and the donors' mean: effective weight and off-axis are undefined"
        )
    if not_merged:
        words.append(f"{not_merged} tensors are not floating-point parameters and are the base's")
    return words


def _norm_words(extremes: dict) -> list[str]:
    """A tensor that shrank or grew out of proportion is said in words."""
    words = []
    for which, far in (("largest", lambda ratio: ratio >= CHANGED_NORM), ("smallest", lambda r: r <= 1 / CHANGED_NORM)):
        ratio = extremes[f"{which}_norm_ratio"]
        if not math.isnan(ratio) and far(ratio):
            words.append(
                f"the norm of {extremes[f'{which}_norm_ratio_tensor']} is {ratio:.3g} times the base's: the merge may be ruined"
            )
    return words


def _extreme(which: str, ratios: dict[str, float], choose) -> dict:
    name = choose(ratios, key=ratios.get, default=None)
    return {f"{which}_norm_ratio": ratios.get(name, math.nan), f"{which}_norm_ratio_tensor": name}


def _by_number(name: str) -> list:
    """Layer 10 after layer 9."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]
