"""`make bench-debias`: one PCGU step against two plain forward-backward passes, and against units taken row by row.

Turn by turn in one process, on the same batch of 16 pairs: CPU seconds and wall, the median of `--repeat` turns, as
ratios. Peak memory above the weights is measured in a process of its own, with low_memory and without.
The result goes into bench/README.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- make bench-debias -->"
PAIRS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model folder; without one, the default model is fetched")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", choices=["weights", "plain", "low_memory"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        print(json.dumps(peak(given.model, given.memory)))
        return
    given.model = given.model or default_model()
    turns = compare(given.model, given.repeat)
    memory = {
        kind: json.loads(
            subprocess.run(
                [sys.executable, __file__, "--model", str(given.model), "--memory", kind],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for kind in ("weights", "plain", "low_memory")
    }
    write(given.model, turns, memory)


def default_model() -> Path:
    """The model that the pipeline takes by default, from the store."""
    from pipeline import recipe, sweep
    from pipeline.store import Store

    [config], _ = sweep.expand(["stages=[fetch]"], False)
    cell = recipe.describe(config, Store(Path(config["store"])))
    cell.store.build(cell.base)
    return cell.base.path


def ready(folder: Path, **settings):
    """The scorer of a model, one batch, and the method."""
    import pipeline
    from pipeline.debiasing import pcgu
    from pipeline.debiasing.pairs import causal, masked
    from pipeline.language_model.load import load
    from pipeline.stages.pairs import read

    scorer = load(folder)
    texts = read(
        {"format": "stereotypes"},
        {"stereotypes.jsonl": Path(pipeline.__file__).parent / "pocket" / "stereotypes.jsonl"},
    )
    sides = [scorer.sentences([pair[side] for pair in texts], 128) for side in (3, 4)]
    make = causal if scorer.family == "causal" else lambda one, other: masked(one, other, scorer.mask)
    pairs = [pair for pair in map(make, *sides) if pair is not None][:PAIRS]
    method = pcgu.Method(scorer.model, pcgu.Settings(learning_rate=1e-9, share=0.05, **settings), scratch())
    return scorer, pairs, method


def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="bench-debias-"))


def compare(folder: Path, repeat: int) -> dict[str, list[float]]:
    import torch

    from pipeline.debiasing.pairs import scores

    scorer, pairs, method = ready(folder)
    sides = [[pair.stereotype for pair in pairs], [pair.anti_stereotype for pair in pairs]]

    def two_passes() -> None:
        """Gradients stay where they are: to give their memory back and take it anew would cost a third more."""
        for side in sides:
            scores(scorer.model, side).sum().backward()
            scorer.model.zero_grad(set_to_none=False)

    def choice() -> None:
        """What a step adds to its passes: cosines, ranking, update."""
        for held, each in zip((method.advantaged, method.disadvantaged), kept, strict=True):
            held.sums.update(each)
        method._update()

    kept = []
    for side in sides:
        scores(scorer.model, side).sum().backward()
        kept.append({name: p.grad for name, p in method.partition.parameters.items()})
        scorer.model.zero_grad(set_to_none=True)

    def loop() -> None:
        """The same with a Python loop over the units."""
        gradients = kept
        found = []
        for name in method.partition.parameters:
            one, other = (each[name].reshape(-1, each[name].shape[-1]) for each in gradients)
            for row in range(len(one)):
                a, b = one[row].double(), other[row].double()
                product = (a.norm() * b.norm()).item()
                found.append((torch.dot(a, b).item() / product if product else 5.0, name, row))
        found.sort(key=lambda unit: unit[0])
        with torch.no_grad():
            for _, name, row in found[: method.count]:
                parameter = method.partition.parameters[name]
                parameter.view(-1, parameter.shape[-1])[row] -= (
                    1e-9 * gradients[0][name].reshape(-1, parameter.shape[-1])[row]
                )

    kinds = {"two passes": two_passes, "step": lambda: method.step(pairs), "choice": choice, "loop": loop}
    times: dict[str, list] = {name: [] for name in kinds}
    for turn in range(repeat + 1):
        for name, run in kinds.items():
            if name == "loop" and turn > 2:
                continue
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            if turn:  # the first one warms up
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: [statistics.median(each) for each in zip(*found, strict=True)] for name, found in times.items()}


def write(folder: Path, turns: dict[str, list[float]], memory: dict[str, dict[str, float]]) -> None:
    """Put the table into bench/README.md in place of the last one."""
    passes, step, choice, loop = (turns[name] for name in ("two passes", "step", "choice", "loop"))
    weights = memory["weights"]["weights"]
    lines = [
        MARK,
        "## Debiasing",
        "",
        f"One PCGU step on {PAIRS} pairs, written by `make bench-debias` on {time.strftime('%Y-%m-%d')} (float32, "
        f"{weights:.0f} MB of weights). Turn by turn in one process; read the ratios.",
        "",
        "| | CPU s | wall s | CPU, ratio to the passes |",
        "| --- | --- | --- | --- |",
        f"| two plain forward-backward passes | {passes[0]:.2f} | {passes[1]:.2f} | 1 |",
        f"| the whole step (wanted: at most 1.3) | {step[0]:.2f} | {step[1]:.2f} | {step[0] / passes[0]:.2f} |",
        f"| of it cosines, ranking, update | {choice[0]:.2f} | {choice[1]:.2f} | {choice[0] / passes[0]:.2f} |",
        f"| the same by a Python loop over rows | {loop[0]:.2f} | {loop[1]:.2f} | {loop[0] / passes[0]:.2f} |",
        "",
        f"The loop takes {loop[0] / choice[0]:.1f} times the CPU seconds for the choice, and {(passes[0] + loop[0]) / step[0]:.1f} times "
        "for the whole step (wanted: 5, which the two passes alone make impossible).",
        "Most anonymous memory of a process, pairs read two at a time: "
        + ", ".join(f"{name.replace('_', ' ')} {found['peak']:.0f} MB" for name, found in memory.items())
        + " (`weights` loads the model, whose file is mapped in part, and does no more).",
        "",
    ]
    page = ROOT / "bench" / "README.md"
    before, _, after = page.read_text().partition(MARK)
    rest = after[after.index("<!-- ") :] if "<!-- " in after else ""
    page.write_text(before.rstrip() + "\n\n" + "\n".join(lines) + ("\n" + rest if rest else ""))


def peak(folder: Path, kind: str) -> dict[str, float]:
    """The most anonymous memory of the process in MB, of two steps or of the weights alone; looked at every 10 ms.

    What lies in mapped files is not anonymous: the system may take that back when it needs the room.
    """
    scorer, pairs, method = ready(folder, low_memory=kind == "low_memory", micro_batch=2)
    seen, done = [anonymous()], threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            seen.append(anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    if kind != "weights":
        for _ in range(2):
            method.step(pairs)
    done.set()
    watcher.join()
    weights = sum(p.numel() * p.element_size() for p in scorer.model.parameters()) / 2**20
    return {"peak": max(seen), "weights": weights}


def anonymous() -> float:
    """Anonymous memory of this process now, in MB."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
