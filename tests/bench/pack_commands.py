"""`dsv3-convert pack` and `unpack` of whole checkpoints, beside a plain copy, `zstd` and zipnn."""

import json
import pathlib
import shutil
import struct
import sys

from measure import BIN, Series, fresh, run, settle

HERE = pathlib.Path(__file__).resolve().parent
CONVERT = BIN / "dsv3-convert"
FLOOR = BIN / "dsv3-floor-copy"
# The embedding of a 671B model, the largest tensor that there is.
LARGEST = (129280, 7168)
TENSORS, FILES = 90000, 163  # about as many as a 671B model has
MEMORY = ("8Mi", "160Mi")


def bytes_of(files):
    return sum(path.stat().st_size for path in files)


class Ways:
    """The ways to pack the shards of a checkpoint, and back. Each call is one timed run."""

    def __init__(self, source, dtype, work, zipnn):
        self.source, self.dtype, self.zipnn = source, dtype, zipnn
        self.shards = sorted(source.glob("*.safetensors"))
        self.packed, self.out = work / "packed", work / "unpacked"
        self.files = {way: work / f"by-{way}" for way in ("zstd", "zipnn")}

    def again(self, target, sources):
        fresh(target)
        target.rmdir()
        settle(*sources)

    def copy(self):
        # The copy begins with a directory of its own.
        fresh(self.out)
        settle(*self.shards)
        pairs = [f"{path}={path.stat().st_size}" for path in self.shards]
        seconds = json.loads(run([FLOOR, self.out, *pairs]).stdout)["seconds"]
        return {"copy": seconds}

    def dsv3(self):
        self.again(self.packed, self.shards)
        pack = run([CONVERT, "pack", self.source, self.packed, "--quiet"])
        files = sorted(self.packed.glob("*.packed"))
        self.again(self.out, files)
        unpack = run([CONVERT, "unpack", self.packed, self.out, "--quiet"])
        return {"pack": pack.seconds, "unpack": unpack.seconds, "bytes": bytes_of(files),
                "rss": max(pack.peak_rss_mib, unpack.peak_rss_mib)}

    def with_zstd(self):
        packed = self.files["zstd"]
        fresh(packed)
        settle(*self.shards)
        pack = run(["zstd", "-3", "-T2", "-q", "--output-dir-flat", packed, *self.shards])
        files = sorted(packed.glob("*.zst"))
        fresh(self.out)
        settle(*files)
        unpack = run(["zstd", "-d", "-q", "--output-dir-flat", self.out, *files])
        return {"pack": pack.seconds, "unpack": unpack.seconds, "bytes": bytes_of(files)}

    def with_zipnn(self):
        packed = self.files["zipnn"]
        environment = {"PYTHONPATH": str(self.zipnn)}
        program = [sys.executable, HERE / "pack_zipnn.py"]
        fresh(packed)
        settle(*self.shards)
        pack = run([*program, "pack", self.dtype, packed, *self.shards], environment)
        files = sorted(packed.iterdir())
        fresh(self.out)
        settle(*files)
        unpack = run([*program, "unpack", self.dtype, self.out, *files], environment)
        return {"pack": pack.seconds, "unpack": unpack.seconds, "bytes": bytes_of(files)}

    def clear(self):
        for folder in (self.packed, self.out, *self.files.values()):
            shutil.rmtree(folder, ignore_errors=True)


def measure(ways, pairs, say):
    """Every way alternated with the copy, `pairs` times."""
    runs = {"dsv3": [], "zstd -3 -T2": [], "zipnn": []}
    copies = []
    for i in range(pairs):
        say(f"pack and unpack of {ways.source.name}, {i + 1} of {pairs} ...")
        copies.append(ways.copy()["copy"])
        runs["dsv3"].append(ways.dsv3())
        runs["zstd -3 -T2"].append(ways.with_zstd())
        runs["zipnn"].append(ways.with_zipnn())
    raw = bytes_of(ways.shards)
    result = {"bytes": raw, "copy_seconds": Series(copies).summary()}
    for way, done in runs.items():
        result[way] = {"ratio": round(done[0]["bytes"] / raw, 4)}
        for step in ("pack", "unpack"):
            result[way][f"{step}_seconds"] = Series([each[step] for each in done]).summary()
    result["peak_rss_mib"] = round(max(each["rss"] for each in runs["dsv3"]), 1)
    ways.clear()
    return result


def write_shard(path, tensors):
    """A safetensors file of BF16 zeros that takes no disk space: names and shapes."""
    header, offset = {}, 0
    for name, shape in tensors:
        count = 2
        for size in shape:
            count *= size
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def measure_memory(work, say):
    """Peak RSS in MiB by --memory: of one tensor as large as there is, and of very many."""
    say("Memory of pack and unpack ...")
    source, packed, out = work / "memory", work / "memory-packed", work / "memory-out"
    peaks = {}
    for what in ("largest tensor", "90,000 tensors"):
        fresh(source)
        if what == "largest tensor":
            write_shard(source / "model.safetensors", [("embed.weight", list(LARGEST))])
        else:
            for file in range(FILES):
                names = range(file * TENSORS // FILES, (file + 1) * TENSORS // FILES)
                write_shard(source / f"model-{file:05d}-of-{FILES:05d}.safetensors",
                            [(f"model.layers.{i}.weight", [64]) for i in names])
        peaks[what] = {}
        for memory in MEMORY:
            for folder in (packed, out):
                shutil.rmtree(folder, ignore_errors=True)
            limit = ["--memory", memory, "--quiet"]
            pack = run([CONVERT, "pack", source, packed, *limit])
            unpack = run([CONVERT, "unpack", packed, out, *limit])
            peaks[what][memory] = {"pack": round(pack.peak_rss_mib, 1),
                                   "unpack": round(unpack.peak_rss_mib, 1)}
        for folder in (source, packed, out):
            shutil.rmtree(folder)
    return peaks


def measure_commands(checkpoints, work, zipnn, pairs, say):
    """`checkpoints`: name → (directory, zipnn's dtype)."""
    return {"memory": measure_memory(work, say),
            "commands": {name: measure(Ways(source, dtype, work, zipnn), pairs, say)
                         for name, (source, dtype) in checkpoints.items()}}
