"""Running commands and measuring them, for bench.py."""

import dataclasses
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build/release/bin"
MIB = 1 << 20


@dataclasses.dataclass
class Run:
    seconds: float
    peak_rss_mib: float
    bytes_read: int  # that its read calls got
    disk_bytes_read: int  # that the kernel fetched from disks for it, read-ahead included
    stdout: str


@dataclasses.dataclass
class Series:
    """Repeated measurements of one thing."""

    values: list

    @property
    def median(self):
        return statistics.median(self.values)

    def summary(self, digits=3):
        low, high = min(self.values), max(self.values)
        return {"median": round(self.median, digits), "min": round(low, digits),
                "max": round(high, digits), "runs": len(self.values)}


def run(command, environment=None):
    """Runs a command to its end; its wall time from start to exit and its own peak RSS."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    out, error = process.stdout.read(), process.stderr.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - start
    read = int(re.search(r"rchar: (\d+)", pathlib.Path(f"/proc/{process.pid}/io").read_text())[1])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nended with {process.returncode}\n{error}")
    return Run(seconds, usage.ru_maxrss / 1024, read, usage.ru_inblock * 512, out)


def settle(*sources):
    """Before each timed run: nothing dirty waits, and the sources are not in the page cache."""
    os.sync()
    for path in sources:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _first(command, default="unknown"):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return default
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else default


def machine(directory):
    """What the figures were measured on."""
    fields = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{fields.get('model name', platform.machine())} "
               f"(family {fields.get('cpu family')}, model {fields.get('model')})",
        "cores": os.cpu_count(),
        "instructions": [f for f in ("avx2", "avx512f", "avx512_vbmi", "sha_ni") if f in flags],
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        # Anything near the number of cores spoils what follows.
        "load_before": round(os.getloadavg()[0], 1),
        "file_system": _first(["findmnt", "-no", "FSTYPE,SOURCE", "-T", str(directory)]),
        "compiler": _first(["c++", "--version"]),
    }


def google_benchmark(program, pattern, counter):
    """Runs a Google Benchmark program; name → the median of a counter."""
    done = run([program, f"--benchmark_filter={pattern}", "--benchmark_format=json",
                "--benchmark_repetitions=5", "--benchmark_report_aggregates_only=true"])
    return {b["run_name"]: b[counter] for b in json.loads(done.stdout)["benchmarks"]
            if b.get("aggregate_name") == "median"}
