"""The safetensors parser and writer against the reference, over generated files.

Needs dsv3-header-check and the safetensors package only. DSV3_DIFFERENTIAL_CASES sets how many
damaged headers are tried (default 10000), DSV3_DIFFERENTIAL_SEED the seed of the generator.
"""

import ctypes
import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import unittest

from safetensors import TensorSpec, deserialize, serialize, serialize_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("DSV3_BIN", ROOT / "build/release/bin"))
CASES = int(os.environ.get("DSV3_DIFFERENTIAL_CASES", "10000"))
SEED = int(os.environ.get("DSV3_DIFFERENTIAL_SEED", "1"))
BATCH = 500

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}
# What the reference's writer calls the dtypes; it has no way to write the six-bit ones.
WRITER_NAMES = {
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64",
    "F64": "float64", "I64": "int64", "U64": "uint64",
}
NAMES = [
    "a", "b", "w", "model.norm.weight", "a b", 'q"uote', "back\\slash", "sl/ash", "tab\t", "nl\n", "\x01\x1f",
    "\x7f", "\b\f\r", "é", "漢字", "😀", "\u2028\u2029", "\ud7ff\ue000", "\uffff", "", "nul\0", "__metadata",
    "\x80\x9f", "0", "{}", "~",
]
# Texts that replace a value or are put somewhere into a header.
TOKENS = [
    "4.0", "4e0", "-0", "04", "-1", "18446744073709551615", "18446744073709551616", "1e3", "1E+2",
    "0.5", "1e999", "-1e999", "1e-999", "9" * 330, "null", "true", "false", "nul", "[]", "{}", '""', '"a"',
    '"U8"', '{"U8":null}', '{"U8":[]}', '{"F8_E4M3":null,"U8":null}', '["U8",[4],[0,4]]', ",", ":", "[", "]",
    "{", "}", '"', "\\", "'", " ", "\t", "\r\n", "\0", "\x01", "\x0b", "\ufeff", "//", "/**/", "NaN",
    "Infinity", "+1", ".5", "5.", "1e", "1e+", '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\ud83d\\ud83d"',
    '"\\u00"', '"\\uD7FF\\uE000"', '"\\x41"', '"\\/"', '"\\b\\f\\n\\r\\t\\"\\\\"', '"\\u0000"',
    '"a":1,', '"a":null,', '"__metadata__":null,', '"__metadata__":{},', '"__metadata__":{"k":"v"},',
    '"__metadata__":{"k":"v","k":"w"},', '"__metadata__":{"k":1},', '"__metadata__":[],', '"x":1,', '"dtype":"U8",',
    '"shape":[],', '"data_offsets":[0,0],', '"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
    '"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', '"b":["BOOL",[0],[0,0]],',
    "[" * 124 + "]" * 124, "[" * 125 + "]" * 125, "[" * 126 + "]" * 126, "[" * 127 + "]" * 127,
    '"x":' + "[" * 125 + "]" * 125 + ",", '"x":' + "[" * 126 + "]" * 126 + ",", '{"a":' * 130 + "1" + "}" * 130,
]


def file_bytes(header, data_bytes, length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data_bytes)


def random_shape(rng, bits):
    shape = [rng.choice([0, 1, 1, 2, 3, 4, 5, 8]) for _ in range(rng.randrange(4))]
    count = 1
    for dimension in shape:
        count *= dimension
    if count * bits % 8:
        shape.append(8)
    return shape


def random_entries(rng, dtypes):
    """Tensors of distinct names, laid out back to back in random order."""
    entries, offset = [], 0
    for name in rng.sample(NAMES, rng.randrange(6)):
        dtype = rng.choice(dtypes)
        shape = random_shape(rng, BITS[dtype])
        count = 1
        for dimension in shape:
            count *= dimension
        size = count * BITS[dtype] // 8
        entries.append((name, dtype, shape, offset, offset + size))
        offset += size
    return entries, offset


