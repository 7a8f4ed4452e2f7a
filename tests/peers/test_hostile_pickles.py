"""How much memory the largest pickles take that a file may hold, whatever they make."""

import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

import tools

MOST_BYTES = 300 << 20
# A process's peak counts what its parent held when it began, so a small one starts the tool.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def text(value):
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def segments(items, each=4_000_000):
    """APPENDS of one-byte values: as many at once as the stack takes."""
    return b"".join(b"(" + items[i : i + each] + b"e" for i in range(0, len(items), each))


def tensors(number):
    """A list of tensors that share a storage and all arguments."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n\x94"  # memo 0
    storage = b"(" + text("storage") + b"ctorch\nBFloat16Storage\n" + text("0") + text("cpu") + b"K\x01tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + storage + b"K\x00K\x01\x85K\x01\x85\x89" + hooks + b"t\x94"  # memo 1
    return b"](" + rebuild + arguments + b"R" + b"h\x00h\x01R" * (number - 1) + b"e"


def ways(levels, each):
    """each ** levels ways to one list."""
    value = b"]\x94"
    for memo in range(levels):
        value = b"](" + value + b"h%c" % memo * (each - 1) + b"e\x94"
    return value


def deep(levels):
    """Lists of one list each, to the depth that is read, over and over."""
    return b"](" + (b"]" * 90 + b"a" * 89) * levels + b"e"


def metadata(number, chunks):
    """A checkpoint of tensors that share all that is said of them."""
    module = b"ctorch.distributed.checkpoint.metadata\n"

    def record(name, state):
        return module + name + b"\n)\x81" + state + b"b"

    size = b"ctorch\nSize\nK\x01\x85\x85R"
    chunk = record(b"ChunkStorageMetadata", b"}(" + text("offsets") + size + text("sizes") + size + b"u")
    properties = record(b"TensorProperties", b"(ctorch\nbfloat16\nN\x89N\x89t")
    tensor = record(
        b"TensorStorageMetadata",
        b"}(" + text("properties") + properties + text("size") + size
        + text("chunks") + b"](" + chunk + b"\x94" + b"h\x00" * (chunks - 1) + b"eu",
    ) + b"\x94"  # memo 1
    keys = [text(f"{i:06x}") + b"h\x01" for i in range(1, number)]
    tensors = b"}(" + text("first") + tensor + b"u" + b"".join(
        b"(" + b"".join(keys[i : i + 1_900_000]) + b"u" for i in range(0, len(keys), 1_900_000)
    )
    return record(
        b"Metadata",
        b"}(" + text("state_dict_metadata") + tensors + text("storage_data") + b"}"
        + text("planner_data") + b"Nu",
    )


PICKLES = {
    "lists": lambda: b"]" + segments(b"]" * 30_000_000),
    "empty lists in one": lambda: b"]" + segments(b"]" * 7_900_000),
    "items one by one": lambda: b"]" + b"Na" * 30_000_000,
    "a few items at once": lambda: b"]" + b"(NNNNe" * 12_000_000,
    "few items one by one": lambda: b"]" + b"Na" * 3_900_000,
    "memos": lambda: b"]" + b"\x94" * 60_000_000,
    "memos of many values": lambda: b"]" + segments(b"]\x94" * 3_950_000, 7_900_000),
    "keys": lambda: b"}" + b"".join(
        b"(" + b"".join(b"\x8c\x06%06xN" % i for i in range(start, start + 1_900_000)) + b"u"
        for start in range(0, 5_700_000, 1_900_000)
    ),
    "tensors": lambda: tensors(3_900_000),
    "fewer tensors": lambda: tensors(900_000),
    "deep lists": lambda: deep(40_000),
    "one text": lambda: b"X" + struct.pack("<I", 63_900_000) + b"a" * 63_900_000,
    "as many tensors as are read": lambda: tensors(400_000),
    "ways": lambda: ways(90, 200),
}
METADATA = {
    "tensors": lambda: metadata(4_000_000, 1),
    "as many tensors as are read": lambda: metadata(490_000, 1),
    "chunks": lambda: metadata(2, 3_000_000),
    "chunks of many tensors": lambda: metadata(490_000, 1000),
}


class HostilePickles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.directory = pathlib.Path(cls.scratch.name)
        tools.run("dsv3-convert", "sample", cls.directory / "fp8", "--preset", "tiny", "--quiet")

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def measure(self, path):
        """The exit code and the peak of memory."""
        command = [tools.BIN / "dsv3-inspect", path, "--config", self.directory / "fp8/config.json"]
        done = subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, *map(str, command)], capture_output=True, text=True, check=True
        )
        code, kilobytes = map(int, done.stdout.split())
        return code, kilobytes * 1024

    def test_files_of_torch_save(self):
        path = self.directory / "m.pt"
        for name, make in PICKLES.items():
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("m/data.pkl", b"\x80\x04" + make() + b".")
                archive.writestr("m/data/0", b"\0\0")
            with self.subTest(name):
                code, peak = self.measure(path)
                self.assertEqual(code, 3)
                self.assertLessEqual(peak, MOST_BYTES, f"{peak >> 20} MiB")

    def test_metadata_of_distributed_checkpoints(self):
        directory = self.directory / "dcp"
        directory.mkdir()
        for name, make in (PICKLES | METADATA).items():
            (directory / ".metadata").write_bytes(b"\x80\x04" + make() + b".")
            with self.subTest(name):
                code, peak = self.measure(directory)
                self.assertEqual(code, 3)
                self.assertLessEqual(peak, MOST_BYTES, f"{peak >> 20} MiB")


if __name__ == "__main__":
    unittest.main()
