"""dsv3-verify beside the programs that hash the same files today, and against the disk."""

import json
import pathlib
import re
import sys

from measure import BIN, Series, fresh, run, settle
from race import FLOOR

VERIFY = BIN / "dsv3-verify"


def warm(paths):
    """Reads the files, so that they are in the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(16 << 20):
                pass


def single_openssl_stream():
    """GB/s of one OpenSSL SHA-256 stream."""
    out = run(["openssl", "speed", "-seconds", 3, "-bytes", 1 << 20, "-evp", "sha256"]).stdout
    return float(re.findall(r"([0-9.]+)k", out)[-1]) / 1e6


class PlainRead:
    """Reads the files from the disk and does nothing with them, in the fastest of several ways."""

    def __init__(self, shards, work):
        self.shards = shards
        self.work = work
        ways = [(threads, mib << 20) for threads in (1, 2, 4, 8) for mib in (4, 16)]
        tried = {way: Series([self.seconds(way) for _ in range(3)]).median for way in ways}
        self.way = min(ways, key=tried.get)

    def seconds(self, way=None):
        threads, request = way or self.way
        fresh(self.work)
        settle(*self.shards)
        done = run([FLOOR, "--threads", threads, "--request", request, self.work,
                    *[f"{path}=0" for path in self.shards]])
        fresh(self.work)
        return json.loads(done.stdout)["seconds"]


def hashing(source, shards, work, pairs):
    """Whole files in the page cache: what bounds the rate is the CPU."""
    total = sum(p.stat().st_size for p in shards)
    signature = work / "bench.sig"
    key = work / "key.pem"
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key])
    programs = {
        "dsv3": lambda: run([VERIFY, "checksum", "create", "--overwrite", "--quiet", source]),
        "sha256sum": lambda: run(["sha256sum", *shards]),
        "openssl": lambda: run(["openssl", "dgst", "-sha256", *shards]),
        "model_signing": lambda: run(
            [pathlib.Path(sys.executable).with_name("model_signing"), "sign", "key", source,
             "--private_key", key, "--signature", signature]),
    }
    rates, rss = {}, 0.0
    for name, program in programs.items():
        seconds = []
        for _ in range(pairs):
            warm(shards)
            done = program()
            seconds.append(done.seconds)
            if name == "dsv3":
                rss = max(rss, done.peak_rss_mib)
        rates[name] = round(total / 1e9 / Series(seconds).median, 2)
    for name in ("SHA256SUMS", "checkpoint.manifest.json"):
        (source / name).unlink()
    return {"gb_per_s": rates, "peak_rss_mib": round(rss, 1), "bytes": total}


def measure_verify(source, shapes, work, pairs, say):
    shards = sorted(source.glob("*.safetensors"))
    total = sum(p.stat().st_size for p in shards)
    say("Hashing what the page cache holds ...")
    result = {"hashing": hashing(source, shards, work, max(3, pairs // 2))}
    single = single_openssl_stream()
    result["hashing"]["single_openssl_gb_per_s"] = round(single, 2)
    result["hashing"]["ratio"] = round(result["hashing"]["gb_per_s"]["dsv3"] / single, 2)

    say("Reading the disk ...")
    plain = PlainRead(shards, work / "read")
    reads = []
    commands = {
        "numeric": [VERIFY, "numeric", "--quiet", source],
        "compare": [VERIFY, "compare", "--quiet", source, source],
        "create": [VERIFY, "checksum", "create", "--overwrite", "--quiet", source],
    }
    for name, command in commands.items():
        say(f"dsv3-verify {name} ...")
        seconds, rss = [], 0.0
        floor = []
        for _ in range(pairs):
            floor.append(plain.seconds())
            settle(*shards)
            done = run(command)
            seconds.append(done.seconds)
            rss = max(rss, done.peak_rss_mib)
        reads += floor
        series, floor = Series(seconds), Series(floor)
        sides = 2 if name == "compare" else 1
        result[name] = {"seconds": series.summary(), "peak_rss_mib": round(rss, 1),
                        "gb_per_s": round(sides * total / 1e9 / series.median, 2),
                        "ratio_to_disk": round(sides * floor.median / series.median, 2)}
    reads = Series(reads)
    result["disk"] = {"seconds": reads.summary(), "gb_per_s": round(total / 1e9 / reads.median, 2)}
    for name in ("SHA256SUMS", "checkpoint.manifest.json"):
        (source / name).unlink()

    say("dsv3-verify structure of the 671B shapes ...")
    seconds, rss = [], 0.0
    for i in range(pairs + 1):
        done = run([VERIFY, "structure", "--quiet", shapes])
        if i > 0:  # the first one warms the page cache
            seconds.append(done.seconds)
        rss = max(rss, done.peak_rss_mib)
    result["structure"] = {"seconds": Series(seconds).summary(), "peak_rss_mib": round(rss, 1)}
    return result
