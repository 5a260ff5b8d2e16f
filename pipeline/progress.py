"""One progress bar for all long work: live on a terminal, a line now and then in a log."""

import sys
import threading

from tqdm import tqdm

WIDTH = 100  # of a line in a log file
# Its own lock is a semaphore of the system, which a cell that is stopped would leave behind.
tqdm.set_lock(threading.RLock())


def say(text: str) -> None:
    """A line on stderr in the place of the bar, which goes on below it."""
    if sys.stderr.isatty():
        tqdm.write(text, file=sys.stderr)
    else:
        print(f"\r{text:<{WIDTH}}", file=sys.stderr, flush=True)


def bar(total: int | None, label: str, unit: str = "it", done: int = 0, scale: bool = False) -> tqdm:
    """A tqdm bar on stderr, to be used as a context manager; `update(n)` moves it.

    On a terminal it redraws twice a second; in a log file it prints at most every 20 seconds.
    """
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        unit_scale=scale,
        file=sys.stderr,
        delay=1.0,
        mininterval=0.5 if live else 20,
        maxinterval=1 if live else 20,
        dynamic_ncols=live,
        ncols=None if live else WIDTH,
        leave=True,
    )
