"""The sentences that a model is trained or tuned on: a set of this project, or the pairs of a bias benchmark."""

from pathlib import Path

from pipeline.errors import ConfigError, DataError
from pipeline.halves import lies_in
from pipeline.training.sentences import Pair


def read(sentences: dict, files: dict[str, Path]) -> list[Pair]:
    """All pairs of a declared set, in the order of its files.

    sentences  format: `stereotypes`, or the name of a benchmark that has `pairs`; settings: of the benchmark's items;
               half: null (all) or one of halves.py; bias_types: null (all) or a list of them
    Raises DataError where nothing is left, ConfigError for a format or a bias type that there is not.
    """
    form = sentences["format"]
    if form == "stereotypes":
        from pipeline.training import sentences as own

        pairs = own.read(files)
    else:
        from pipeline import bias

        able = [name for name in bias.benchmarks() if hasattr(bias.load(name), "pairs")]
        if form not in able:
            raise ConfigError(
                f"format should be one of stereotypes, {', '.join(able)}, found {form!r}; change conf/stereotypes"
            )
        benchmark = bias.load(form)
        pairs = [Pair(*pair) for pair in benchmark.pairs(benchmark.items(files, **sentences.get("settings", {})))]
    kinds, wanted = sorted({pair.bias_type for pair in pairs}), sentences.get("bias_types")
    if unknown := sorted(set(wanted or ()) - set(kinds)):
        raise ConfigError(
            f"debias.bias_types should be some of {', '.join(kinds)}, found {', '.join(unknown)}; change debias.bias_types"
        )
    half = sentences.get("half")
    pairs = [pair for pair in pairs if lies_in(half, pair.cluster) and (wanted is None or pair.bias_type in wanted)]
    if not pairs:
        raise DataError(
            f"{', '.join(path.name for path in files.values())} should hold training sentences, found none; "
            "change donor.data= or debias.data="
        )
    return pairs
