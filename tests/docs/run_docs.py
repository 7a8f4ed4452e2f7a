#!/usr/bin/env python3
"""Runs the commands of documents and compares what they print with what the documents show.

Usage: run_docs.py --bin DIR PAGE...

Of each page, all ```console blocks are run in their order by one bash in one empty directory, with
DIR first in PATH. Then all pages are run so in one directory, for readers go on from one to the
next: no page may need, or stumble over, what another one left. A line that begins with "$ " is a command; the lines below it are its standard
output and standard error. A line that is only "..." as one character, with spaces before it or
not, stands for any number of lines, also none. Figures of time, rate, free disk space and memory
may differ, and so may spaces that align columns. Lines of progress depend on time: they are not
compared, and pages may leave them out.

    ```console          is run and compared
    ```console no-run   is shown only: it needs an interruption or another machine
    ```console setup    is run, and its output is not compared
"""

import argparse
import contextlib
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

END = "dsv3-docs-end-of-command"

PROGRESS = re.compile(r"dsv3-[a-z]+: (?!error: |warning: |stopping;)[a-z]")

FIGURES = [
    (r"(?m)^(\s*time\s+)[\d.,]+ (?:ms|s|min|h)\b", r"\1# s"),
    (r"[\d.,]+ GB/s", "# GB/s"),
    (r"[\d.,]+ MB/s", "# GB/s"),
    (r"(?m)^(\s*disk free\s+).*$", r"\1#"),
    (r"(?m)^(\s*peak memory\s+).*$", r"\1#"),
    (r"(?m)^(\s*fits\s+).*$", r"\1#"),
    (r"(?m)^kernels [^;]*;", "kernels #;"),
    (r"(oneTBB|OpenSSL|Open MPI) [\d.]+", r"\1 #"),
]


def blocks_of(page):
    """Yields (line number, info, lines) of each ```console block."""
    info, start, lines = None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if info is None:
            if line.startswith("```"):
                info, start, lines = line[3:].strip(), number, []
        elif line.startswith("```"):
            if info.split()[:1] == ["console"]:
                yield start, info.split()[1:], lines
            info = None
        else:
            lines.append(line)


def steps_of(start, lines):
    """Yields (line number, command, expected lines) of a block."""
    steps = []
    for number, line in enumerate(lines, start + 1):
        if line.startswith("$ "):
            steps.append((number, line[2:], []))
        elif not steps:
            raise SystemExit(f"line {number}: output before the first command")
        else:
            steps[-1][2].append(line)
    return steps


def normal(text):
    for pattern, replacement in FIGURES:
        text = re.sub(pattern, replacement, text)
    lines = [re.sub(r"\s+", " ", line).rstrip() for line in text.splitlines()
             if not PROGRESS.match(line)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def matches(expected, actual):
    """Whether the lines agree; "…" stands for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line) + r"\n" for line in expected)
    return re.fullmatch(pattern, "".join(line + "\n" for line in actual)) is not None


class Shell:
    """One bash that keeps its directory and variables from command to command."""

    def __init__(self, directory, bin_directory):
        environment = dict(os.environ, LC_ALL="C.UTF-8", TERM="dumb", COLUMNS="80",
                           PATH=f"{bin_directory}:{os.environ['PATH']}", HOME=str(directory))
        for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "HF_HOME", "HF_HUB_CACHE"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], cwd=directory, env=environment, text=True,
            encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)

    def run(self, command):
        # The commands must not read the script, which is bash's standard input.
        self.process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s\\n' {END}\n")
        self.process.stdin.flush()
        out = []
        for line in self.process.stdout:
            if line.rstrip("\n") == END:
                break
            out.append(line)
        else:
            raise SystemExit(f"bash ended after: {command}")
        text = "".join(out)
        return text[:-1] if text.endswith("\n") else text

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def check_page(page, bin_directory, directory):
    """Returns how many commands were run and how many printed something else."""
    run = wrong = 0
    shell = Shell(directory, bin_directory)
    for start, words, lines in blocks_of(page):
        unknown = set(words) - {"no-run", "setup"}
        if unknown:
            raise SystemExit(f"{page}:{start}: unknown words {sorted(unknown)} after ```console")
        if "no-run" in words:
            continue
        for number, command, expected in steps_of(start, lines):
            actual = normal(shell.run(command))
            run += 1
            wanted = normal("\n".join(expected))
            if "setup" in words or matches(wanted, actual):
                continue
            wrong += 1
            print(f"{page}:{number}: $ {command}")
            print("\n".join(difflib.unified_diff(
                wanted, actual, "the document", "the program", lineterm="", n=2)))
            print()
    shell.end()
    return run, wrong


def check_pages(pages, bin_directory, where):
    """Runs the pages one after the other, each in the directory that `where` makes for it, with a
    context of its own. Returns whether all commands printed what the pages show."""
    good = True
    for page in pages:
        with where() as directory:
            run, wrong = check_page(page, bin_directory, directory)
        print(f"{page}: {run} commands, {wrong} with other output")
        # A page without commands was not checked.
        good &= wrong == 0 and run > 0
    return good


def main():
    parser = argparse.ArgumentParser(description="Runs the commands of documents.")
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="directory of the tools")
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    bin_directory = arguments.bin.resolve()
    good = check_pages(arguments.pages, bin_directory,
                       lambda: tempfile.TemporaryDirectory(prefix="dsv3-docs-"))
    print("All in one directory, whose name has a space:")
    with tempfile.TemporaryDirectory(prefix="dsv3 docs-") as directory:
        good &= check_pages(arguments.pages, bin_directory,
                            lambda: contextlib.nullcontext(directory))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
