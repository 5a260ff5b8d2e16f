"""`python -m pipeline.bias tally BENCHMARK FILE …`: the published metrics from a file of predictions."""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import bias, config, datafiles
from pipeline.bias.predictions import rows_of
from pipeline.bias.tally import Tally, tally
from pipeline.errors import ConfigError, PipelineError

WIDTH = 140  # of a table that goes to a file; a terminal has its own


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 all well, 2 refused."""
    given = _parser().parse_args(arguments)
    try:
        tallied = _tally(given)
        if given.json:
            _write(given, tallied)
    except PipelineError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]{type(error).__name__}[/red]: {escape(str(error))}")
        return 2
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for each in tallied:
        _print(console, given.benchmark, each)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bias", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="tally").add_parser(
        "tally",
        help="published metrics from predictions",
        description="The published metrics of a benchmark from predictions made elsewhere. FILE has one JSON line an item: "
        'bbq {"id": "Age/1/0", "answer": 2}, with a position or the answer\'s text, or {"id": …, "scores": [three]}; '
        "category and example_id do as well as id. The others {id, scores} with one score for each thing a model is asked "
        "(crows_pairs: sent_more, sent_less), or {id, texts}. The authors' own files are read as they are: BBQ's "
        "preds_*.jsonl and df_bbq.csv, StereoSet's predictions JSON.",
    )
    command.add_argument("benchmark", help="a name of conf/bias, for example bbq")
    command.add_argument("file", nargs="+", type=Path, help="predictions: .jsonl, .json, .csv, or a folder of them")
    command.add_argument("--data", type=Path, help="folder of data sets you have; without it they are downloaded")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of conf/bias")
    command.add_argument("--column", action="append", help="of several columns of predictions, those to tally")
    command.add_argument("--partial", action="store_true", help="allow items without a prediction, and count them")
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="write all numbers there too, undefined ones as null"
    )
    command.add_argument("--store", type=Path, default=Path("runs/store"), help="where downloads are kept")
    return parser


def _tally(given: argparse.Namespace) -> list[Tally]:
    if given.benchmark not in config.choices("bias"):
        raise ConfigError(
            f"BENCHMARK should be one of {', '.join(config.choices('bias'))} and is {given.benchmark}: change it"
        )
    if given.data is not None and not given.data.is_dir():
        raise ConfigError(f"--data should be a folder of data sets and {given.data} is none: change it")
    unit = config.plain_file(config.CONF / "bias" / f"{given.benchmark}.yaml")
    module = bias.load(unit["benchmark"])
    rows = rows_of(given.file)
    files = datafiles.obtain(unit["files"], data=given.data, cache=given.store.absolute() / "downloads")
    settings = config.settings(unit, "judging") | {k: v for k, v in unit["judging"].items() if k != "version"}
    return tally(module, files, rows, settings, _chosen(given.set), given.column, given.partial)


def _chosen(pairs: list[str]) -> dict:
    chosen = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set should be KEY=VALUE and is {pair}: change it")
        chosen[key] = yaml.safe_load(value)
    return chosen


def _print(console: Console, benchmark: str, each: Tally) -> None:
    """Overall and per group; below what has no groups, and what was left out."""
    columns = list(dict.fromkeys(name.partition("/")[0] for name in each.metrics if "/" in name))
    rows = {"all": ""} | {group: f"/{group}" for group in dict.fromkeys(_group(name) for name in each.metrics) if group}
    table = Table(title=f"{benchmark} {each.name}".strip(), title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row, suffix in rows.items():
        table.add_row(row, *(_shown(column, each.metrics.get(f"{column}{suffix}")) for column in columns))
    console.print(table)
    alone = [name for name in each.metrics if "/" not in name and name not in columns]
    console.print(
        "  ".join(f"{name} {_shown(name, each.metrics[name])}" for name in alone), soft_wrap=True, highlight=False
    )
    told = [f"{each.items} items", *(f"{number} left out: {reason}" for reason, number in each.left_out.items())]
    told += [f"{each.missing} without a prediction"] * bool(each.missing)
    console.print("; ".join(told), soft_wrap=True, highlight=False)
    for note in each.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print()


def _group(name: str) -> str:
    return name.partition("/")[2]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if re.fullmatch("n|n_.*|skipped", name.partition("/")[0]) else f"{value:.2f}"


def _write(given: argparse.Namespace, tallied: list[Tally]) -> None:
    tables = [
        each._asdict()
        | {"metrics": {name: value if math.isfinite(value) else None for name, value in each.metrics.items()}}
        for each in tallied
    ]
    told = {"benchmark": given.benchmark, "files": [str(path) for path in given.file], "tables": tables}
    given.json.write_text(json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
