"""Prints bench.json as a Markdown table: report.py BENCH.JSON"""

import json
import pathlib
import sys


def spread(series, unit="s"):
    return f"{series['median']:.3g} {unit} ({series['min']:.3g}–{series['max']:.3g})"


def race_rows(race, rss_limit=300):
    if not race:
        return
    floor = race["floor"]
    for checksum, suffix in (("none", " --checksum none`"), ("sha256", "`, hashing")):
        run = race[checksum]
        yield (f"`{race['name']}{suffix}",
               f"{spread(run['seconds'])}, {run['gb_per_s_in']} GB/s in",
               f"{run['limit_seconds']:.3g} s", f"{run['ratio_to_limit']:.2f}", "≥ 0.9")
    yield (f"… a plain copy: {race['bytes_read'] / 1e9:.2f} GB in, "
           f"{race['bytes_written'] / 1e9:.2f} GB out", spread(floor["seconds"]),
           f"{floor['threads']} request{'s' if floor['threads'] > 1 else ''} of "
           f"{floor['request_bytes'] >> 20} MiB", "", "")
    peak = max(race[c]["peak_rss_mib"] for c in ("none", "sha256"))
    yield ("… peak RSS", f"{peak:.0f} MiB", "", "", f"≤ {rss_limit} MiB")


def reshard_rows(reshard):
    if not reshard:
        return
    yield from race_rows(reshard["race"], 512)
    yield ("… bytes that it reads, of the source's", f"{reshard['read_ratio']:.3f}",
           f"with the kernel's read-ahead {reshard['disk_read_ratio']:.3f}", "", "≤ 1.02")
    merge = reshard["merge"]
    yield ("`dsv3-reshard merge` of these 32 ranks",
           f"{spread(merge['seconds'])}, {merge['gb_per_s_out']} GB/s out",
           f"{merge['peak_rss_mib']:.0f} MiB RSS", "", "")
    own, torch = reshard["deepseek"], reshard["torch"]
    slower = torch["seconds"]["median"] / own["seconds"]["median"]
    more = torch["peak_rss_mib"] / own["peak_rss_mib"]
    yield ("`dsv3-reshard --tp 4 --format deepseek`, hashing", spread(own["seconds"]),
           f"{own['peak_rss_mib']:.0f} MiB RSS", "", "")
    yield ("… all ranks in RAM with torch and save_file, no digests", spread(torch["seconds"]),
           f"{torch['peak_rss_mib']:.0f} MiB RSS",
           f"{slower:.1f}× the time, {more:.1f}× the memory", "")
    for preset in ("deepseek-prefill", "deepseek-decode"):
        run = reshard[preset]
        yield (f"`--preset {preset} --dry-run`, 671B shapes", spread(run["seconds"]),
               f"{run['peak_rss_mib']:.0f} MiB RSS", "", "< 2 s")
    peak = max(reshard[name]["peak_rss_mib"] for name in ("ranks_320", "ranks_320_64_files"))
    yield ("320 ranks of a small sample, with `ulimit -n 64` and without: peak RSS",
           f"{peak:.0f} MiB", "", "", "≤ 1024 MiB")


def verify_rows(verify):
    if not verify:
        return
    hashing, disk = verify["hashing"], verify["disk"]
    rates = hashing["gb_per_s"]
    yield ("`checksum create`, files in the page cache", f"{rates['dsv3']} GB/s",
           f"`openssl dgst -sha256`, the same files: {rates['openssl']} GB/s",
           f"{rates['dsv3'] / rates['openssl']:.2f}", "≥ 2.5")
    yield ("… the same", f"{rates['dsv3']} GB/s",
           f"`openssl speed`, one stream without files: {hashing['single_openssl_gb_per_s']} GB/s",
           f"{hashing['ratio']:.2f}", "")
    for name, words in (("sha256sum", "`sha256sum`"), ("model_signing", "`model_signing sign key`")):
        yield (f"… {words}, the same files", f"{rates[name]} GB/s", "", "", "")
    yield ("reading the files from the disk, nothing else", spread(disk["seconds"]),
           f"{disk['gb_per_s']} GB/s", "", "")
    for name, wanted in (("create", ""), ("numeric", "≥ 0.8"), ("compare", "")):
        run = verify[name]
        words = {"create": "`checksum create`, from the disk",
                 "numeric": "`numeric`, from the disk",
                 "compare": "`compare` with itself, from the disk"}[name]
        yield (words, f"{spread(run['seconds'])}, {run['gb_per_s']} GB/s",
               f"disk {disk['gb_per_s']} GB/s", f"{run['ratio_to_disk']:.2f}", wanted)
    peak = max(verify[n]["peak_rss_mib"] for n in ("create", "numeric", "compare", "structure"))
    peak = max(peak, hashing["peak_rss_mib"])
    yield ("`structure`, 671B shapes", spread(verify["structure"]["seconds"]), "", "", "< 1 s")
    yield ("… peak RSS of these", f"{peak:.0f} MiB", "", "", "≤ 300 MiB")


