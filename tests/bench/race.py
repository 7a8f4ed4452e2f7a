"""A command against a plain copy that reads the same files and writes as many bytes."""

import json

from measure import BIN, Series, fresh, run, settle

FLOOR = BIN / "dsv3-floor-copy"


class Race:
    """`command(checksum)` returns the words that read `shards` and write `output`."""

    def __init__(self, name, shards, output, floor, command, say):
        self.name = name
        self.shards = shards
        self.output = output
        self.floor = floor
        self.command = command
        self.say = say

    def written_by_source(self):
        """Source name → bytes that the copy writes for it, after the command has run once."""
        return {p.name: p.stat().st_size for p in self.output.glob("*.safetensors")}

    def run_command(self, checksum):
        fresh(self.output)
        self.output.rmdir()
        settle(*self.shards)
        return run(self.command(checksum))

    def run_floor(self, sizes, threads, request):
        fresh(self.floor)
        settle(*self.shards)
        pairs = [f"{path}={sizes.get(path.name, 0)}" for path in self.shards]
        done = run([FLOOR, "--threads", threads, "--request", request, self.floor, *pairs])
        # Its own clock starts after the program; the difference counts for the command.
        return json.loads(done.stdout)["seconds"]

    def best_floor(self, sizes):
        """The fastest way to copy here: each tried once, the best three twice more."""
        self.say("Looking for the fastest copy ...")
        ways = [(t, r << 20) for t in (1, 2, 4, 8) for r in (2, 4, 8, 16)]
        tried = {way: [self.run_floor(sizes, *way)] for way in ways}
        for way in sorted(ways, key=lambda w: tried[w][0])[:3]:
            tried[way] += [self.run_floor(sizes, *way) for _ in range(2)]
        candidates = [way for way in ways if len(tried[way]) == 3]
        return min(candidates, key=lambda w: Series(tried[w]).median)

    def run(self, pairs, hash_limit):
        """`hash_limit`: GB/s that all cores can hash, or None."""
        self.run_command("none")
        sizes = self.written_by_source()
        read = sum(p.stat().st_size for p in self.shards)
        written = sum(sizes.values())
        threads, request = self.best_floor(sizes)
        floor, seconds, rss = [], {"none": [], "sha256": []}, {"none": [], "sha256": []}
        for i in range(pairs):
            self.say(f"Copy against {self.name}, {i + 1} of {pairs} ...")
            for checksum in ("none", "sha256"):
                floor.append(self.run_floor(sizes, threads, request))
                done = self.run_command(checksum)
                seconds[checksum].append(done.seconds)
                rss[checksum].append(done.peak_rss_mib)
        floor = Series(floor)
        result = {
            "name": self.name, "bytes_read": read, "bytes_written": written,
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
        fresh(self.floor)
        return result
