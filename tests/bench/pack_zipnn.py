"""pack_zipnn.py pack|unpack DTYPE OUT FILE...: whole files with zipnn, which wants them in memory."""

import os
import pathlib
import sys

from zipnn import ZipNN


def main(way, dtype, out, *files):
    zipnn = ZipNN(bytearray_dtype=dtype, threads=os.cpu_count())
    for file in map(pathlib.Path, files):
        data = bytearray(file.read_bytes())
        done = zipnn.compress(data) if way == "pack" else zipnn.decompress(data)
        with open(pathlib.Path(out) / file.name, "wb") as target:
            target.write(done)
            target.flush()
            os.fsync(target.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
