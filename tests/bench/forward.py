"""dsv3-verify forward beside transformers, against the disk, and on the shapes of the 671B model."""

import json
import math
import pathlib
import sys

import numpy

from measure import BIN, Series, fresh, run, settle
from verify import PlainRead, warm

CONVERT = BIN / "dsv3-convert"
VERIFY = BIN / "dsv3-verify"
HERE = pathlib.Path(__file__).resolve().parent
TRANSFORMERS_5 = pathlib.Path(sys.prefix) / "transformers-5"
THREADS = ("--threads", "2")
TOKENS = 256
PROMPT = 8
GENERATED = 64
FEW = 4  # tokens from the disk
COUNTS = (1, 64, 1024)  # tokens of the 671B model


def forward(*words):
    return run([VERIFY, "forward", *words, *THREADS, "--json", "--no-progress"])


def peer(version, mode, *words):
    environment = {"PYTHONPATH": str(TRANSFORMERS_5) if version == 5 else "", "HF_HUB_OFFLINE": "1",
                   "OMP_NUM_THREADS": "2"}
    done = run([sys.executable, HERE / "forward_peer.py", mode, *words], environment)
    return json.loads(done.stdout.splitlines()[-1]), done


def shards(directory):
    return sorted(directory.glob("*.safetensors"))


