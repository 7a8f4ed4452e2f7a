"""Weight deltas of `pack --form pull-weights` against a reader and a writer from their description.

Both do what SGLang's /pull_weights and slime's publisher do, with numpy and the `zstd` program.
"""

import json
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest
import zlib

import numpy as np

import tools

try:
    import xxhash
except ImportError:
    xxhash = None

VERSION = 3


def zstd(data, *options):
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, stdout=subprocess.PIPE,
                          check=True).stdout


def tensors_of(directory):
    """name → (file, offset, bytes) of the safetensors files that lie in a directory."""
    places = {}
    for path in sorted(directory.glob("*.safetensors")):
        header, data = header_of(path)
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                places[name] = (path, data + begin, end - begin)
    return places


def header_of(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def bytes_at(path, offset, length):
    with open(path, "rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(length), np.uint8)


def checksum(algorithm, data):
    if algorithm == "adler32":
        return f"{zlib.adler32(data):08x}"
    return xxhash.xxh3_128(data).hexdigest()


def apply(version, local):
    """Patches the local checkpoint in place; how many tensors it patched."""
    meta = json.loads((version / tools.INDEX).read_bytes())["metadata"]
    assert meta["compression_format"] == "zstd"
    places = tensors_of(local)
    patched = 0
    for path in sorted(version.glob("*.safetensors")):
        header, data = header_of(path)
        wanted = header.get("__metadata__", {})
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            delta = np.frombuffer(zstd(bytes_at(path, data + begin, end - begin).tobytes(), "-d"),
                                  np.uint8)
            target, offset, length = places[name]
            value = bytes_at(target, offset, length).copy()
            if meta["delta_encoding"] == "xor":
                value ^= delta
            else:
                count = int(delta[:4].view("<u4")[0])
                value[delta[4:4 + 4 * count].view("<u4")] = delta[4 + 4 * count:]
            if meta["checksum_format"] == "adler32" or xxhash:
                assert checksum(meta["checksum_format"], value.tobytes()) == wanted[name], name
            with open(target, "r+b") as file:
                file.seek(offset)
                file.write(value.tobytes())
            patched += 1
    return patched


def publish(old, new, version, encoding):
    """The deltas from `old` to `new`, with adler32, in two files."""
    version.mkdir()
    before, after = tensors_of(old), tensors_of(new)
    files, weight_map = [{}, {}], {}
    for i, name in enumerate(after):
        a, b = bytes_at(*before[name]), bytes_at(*after[name])
        if (a == b).all():
            continue
        if encoding == "xor":
            content = (a ^ b).tobytes()
        else:
            places = np.flatnonzero(a != b).astype("<u4")[::-1]  # any order will do
            content = struct.pack("<I", places.size) + places.tobytes() + b[places].tobytes()
        frame = zstd(content, "-1", f"--stream-size={len(content)}", "--no-check")
        files[i % 2][name] = (frame, checksum("adler32", b.tobytes()))
    for i, held in enumerate(files):
        path = version / f"model-{i:05d}-of-00002.safetensors"
        header, data = {"__metadata__": {}}, b""
        for name, (frame, digest) in held.items():
            header["__metadata__"][name] = digest
            header[name] = {"dtype": "U8", "shape": [len(frame)],
                            "data_offsets": [len(data), len(data) + len(frame)]}
            data += frame
            weight_map[name] = path.name
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    metadata = {"version": f"{VERSION:06d}", "base_version": f"{VERSION - 1:06d}",
                "delta_encoding": encoding, "compression_format": "zstd",
                "checksum_format": "adler32"}
    (version / tools.INDEX).write_text(json.dumps({"metadata": metadata,
                                                   "weight_map": weight_map}))


class PullWeights(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        cls.old, cls.new = cls.scratch / "old", cls.scratch / "new"
        tools.run("dsv3-convert", "sample", cls.scratch / "fp8", "--preset", "tiny", "--quiet")
        tools.run("dsv3-convert", "fp8-to-bf16", cls.scratch / "fp8", cls.old, "--quiet")
        (cls.old / "checkpoint.manifest.json").unlink()
        shutil.copytree(cls.old, cls.new)
        # A step of RL: one value in a hundred moves by one, in two tensors of three.
        random = np.random.default_rng(1)
        for i, (path, offset, length) in enumerate(tensors_of(cls.new).values()):
            if i % 3 == 0:
                continue
            value = bytes_at(path, offset, length).copy()
            moved = random.choice(length // 2, max(1, length // 200), replace=False)
            value[2 * moved] += 1
            with open(path, "r+b") as file:
                file.seek(offset)
                file.write(value.tobytes())

    def local(self):
        local = self.scratch / "local"
        shutil.rmtree(local, ignore_errors=True)
        shutil.copytree(self.old, local)
        return local

    def assert_same(self, a, b):
        for path in sorted(b.iterdir()):
            self.assertEqual((a / path.name).read_bytes(), path.read_bytes(), path.name)

    def pack(self, name, *options):
        version = self.scratch / name / f"weight_v{VERSION:06d}"
        tools.run("dsv3-convert", "pack", self.new, version, "--base", self.old, "--form",
                  "pull-weights", "--weight-version", VERSION, "--quiet", *options)
        return version

    def test_the_reader_gets_the_next_version(self):
        for name, options in (("xor", []), ("overwrite", ["--idempotent"])):
            version, local = self.pack(name, *options), self.local()
            tensors = tensors_of(self.new)
            self.assertEqual(apply(version, local), len(tensors) - (len(tensors) + 2) // 3)
            self.assert_same(local, self.new)
            if options:
                apply(version, local)  # once more
                self.assert_same(local, self.new)

    def test_what_others_publish_is_unpacked(self):
        for encoding in ("xor", "overwrite"):
            version = self.scratch / f"published-{encoding}"
            publish(self.old, self.new, version, encoding)
            out = self.scratch / f"out-{encoding}"
            tools.run("dsv3-convert", "unpack", version, out, "--base", self.old, "--quiet")
            self.assert_same(out, self.new)
            tools.run("dsv3-verify", "compare", version, self.new, "--base", self.old, "--quiet")

    def test_the_wrong_version_is_found(self):
        version = self.scratch / "published-wrong"
        publish(self.old, self.new, version, "xor")
        for command in (["dsv3-convert", "unpack", version, self.scratch / "wrong"],
                        ["dsv3-verify", "numeric", version]):
            done = tools.run(*command, "--base", self.new, "--quiet", exit_code=3)
            self.assertIn("the base is not the version before", done.stderr)


if __name__ == "__main__":
    unittest.main()
