"""Safetensors in and out: what is read is what other libraries read, and what is broken is refused in one sentence."""

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoint import FLOATS, Reader, Writer, compare, copy_companions, headers
from pipeline.errors import CheckpointError

TENSORS = {
    "a.w": torch.arange(12.0).reshape(3, 4),
    "a.half": torch.arange(6).bfloat16().reshape(2, 3),
    "b.scalar": torch.tensor(2.5),
    "b.empty": torch.zeros(0, 3),
    "b.whole": torch.tensor([1, -2]),
    "b.flags": torch.tensor([True, False, True]),
    "b.eight": torch.tensor([1.0, -2.0, 0.5]).to(torch.float8_e4m3fn),
}


@pytest.fixture
def folder(tmp_path):
    return checkpoint(tmp_path / "model", TENSORS)


def checkpoint(folder: Path, tensors: dict, vocabulary=("a", "b"), **config) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(vocabulary), **config}))
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(vocabulary)}}})
    )
    return folder


def raw(file: Path, header: dict | bytes, payload: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + payload)


def shards(folder: Path, parts: dict[str, dict], places: dict[str, str]) -> Path:
    folder.mkdir()
    for name, tensors in parts.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == t.dtype
        and one[k].shape == t.shape
        and torch.equal(one[k].reshape(-1).view(torch.uint8), t.reshape(-1).view(torch.uint8))
        for k, t in other.items()
    )


def write(folder: Path, reader: Reader, **settings) -> Path:
    folder.mkdir()
    with Writer(folder, reader.infos, **settings) as writer:
        for name in writer.order:
            writer.write(name, reader.read(name))
    return folder


def test_reading_agrees_with_safetensors_own_reader(folder):
    reader = Reader(folder)
    assert same(
        {name: reader.read(name, finite=True) for name in reader.infos}, load_file(folder / "model.safetensors")
    )
    assert (
        reader.infos["a.half"].dtype == "BF16"
        and reader.infos["a.half"].shape == (2, 3)
        and reader.infos["a.half"].bytes == 12
    )
    assert {name for name, info in reader.infos.items() if info.is_float} == {
        "a.w",
        "a.half",
        "b.scalar",
        "b.empty",
        "b.eight",
    }
    assert "F32" in FLOATS


def test_headers_compare_and_the_merge_stage_load_no_torch(folder):
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.checkpoint import Writer, Reader, align, compare, headers\n"
        "import pipeline.stages.merge\n"
        f"f = Path({str(folder)!r}); headers(f); compare(f, [f]); align(f, [f], 'union'); Reader(f)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'safetensors', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_writing_gives_the_same_tensors_and_the_same_bytes(folder, tmp_path):
    one, other = (write(tmp_path / name, Reader(folder)) for name in ("one", "other"))
    assert same(load_file(one / "model.safetensors"), TENSORS)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    # a file that safetensors itself laid out keeps its order
    assert list(headers(one)) == list(headers(folder))