def text_of(rng, entries):
    """A header's JSON in one of many legal spellings."""
    members = []
    if rng.random() < 0.5:
        members.append('"__metadata__":' + rng.choice(["null", "{}", '{"format":"pt"}', '{"a":"b","é":"\\n"}']))
    for name, dtype, shape, begin, end in entries:
        fields = [f'"dtype":"{dtype}"', f'"shape":{json.dumps(shape)}', f'"data_offsets":[{begin},{end}]']
        if rng.random() < 0.3:
            rng.shuffle(fields)
        if rng.random() < 0.1:
            fields.insert(rng.randrange(4), '"more":' + rng.choice(["1", "-1.5e3", '[{"a":[]}]', '"x"']))
        entry = "{" + ",".join(fields) + "}"
        if rng.random() < 0.05:
            entry = f'["{dtype}",{json.dumps(shape)},[{begin},{end}]]'
        members.append(json.dumps(name, ensure_ascii=rng.random() < 0.5) + ":" + entry)
    if rng.random() < 0.3:
        rng.shuffle(members)
    separator = rng.choice([",", ", ", " ,\n", ",\t"])
    return rng.choice(["", "", "", " "]) + "{" + separator.join(members) + "}" + " " * rng.randrange(9)


def damage(rng, text, data_bytes):
    """Changes a header once or a few times; the bytes of the result and a number of data bytes."""
    raw = bytearray(text.encode())
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.randrange(13)
        at = rng.randrange(len(raw) + 1)
        if kind == 0 and raw:
            raw[at % len(raw)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[at:at] = bytes([rng.randrange(256)])
        elif kind == 2:
            del raw[at : at + rng.randrange(1, 5)]
        elif kind in (3, 4):
            # After a structural character, so that many results are still JSON.
            places = [i + 1 for i, c in enumerate(raw) if c in b"{[,:"] or [at]
            place = rng.choice(places)
            raw[place:place] = rng.choice(TOKENS).encode()
        elif kind in (5, 6):
            # A number, string or other word becomes something else.
            starts = [i for i in range(len(raw)) if raw[i] in b'0123456789"' and i and raw[i - 1] in b"[,:"]
            if starts:
                start = rng.choice(starts)
                stop = start + 1
                while stop < len(raw) and raw[stop] not in b",]}:":
                    stop += 1
                new = rng.choice(TOKENS) if rng.random() < 0.6 else str(rng.randrange(20))
                raw[start:stop] = new.encode()
        elif kind == 7:
            data_bytes = max(0, data_bytes + rng.choice([-1, 1, 8]))
        elif kind in (8, 9, 10):
            places = [i + 1 for i, c in enumerate(raw) if c in b"{"] or [at]
            place = rng.choice(places)
            raw[place:place] = rng.choice([t for t in TOKENS if t[-1:] in (",", " ", "\t", "\n")]).encode()
        else:
            raw[at:at] = rng.choice(TOKENS).encode()
    return bytes(raw), data_bytes


def reference_view(content):
    """What the reference makes of a file: tensors sorted by name, or its error."""
    try:
        tensors = deserialize(content)
    except Exception as error:  # pylint: disable=broad-except
        return None, str(error)
    return sorted((n, t["dtype"], list(t["shape"]), len(t["data"])) for n, t in tensors), ""


def handmade():
    """Files with a fault of a particular kind, and legal oddities."""
    entry = '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]'
    one = (entry + "}}").encode()
    yield b""
    for size in range(1, 8):
        yield bytes(size)
    for length in (0, 1, 2, 2**31, 2**32, 2**63, 2**64 - 1, 100_000_000, 100_000_001, len(one) - 1, len(one) + 1):
        yield file_bytes(one, 4, length)
    whole = file_bytes(one, 4)
    for cut in range(len(whole)):
        yield whole[:cut]
    yield whole + b"\0"
    for field in TOKENS:
        yield file_bytes((entry + ',"x":' + field + "}}").encode(), 4)
        yield file_bytes(one.replace(b"[4]", b"[" + field.encode() + b"]"), 4)
        yield file_bytes(one.replace(b'"U8"', field.encode()), 4)
        yield file_bytes(one.replace(b"[0,4]", field.encode()), 4)
        yield file_bytes(one.replace(b"[0,", b"[" + field.encode() + b","), 4)
        yield file_bytes(field.encode(), 4)
        yield file_bytes(one + field.encode(), 4)
    big = 2**64 - 1
    for dtype in BITS:
        for shape in ([], [0], [1], [2], [3], [4], [8], [0, big, 2], [big, 2, 0], [big, 0], [2**61], [2**60], [big]):
            for size in (0, 1, 2, 3, 4, 8):
                text = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
                yield file_bytes(json.dumps(text).encode(), size)
    for invalid in (b"\xff", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xc3", b"\x80",
                    b"\xf5\x80\x80\x80", b"\xe2\x82"):
        yield file_bytes(one.replace(b'"a"', b'"' + invalid + b'"'), 4)
        yield file_bytes(one.replace(b'"a"', b'"xxxxxxxxxxxxxxxxxxxx' + invalid + b'"'), 4)
        yield file_bytes(one.replace(b'"a"', b'"' + invalid + b'xxxxxxxxxxxxxxxxxxxx"'), 4)


class Differential(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def check(self, contents):
        """Runs dsv3-header-check on files of these contents; yields (content, its answer)."""
        for start in range(0, len(contents), BATCH):
            batch = contents[start : start + BATCH]
            with tempfile.TemporaryDirectory(dir=self.directory.name) as directory:
                paths = [pathlib.Path(directory, f"{i}.safetensors") for i in range(len(batch))]
                for path, content in zip(paths, batch):
                    path.write_bytes(content)
                done = subprocess.run([BIN / "dsv3-header-check", *paths], capture_output=True, check=True)
            answers = done.stdout.decode().strip("\n").split("\n")
            self.assertEqual(len(answers), len(batch))
            yield from zip(batch, map(json.loads, answers))

    def compare(self, contents):
        counts = {"accepted": 0, "rejected": 0, "duplicate": 0}
        for content, ours in self.check(contents):
            theirs, reason = reference_view(content)
            with self.subTest(content=content[:400]):
                if ours["accepted"]:
                    self.assertIsNotNone(theirs, f"only the reference rejects: {reason}")
                    found = sorted((n, d, s, e - b) for n, d, s, b, e in ours["tensors"])
                    self.assertEqual(found, theirs)
                    counts["accepted"] += 1
                elif theirs is not None:
                    # The one rule that is stricter on purpose.
                    self.assertIn("appears twice in the header", ours["message"])
                    counts["duplicate"] += 1
                else:
                    counts["rejected"] += 1
        return counts

    def test_handmade_files(self):
        counts = self.compare(list(handmade()))
        self.assertGreater(counts["accepted"], 20)

    def test_random_legal_headers_are_accepted(self):
        rng = random.Random(SEED)
        contents = []
        for _ in range(CASES // 10):
            entries, data_bytes = random_entries(rng, list(BITS))
            contents.append(file_bytes(text_of(rng, entries).encode(), data_bytes))
        counts = self.compare(contents)
        self.assertEqual(counts["accepted"], len(contents))

    def test_damaged_headers_are_judged_alike(self):
        rng = random.Random(SEED)
        contents = []
        for _ in range(CASES):
            entries, data_bytes = random_entries(rng, list(BITS))
            header, data_bytes = damage(rng, text_of(rng, entries), data_bytes)
            contents.append(file_bytes(header, data_bytes))
        counts = self.compare(contents)
        print("differential:", counts)
        self.assertGreater(counts["accepted"], CASES // 20)
        self.assertGreater(counts["duplicate"], 0)
        self.assertGreater(counts["rejected"], CASES // 4)

    def test_written_headers_are_identical(self):
        rng = random.Random(SEED)
        contents = []
        for number in range(CASES // 20):
            entries, _ = random_entries(rng, list(WRITER_NAMES))
            specs, keep_alive = {}, []
            for name, dtype, shape, begin, end in entries:
                if dtype == "F4":
                    # Its constructor doubles the last dimension.
                    shape = [*shape[:-1], shape[-1] // 2] if shape and shape[-1] % 2 == 0 else [0]
                    count = 1
                    for dimension in shape:
                        count *= dimension
                    end = begin + count
                buffer = ctypes.create_string_buffer(rng.randbytes(end - begin) + b"\0")
                keep_alive.append(buffer)
                specs[name] = TensorSpec(dtype=WRITER_NAMES[dtype], shape=shape,
                                         data_ptr=ctypes.addressof(buffer), data_len=end - begin)
            metadata = rng.choice([None, {"format": "pt"}, {rng.choice(NAMES): rng.choice(NAMES)}])
            if number % 2:
                path = pathlib.Path(self.directory.name, f"reference-{number}.safetensors")
                serialize_file(specs, path, metadata)
                contents.append(path.read_bytes())
            else:
                contents.append(bytes(serialize(specs, metadata)))
        for content, ours in self.check(contents):
            with self.subTest(content=content[:400]):
                self.assertTrue(ours["accepted"], ours.get("message"))
                self.assertTrue(ours["writer_agrees"])


if __name__ == "__main__":
    unittest.main()
