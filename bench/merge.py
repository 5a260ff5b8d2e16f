"""Merges of 0.5 B-parameter checkpoints: ours and mergekit's, turn by turn. `make bench-merge` writes bench/README.md.

python bench/merge.py --mergekit .mergekit/bin/python     all of it, about half an hour on two cores
python bench/merge.py --mergekit ... --only linear,ties   some methods

Every figure is of a whole process: start-up, reading, merging, writing. CPU seconds are user and system time of the process;
memory is the largest anonymous resident memory (what is not a file's pages), polled. A machine's absolute times say little:
read the ratios.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from checkpoints import make  # noqa: E402

# method -> (donors, our settings, mergekit's recipe: method, parameters, parameters of each donor)
METHODS = {
    "linear": (2, {}, "linear", {}, [{"weight": 0.7}, {"weight": 0.15}, {"weight": 0.15}]),
    "slerp": (1, {}, "slerp", {"t": 0.3}, None),
    "nuslerp": (2, {}, "nuslerp", {}, [{"weight": 0.5}, {"weight": 0.5}]),
    "karcher": (2, {}, "karcher", {}, None),
    "nearswap": (1, {"mode": "absolute"}, "nearswap", {"t": 0.3}, None),
    "task_arithmetic": (2, {}, "task_arithmetic", {"lambda": 0.3}, [{"weight": 1.0}] * 2),
    "ties": (2, {"density": 0.5}, "ties", {"lambda": 0.3}, [{"weight": 1.0, "density": 0.5}] * 2),
    "dare": (2, {"vote": "plain"}, "dare_ties", {"lambda": 0.3}, [{"weight": 1.0, "density": 0.5}] * 2),
    "della": (2, {}, "della", {"lambda": 0.3, "epsilon": 0.15}, [{"weight": 1.0, "density": 0.5}] * 2),
}
SLERP_LIKE = {"slerp", "nearswap", "nuslerp", "task_arithmetic", "ties", "dare_ties", "della"}  # have a base_model
TARGETS = {"slerp": 4, "dare": 4, "karcher": 4, "ties": 6, "della": 6}


class Cost(NamedTuple):
    cpu: float  # seconds, user and system
    wall: float  # seconds
    memory: float  # MB, anonymous


def measure(command: list[str]) -> Cost:
    """Run a command to its end, with what earlier ones wrote on the disk and its inputs in the page cache."""
    os.sync()
    for file in {Path(word) / "model.safetensors" for word in command if len(word) < 200}:
        if file.is_file():
            with open(file, "rb", buffering=0) as stream:
                while stream.readinto(bytearray(1 << 24)):
                    pass
    started = time.time()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(HERE.parent)})
        peak = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.02)
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read().decode()[-3000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.time() - started, peak)


def _anonymous(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), default=0.0)


class Bench:
    def __init__(self, room: Path, mergekit: str | None, threads: int):
        self.room, self.mergekit, self.threads = room, mergekit, threads
        self.base = make(room / "base", 0)
        self.donors = [make(room / name, seed, self.base) for seed, name in enumerate(("one", "two"), 1)]

    def ours(self, name: str, weights: str = "0.3", models: list[Path] | None = None, **settings) -> Cost:
        count, declared, *_ = METHODS.get(name, (2, {}))
        models = models or [self.base, *self.donors[:count]]
        out = self._out()
        told = [f"{key}={value}" for key, value in (declared | settings | {"threads": self.threads}).items()]
        return measure([sys.executable, str(HERE / "ours.py"), name, str(out), weights, *map(str, models), *told])

    def theirs(self, name: str) -> Cost:
        count, _, method, parameters, each = METHODS[name]
        models = [self.base, *self.donors[:count]]
        with_base = method in SLERP_LIKE
        listed = self.donors[:count] if with_base else models
        recipe = {
            "merge_method": method,
            "models": [
                {"model": str(model)} | ({"parameters": each[i]} if each else {}) for i, model in enumerate(listed)
            ],
            "dtype": "bfloat16",
        }
        if with_base:
            recipe["base_model"] = str(self.base)
        if parameters:
            recipe["parameters"] = parameters
        file = self.room / "recipe.yml"
        file.write_text(yaml.safe_dump(recipe))
        command = Path(self.mergekit).with_name("mergekit-yaml")
        return measure([str(command), str(file), str(self._out()), "--no-copy-tokenizer"])

    def start(self) -> Cost:
        """Our process, up to the first tensor."""
        code = "import torch, pipeline.merging.streaming, pipeline.stages.merge, pipeline.merging.compiled as loops; loops.load()"
        return measure([sys.executable, "-c", code])

    def compile(self, names: list[str]) -> None:
        """Have all loops compiled that the methods use: once for each machine, and not what is measured."""
        for name in names:
            self.ours(name, models=self.shallow(1)[: METHODS[name][0] + 1])

    def copy(self, count: int) -> Cost:
        """Reading base and donors, writing as many bytes as a result has."""
        code = (
            "import os, sys\n*models, out = sys.argv[1:]\nbuffer = bytearray(1 << 22)\nwrite = open(out, 'wb')\n"
            "for i, model in enumerate(models):\n"
            "    with open(model, 'rb', buffering=0) as file:\n"
            "        while got := file.readinto(buffer):\n"
            "            i or write.write(memoryview(buffer)[:got])\n"
            "write.flush(); os.fsync(write.fileno())"
        )
        models = [str(model / "model.safetensors") for model in (self.base, *self.donors[:count])]
        return measure([sys.executable, "-c", code, *models, str(self._out() / "copy")])

    def shallow(self, layers: int) -> list[Path]:
        """Base and two donors with another number of layers."""
        base = make(self.room / f"base-{layers}", 10, layers=layers)
        return [base, *(make(self.room / f"donor-{layers}-{i}", 10 + i, base, layers) for i in (1, 2))]

    def naive_tsvm(self, layers: int) -> tuple[Cost, Cost]:
        """Ours in float64, and a plain float32 implementation by torch.linalg.svd."""
        models = self.shallow(layers)
        ours, out = self.ours("tsvm", models=models), self._out() / "naive"
        return ours, measure([sys.executable, str(HERE / "naive_tsvm.py"), str(out), "0.3", *map(str, models)])

    def deep(self, name: str, layers: int) -> Cost:
        return self.ours(name, models=self.shallow(layers)[: METHODS[name][0] + 1])

    def _out(self) -> Path:
        out = self.room / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return out


def _row(*cells) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mergekit", help="the python of an environment with mergekit 0.1.5")
    options.add_argument("--room", default="runs/bench", help="folder for about 8 GB of checkpoints and results")
    options.add_argument("--only", default=",".join(METHODS), help="methods, with commas")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--skip-extras", action="store_true", help="only the comparison with mergekit")
    options.add_argument("--write", default=str(HERE / "README.md"), help="where the tables go")
    chosen = options.parse_args()
    bench = Bench(Path(chosen.room).absolute(), chosen.mergekit, chosen.threads)
    bench.compile(chosen.only.split(","))
    start, lines = bench.start(), []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    say(_row("method", "ours: CPU s / wall s / MB", "mergekit 0.1.5", "CPU ratio", "wanted", "wall ratio"))
    say(_row(*["---"] * 6))
    for name in chosen.only.split(","):
        mine = bench.ours(name)
        theirs = bench.theirs(name) if chosen.mergekit else Cost(*[float("nan")] * 3)
        say(
            _row(
                name,
                f"{mine.cpu:.1f} / {mine.wall:.1f} / {mine.memory:.0f}",
                f"{theirs.cpu:.1f} / {theirs.wall:.1f} / {theirs.memory:.0f}",
                f"{theirs.cpu / mine.cpu:.1f}",
                TARGETS.get(name, 2),
                f"{theirs.wall / mine.wall:.1f}",
            )
        )
    if not chosen.skip_extras:
        say("")
        extras(bench, start, say)
    write(Path(chosen.write), lines, chosen.threads)


def extras(bench: Bench, start: Cost, say) -> None:
    say(f"Start-up alone: {start.cpu:.1f} CPU s, {start.wall:.1f} s, {start.memory:.0f} MB anonymous.")
    copy, linear = bench.copy(2), bench.ours("linear")
    ratio = (linear.wall - start.wall) / copy.wall
    say(
        f"Reading three checkpoints and writing one: {copy.cpu:.1f} CPU s, {copy.wall:.1f} s; linear, start-up aside: "
        f"{linear.cpu - start.cpu:.1f} CPU s, {linear.wall - start.wall:.1f} s: {ratio:.1f} times the wall time."
    )
    for name, models in (("ties", None), ("della", None), ("tsvm", bench.shallow(4))):
        one, five = (bench.ours(name, weights, models) for weights in ("0.3", "0.1,0.2,0.3,0.4,0.5"))
        what = f"{name} (4 layers)" if models else name
        say(f"Five weights of {what} against one: {five.cpu:.1f} / {one.cpu:.1f} CPU s = {five.cpu / one.cpu:.2f}.")
    ours, naive = bench.naive_tsvm(4)
    say(
        f"tsvm on four layers, ours in float64 against torch.linalg.svd in float32: {ours.cpu:.1f} / {naive.cpu:.1f} CPU s, "
        f"{naive.cpu / ours.cpu:.1f} times."
    )
    for name in ("linear", "ties"):
        once, twice = bench.ours(name), bench.deep(name, 48)
        say(
            f"Anonymous memory above the bare import, {name}: {once.memory - start.memory:.0f} MB, and "
            f"{twice.memory - start.memory:.0f} MB for twice as many layers."
        )


def write(file: Path, lines: list[str], threads: int) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, Python {platform.python_version()}"
    marker = "<!-- make bench-merge -->"
    head, _, rest = (file.read_text() if file.is_file() else "").partition(marker)
    others = rest[rest.index("\n<!-- make ") :] if "\n<!-- make " in rest else ""
    text = [
        marker,
        "## Merging",
        "",
        "Qwen2-0.5B's shapes (494 M parameters, bf16), base and one or two donors, written by `make bench-merge` on "
        f"{time.strftime('%Y-%m-%d')} ({machine}). Both sides ran turn by turn; every figure is of a whole process. "
        "Our loops had been compiled before (once for each machine). Absolute times of a shared machine say little: read the "
        "ratios.",
        "",
        *lines,
        "",
    ]
    file.write_text(head + "\n".join(text) + others)


if __name__ == "__main__":
    main()
