"""Opens every file of a checkpoint with the Python safetensors library and reads every shape.

Prints the seconds that takes, without starting Python and importing the library.
"""

import pathlib
import sys
import time

from safetensors import safe_open

files = sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors"))
start = time.perf_counter()
tensors = 0
for path in files:
    with safe_open(path, framework="np") as file:
        for name in file.keys():
            file.get_slice(name).get_shape()
            tensors += 1
print(time.perf_counter() - start, tensors)
