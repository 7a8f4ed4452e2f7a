"""Measures the tools against limits of the same machine, in the same run.

    bench.py WORK [--pairs N] [--only PART...]

writes WORK/bench.json. Parts: hash, kernels, convert, inspect, official. Run by scripts/bench.
"""

import argparse
import json
import pathlib
import re
import sys

import measure
from measure import BIN, Series, fresh, run, settle
from multiply import multiply

HERE = pathlib.Path(__file__).resolve().parent
CONVERT = BIN / "dsv3-convert"
INSPECT = BIN / "dsv3-inspect"
FLOOR = BIN / "dsv3-floor-copy"


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, work, pairs):
        self.work = work
        self.pairs = pairs
        self.small = work / "small"
        self.source = work / "source"  # the small sample, three times
        self.output = work / "output"
        self.shapes = work / "v3-shapes"
        self.results = {"machine": measure.machine(work), "pairs": pairs}

    def shards(self):
        return sorted(self.source.glob("*.safetensors"))

    def prepare(self):
        if not (self.small / "config.json").exists():
            say("Making the small sample ...")
            run([CONVERT, "sample", self.small, "--preset", "small", "--seed", 1])
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

    def run_convert(self, checksum):
        fresh(self.output)
        self.output.rmdir()
        settle(*self.shards())
        return run([CONVERT, "fp8-to-bf16", self.source, self.output, "--checksum", checksum,
                    "--quiet"])

    def run_floor(self, sizes, threads, request):
        target = self.work / "floor"
        fresh(target)
        settle(*self.shards())
        pairs = [f"{path}={sizes.get(path.name, 0)}" for path in self.shards()]
        done = run([FLOOR, "--threads", threads, "--request", request, target, *pairs])
        # Its own clock starts after the program; the difference counts for the command.
        return json.loads(done.stdout)["seconds"]

    def best_floor(self, sizes):
        """The fastest way to copy here: each tried once, the best three twice more."""
        say("Looking for the fastest copy ...")
        ways = [(t, r << 20) for t in (1, 2, 4, 8) for r in (2, 4, 8, 16)]
        tried = {way: [self.run_floor(sizes, *way)] for way in ways}
        for way in sorted(ways, key=lambda w: tried[w][0])[:3]:
            tried[way] += [self.run_floor(sizes, *way) for _ in range(2)]
        candidates = [way for way in ways if len(tried[way]) == 3]
        return min(candidates, key=lambda w: Series(tried[w]).median)

    def convert(self):
        self.prepare()
        self.run_convert("none")
        sizes = {p.name: p.stat().st_size for p in self.output.glob("*.safetensors")}
        read = sum(p.stat().st_size for p in self.shards())
        written = sum(sizes.values())
        threads, request = self.best_floor(sizes)
        floor, seconds, rss = [], {"none": [], "sha256": []}, {"none": [], "sha256": []}
        for i in range(self.pairs):
            say(f"Copy against conversion, {i + 1} of {self.pairs} ...")
            for checksum in ("none", "sha256"):
                floor.append(self.run_floor(sizes, threads, request))
                done = self.run_convert(checksum)
                seconds[checksum].append(done.seconds)
                rss[checksum].append(done.peak_rss_mib)
        hash_limit = self.results["hash"]["limit_gb_per_s"] if "hash" in self.results else None
        floor = Series(floor)
        result = {
            "bytes_read": read, "bytes_written": written,
            "floor": {"threads": threads, "request_bytes": request, "seconds": floor.summary(),
                      "gb_per_s_in": round(read / 1e9 / floor.median, 2)},
        }
        for checksum in ("none", "sha256"):
            series = Series(seconds[checksum])
            limit = floor.median
            if checksum == "sha256" and hash_limit:
                limit = max(limit, written / 1e9 / hash_limit)
            result[checksum] = {
                "seconds": series.summary(), "limit_seconds": round(limit, 3),
                "gb_per_s_in": round(read / 1e9 / series.median, 2),
                "ratio_to_limit": round(limit / series.median, 2),
                "peak_rss_mib": round(max(rss[checksum]), 1),
            }
        self.results["convert"] = result
        fresh(self.work / "floor")

    # Opening a checkpoint of the true shapes.

    def inspect(self):
        if not (self.shapes / "config.json").exists():
            say("Making the sparse checkpoint with the 671B shapes ...")
            run([CONVERT, "sample", self.shapes, "--preset", "v3-shapes", "--seed", 1])
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

    # What users run today.

    def official(self):
        self.prepare()
        say("The published formula with torch on the CPU ...")
        seconds, rss = [], []
        target = self.work / "official"
        shards = sorted(self.small.glob("*.safetensors"))
        read = sum(p.stat().st_size for p in shards)
        for _ in range(3):
            fresh(target)
            target.rmdir()
            settle(*shards)
            done = run([sys.executable, HERE / "official_torch_cpu.py", self.small, target])
            seconds.append(done.seconds)
            rss.append(done.peak_rss_mib)
        fresh(target)
        self.results["official"] = {
            "seconds": Series(seconds).summary(), "peak_rss_mib": round(max(rss), 1),
            "gb_per_s_in": round(read / 1e9 / Series(seconds).median, 2)}


def main():
    parser = argparse.ArgumentParser()
    parts = ("hash", "kernels", "convert", "inspect", "official")
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.work, options.pairs)
    for part in parts:
        if part in options.only:
            getattr(bench, part)()
    path = options.work / "bench.json"
    path.write_text(json.dumps(bench.results, indent=2) + "\n")
    say(f"Wrote {path}")


if __name__ == "__main__":
    main()
