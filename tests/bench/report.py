"""Prints bench.json as a Markdown table: report.py BENCH.JSON"""

import json
import pathlib
import sys


def spread(series, unit="s"):
    return f"{series['median']:.3g} {unit} ({series['min']:.3g}–{series['max']:.3g})"


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
        wanted = "≥ 0.85" if "/128x128" in row["name"] else ""
        yield (row["name"], f"{row['gb_per_s']:.1f} GB/s in+out",
               f"roofline {row['roofline_gb_per_s']:.1f} GB/s", f"{row['ratio']:.2f}", wanted)
    convert = results.get("convert")
    if convert:
        floor = convert["floor"]
        names = {"none": "`fp8-to-bf16 --checksum none`", "sha256": "`fp8-to-bf16`, hashing"}
        for checksum, name in names.items():
            run = convert[checksum]
            yield (name, f"{spread(run['seconds'])}, {run['gb_per_s_in']} GB/s in",
                   f"{run['limit_seconds']:.3g} s", f"{run['ratio_to_limit']:.2f}", "≥ 0.9")
        yield ("… a plain copy of the same bytes", spread(floor["seconds"]),
               f"{floor['threads']} requests of {floor['request_bytes'] >> 20} MiB", "", "")
        peak = max(convert[c]["peak_rss_mib"] for c in names)
        yield ("… peak RSS", f"{peak:.0f} MiB", "", "", "≤ 300 MiB")
    official = results.get("official")
    if official:
        ratio = ""
        if convert:
            faster = convert["sha256"]["gb_per_s_in"] / official["gb_per_s_in"]
            ratio = f"{faster:.1f}× slower"
        yield ("the published formula with torch on the CPU",
               f"{spread(official['seconds'])}, {official['gb_per_s_in']} GB/s in",
               f"{official['peak_rss_mib']:.0f} MiB RSS", ratio, "")
    inspect = results.get("inspect")
    if inspect:
        library = f"Python library: {spread(inspect['python_library_seconds'])}"
        yield ("`dsv3-inspect`, 671B shapes", spread(inspect["inspect_seconds"]), library,
               f"{inspect['inspect_ratio']:.2f}", "≤ 0.33")
        yield ("`fp8-to-bf16 --dry-run`, 671B shapes", spread(inspect["dry_run_seconds"]), library,
               f"{inspect['dry_run_ratio']:.2f}", "≤ 1")
        yield ("… peak RSS of the two", f"{inspect['peak_rss_mib']:.0f} MiB", "", "", "≤ 300 MiB")


def main():
    results = json.loads(pathlib.Path(sys.argv[1]).read_text())
    machine = results["machine"]
    print(f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['instructions'])}), "
          f"{machine['memory_gib']} GiB; Linux {machine['kernel']}; {machine['file_system']}; "
          f"{machine['compiler']}. Load before the run: {machine.get('load_before', 'unknown')}.")
    if "convert" in results:
        convert = results["convert"]
        print(f"The conversion reads {convert['bytes_read'] / 1e9:.2f} GB and writes "
              f"{convert['bytes_written'] / 1e9:.2f} GB; medians of {results['pairs']} alternated "
              "runs, smallest and largest in brackets.")
    print("\n| what | measured | against | ratio | wanted |\n|---|---|---|---|---|")
    for row in rows(results):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
