"""Evaluation: ours and lm-eval's `hf` backend on one model object, turn by turn. `make bench-eval` writes bench/README.md.

python bench/evaluate.py                          all of it, about half an hour on two cores
python bench/evaluate.py --only "multirc,boolq, examples"    some sets; the README stays as it is, but with --write
python bench/evaluate.py --limit 20               so many items of each
python bench/evaluate.py --model qwen             another choice of conf/model, or a model's folder

lm-eval's backend first answers the first quarter of the requests, 64 at least, at each of a few batch sizes. At the best of these it then answers all,
turn by turn with ours: twice, or once where that takes minutes; its best and our median of three count. CPU seconds and wall time are of answering alone: one model is loaded for both. Memory is what the
process came to hold above what it held before. A machine's absolute times say little: read the ratios.
"""

import argparse
import contextlib
import copy
import ctypes
import functools
import gc
import inspect
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from torch import nn

from pipeline import accuracy, bias, datafiles, recipe, sweep
from pipeline.language_model import generation, passes
from pipeline.language_model.load import load
from pipeline.language_model.scorer import Scorer
from pipeline.language_model.trie import common
from pipeline.recipe.identity import exam_of, files_of, place_of
from pipeline.requests import Generate, LogLikelihood, Request, request
from pipeline.store import Store

README = Path(__file__).resolve().parent / "README.md"
MARK = "<!-- make bench-eval -->"
BATCHES = (1, 4, 16, 64)  # that lm-eval's backend tries, up to the number of the requests
TRIED = (
    4  # the first of so many parts of the requests is asked to find its best batch size, and as many as make a batch
)
TURNS = 3  # of ours
LONG = 120  # seconds above which lm-eval's backend has one turn, below two
ALONE = 8  # requests of each set that are also asked one at a time

# name -> (the words of a command line, the task where the set has several, items, how many times faster is wanted)
SETS = {
    "multirc": (["accuracy=superglue"], "multirc", 80, 12),
    "bbq": (["bias=bbq"], None, 60, 3.5),
    "bbq, options listed": (["bias=bbq", "bias.options=true"], None, 16, 3.5),
    "hellaswag": (["accuracy=reasoning"], "hellaswag", 24, 1.7),
    "stereoset": (["bias=stereoset"], None, 80, 1.5),
    "copa": (["accuracy=superglue"], "copa", 60, 1.3),
    "piqa": (["accuracy=reasoning"], "piqa", 30, 1.3),
    "boolq": (["accuracy=superglue"], "boolq", 24, 1),
    "boolq, examples": (["accuracy=superglue"], "boolq", 16, 1),
    "wic": (["accuracy=superglue"], "wic", 48, 1),
    "gsm8k": (["accuracy=generation"], "gsm8k", 4, 1),
    "honest": (["bias=honest"], None, 12, 1),
}
EXAMPLES = 4  # before each question of "boolq, examples", the same for all


class Cost(NamedTuple):
    cpu: float  # seconds, user and system
    wall: float  # seconds
    memory: float  # MB above what was held before
    inside: float  # seconds inside the model
    drawing: float  # seconds in which tokens were drawn and rows of what is kept were copied
    computed: int  # positions that the model read, padding included


class Meter:
    """Counts what a model reads, and the seconds it takes; and those of drawing tokens and copying what is kept."""

    def __init__(self, model):
        self.depth = self.computed = 0
        self.inside = self.drawing = 0.0
        for module, name in ((generation, "choose"), (passes, "select")):
            setattr(module, name, self._timed(inspect.unwrap(getattr(module, name))))
        for module in (model, model.get_decoder()):
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            # of a pass that raises, too: the trial of packing may
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module, args, given):
        if not self.depth:
            ids = args[0] if args else given.get("input_ids")
            self.computed += ids.numel()
            self.started = time.perf_counter()
        self.depth += 1

    def _leave(self, *_):
        self.depth -= 1
        if not self.depth:
            self.inside += time.perf_counter() - self.started

    def _timed(self, function):
        @functools.wraps(function)
        def timed(*given):
            started = time.perf_counter()
            found = function(*given)
            self.drawing += time.perf_counter() - started
            return found

        return timed

    def measure(self, work) -> tuple[Cost, list]:
        gc.collect()
        _give_back()
        self.computed, self.inside, self.drawing = 0, 0.0, 0.0
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, cpu, wall = _memory("VmRSS"), time.process_time(), time.perf_counter()
        found = work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Cost(cpu, wall, _memory("VmHWM") - before, self.inside, self.drawing, self.computed), found


