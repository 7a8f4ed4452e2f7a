"""Packed chunks of generated weights: sizes and rates, beside zipnn and zstd on the same bytes."""

import json
import pathlib
import sys

from measure import BIN, fresh, run
from pack_commands import measure_commands

HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"BF16": "bfloat16", "FP8": "float8_e4m3fn"}  # as zipnn calls them
ELEMENT_BYTES = {"BF16 RL step": 2, "BF16 fine-tune": 2, "FP8 fine-tune": 1}


def zipnn_folder(work):
    """Where zipnn is, which is installed at the first call; its dependencies are in .venv."""
    folder = work / "zipnn"
    if not folder.exists():
        run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--target", folder, "zipnn==0.5.4"])
    return folder


def with_zipnn(work, dtype, file):
    done = run([sys.executable, HERE / "packing_peer.py", dtype, file],
               {"PYTHONPATH": str(zipnn_folder(work))})
    return json.loads(done.stdout)


def with_zstd(file):
    """`zstd -3` on one thread; the times hold the program's start."""
    packed = file.with_suffix(".zst")
    raw = file.stat().st_size / 1e9
    pack = run(["zstd", "-3", "-T1", "-q", "-f", file, "-o", packed]).seconds
    unpack = run(["zstd", "-d", "-q", "-f", packed, "-o", file.with_suffix(".raw")]).seconds
    return {"ratio": packed.stat().st_size / 1e9 / raw, "pack_gb_per_s": raw / pack,
            "unpack_gb_per_s": raw / unpack}


def xor_ratios(file, element_bytes):
    """In a process of its own: what this one once held counts for all that it starts."""
    return json.loads(run([sys.executable, HERE / "packing_xor.py", file, element_bytes]).stdout)


def measure_packing(checkpoints, work, pairs, say):
    """`checkpoints`: the name of a dtype → a directory of such weights."""
    say("Packed chunks ...")
    weights = work / "weights"
    fresh(weights)
    run([BIN / "dsv3-packing-bench", "--json", weights / "rows.json", "--write", weights])
    peers = {}
    for name, dtype in DTYPES.items():
        file = weights / f"{name}.bin"
        peers[name] = {"zipnn": with_zipnn(work, dtype, file), "zstd -3": with_zstd(file)}
    for name, element_bytes in ELEMENT_BYTES.items():
        peers[name] = xor_ratios(weights / f"{name}.bin", element_bytes)
    rows = json.loads((weights / "rows.json").read_text())
    fresh(weights)
    named = {name: (folder, DTYPES[name]) for name, folder in checkpoints.items()}
    whole = measure_commands(named, work, zipnn_folder(work), pairs, say)
    return {"rows": rows, "peers": peers, **whole}