def training_rows(training):
    if not training:
        return
    peers = {"dcp": ("`dcp_to_torch_save` and `save_file`", "≥ 4"),
             "torch_dist": ("`load_plain_tensors` and `save_file`", "≥ 3")}
    for name, run in training["saves"].items():
        yield (f"`train-to-infer` of {name}", spread(run["seconds"]),
               f"a plain copy {spread(run['copy'])}", f"{run['ratio']:.2f}", "≥ 0.9")
        yield ("… peak RSS", f"{run['peak_rss_mib']:.0f} MiB", "", "", "≤ 300 MiB")
        if "peer" in run:
            words, wanted = peers[name.partition(",")[0]]
            yield (f"… {words}", f"{run['peer']['seconds']:.3g} s",
                   f"{run['peer']['peak_rss_mib']:.0f} MiB RSS", f"{run['times_peer']}× the time",
                   wanted)
    for layout, run in training["layouts"].items():
        yield (f"`layout --to {layout}`, and back with `--to hf`",
               f"{run['to']:.3g} s, {run['back']:.3g} s; {run['peak_rss_mib']:.0f} MiB RSS",
               f"a plain copy {run['copy']:.3g} s",
               f"{run['copy'] / run['to']:.2f}, {run['copy'] / run['back']:.2f}", "≥ 0.5")
    drop = training["drop"]
    yield ("`train-to-infer --mtp drop --link`",
           f"{drop['seconds']:.3g} s, {drop['peak_rss_mib']:.0f} MiB RSS",
           f"{drop['bytes_of_new_files'] / 1e9:.2f} GB in new shards of {training['bytes'] / 1e9:.2f} GB",
           "", "")


def forward_rows(forward):
    if not forward:
        return
    prefill, tokens = forward["prefill"], forward["tokens"]
    four = prefill["transformers_4"]
    for name, words in (("bf16", "BF16"), ("fp8", "FP8")):
        own = prefill[name]
        yield (f"`forward`, {tokens} tokens, {words} in the page cache, the whole process",
               f"{spread(own['seconds'])}, {own['peak_rss_mib']:.0f} MiB RSS",
               f"transformers {four['version']} in fp32, the forward alone: {spread(four['seconds'])}",
               f"{four['seconds']['median'] / own['seconds']['median']:.2f}", "≥ 1")
        if name == "bf16":
            yield ("… the same", spread(own["seconds"]),
                   f"the whole process of transformers: {spread(four['process_seconds'])}, "
                   f"{four['peak_rss_mib']:.0f} MiB RSS",
                   f"{four['process_seconds']['median'] / own['seconds']['median']:.1f}", "≥ 5")
            five = prefill["transformers_5"]
            yield ("… the same", spread(own["seconds"]),
                   f"transformers {five['version']}, the forward alone: {spread(five['seconds'])}; its whole "
                   f"process: {spread(five['process_seconds'])}",
                   f"{five['seconds']['median'] / own['seconds']['median']:.2f}", "")
    generation = forward["generation"]
    for name, words in (("bf16", "BF16"), ("fp8", "FP8")):
        own = generation[name]
        for version, wanted in ((4, "≥ 1.5"), (5, "")):
            other = generation[f"transformers_{version}"]
            yield (f"`forward --generate`, {words} in the page cache", spread(own, "tokens/s"),
                   f"transformers {other['version']} in bf16: {spread(other, 'tokens/s')}",
                   f"{own['median'] / other['median']:.2f}", wanted if name == "bf16" else "")
    for name, words in (("bf16", "BF16"), ("fp8", "FP8")):
        run = forward["disk"][name]
        yield (f"`forward`, 4 tokens, {words} from the disk, {run['bytes_read'] / 1e9:.2f} GB",
               spread(run["seconds"]), f"disk {run['gb_per_s_of_disk']} GB/s",
               f"{run['ratio']['median']:.2f} ({run['ratio']['min']:.2f}–{run['ratio']['max']:.2f})", "≥ 0.85")
        yield ("… bytes that the kernel counts, of those in the report", f"{run['kernel_reads']:.3f}", "", "", "≤ 1.05")
    for name, words in (("equal", "FP8 and the BF16 of `fp8-to-bf16`"), ("other", "BF16 and the FP8 of `bf16-to-fp8`")):
        run = forward["two_models"][name]
        yield (f"`forward A B`, {tokens} tokens, {words}",
               f"{spread(run['seconds'])}, {run['peak_rss_mib']:.0f} MiB RSS", "`forward A`", f"{run['ratio']:.2f}",
               "≤ 2.5")
    shapes = forward["shapes"]
    yield ("`forward`, one token, 671B shapes in sparse files",
           f"{shapes['seconds']:.3g} s, {shapes['peak_rss_mib']:.0f} MiB RSS",
           f"{shapes['bytes_read'] / 1e9:.1f} GB read", "", "≤ 40 GB")


