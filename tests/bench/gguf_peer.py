"""gguf-py's quantisers on floats as weights are: prints GB/s of F32 in for each type as JSON."""

import json
import time

import gguf
import numpy

TYPES = {"Q8_0": 64 << 20, "BF16": 64 << 20, "Q4_0": 32 << 20, "MXFP4": 16 << 20}  # elements

weights = numpy.random.default_rng(1).normal(0, 0.02, max(TYPES.values())).astype(numpy.float32)
rates = {}
for name, count in TYPES.items():
    kind = gguf.GGMLQuantizationType[name]
    values = weights[:count].reshape(-1, 4096)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        gguf.quants.quantize(values, kind)
        seconds.append(time.perf_counter() - start)
    rates[name] = values.nbytes / 1e9 / sorted(seconds)[1]
print(json.dumps(rates))