def _give_back() -> None:
    """What was freed to the system, where the C library can: else it is used again, and no peak shows."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _memory(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def requests_of(name: str, limit: int | None, data: str | None, store: str) -> list[Request]:
    """The requests of a set. Of a bias set whole templates are drawn, of an accuracy set the first items are taken."""
    words, task, usual, _ = SETS[name]
    more = EXAMPLES if name.endswith("examples") else 0
    given = [f"limit={(limit or usual) + more}", f"data={data or 'null'}", f"store={store}"]
    (config,), _ = sweep.expand([*words, *given], False)
    room = words[0].partition("=")[0]
    exam, declared = exam_of(config, room), config[room]
    files = datafiles.obtain(**place_of(config, files_of(config, declared)))
    if room == "accuracy":
        settings = copy.deepcopy(exam["settings"])
        settings["tasks"] = {task: settings["tasks"][task]}
        asked = [request(each) for each in accuracy.load(settings, files, exam["limit"]).requests()]
    else:
        benchmark = bias.load(exam["benchmark"])
        items = bias.sample(benchmark.items(files, **exam["settings"]), exam["limit"], exam["seed"])
        asked = [request(each) for row in bias.records(items) for each in benchmark.ask(row)]
    if more:
        options = 2
        solved = "\n\n".join(each.context + each.continuation for each in asked[-more * options :: options])
        asked = [each._replace(context=f"{solved}\n\n{each.context}") for each in asked[: -more * options]]
    return asked


def as_theirs(asked: Request) -> list[SimpleNamespace]:
    """A request as lm-eval hands it over; one for each sample."""
    if isinstance(asked, LogLikelihood):
        return [SimpleNamespace(args=(asked.context, asked.continuation))]
    settings = {"until": list(asked.stop), "max_gen_toks": asked.max_tokens, "do_sample": asked.temperature > 0}
    if asked.temperature > 0:
        settings |= {"temperature": asked.temperature, "top_k": asked.top_k, "top_p": asked.top_p}
    return [SimpleNamespace(args=(asked.prompt, settings)) for _ in range(asked.samples)]


def theirs(scorer: Scorer, asked: list[Request], batch: int) -> Callable[[], list]:
    """What asks lm-eval's backend, ready to be timed."""
    prefix = scorer.encoder.prefix
    backend = HFLM(scorer.model, tokenizer=scorer.tokenizer, batch_size=batch, prefix_token_id=prefix)
    instances = [each for one in asked for each in as_theirs(one)]
    ask = backend.generate_until if isinstance(asked[0], Generate) else backend.loglikelihood
    return partial(ask, instances, disable_tqdm=True)


def sizes(count: int, given: str | None) -> list[int]:
    """The batch sizes for so many requests."""
    wanted = map(int, given.split(",")) if given else BATCHES
    return sorted({min(size, count) for size in wanted})


class Work(NamedTuple):
    asked: int  # tokens, each request by itself
    distinct: int  # tokens, each distinct prefix once
    seen: float  # tokens that the distinct ones look at, themselves included
    predicted: int  # places where the logits are needed