def gguf_rows(gguf, kernels):
    if not gguf:
        return
    for kind, race in gguf["races"].items():
        yield from race_rows(race)
        other = gguf["llama_cpp"].get(kind)
        if other:
            yield (f"… llama.cpp's converter, {kind}", f"{other['seconds']:.3g} s",
                   f"{other['peak_rss_mib']:.0f} MiB RSS", f"{other['times_ours']}× the time", "")
    own = {row["name"]: row["gb_per_s"] for row in kernels}
    for name, rate in gguf["gguf_py_gb_per_s"].items():
        ours = own.get(f"EncodeGguf{name}, 1 thread")
        yield (f"gguf-py's quantiser, {name}", f"{rate} GB/s of floats",
               f"the kernel, one thread: {ours:.1f} GB/s in+out" if ours else "", "", "")


def packing_rows(packing):
    if not packing:
        return
    bars = {"BF16": 1.008, "FP8": 1.012, "BF16 RL step": 1.12, "BF16 fine-tune": 1.05,
            "FP8 fine-tune": 1.12}
    alone = {row["name"]: row for row in packing["rows"] if row["threads"] == 1}
    for name, row in alone.items():
        peers = [f"{peer} {run['ratio']:.4f}"
                 for peer, run in packing["peers"].get(name, {}).items()]
        yield (f"packed size, {name}", f"{row['ratio']:.4f} of the raw size", ", ".join(peers),
               f"{row['of_entropy']:.4f} of the entropy", f"≤ {bars[name]}")
    for row in packing["rows"]:
        one, name = row["threads"] == 1, row["name"]
        rates = f"{row['pack_gb_per_s']:.2f} / {row['unpack_gb_per_s']:.2f} GB/s"
        peers = [f"{peer} {run['pack_gb_per_s']:.2f} / {run['unpack_gb_per_s']:.2f} GB/s"
                 for peer, run in packing["peers"].get(name, {}).items()
                 if one and "pack_gb_per_s" in run]
        faster = "" if one else " / ".join(
            f"{row[way] / alone[name][way]:.2f}×" for way in ("pack_gb_per_s", "unpack_gb_per_s"))
        wanted = "≥ 1.2 / ≥ 2.4" if one else "≥ 1.8×" if row["threads"] == 2 else ""
        yield (f"chunks of {name}, pack / unpack, {row['threads']} thread{'' if one else 's'}",
               rates, ", ".join(peers), faster, wanted if name == "BF16" else "")
    yield from pack_command_rows(packing)


def pack_command_rows(packing):
    for name, done in packing.get("commands", {}).items():
        copy = done["copy_seconds"]
        for step in ("pack", "unpack"):
            seconds = done["dsv3"][f"{step}_seconds"]
            peers = [f"{peer} {spread(done[peer][f'{step}_seconds'])}"
                     for peer in ("zstd -3 -T2", "zipnn")]
            yield (f"`dsv3-convert {step}`, {done['bytes'] / 1e9:.2f} GB of {name}, hashing, verified",
                   spread(seconds), f"a plain copy {spread(copy)}, {', '.join(peers)}",
                   f"{copy['median'] / seconds['median']:.2f}", "≥ 1")
        sizes = [f"{peer} {done[peer]['ratio']:.3f}" for peer in ("zstd -3 -T2", "zipnn")]
        yield ("… size of the packed files", f"{done['dsv3']['ratio']:.4f} of the raw size",
               ", ".join(sizes), "", "")
        yield ("… peak RSS", f"{done['peak_rss_mib']:.0f} MiB", "", "", "≤ 300 MiB")
    for what, by_memory in packing.get("memory", {}).items():
        for memory, peak in by_memory.items():
            yield (f"`pack` / `unpack --memory {memory}`, {what}: peak RSS",
                   f"{peak['pack']:.0f} / {peak['unpack']:.0f} MiB", "", "", "≤ 300 MiB")


