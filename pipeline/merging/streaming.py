"""Whole models through a merge: read ahead, computed on several threads, handed out in order."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.merging.blocks import CHUNK, Lazy, chunks, workers

AHEAD = 4  # chunks a thread that may wait to be taken: bounds the memory


def streamed(
    jobs: Iterable[tuple[Any, Lazy, Callable[[int, int], Any]]], threads: int, device: str = "cpu"
) -> Iterator[tuple[Any, list]]:
    """(what, [work(start, stop) of its next blocks]) of every job, in order.

    jobs  (what, the tensor whose blocks are worked through, work); the iterable runs in a thread of its own, a few
          chunks ahead, so that what a method must know of the next tensor is found while the last one is computed

    An exception of a job, of its work or of the one who takes the results ends everything.
    """
    waiting: queue.Queue = queue.Queue(AHEAD * max(1, threads))
    stopped = threading.Event()

    def put(item) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def coordinate() -> None:
        try:
            for what, tensor, work in jobs:
                task = chunks(tensor, work)
                for place in tensor.ranges(CHUNK) or [(0, 0)]:
                    if stopped.is_set():
                        return
                    put((what, pool.submit(task, place)))
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the one who takes the results
            put(error)

    with workers(threads, device) as pool:
        coordinator = threading.Thread(target=coordinate, name="merge-coordinator", daemon=True)
        coordinator.start()
        try:
            while (item := waiting.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                what, future = item
                yield what, future.result()
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)  # a survey that waits for its blocks ends too
            coordinator.join()
