"""dsv3-reshard against a plain copy of the same bytes, and against all ranks in RAM with torch."""

import filecmp
import pathlib
import sys

from measure import BIN, Series, fresh, run, settle
from race import Race

RESHARD = BIN / "dsv3-reshard"
CONVERT = BIN / "dsv3-convert"
TORCH = pathlib.Path(__file__).resolve().parents[1] / "peers" / "deepseek_ranks.py"
PRESETS = ("deepseek-prefill", "deepseek-decode")


class ReshardRace(Race):
    """Many more files are written than read: each source of the copy writes its share of the bytes."""

    def written_by_source(self):
        read = [path.stat().st_size for path in self.shards]
        written = sum(path.stat().st_size for path in self.output.glob("*.safetensors"))
        shares = [written * size // sum(read) for size in read]
        shares[-1] += written - sum(shares)
        return {path.name: share for path, share in zip(self.shards, shares)}


def repeated(command, target, sources, pairs):
    """A command that writes `target`, run again and again with the sources on the disk."""
    seconds, rss = [], []
    for _ in range(pairs):
        fresh(target)
        target.rmdir()
        settle(*sources)
        done = run(command)
        seconds.append(done.seconds)
        rss.append(done.peak_rss_mib)
    return {"seconds": Series(seconds).summary(), "peak_rss_mib": round(max(rss), 1)}


def measure_reshard(small, shapes, work, pairs, hash_limit, say):
    shards = sorted(small.glob("*.safetensors"))
    source = sum(path.stat().st_size for path in shards)
    output = work / "ranks"
    options = ["--tp", 4, "--ep", 32]
    race = ReshardRace("dsv3-reshard --tp 4 --ep 32", shards, output, work / "floor",
                       lambda checksum: [RESHARD, *options, small, output, "--checksum", checksum,
                                         "--quiet"], say)
    result = {"race": race.run(pairs, hash_limit)}

    say("Bytes that resharding reads, and merging ...")
    fresh(output)
    output.rmdir()
    settle(*shards)
    done = run([RESHARD, *options, small, output, "--quiet"])
    result["read_ratio"] = round(done.bytes_read / source, 4)
    result["disk_read_ratio"] = round(done.disk_bytes_read / source, 4)
    merged = work / "merged"
    ranks = sorted(output.glob("*.safetensors"))
    result["merge"] = repeated([RESHARD, "merge", output, merged, "--quiet"], merged, ranks, pairs)
    result["merge"]["gb_per_s_out"] = round(source / 1e9 / result["merge"]["seconds"]["median"], 2)
    for path in shards:
        if not filecmp.cmp(path, merged / path.name, shallow=False):
            raise SystemExit(f"{merged / path.name} differs from {path}")
    fresh(merged)
    fresh(output)

    say("All ranks in RAM with torch ...")
    demo = work / "demo"
    result["deepseek"] = repeated(
        [RESHARD, "--tp", 4, "--format", "deepseek", small, demo, "--quiet"], demo, shards, pairs)
    # This process stays small: a program's peak RSS begins with that of whoever started it.
    ours = work / "demo-of-dsv3"
    fresh(ours)
    ours.rmdir()
    demo.rename(ours)
    result["torch"] = repeated([sys.executable, TORCH, small, demo, 4], demo, shards, 3)
    for path in sorted(ours.glob("*.safetensors")):
        if not filecmp.cmp(path, demo / path.name, shallow=False):
            raise SystemExit(f"{demo / path.name}: torch wrote other bytes")
    fresh(ours)
    fresh(demo)

    say("Planning the 671B presets ...")
    for preset in PRESETS:
        seconds, rss = [], []
        for i in range(pairs + 1):
            done = run([RESHARD, "--preset", preset, shapes, work / "planned", "--dry-run"])
            if i > 0:  # the first one warms the page cache
                seconds.append(done.seconds)
            rss.append(done.peak_rss_mib)
        result[preset] = {"seconds": Series(seconds).summary(), "peak_rss_mib": round(max(rss), 1)}

    say("320 ranks ...")
    tiny = work / "tiny-tp"
    if not (tiny / "config.json").exists():
        run([CONVERT, "sample", tiny, "--preset", "tiny-tp", "--seed", 1])
    tiny_shards = sorted(tiny.glob("*.safetensors"))
    many = ["--tp", 4, "--ep", 320, "--redundant-experts", 288, tiny, output, "--quiet"]
    result["ranks_320"] = repeated([RESHARD, *many], output, tiny_shards, 1)
    # The same with few descriptors: the files that are open at once do not grow with the ranks.
    few = ["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", RESHARD, *many]
    result["ranks_320_64_files"] = repeated(few, output, tiny_shards, 1)
    fresh(output)
    return result
