"""packing_peer.py DTYPE FILE: the ratio and the rates of zipnn on one thread, as JSON"""

import json
import pathlib
import statistics
import sys
import time

from zipnn import ZipNN


def main(dtype, file):
    data = pathlib.Path(file).read_bytes()
    zipnn = ZipNN(bytearray_dtype=dtype, threads=1)
    pack, unpack = [], []
    for _ in range(5):
        # compress() changes what it is given.
        copy = bytearray(data)
        begin = time.perf_counter()
        packed = zipnn.compress(copy)
        middle = time.perf_counter()
        restored = zipnn.decompress(packed)
        unpack.append(time.perf_counter() - middle)
        pack.append(middle - begin)
        if bytes(restored) != data:
            sys.exit(f"zipnn changed {file}")
    gigabytes = len(data) / 1e9
    print(json.dumps({"ratio": len(packed) / len(data),
                      "pack_gb_per_s": gigabytes / statistics.median(pack),
                      "unpack_gb_per_s": gigabytes / statistics.median(unpack)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
