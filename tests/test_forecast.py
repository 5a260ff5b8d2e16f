"""What a plan says of the time: by the finished artefacts that are most like those to be made."""

import json

import pytest

from pipeline.store import Store, stage
from pipeline.sweep.forecast import _Durations


@stage(version=1)
def fetch(folder, *, source):
    (folder / "model").write_text(source)


@stage(version=1)
def merge(folder, *, base, weight):
    (folder / "model").write_text(f"{base} {weight}")


@stage(version=1)
def answer(folder, *, model, exam):
    (folder / "answers").write_text(exam)


@pytest.fixture
def known(tmp_path):
    """A small and a large model, each fetched, merged and asked, which took so many seconds."""
    store = Store(tmp_path)
    for size, seconds in (("small", 1), ("large", 100)):
        merged = store.want(merge, base=store.want(fetch, source=size), weight=0.3)
        for number, artifact in enumerate(
            (store.want(answer, model=merged, exam="short"), store.want(answer, model=merged, exam="long"))
        ):
            store.build(artifact)
            took(artifact, seconds * (1 + 9 * number))
        took(merged, seconds)
    return store


def took(artifact, seconds):
    path = artifact.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds}))


def asked(store, size, weight, exam):
    return store.want(answer, model=store.want(merge, base=store.want(fetch, source=size), weight=weight), exam=exam)


@pytest.mark.parametrize(
    ("size", "exam", "seconds"),
    [
        ("small", "short", 1),
        ("small", "long", 10),
        ("large", "long", 1000),
        ("large", "other", 550),  # of another set: what this model's took
        ("new", "long", 505),  # of another model: what this set took
        ("new", "other", 55),
    ],
)
def test_the_same_models_and_set_count_first(known, size, exam, seconds):
    durations = _Durations(Store(known.root))
    assert durations.of(asked(known, size, 0.5, exam)) == seconds


def test_a_merge_of_the_same_model_counts_whatever_its_weight(known):
    assert _Durations(known).of(asked(known, "large", 0.7, "short").inputs["model"]) == 100


def test_of_a_stage_that_never_ran_nothing_is_known(tmp_path):
    assert _Durations(Store(tmp_path)).of(asked(Store(tmp_path), "small", 0.5, "short")) is None
