"""A merge method by its name, with its settings bound."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.merging import settings as setting
from pipeline.merging.blocks import Lazy, elementwise
from pipeline.merging.line import line
from pipeline.merging.settings import Interval, is_number

SCALE = Annotated[float, Interval("[0, inf)")]


class Method(NamedTuple):
    """A method whose settings are known to be good.

    A method is the function `pipeline.merging.<name>.<name>`; its module may also say
      DONORS = (least, most)   how many donors it takes; by default at least one
      LINE = True              that the function has no weight and gives the end of a line:
                               merged = base + weight * scale * (end - base), with `scale` as one more setting
      KEPT = True              that this end is dear: it is kept as an artefact, and each further weight is one pass
      survey(tensors, count)   what it must know of the whole model beforehand
      refuse(**settings)       which settings do not go together
    """

    name: str
    settings: dict[str, Any]
    function: Callable
    donors: tuple[int, int | None]
    line: bool
    kept: bool
    asks: Callable | None

    @property
    def uses_weight(self) -> bool:
        """Whether a weight must be given."""
        return self.line or "weight" in inspect.signature(self.function).parameters

    @property
    def goes_by_rows(self) -> bool:
        """Whether it must know which way a matrix is stored."""
        return "transposed" in inspect.signature(self.function).parameters

    @property
    def scale(self) -> float:
        """By what the weight is multiplied: the papers' lambda."""
        return self.settings.get("scale", 1.0) if self.line else 1.0

    def check(self, weight: float | None, shares: Sequence[float] | None, count: int) -> None:
        """ConfigError for a weight, shares or a number of donors that the method cannot take."""
        least, most = self.donors
        if count < least or (most is not None and count > most):
            wanted = f"exactly {least}" if least == most else f"{least} to {most}" if most else f"at least {least}"
            raise ConfigError(
                f"merge={self.name} takes {wanted} donor{'s' if (most or least) != 1 else ''}, found {count}: "
                "change donor.models"
            )
        if (weight is None and self.uses_weight) or (
            weight is not None and not (is_number(weight) and 0 <= weight <= 1)
        ):
            raise ConfigError(
                f"weight should lie between 0 (the base) and 1 (the donor), found {weight!r}: change weight"
            )
        if self.settings.get("mixup") is not None:
            from pipeline.merging.mixup import mixed

            mixed(shares, self.settings["mixup"], self.settings["draw"], count)
        if shares is None:
            return
        if len(shares) != count:
            raise ConfigError(
                f"donor.shares should be null or one number for each of the {count} donors, found {len(shares)}: "
                "change donor.shares"
            )
        good = all(is_number(share) and share >= 0 for share in shares)
        if not good or (count and sum(shares) <= 0):
            raise ConfigError(
                f"donor.shares should be finite numbers of at least 0, and not all 0, found {list(shares)}: "
                "change donor.shares"
            )

    def survey(self, tensors: Callable[[], Iterable[tuple]], count: int, shares: Sequence[float] | None = None) -> Any:
        """What the method must know of the whole model.

        tensors  gives (name, base, donors, statistics) of each tensor, lazily
        """
        if self.asks is None:
            return None
        return self.asks(tensors, count, **self._given(self.asks, shares=shares), **self._own)

    def end(self, base: Tensor | Lazy, donors: Sequence[Tensor | Lazy], **given) -> Tensor | Lazy:
        """The end of the line, for a method that draws one."""
        return self.function(base, donors, **self._given(self.function, **given), **self._own)

    def __call__(
        self,
        base: Tensor | Lazy,
        donors: Sequence[Tensor | Lazy],
        *,
        weight: float | None,
        end: Tensor | Lazy | None = None,
        **given,
    ) -> Tensor | Lazy:
        """The merge of one tensor, not yet rounded to the base's dtype; lazy where the base is.

        end    of the line, where it is known already
        given  shares, whole, notes, name, transposed, statistics: what the method asks for is passed on
        """
        if not self.line:
            wanted = {"weight": weight} if weight is not None else {}
            return self.function(base, donors, **self._given(self.function, **wanted, **given), **self._own)
        end = self.end(base, donors, **given) if end is None else end
        return elementwise(lambda base, end: line(base, end, weight * self.scale), base, end, raw=True)

    @property
    def _own(self) -> dict[str, Any]:
        """The settings that the function itself has."""
        return {key: value for key, value in self.settings.items() if not (self.line and key == "scale")}

    @staticmethod
    def _given(function: Callable, **given) -> dict[str, Any]:
        wanted = inspect.signature(function).parameters
        return {name: value for name, value in given.items() if name in wanted}


def bind(name: str, settings: dict[str, Any]) -> Method:
    """The method `name` with all of its settings; ConfigError before anything is computed."""
    module = _module(name)
    function, draws_line = getattr(module, name), getattr(module, "LINE", False)
    settings = {key: setting.plain(value) for key, value in settings.items()}
    setting.check(function, settings, {"scale": (SCALE, 1.0)} if draws_line else {})
    if hasattr(module, "refuse"):
        module.refuse(**settings)
    return Method(
        name,
        settings,
        function,
        getattr(module, "DONORS", (1, None)),
        draws_line,
        getattr(module, "KEPT", False),
        getattr(module, "survey", None),
    )


def defaults(name: str) -> dict[str, Any]:
    """Every setting of a method with its default."""
    module = _module(name)
    return setting.defaults(getattr(module, name)) | ({"scale": 1.0} if getattr(module, "LINE", False) else {})


def methods() -> list[str]:
    """The names of all methods: the files here that hold a function of their own name which takes base and donors."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [name for name in names if _is_method(importlib.import_module(f"pipeline.merging.{name}"), name)]


def _module(name: str):
    if re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) and (Path(__file__).parent / f"{name}.py").is_file():
        module = importlib.import_module(f"pipeline.merging.{name}")
        if _is_method(module, name):
            return module
    raise ConfigError(f"merge should be one of {', '.join(methods())}, found {name!r}: change merge")


def _is_method(module, name: str) -> bool:
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        return False
    parameters = inspect.signature(function).parameters
    settings = list(parameters.values())[2:]
    return list(parameters)[:2] == ["base", "donors"] and all(each.kind is each.KEYWORD_ONLY for each in settings)
