"""Training checkpoints and layouts against a plain copy, and against what users run today."""

import importlib.util
import pathlib
import sys

from measure import BIN, Series, fresh, run, settle
from race import Race

CONVERT = BIN / "dsv3-convert"
HERE = pathlib.Path(__file__).resolve().parent
LAYOUTS = ("deepseek", "mindformers-train", "mindformers-train-bmm", "mindformers-infer",
           "mindformers-mcore-v1", "mindformers-mcore-v2", "transformers-fused")
WAYS = ((2, 2 << 20), (1, 4 << 20), (4, 4 << 20))  # of copying: requests at a time, their bytes


def weight_files(directory):
    return sorted(p for p in directory.rglob("*") if p.suffix in (".safetensors", ".distcp"))


class TrainingRace(Race):
    """One source, in the page cache or on the disk only; the copy writes `written` bytes, as many as
    it reads where that is None, in as many files as it reads."""

    def __init__(self, source, output, floor, say, warm=False, written=None):
        super().__init__("", weight_files(source), output, floor, None, say)
        self.warm = warm
        sizes = [path.stat().st_size for path in self.shards]
        share = 1 if written is None else written / sum(sizes)
        self.pairs = [f"{path}={int(size * share)}" for path, size in zip(self.shards, sizes)]

    def settle(self):
        settle(*([] if self.warm else self.shards))
        if self.warm:
            for path in self.shards:
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 24):
                        pass

    def copy(self, threads, request):
        fresh(self.floor)
        self.settle()
        command = [BIN / "dsv3-floor-copy", "--threads", threads, "--request", request]
        command += ["--buffered"] if self.warm else []
        done = run([*command, self.floor, *self.pairs])
        fresh(self.floor)
        return done.seconds

    def fastest_way(self):
        """Of several ways to copy, each tried three times."""
        tried = {way: Series([self.copy(*way) for _ in range(3)]).median for way in WAYS}
        return min(WAYS, key=tried.get)

    def once(self, command, keep=False):
        fresh(self.output)
        self.output.rmdir()
        self.settle()
        done = run(command)
        if not keep:
            fresh(self.output)
        return done


def against_copy(race, command, pairs):
    way = race.fastest_way()
    copies, seconds, rss = [], [], []
    for _ in range(pairs):
        copies.append(race.copy(*way))
        done = race.once(command)
        seconds.append(done.seconds)
        rss.append(done.peak_rss_mib)
    copy, own = Series(copies), Series(seconds)
    return {"copy": copy.summary(), "seconds": own.summary(),
            "ratio": round(copy.median / own.median, 2), "peak_rss_mib": round(max(rss), 1)}


def measure_peer(race, name, source):
    fresh(race.output)
    race.settle()
    done = run([sys.executable, HERE / "training_peer.py", name, source, race.output])
    fresh(race.output)
    return {"seconds": round(done.seconds, 2), "peak_rss_mib": round(done.peak_rss_mib, 1)}


def way_back(layout, model, made, output):
    if layout == "deepseek":
        return [BIN / "dsv3-reshard", "merge", made, output, "--config", model / "config.json", "--quiet"]
    return [CONVERT, "layout", made, output, "--to", "hf", "--quiet"]


def measure_training(model, work, pairs, say):
    """`model`: a BF16 checkpoint of Hugging Face."""
    dcp, megatron = work / "dcp", work / "torch-dist"
    if not (megatron / "latest_checkpointed_iteration.txt").exists():
        say("Saving the model as training stacks do ...")
        fresh(dcp)
        fresh(megatron)
        run([sys.executable, HERE / "training_save.py", model, dcp, megatron])
    output, floor = work / "trained", work / "floor"
    result = {"bytes": sum(p.stat().st_size for p in weight_files(model)), "saves": {}, "layouts": {}}
    peers = {"dcp": ("torch", dcp), "torch_dist": ("megatron", megatron / "iter_0000001")}
    if importlib.util.find_spec("megatron") is None:
        say("megatron-core is not installed: its figures are left out")
        del peers["torch_dist"]
    for name, source in (("dcp", dcp), ("torch_dist", megatron)):
        for warm in (False, True):
            state = "warm" if warm else "cold"
            say(f"{name} to Hugging Face, {state} ...")
            # A shared tensor is saved once, and written once for each of its names.
            race = TrainingRace(source, output, floor, say, warm, written=result["bytes"])
            shard = -(-result["bytes"] // len(race.shards))
            command = [CONVERT, "train-to-infer", source, output, "--max-shard-size", shard]
            row = against_copy(race, [*command, "--quiet"], pairs)
            if name in peers:
                row["peer"] = measure_peer(race, *peers[name])
                row["times_peer"] = round(row["peer"]["seconds"] / row["seconds"]["median"], 1)
            result["saves"][f"{name}, {state}"] = row

    race = TrainingRace(model, output, floor, say)
    made = work / "layout"
    way = race.fastest_way()
    for layout in LAYOUTS:
        say(f"Layout {layout} and back ...")
        copy = race.copy(*way)
        fresh(made)
        made.rmdir()
        race.settle()
        to = run([CONVERT, "layout", model, made, "--to", layout, "--quiet"])
        back = TrainingRace(made, output, floor, say).once(way_back(layout, model, made, output))
        result["layouts"][layout] = {
            "copy": round(copy, 2), "to": round(to.seconds, 2), "back": round(back.seconds, 2),
            "peak_rss_mib": round(max(to.peak_rss_mib, back.peak_rss_mib), 1)}
    fresh(made)

    say("Dropping the MTP layer ...")
    done = race.once([CONVERT, "train-to-infer", model, output, "--mtp", "drop", "--link", "--quiet"],
                     keep=True)
    sources = {path.stat().st_ino for path in race.shards}
    own = [p for p in weight_files(output) if p.stat().st_ino not in sources]
    result["drop"] = {"seconds": round(done.seconds, 2),
                      "peak_rss_mib": round(done.peak_rss_mib, 1),
                      "bytes_of_new_files": sum(p.stat().st_size for p in own)}
    fresh(output)
    return result