def work_of(scorer: Scorer, asked: list[Request], answers: list) -> Work:
    """What has to be computed at least; what is generated counts each sample."""
    if isinstance(asked[0], Generate):
        prompts = scorer.encoder.prompts([(each.prompt, each.max_tokens) for each in asked])
        written = sum(answer.tokens for answer in answers)
        whole = sum(len(prompt) * each.samples for prompt, each in zip(prompts, asked, strict=True))
        distinct, seen = _distinct(prompts)
        for prompt, each, answer in zip(prompts, asked, answers, strict=True):
            mean = answer.tokens / each.samples  # the samples of a prompt are taken to be equally long
            seen += answer.tokens * (len(prompt) + (mean + 1) / 2)
        return Work(whole + written, distinct + written, seen, written)
    encoded = scorer.encoder.pairs([(each.context, each.continuation) for each in asked])
    places = {each.inputs[: len(each.inputs) - step] for each in encoded for step in range(len(each.targets))}
    return Work(sum(len(each.inputs) for each in encoded), *_distinct([each.inputs for each in encoded]), len(places))


def _distinct(sequences: list[tuple[int, ...]]) -> tuple[int, int]:
    """Tokens that have to be read, and how many they look at, each at those before it and at itself."""
    total, seen, before = 0, 0, ()
    for tokens in sorted(set(sequences)):
        known, size = common(before, tokens), len(tokens)
        total += size - known
        seen += (size * (size + 1) - known * (known + 1)) // 2
        before = tokens
    return total, seen


class Matrices:
    """The matrices that a model multiplies by: how many operations a token costs, and how fast this machine can be."""

    def __init__(self, model):
        body = model.get_decoder()
        weights = [each.weight for each in body.modules() if _multiplies(each)]
        self.head = model.get_output_embeddings().weight.numel()
        self.body = sum(weight.numel() for weight in weights)
        self.shapes = sorted({tuple(weight.shape) for weight in weights})
        self.dtype, self.device = model.dtype, model.device
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        self.attention = (
            config.num_hidden_layers * heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        )

    def operations(self, work: Work) -> float:
        """Of the products with the model's matrices."""
        return 2.0 * (self.body * work.distinct + self.head * work.predicted)

    def attending(self, work: Work) -> float:
        """Of the products of queries with keys, and of what comes of them with values."""
        return 4.0 * self.attention * work.seen

    def peak(self) -> float:
        """The best rate of a product of many rows with one of them, in operations a second."""
        best = 0.0
        for shape in self.shapes:
            weight = torch.randn(shape, dtype=self.dtype, device=self.device)
            for rows in (128, 256, 512, 1024):
                rows_RI = torch.randn(rows, shape[1], dtype=self.dtype, device=self.device)
                times = []
                for _ in range(7):
                    started = time.perf_counter()
                    nn.functional.linear(rows_RI, weight)
                    if self.device.type == "cuda":
                        torch.cuda.synchronize()
                    times.append(time.perf_counter() - started)
                best = max(best, 2 * rows * weight.numel() / statistics.median(times))
        return best


def _multiplies(module: nn.Module) -> bool:
    return (
        not isinstance(module, nn.Embedding) and getattr(module, "weight", None) is not None and module.weight.ndim == 2
    )