@pytest.mark.parametrize("size", [1, 30, 70])
def test_shards(folder, tmp_path, size):
    written = write(tmp_path / "shards", Reader(folder), shard_size=size)
    files = sorted(file.name for file in written.glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert all(sum(t.nbytes for t in load_file(written / file).values()) <= max(size, 48) for file in files)
    index = json.loads((written / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
    assert {name: file for file in files for name in load_file(written / file)} == index["weight_map"]
    reader = Reader(written)
    assert same({name: reader.read(name) for name in reader.infos}, TENSORS)
    assert same(load_file(write(tmp_path / "again", reader) / "model.safetensors"), TENSORS)


def test_every_tensor_is_aligned(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    infos = dict(reversed(headers(tmp_path).items()))
    with Writer(tmp_path, infos) as writer:
        for name in writer.order:
            writer.write(name, TENSORS[name])
    written = headers(tmp_path)
    assert all(info.start % TENSORS[name].element_size() == 0 for name, info in written.items())
    assert same(load_file(tmp_path / "model.safetensors"), TENSORS)


def test_writing_in_another_dtype(folder, tmp_path):
    reader = Reader(folder)
    infos = {
        name: dataclasses.replace(info, dtype="F32") if info.is_float else info for name, info in reader.infos.items()
    }
    with Writer(tmp_path, infos, shard_size=60) as writer:
        for name in writer.order:
            tensor = reader.read(name)
            writer.write(name, tensor.float() if tensor.is_floating_point() else tensor)
    written = Reader(tmp_path)
    assert same(
        {name: written.read(name) for name in written.infos},
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in TENSORS.items()},
    )


def test_no_tensors_at_all(tmp_path):
    with Writer(tmp_path, {}):
        pass
    assert headers(tmp_path) == {} and load_file(tmp_path / "model.safetensors") == {}


@pytest.mark.parametrize("size", [1, 30, 5_000])
@pytest.mark.parametrize("step", [1, 2, 5, 100])
def test_a_tensor_is_written_in_parts(folder, tmp_path, size, step):
    reader = Reader(folder)
    with Writer(tmp_path, reader.infos, shard_size=size) as writer:
        for name in writer.order:
            flat = reader.read(name).reshape(-1)
            for part in flat.split(step) if len(flat) else [flat]:
                writer.append(part)
    written = Reader(tmp_path)
    assert same({name: written.read(name) for name in written.infos}, TENSORS)


def test_parts_that_do_not_fit_their_tensor(folder, tmp_path):
    reader = Reader(folder)
    alone = {"a.w": reader.infos["a.w"]}
    with (
        pytest.raises(ValueError, match="2 entries of a.w were announced"),
        Writer(tmp_path, alone) as writer,
    ):
        writer.append(torch.zeros(10))
    for part, said in [
        (torch.zeros(13), r"expected 12 entries of a.w \[3, 4\] in F32, then came 13"),
        (torch.zeros(2).half(), "then came 2 entries of torch.float16"),
    ]:
        with pytest.raises(ValueError, match=said), Writer(tmp_path, alone) as writer:
            writer.append(part)
    with pytest.raises(ValueError, match="expected 7 entries of a.w"), Writer(tmp_path, alone) as writer:
        writer.append(torch.zeros(5))
        writer.write("a.w", torch.zeros(3, 4))
    with pytest.raises(ValueError, match="expected nothing more"), Writer(tmp_path, {}) as writer:
        writer.append(torch.zeros(1))


def test_a_writer_takes_what_was_announced(folder, tmp_path):
    reader = Reader(folder)
    with pytest.raises(ValueError, match="expected"), Writer(tmp_path, reader.infos) as writer:
        writer.write(writer.order[1], reader.read(writer.order[1]))
    with pytest.raises(ValueError, match="never written"), Writer(tmp_path, reader.infos) as writer:
        writer.write(writer.order[0], reader.read(writer.order[0]))


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_truncated_file(folder, cut):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match=r"model.safetensors should have \d+ bytes, found \d+: it is truncated"):
        headers(folder)


@pytest.mark.parametrize("size", [0, 4, 8, 12, 100])
def test_a_file_cut_within_its_header(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="truncated or another format"):
        headers(folder)


def test_a_file_that_is_too_long(folder):
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="longer than its header says"):
        headers(folder)


def test_a_file_cut_after_its_header_was_read(folder):
    reader = Reader(folder)
    last = max(reader.infos, key=lambda name: reader.infos[name].stop)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short while it was read"):
        reader.read(last)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            {
                "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            "overlap",
        ),
        (
            {
                "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "y": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]},
            },
            "leave a gap",
        ),
        (
            {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
            r"x of shape \[3\] and dtype F32 should take 12 bytes",
        ),
        (
            {
                "x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                "y": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]},
            },
            "truncated",
        ),
        ({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "safetensors JSON"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, "safetensors JSON"),
        ({"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 16]}}, "dtype of x should be one of"),
        ({"x": {"dtype": "F32", "shape": [4]}}, "data_offsets"),
        ({"x": 3}, "safetensors JSON"),
        (
            b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}',
            "the name x twice",
        ),
        (b"[1, 2]", "safetensors JSON"),
        (b"{nonsense", "safetensors JSON"),
    ],
    ids=str,
)
def test_broken_headers(tmp_path, header, said):
    raw(tmp_path / "model.safetensors", header, b"\0" * 16)
    with pytest.raises(CheckpointError, match=said):
        headers(tmp_path)


def test_broken_shards(tmp_path):
    one, two = {"x": torch.zeros(2)}, {"y": torch.zeros(2)}
    files = {"1.safetensors": one, "2.safetensors": two}
    places = {"x": "1.safetensors", "y": "2.safetensors"}
    assert list(headers(shards(tmp_path / "good", files, places))) == ["x", "y"]
    for name, (parts, where), said in [
        ("missing", (files, places | {"z": "3.safetensors"}), "names the shard 3.safetensors, which is not in"),
        (
            "absent",
            (files, places | {"z": "1.safetensors"}),
            "names the tensor z in 1.safetensors, which does not hold it",
        ),
        (
            "twice",
            ({"1.safetensors": one, "2.safetensors": one | two}, places),
            "found x in 1.safetensors and in 2.safetensors",
        ),
        (
            "unnamed",
            ({"1.safetensors": one, "2.safetensors": two | {"z": torch.zeros(1)}}, places),
            "found z in 2.safetensors where the index says nothing",
        ),
        ("outside", (files, places | {"z": "../1.safetensors"}), "files of its own folder"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            headers(shards(tmp_path / name, parts, where))
    (tmp_path / "good" / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="weight_map"):
        headers(tmp_path / "good")


def test_folders_without_safetensors(tmp_path):
    with pytest.raises(CheckpointError, match="found no folder"):
        headers(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="found neither"):
        headers(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(CheckpointError, match=r"only the pickle pytorch_model.bin.*allow_pickle=true"):
        headers(tmp_path)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2], ids=str
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity(tmp_path, dtype, bad):
    tensor = torch.zeros(5)
    tensor[3] = bad
    save_file({"w": tensor.to(dtype), "n": torch.arange(3)}, tmp_path / "model.safetensors")
    reader = Reader(tmp_path)
    assert reader.read("n", finite=True).tolist() == [0, 1, 2] and reader.read("w").shape == (5,)
    for _ in range(2):
        with pytest.raises(
            CheckpointError,
            match=r"w should hold finite numbers, found NaN or infinity in 1 of 5 entries in .*model.safetensors",
        ):
            reader.read("w", finite=True)


def test_a_flipped_bit_that_makes_a_nan(folder):
    file, info = folder / "model.safetensors", headers(folder)["a.w"]
    data = bytearray(file.read_bytes())
    data[info.start + 4 + 3] |= 0x7F  # the exponent of 1.0
    data[info.start + 4 + 2] |= 0x80
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a.w should hold finite numbers"):
        Reader(folder).read("a.w", finite=True)


def test_compare_takes_what_fits(folder, tmp_path):
    assert compare(folder, [folder, folder]) == []
    half = {name: t.half() if t.dtype == torch.float32 else t for name, t in TENSORS.items()}
    assert compare(folder, [checkpoint(tmp_path / "half", half)]) == []
    assert compare(folder, [checkpoint(tmp_path / "rope", TENSORS, rope_theta=1.0)]) == []  # said by one of them only
    notes = compare(tmp_path / "rope", [checkpoint(tmp_path / "other", TENSORS, rope_theta=2.0)])
    assert len(notes) == 1 and "the configs differ in rope_theta" in notes[0]


@pytest.mark.parametrize(
    ("tensors", "settings", "said"),
    [
        (
            TENSORS | {"a.w": torch.zeros(4, 3)},
            {},
            r"a.w should have one shape, found \[3, 4\] in the base .* and \[4, 3\] in the donor .*donor.models or model.base",
        ),
        (
            {k: t for k, t in TENSORS.items() if k != "b.whole"},
            {},
            r"found b.whole \[2\] in the base .* and not in the donor .*: change donor.models",
        ),
        (TENSORS | {"extra": torch.zeros(7)}, {}, r"found extra \[7\] in the donor .* and not in the base"),
        (TENSORS | {"b.whole": torch.zeros(2)}, {}, "b.whole should be of one kind, found I64 in the base .* and F32"),
        (
            TENSORS,
            {"vocabulary": ("a", "b", "c")},
            r"found token 'c' with id none in the base .* and 2 in the donor .* or say vocab=base",
        ),
        (TENSORS, {"vocabulary": ("b", "a")}, "found token 'a' with id 0 in the base .* and 1 in the donor"),
        (TENSORS, {"vocabulary": ("a", "c")}, "found token 'b' with id 1 in the base .* and none in the donor"),
        (
            TENSORS | {"lm_head.weight": torch.zeros(2, 4)},
            {},
            r"a tied head \(no lm_head.weight\) in the base .* an untied head \(lm_head.weight \[2, 4\]\) in the donor",
        ),
        (TENSORS, {"tie_word_embeddings": False}, "the heads should be alike"),
    ],
)
def test_compare_refuses_what_does_not_fit(folder, tmp_path, tensors, settings, said):
    donor = checkpoint(tmp_path / "donor", tensors, **settings)
    with pytest.raises(CheckpointError, match=said):
        compare(folder, [folder, donor])


def test_vocabularies_in_other_formats(tmp_path):
    one, other = (checkpoint(tmp_path / name, TENSORS) for name in ("one", "other"))
    (other / "tokenizer.json").unlink()
    assert "not compared: the donor has no tokenizer.json" in compare(one, [other])[0]
    for folder in (one, other):
        (folder / "tokenizer.model").write_bytes(b"pieces")
    assert compare(one, [other]) == []
    (other / "tokenizer.model").write_bytes(b"others")
    with pytest.raises(CheckpointError, match=r"found tokenizer.model with sha256"):
        compare(one, [other])
    unigram = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": [{"id": 2, "content": "<pad>"}]}
    for folder in (one, other):
        (folder / "tokenizer.json").write_text(json.dumps(unigram))
    assert compare(one, [other]) == []
    (other / "tokenizer.json").write_text(json.dumps(unigram | {"added_tokens": []}))
    with pytest.raises(CheckpointError, match=r"token '<pad>' with id 2 in the base .* and none"):
        compare(one, [other])
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="should be a tokenizer"):
        compare(one, [other])


def test_a_missing_or_broken_config(folder, tmp_path):
    donor = checkpoint(tmp_path / "donor", TENSORS)
    (donor / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="should be a JSON mapping"):
        compare(folder, [donor])
    (donor / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"should have a config.json, found none"):
        compare(folder, [donor])


def test_companions(folder, tmp_path):
    for name in ("LICENSE", "chat_template.jinja", "modeling_own.py", "README.md", "optimizer.bin"):
        (folder / name).write_text(name)
    target = tmp_path / "copy"
    target.mkdir()
    assert copy_companions(folder, target) == ["config.json", "tokenizer.json", "chat_template.jinja", "LICENSE"]
    assert (target / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert sorted(file.name for file in target.iterdir()) == [
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "tokenizer.json",
    ]