def rows(results):
    """(what, measured, limit, ratio, wanted) for each figure that is there."""
    hashing = results.get("hash")
    if hashing:
        yield ("SHA-256, all cores", f"{hashing['limit_gb_per_s']} GB/s",
               f"`openssl speed`: {hashing['openssl_all_cores_gb_per_s']} GB/s", "", "")
    for row in results.get("kernels", []):
        if row["name"].startswith(("Roofline", "Memcpy")):
            continue
        # The published checkpoints have blocks of 128×128; for others there is no promise.
        wanted = ""
        if "/128x128" in row["name"] and "F32" not in row["name"]:
            one = row["name"].startswith("Quantize") and row["threads"] == 1
            wanted = "≥ 0.7" if one else "≥ 0.85"
        if "Gguf" in row["name"]:
            wanted = "≥ 0.7"
        yield (f"{row['name']}", f"{row['gb_per_s']:.1f} GB/s in+out",
               f"roofline {row['roofline_gb_per_s']:.1f} GB/s", f"{row['ratio']:.2f}", wanted)
    for part in ("convert", "quantize"):
        yield from race_rows(results.get(part))
    convert = results.get("convert")
    official = results.get("official")
    if official:
        ratio = ""
        if convert:
            faster = convert["sha256"]["gb_per_s_in"] / official["gb_per_s_in"]
            ratio = f"{faster:.1f}× slower"
        yield ("the published formula with torch on the CPU",
               f"{spread(official['seconds'])}, {official['gb_per_s_in']} GB/s in",
               f"{official['peak_rss_mib']:.0f} MiB RSS", ratio, "")
    quantize = results.get("quantize")
    if quantize:
        run = quantize["torch"]
        faster = quantize["sha256"]["gb_per_s_in"] / run["gb_per_s_in"]
        yield ("amax / 448 and a cast with torch on the CPU",
               f"{spread(run['seconds'])}, {run['gb_per_s_in']} GB/s in",
               f"{run['peak_rss_mib']:.0f} MiB RSS", f"{faster:.1f}× slower", "")
    yield from gguf_rows(results.get("gguf"), results.get("kernels", []))
    yield from reshard_rows(results.get("reshard"))
    yield from verify_rows(results.get("verify"))
    yield from forward_rows(results.get("forward"))
    yield from training_rows(results.get("training"))
    yield from packing_rows(results.get("packing"))
    inspect = results.get("inspect")
    if inspect:
        library = f"Python library: {spread(inspect['python_library_seconds'])}"
        yield ("`dsv3-inspect`, 671B shapes", spread(inspect["inspect_seconds"]), library,
               f"{inspect['inspect_ratio']:.2f}", "≤ 0.33")
        yield ("`fp8-to-bf16 --dry-run`, 671B shapes", spread(inspect["dry_run_seconds"]), library,
               f"{inspect['dry_run_ratio']:.2f}", "≤ 1")
        yield ("… peak RSS of the two", f"{inspect['peak_rss_mib']:.0f} MiB", "", "", "≤ 300 MiB")
    for name, opened in results.get("metadata", {}).items():
        words = "with the plans of all ranks" if name == "plans" else "a 671B model and its optimizer"
        yield (f"`.metadata` of {opened['chunks']:,} chunks, {words}", spread(opened["seconds"]),
               f"{opened['megabytes']} MB", "", "≤ 1 s")
        yield ("… peak RSS", f"{opened['peak_rss_mib']:.0f} MiB", "", "", "≤ 300 MiB")


def main():
    results = json.loads(pathlib.Path(sys.argv[1]).read_text())
    machine = results["machine"]
    print(f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['instructions'])}), "
          f"{machine['memory_gib']} GiB; Linux {machine['kernel']}; {machine['file_system']}; "
          f"{machine['compiler']}. Load before the run: {machine.get('load_before', 'unknown')}.")
    print(f"Medians of {results['pairs']} runs, alternated with their limit, smallest and largest in "
          "brackets.")
    print("\n| what | measured | against | ratio | wanted |\n|---|---|---|---|---|")
    for row in rows(results):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
