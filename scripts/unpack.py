#!/usr/bin/env python3
"""Usage: scripts/unpack.py PACKED OUT [BASE]

Restores the files of a packed checkpoint, byte for byte, by docs/packed.md alone, with numpy
and the `zstd` program. BASE is a directory of safetensors files with the tensors that it was packed
against: in the same dtype and shape, or FP8 with `_scale_inv` of blocks of 128 by 128 for BF16.
"""

import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np


def zstd(data):
    return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout


def safetensors(data):
    """The header of a safetensors file and the offset of its data."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(bytes(data[8:8 + length])), 8 + length


def join(planes, width):
    return np.stack(planes, axis=1).reshape(-1).view(f"<u{width}")


def order(bits, width, is_float):
    """The bits in the order of the numbers; the same function leads back."""
    if not is_float:
        return bits
    top = bits.dtype.type(1 << (8 * width - 1))
    return np.where(bits & top != 0, bits ^ (top - bits.dtype.type(1)), bits)


def add(zigzag, base, width, is_float):
    """The elements whose differences from those of the base are `zigzag`."""
    difference = np.where(zigzag & 1 != 0, ~(zigzag >> 1), zigzag >> 1)
    return order(order(base, width, is_float) + difference, width, is_float)


def decode(coding, width, planes, base):
    """The elements of a chunk."""
    if coding == 8:
        return base
    if coding in (4, 5):
        gaps = planes[0].astype(np.int64)
        steps = gaps + (gaps != 255)  # how far each byte moves on
        places = (np.cumsum(steps) - 1)[gaps != 255]
        elements = base.copy()
        elements[places] = add(join(planes[1:], width), base[places], width, coding == 5)
        return elements
    if coding in (6, 7):
        zigzag = planes[0].astype(f"<u{width}")
        if len(planes) > 1:
            zigzag[planes[0] == 255] += join(planes[1:], width)
        return add(zigzag, base, width, coding == 7)
    elements = join(planes, width)
    if coding == 1:
        return elements >> 1 | elements << 15
    return elements if coding == 0 else add(elements, base, width, coding == 3)


def unpack_tensor(stream, chunk_bytes, base):
    """The bytes of a tensor; `base` are those of the base's, or None."""
    count, flags, magic = struct.unpack("<IBI", stream[-9:])
    assert magic == 0x8F92EAB1 and flags == 0, "no seek table"
    table = np.frombuffer(stream[len(stream) - 9 - 8 * count:-9], "<u4").reshape(count, 2)
    begins = np.cumsum(table[:, 0]) - table[:, 0]
    contents = np.split(np.frombuffer(zstd(stream), np.uint8), np.cumsum(table[:, 1]))
    raw, i = [], 0
    while i < count:
        frame = bytes(stream[begins[i]:begins[i] + 20])
        magic, length, version, coding, width, planes, size, crc = struct.unpack("<IIBBBBII", frame)
        assert (magic, length, version) == (0x184D2A50, 12, 1) and coding <= 8, "a foreign coding"
        begin = len(raw) * chunk_bytes
        old = np.frombuffer(base[begin:begin + size], f"<u{width}") if coding >= 2 else None
        raw.append(decode(coding, width, contents[i + 1:i + 1 + planes], old).tobytes())
        checked = frame[8:16] + (raw[-1] if coding >= 2 else b"")
        assert zlib.crc32(checked) == crc and len(raw[-1]) == size, "damaged, or another base"
        i += 1 + planes
    return b"".join(raw)


class Base:
    def __init__(self, directory):
        self.tensors = {}
        for path in directory.glob("**/*.safetensors"):
            data = np.memmap(path, np.uint8, "r")
            header, offset = safetensors(data)
            self.tensors.update((name, (entry, data[offset:])) for name, entry in header.items())

    def bytes_of(self, name):
        entry, data = self.tensors[name]
        return entry, np.array(data[slice(*entry["data_offsets"])])

    def read(self, name, dtype):
        entry, raw = self.bytes_of(name)
        if entry["dtype"] == dtype:
            return raw.tobytes()
        rows, cols = entry["shape"]
        scale, scales = self.bytes_of(name + "_scale_inv")
        codes = np.arange(256)
        power, ulps, sign = codes >> 3 & 15, codes & 7, 1 - codes // 128 * 2
        values = np.where(power == 0, ulps / 512.0, (8 + ulps) * 2.0**(power - 10.0)) * sign
        scales = scales.view("<f4").reshape(scale["shape"]).repeat(128, 0)[:rows].repeat(128, 1)
        bits = (values.astype("<f4")[raw.reshape(rows, cols)] * scales[:, :cols]).view("<u4")
        return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2").tobytes()


def main(packed, out, base=None):
    base = Base(base) if base else None
    listed = json.loads((packed / "packed.json").read_bytes())
    assert (listed["format"], listed["version"]) == ("dsv3-packed-checkpoint", 1), "a foreign form"
    based = {(t["file"], t["name"]) for t in listed["tensors"] if "base_xxh3_128" in t}
    for file in listed["files"]:
        name = file["name"]
        assert not {"", ".", ".."} & set(name.split("/")), f"{name} would leave {out}"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        data = memoryview((packed / (name + ".packed" * ("packed" in file))).read_bytes())
        with open(out / name, "xb") as restored:
            if "packed" in file:
                header, offset = safetensors(data)
                about = header.pop("__metadata__")
                assert about["packed_version"] == "1", "another version"
                streams = {key: data[offset:][slice(*entry["data_offsets"])]
                           for key, entry in header.items()}
                head = zstd(streams[about["header"]])
                restored.write(head)
                entries = safetensors(head)[0]
                entries.pop("__metadata__", None)
                for tensor, entry in sorted(entries.items(), key=lambda e: e[1]["data_offsets"]):
                    old = base.read(tensor, entry["dtype"]) if (name, tensor) in based else None
                    restored.write(unpack_tensor(streams[tensor], int(about["chunk_bytes"]), old))
            else:
                restored.write(data)
        digest = hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert digest == file.get("sha256", digest), f"{name} has another SHA-256"


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    main(*map(pathlib.Path, sys.argv[1:]))
