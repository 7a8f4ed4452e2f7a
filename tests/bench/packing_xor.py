"""The size of weights as XOR with their base, compressed by `zstd -1`: as slime does, and with the
bytes of each place in an element together. Arguments: the weights, the bytes of an element."""

import json
import pathlib
import subprocess
import sys

import numpy


def main():
    file, element_bytes = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    new, base = (numpy.fromfile(each, dtype=numpy.uint8)
                 for each in (file, file.with_suffix(".base.bin")))
    differences = (new ^ base).reshape(-1, element_bytes)
    ways = {"XOR and zstd -1": differences}
    if element_bytes > 1:
        ways["XOR in planes and zstd -1"] = differences.T
    ratios = {}
    for way, content in ways.items():
        done = file.with_suffix(".xor")
        content.tofile(done)  # row by row
        packed = file.with_suffix(".xor.zst")
        subprocess.run(["zstd", "-1", "-q", "-f", done, "-o", packed], check=True)
        ratios[way] = {"ratio": packed.stat().st_size / len(new)}
    print(json.dumps(ratios))


main()