class Forward:
    def __init__(self, work, pairs, say):
        self.work, self.pairs, self.say = work, pairs, say
        self.shapes = work / "forward-shapes"
        self.bf16, self.fp8, self.back = (work / f"forward-{name}" for name in ("bf16", "fp8", "back"))
        self.tokens, self.prompt = work / "tokens.npy", work / "prompt.npy"

    def prepare(self):
        if not (self.bf16 / "config.json").exists():
            self.say("Making the model ...")
            run([sys.executable, HERE / "forward_model.py", self.bf16])
        for source, target, command in ((self.bf16, self.fp8, "bf16-to-fp8"), (self.fp8, self.back, "fp8-to-bf16")):
            if not (target / "checkpoint.manifest.json").exists():
                fresh(target)
                run([CONVERT, command, source, target, "--quiet", "--overwrite"])
        random = numpy.random.default_rng(3)
        numpy.save(self.tokens, random.integers(0, 32768, (1, TOKENS)))
        numpy.save(self.prompt, random.integers(0, 32768, (1, PROMPT)))

    def once(self, models, *words):
        """The whole process. The system may drop pages at any time, so that the files are read before."""
        warm(path for model in models for path in shards(model))
        return forward(*models, *words)

    def times(self, models, *words):
        """Time and RSS, files in the page cache."""
        runs = [self.once(models, *words) for _ in range(self.pairs)]
        return {"seconds": Series([one.seconds for one in runs]).summary(),
                "peak_rss_mib": round(max(one.peak_rss_mib for one in runs), 1)}

    def prefill(self):
        self.say(f"{TOKENS} tokens ...")
        ours, theirs = self.work / "ours.npy", self.work / "theirs.npy"
        result = {"bf16": self.times([self.bf16], "--tokens-file", self.tokens),
                  "fp8": self.times([self.fp8], "--tokens-file", self.tokens)}
        for version in (4, 5):
            whole = [peer(version, "prefill", self.bf16, self.tokens, 1)[1] for _ in range(min(self.pairs, 3))]
            alone = peer(version, "prefill", self.bf16, self.tokens, self.pairs + 1, theirs)[0]
            result[f"transformers_{version}"] = {
                "version": alone["version"],
                "seconds": Series(alone["seconds"][1:]).summary(),
                "process_seconds": Series([one.seconds for one in whole]).summary(),
                "peak_rss_mib": round(max(one.peak_rss_mib for one in whole), 1)}
        forward(self.bf16, "--tokens-file", self.tokens, "--logits-out", ours)
        a, b = numpy.load(theirs), numpy.load(ours)
        result["largest_difference"] = float(abs(a - b).max() / abs(a).max())
        return result

    def generation(self):
        self.say(f"{GENERATED} tokens, one after the other ...")
        result = {}
        for name, model in (("bf16", self.bf16), ("fp8", self.fp8)):
            rates = []
            for _ in range(self.pairs):
                times = [self.once([model], "--tokens-file", self.prompt, "--generate", count).seconds
                         for count in (1, 1 + GENERATED)]
                rates.append(GENERATED / (times[1] - times[0]))
            result[name] = Series(rates).summary()
        for version in (4, 5):
            made = peer(version, "generate", self.bf16, self.prompt, GENERATED)[0]
            result[f"transformers_{version}"] = {"version": made["version"],
                                                 **Series([1 / s for s in made["seconds"]]).summary()}
        return result

    def disk(self):
        """Few tokens from the disk, against reading as many bytes and doing nothing with them."""
        result = {}
        for name, model in (("bf16", self.bf16), ("fp8", self.fp8)):
            self.say(f"From the disk, {name} ...")
            total = sum(path.stat().st_size for path in shards(model))
            plain = PlainRead(shards(model), self.work / "read")
            ids = ",".join(str(7 * i) for i in range(FEW))
            floor, seconds, needed = [], [], 1.0
            for _ in range(self.pairs):
                floor.append(plain.seconds())
                settle(*shards(model))
                done = forward(model, "--tokens", ids)
                read = json.loads(done.stdout)["bytes_read"]
                needed = max(needed, done.bytes_read / read)
                seconds.append(done.seconds)
            rate = total / Series(floor).median
            ratios = [read / rate / each for each in seconds]
            result[name] = {"seconds": Series(seconds).summary(), "ratio": Series(ratios).summary(), "bytes_read": read,
                            "kernel_reads": round(needed, 4), "gb_per_s_of_disk": round(rate / 1e9, 2)}
        return result

    def two_models(self):
        """Against one model's time: equal values in FP8 and BF16, and models that differ everywhere."""
        self.say("Two models ...")
        result = {}
        for name, pair in (("equal", [self.fp8, self.back]), ("other", [self.bf16, self.fp8])):
            alone, both, rss = [], [], []
            for _ in range(self.pairs):
                alone.append(self.once(pair[:1], "--tokens-file", self.tokens).seconds)
                # With a limit the exit code is 0 where models differ.
                done = self.once(pair, "--tokens-file", self.tokens, "--max-nmse", "1e9")
                both.append(done.seconds)
                rss.append(done.peak_rss_mib)
            result[name] = {"seconds": Series(both).summary(), "peak_rss_mib": round(max(rss), 1),
                            "ratio": round(Series(both).median / Series(alone).median, 2)}
        return result

    def prepare_shapes(self):
        """The 671B shapes in sparse files: zeros but for the scales, 1, since the kernels take longer for scales of 0."""
        if (self.shapes / "config.json").exists():
            return
        fresh(self.shapes)
        run([CONVERT, "sample", self.shapes, "--preset", "v3-shapes", "--quiet"])
        for path in shards(self.shapes):
            with path.open("r+b") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
                for name, tensor in header.items():
                    if name.endswith("_scale_inv"):
                        begin, end = tensor["data_offsets"]
                        file.seek(8 + length + begin)
                        file.write(numpy.ones((end - begin) // 4, numpy.float32).tobytes())

    def shapes_671b(self):
        """One token of the 671B shapes: what lies in no file is read like the rest, as zeros."""
        self.prepare_shapes()
        self.say("One token of the 671B shapes ...")
        done = forward(self.shapes, "--tokens", "671")
        report = json.loads(done.stdout)
        config = json.loads((self.shapes / "config.json").read_text())
        hidden, width = config["hidden_size"], config["moe_intermediate_size"]
        expert = 3 * (hidden * width + 4 * math.ceil(hidden / 128) * math.ceil(width / 128))
        experts = config["n_routed_experts"]
        layers = report["experts"] // experts
        fixed = report["bytes_read"] - report["experts_read"] * expert
        share = config["num_experts_per_tok"] / experts
        expected = []
        for tokens in COUNTS:
            met = experts * (1 - (1 - share) ** tokens)
            expected.append({"tokens": tokens, "experts": round(layers * met),
                             "bytes": round(fixed + layers * met * expert)})
        return {"bytes_read": report["bytes_read"], "kernel_reads": round(done.bytes_read / report["bytes_read"], 4),
                "experts_read": report["experts_read"], "seconds": round(done.seconds, 2),
                "peak_rss_mib": round(done.peak_rss_mib, 1), "expected": expected}


def measure_forward(work, pairs, say):
    bench = Forward(work, pairs, say)
    bench.prepare()
    return {"tokens": TOKENS, "prefill": bench.prefill(), "generation": bench.generation(), "disk": bench.disk(),
            "two_models": bench.two_models(), "shapes": bench.shapes_671b()}
