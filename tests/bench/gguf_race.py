"""`to-gguf` against a plain copy of the same bytes, beside gguf-py's quantisers and llama.cpp's own converter.

The converter is taken from DSV3_LLAMA_CPP, a directory of llama.cpp's source, where that is set.
"""

import json
import os
import pathlib
import sys

from measure import BIN, fresh, run, settle
from race import Race

HERE = pathlib.Path(__file__).resolve().parent
CONVERT = BIN / "dsv3-convert"
TYPES = ("bf16", "q8_0", "f16")
FILE = "model.gguf"

# Runs the converter on a tokenizer whose digest it does not know.
CONVERTER = """
import sys
source = sys.argv[1]
sys.path.insert(0, source)
sys.path.insert(0, source + "/gguf-py")
import convert_hf_to_gguf as converter
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "deepseek-v3"
sys.argv = ["convert", *sys.argv[2:]]
converter.main()
"""


class GgufRace(Race):
    """The output is one file, whose bytes the copy divides among the shards by their sizes."""

    def written_by_source(self):
        written = (self.output / FILE).stat().st_size
        read = sum(p.stat().st_size for p in self.shards)
        sizes = {p.name: written * p.stat().st_size // read for p in self.shards}
        sizes[self.shards[-1].name] += written - sum(sizes.values())
        return sizes


def with_llama_cpp(model, shards, output, say):
    source = os.environ.get("DSV3_LLAMA_CPP", "")
    if not source:
        return {}
    made = {}
    for kind in TYPES:
        say(f"llama.cpp's converter, {kind} ...")
        fresh(output)
        settle(*shards)
        done = run([sys.executable, "-c", CONVERTER, source, model, "--outtype", kind, "--outfile",
                    output / FILE])
        made[kind] = {"seconds": round(done.seconds, 3), "peak_rss_mib": round(done.peak_rss_mib, 1)}
    return made


def measure_gguf(model, work, pairs, hash_limit, say):
    """`model` is an FP8 checkpoint of a known architecture."""
    shards = sorted(model.glob("*.safetensors"))
    output = work / "output"
    races = {}
    for kind in TYPES:
        race = GgufRace(f"to-gguf --type {kind}", shards, output, work / "floor",
                        lambda checksum, kind=kind: [CONVERT, "to-gguf", "--type", kind, model,
                                                     output / FILE, "--checksum", checksum, "--quiet"],
                        say)
        races[kind] = race.run(pairs, hash_limit)
    say("gguf-py's quantisers ...")
    peer = json.loads(run([sys.executable, HERE / "gguf_peer.py"]).stdout)
    converter = with_llama_cpp(model, shards, output, say)
    for kind, own in races.items():
        if kind in converter:
            converter[kind]["times_ours"] = round(
                converter[kind]["seconds"] / own["sha256"]["seconds"]["median"], 1)
    fresh(output)
    return {"races": races, "gguf_py_gb_per_s": {name: round(rate, 2) for name, rate in peer.items()},
            "llama_cpp": converter}