def compare(name: str, scorer: Scorer, meter: Meter, matrices: Matrices, asked: list[Request], batches) -> str:
    """One line of the table."""
    peaks, mine, others = [matrices.peak()], [], []
    first = asked[: max(len(asked) // TRIED, *BATCHES)]
    tried = {size: meter.measure(theirs(scorer, first, size))[0].wall for size in batches}
    batch = min(tried, key=tried.get)
    scorer.answer(asked, name)  # packing is tried here, once for a set
    for turn in range(TURNS):
        cost, answers = meter.measure(lambda: scorer.answer(asked, name))
        mine.append(cost)
        if turn == 0 or (turn == 1 and others[0].wall < LONG):
            cost, said = meter.measure(theirs(scorer, asked, batch))
            others.append(cost)
        peaks.append(matrices.peak())
    ours = sorted(mine, key=lambda cost: cost.wall)[TURNS // 2]
    best = min(others, key=lambda cost: cost.wall)
    work = work_of(scorer, asked, answers)
    at_peak = min(cost.wall for cost in mine) * max(peaks)
    share, whole = matrices.operations(work), matrices.operations(work) + matrices.attending(work)
    return _row(
        name,
        f"{len(asked):,}",
        f"{work.asked:,} / {work.distinct:,}",
        f"{ours.computed:,}",
        f"{best.computed:,}",
        f"{ours.cpu:.1f} / {ours.wall:.1f} / {ours.memory:.0f}",
        f"{best.cpu:.1f} / {best.wall:.1f} / {best.memory:.0f}",
        batch,
        f"{best.wall / ours.wall:.2f}",
        SETS[name][3],
        f"{best.cpu / ours.cpu:.2f}",
        _difference(asked, answers, said),
        _from_alone(scorer, asked, answers),
        f"{100 * share / at_peak:.0f} %",
        f"{100 * whole / at_peak:.0f} %",
        f"{100 * (1 - ours.inside / ours.wall):.1f} %",
        f"{100 * (1 - (ours.inside + ours.drawing) / ours.wall):.1f} %",
    )


HEADS = (
    "set",
    "requests",
    "tokens asked for / distinct",
    "computed: ours",
    "hf",
    "ours: CPU s / wall s / MB",
    "hf",
    "its batch",
    "wall ratio",
    "wanted",
    "CPU ratio",
    "largest difference",
    "from one at a time",
    "of the peak",
    "attention too",
    "outside the model",
    "bookkeeping",
)


def _difference(asked: list[Request], answers: list, said: list) -> str:
    """In nats, of log-likelihoods; of texts written without chance, how many are not the same."""
    if isinstance(asked[0], LogLikelihood):
        gaps = [abs(answer.loglikelihood - value) for answer, (value, _) in zip(answers, said, strict=True)]
        flags = sum(answer.greedy != greedy for answer, (_, greedy) in zip(answers, said, strict=True))
        return _largest(gaps) + (f", {flags} greedy flags" if flags else "")
    if asked[0].temperature > 0:
        return "sampled"
    return f"{sum(answer.texts[0] != text for answer, text in zip(answers, said, strict=True))} texts of {len(asked)}"


@torch.inference_mode()
def _from_alone(scorer: Scorer, asked: list[Request], answers: list) -> str:
    """Of some log-likelihoods, the largest difference from one plain forward pass a request, in nats."""
    if isinstance(asked[0], Generate):
        return ""
    gaps = []
    for at in range(0, len(asked), max(1, len(asked) // ALONE)):
        [(inputs, targets)] = scorer.encoder.pairs([(asked[at].context, asked[at].continuation)])
        logits = scorer.model(torch.tensor([inputs], device=scorer.device)).logits[0, -len(targets) :]
        logs = logits.double().log_softmax(-1).cpu()[range(len(targets)), targets]
        gaps.append(abs(logs.sum().item() - answers[at].loglikelihood))
    return _largest(gaps)


def _largest(gaps: list[float]) -> str:
    """nan where one is: `max` would pass over it."""
    return f"{np.max(gaps):.0e}"


def _row(*cells) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def model_of(name: str, store: str) -> tuple[Path, str | None]:
    """The folder of a choice of conf/model, fetched first if need be, or of a path; and its prefix token."""
    words = [f"model.base=path:{name}", "model.sha256=null", "model.prefix_token=null"]
    (config,), _ = sweep.expand([*(words if Path(name).is_dir() else [f"model={name}"]), f"store={store}"], False)
    return recipe.describe(config, Store(Path(store))).base.path, config["model"]["prefix_token"]


def selected(only: str) -> list[str]:
    """The sets that are named, with commas, which some names have too; all without. Raises ValueError for other names."""
    if not only:
        return list(SETS)
    names, rest = set(), only
    while rest:
        # the longest first: "bbq, options listed" is not "bbq"
        known = sorted((name for name in SETS if f"{rest},".startswith(f"{name},")), key=len)
        if not known:
            raise ValueError(f"--only should name some of {'; '.join(SETS)}, found {rest!r}")
        names.add(known[-1])
        rest = rest[len(known[-1]) + 1 :].strip()
    return [name for name in SETS if name in names]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="sets, with commas; all of them without")
    options.add_argument("--limit", type=int, help="items of each set; each has its own number without")
    options.add_argument("--model", default="smollm2", help="a choice of conf/model, or a model's folder")
    options.add_argument("--threads", type=int, default=_cores())
    options.add_argument("--tokens-per-pack", type=int, default=2048, help="as machine.tokens_per_pack")
    options.add_argument("--batches", help="batch sizes that lm-eval's backend tries, instead of some up to 64")
    options.add_argument(
        "--data", default=os.environ.get("PIPELINE_DATA"), help="folder of data sets; downloaded without"
    )
    options.add_argument("--store", default="runs/store", help="where a model that was fetched lies")
    options.add_argument(
        "--write", help="where the table goes; without, bench/README.md if all is asked, else nowhere but here"
    )
    chosen = options.parse_args()
    try:
        names = selected(chosen.only)
    except ValueError as error:
        options.error(str(error))
    target = chosen.write or ("" if chosen.only or chosen.limit else str(README))

    folder, prefix = model_of(chosen.model, chosen.store)
    scorer = load(folder, threads=chosen.threads, tokens_per_pack=chosen.tokens_per_pack, prefix_token=prefix)
    meter, matrices = Meter(scorer.model), Matrices(scorer.model)
    torch.manual_seed(0)  # of what lm-eval's backend samples
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    started, lines = time.time(), []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    say(_row(*HEADS))
    say(_row(*["---"] * len(HEADS)))
    for name in names:
        asked = requests_of(name, chosen.limit, chosen.data, chosen.store)
        count = sum(each.samples if isinstance(each, Generate) else 1 for each in asked)
        say(compare(name, scorer, meter, matrices, asked, sizes(count, chosen.batches)))
    if not target:
        return
    limits = ", ".join(f"{name} {chosen.limit or SETS[name][2]}" for name in names)
    write(Path(target), lines, chosen, limits, time.time() - started, matrices)


def write(file: Path, lines: list[str], chosen, limits: str, seconds: float, matrices: Matrices) -> None:
    words = (
        f"`{chosen.model}`, {(matrices.body + matrices.head) / 1e6:.0f} M parameters in matrices, in float32, written by "
        f"`make bench-eval` on {time.strftime('%Y-%m-%d')} ({platform.machine()}, {_cores()} cores, {chosen.threads} "
        f"threads, {seconds / 60:.0f} minutes). Ours and lm-eval's `hf` backend answered the same requests with one model "
        f"object, turn by turn: `hf` at the best of the batch sizes {chosen.batches or ','.join(map(str, BATCHES))} on the first of {TRIED} parts of the requests, {max(BATCHES)} at least, "
        f"twice (once where that took more than {LONG} s), of which its best counts; ours {TURNS} times, of which the median counts, after once that does not count, in which packing is tried. "
        "Computed are the positions that the model read, padding included. Of the peak: the operations of the products with "
        "the model's matrices that the distinct tokens need, head included where a logit is needed, over our shortest wall "
        "time, against the best product of one of these matrices measured in the same minutes; attention too: with those of "
        "queries, keys and values, each token with itself and those before it. Outside the model: tokenising, planning, "
        f"log-softmax, sampling; bookkeeping: the same without drawing tokens and copying rows of what is kept. From one at a time: ours against one plain forward pass a request, of {ALONE} requests or a few more. "
        "MB is what the process came to hold above what it held before. "
        "Absolute times of a shared machine say little: read the ratios. "
        f"Items of each set (of bias sets whole templates are drawn, of the others the first are taken): {limits}."
    )
    text = file.read_text() if file.is_file() else "# Benchmarks\n"
    before, _, rest = text.partition(MARK)
    after = rest[rest.index("\n<!-- make ") :] if "\n<!-- make " in rest else ""
    file.write_text(f"{before.rstrip()}\n\n{MARK}\n## Evaluation\n\n{words}\n\n" + "\n".join(lines) + f"\n{after}")


if __name__ == "__main__":
    main()
