"""Measures the tools against limits of the same machine, in the same run.

    bench.py WORK [--pairs N] [--only PART...]

writes WORK/bench.json, keeping the parts that are not measured again. Run by scripts/bench.
"""

import argparse
import json
import pathlib
import re
import sys

import measure
from forward import measure_forward
from gguf_race import measure_gguf
from measure import BIN, Series, fresh, run, settle
from multiply import multiply
from packing import measure_packing
from race import Race
from reshard import measure_reshard
from training import measure_training
from verify import measure_verify

HERE = pathlib.Path(__file__).resolve().parent
CONVERT = BIN / "dsv3-convert"
INSPECT = BIN / "dsv3-inspect"
PARTS = ("hash", "kernels", "convert", "quantize", "gguf", "reshard", "verify", "forward", "inspect",
         "metadata", "training", "packing", "official")


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, work, pairs):
        self.work = work
        self.pairs = pairs
        self.small = work / "small"
        self.source = work / "source"  # the small sample, three times
        self.bf16 = work / "bf16"  # the same as BF16
        self.output = work / "output"
        self.shapes = work / "v3-shapes"
        path = work / "bench.json"
        self.results = json.loads(path.read_text()) if path.exists() else {}
        self.results.update(machine=measure.machine(work), pairs=pairs)

    def hash_limit(self):
        return self.results["hash"]["limit_gb_per_s"] if "hash" in self.results else None

    def race(self, name, source, command):
        shards = sorted(source.glob("*.safetensors"))
        race = Race(name, shards, self.output, self.work / "floor", command, say)
        return race.run(self.pairs, self.hash_limit())

    def prepare_small(self):
        if not (self.small / "config.json").exists():
            say("Making the small sample ...")
            run([CONVERT, "sample", self.small, "--preset", "small", "--seed", 1])

    def prepare_small_bf16(self):
        """The directory of the small sample as BF16."""
        self.prepare_small()
        model = self.work / "small-bf16"
        if not (model / "checkpoint.manifest.json").exists():
            fresh(model)
            run([CONVERT, "fp8-to-bf16", self.small, model, "--quiet", "--overwrite"])
        return model

    def prepare(self):
        self.prepare_small()
        if not (self.source / "config.json").exists():
            fresh(self.source)
            self.source.rmdir()
            multiply(self.small, self.source, copies=3)

    # Hashing and kernels: what the CPU can do at best.

    def hash(self):
        say("SHA-256 ...")
        rates = measure.google_benchmark(BIN / "dsv3-hash-bench", "Sha256", "GB/s")
        cores = self.results["machine"]["cores"]
        # The last line: the name, then thousands of bytes per second for each size.
        speed = run(["openssl", "speed", "-seconds", 2, "-bytes", 1 << 20, "-multi", cores, "-evp",
                     "sha256"]).stdout
        openssl = float(re.findall(r"([0-9.]+)k", speed)[-1]) * 1e3
        best = max(rates.values(), default=0)
        self.results["hash"] = {
            "benchmarks_gb_per_s": {name: round(rate, 2) for name, rate in rates.items()},
            "openssl_all_cores_gb_per_s": round(openssl / 1e9, 2),
            "limit_gb_per_s": round(max(best, openssl / 1e9), 2),
        }

    def kernels(self):
        say("Kernels ...")
        path = self.work / "kernels.json"
        run([BIN / "dsv3-kernel-bench", "--json", path])
        self.results.update(json.loads(path.read_text()))

    # The whole command against a copy of the same bytes.

    def convert(self):
        self.prepare()
        self.results["convert"] = self.race(
            "fp8-to-bf16", self.source,
            lambda checksum: [CONVERT, "fp8-to-bf16", self.source, self.output, "--checksum",
                              checksum, "--quiet"])

    def prepare_bf16(self):
        if not (self.bf16 / "checkpoint.manifest.json").exists():
            say("Making the BF16 form ...")
            fresh(self.bf16)
            run([CONVERT, "fp8-to-bf16", self.source, self.bf16, "--quiet"])

    def quantize(self):
        self.prepare()
        self.prepare_bf16()
        # The multiplied checkpoint has names of its own, so they are said.
        names = ["--include", "*_proj.weight", "--include", "*_with_mqa.weight", "--exclude",
                 "*eh_proj*"]
        self.results["quantize"] = self.race(
            "bf16-to-fp8", self.bf16,
            lambda checksum: [CONVERT, "bf16-to-fp8", self.bf16, self.output, "--checksum",
                              checksum, "--quiet", *names])
        fresh(self.output)
        run([CONVERT, "fp8-to-bf16", self.small, self.output, "--quiet", "--overwrite"])
        self.results["quantize"]["torch"] = self.with_torch("quantize_torch_cpu.py", self.output)

    def gguf(self):
        self.prepare()
        self.results["gguf"] = measure_gguf(self.small, self.work, self.pairs, self.hash_limit(),
                                            say)

    # Rank shards.

    def reshard(self):
        self.prepare()
        self.prepare_shapes()
        self.results["reshard"] = measure_reshard(self.small, self.shapes, self.work, self.pairs,
                                                  self.hash_limit(), say)

    # Checking instead of converting.

    def verify(self):
        self.prepare()
        self.prepare_shapes()
        self.results["verify"] = measure_verify(self.source, self.shapes, self.work, self.pairs,
                                                say)

    # Running a model.

    def forward(self):
        self.results["forward"] = measure_forward(self.work, self.pairs, say)

    # Opening a checkpoint of the true shapes.

    def prepare_shapes(self):
        if not (self.shapes / "config.json").exists():
            say("Making the sparse checkpoint with the 671B shapes ...")
            run([CONVERT, "sample", self.shapes, "--preset", "v3-shapes", "--seed", 1])

    def inspect(self):
        self.prepare_shapes()
        python, inspect, dry, rss = [], [], [], []
        for i in range(max(self.pairs, 5) + 1):
            library = float(run([sys.executable, HERE / "read_shapes.py", self.shapes]).stdout.split()[0])
            tool = run([INSPECT, self.shapes])
            plan = run([CONVERT, "fp8-to-bf16", self.shapes, self.work / "planned", "--dry-run"])
            if i == 0:
                continue  # warms the page cache for all three
            python.append(library)
            inspect.append(tool.seconds)
            dry.append(plan.seconds)
            rss.append(max(tool.peak_rss_mib, plan.peak_rss_mib))
        library = Series(python)
        self.results["inspect"] = {
            "python_library_seconds": library.summary(),
            "inspect_seconds": Series(inspect).summary(),
            "inspect_ratio": round(Series(inspect).median / library.median, 2),
            "dry_run_seconds": Series(dry).summary(),
            "dry_run_ratio": round(Series(dry).median / library.median, 2),
            "peak_rss_mib": round(max(rss), 1),
        }

    def metadata(self):
        """Opening the .metadata of a 671B checkpoint, without and with the plans of all ranks."""
        self.results["metadata"] = {}
        for name, options in (("states", ()), ("plans", ("--plans",))):
            say(f"Metadata of a distributed checkpoint, {name} ...")
            file = self.work / f"{name}.metadata"
            if not file.exists():
                run([sys.executable, HERE / "dcp_metadata.py", file, *options])
            done = run([BIN / "dsv3-dcp-metadata-bench", "--benchmark_format=json",
                        "--benchmark_repetitions=5", file])
            runs = [b for b in json.loads(done.stdout)["benchmarks"] if b["run_type"] == "iteration"]
            self.results["metadata"][name] = {
                "seconds": Series([b["real_time"] / 1e3 for b in runs]).summary(),
                "chunks": round(runs[0]["chunks"]),
                "megabytes": round(file.stat().st_size / 1e6, 1),
                "peak_rss_mib": round(done.peak_rss_mib, 1),
            }

    # Training checkpoints.

    def training(self):
        self.results["training"] = measure_training(self.prepare_small_bf16(), self.work,
                                                    min(self.pairs, 3), say)

    # Packed checkpoints.

    def packing(self):
        # The small sample once: every way is alternated, and zstd and zipnn take their time.
        checkpoints = {"BF16": self.prepare_small_bf16(), "FP8": self.small}
        self.results["packing"] = measure_packing(checkpoints, self.work, min(self.pairs, 5), say)

    # What users run today.

    def with_torch(self, program, source):
        say(f"{program} ...")
        seconds, rss = [], []
        target = self.work / "torch"
        shards = sorted(source.glob("*.safetensors"))
        read = sum(p.stat().st_size for p in shards)
        for _ in range(3):
            fresh(target)
            target.rmdir()
            settle(*shards)
            done = run([sys.executable, HERE / program, source, target])
            seconds.append(done.seconds)
            rss.append(done.peak_rss_mib)
        fresh(target)
        return {"seconds": Series(seconds).summary(), "peak_rss_mib": round(max(rss), 1),
                "gb_per_s_in": round(read / 1e9 / Series(seconds).median, 2)}

    def official(self):
        self.prepare()
        self.results["official"] = self.with_torch("official_torch_cpu.py", self.small)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.work, options.pairs)
    for part in PARTS:
        if part in options.only:
            getattr(bench, part)()
    path = options.work / "bench.json"
    path.write_text(json.dumps(bench.results, indent=2) + "\n")
    say(f"Wrote {path}")


if __name__ == "__main__":
    main()
