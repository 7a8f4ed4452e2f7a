# shellcheck shell=bash
# What the scripts in this folder share; sourced by them, not run.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Prints the comment at the head of the script that is running: its usage.
usage() {
  awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"
}

# With --help or -h as the first argument, prints the usage and ends.
handle_help() {
  if [[ ${1-} == --help || ${1-} == -h ]]; then
    usage
    exit 0
  fi
}

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# quietly WHAT COMMAND...: runs COMMAND with its output in build/logs; says WHAT and how long it
# took. The log is shown only when COMMAND fails.
quietly() {
  local what=$1 start=$SECONDS status=0 log
  shift
  mkdir -p "$root/build/logs"
  log=$(printf '%s' "$what" | tr -cs '[:alnum:]' '-')
  log=$root/build/logs/${log%-}.log
  printf '%s ... ' "$what"
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if [[ $status -eq 0 ]]; then
    printf 'done (%d s)\n' "$((SECONDS - start))"
    return 0
  fi
  printf 'FAILED (exit %d)\n' "$status"
  tail -n 80 "$log"
  printf 'The whole log: %s\n' "$log"
  return "$status"
}

# in_sight WHAT COMMAND...: as quietly, but on a terminal the output of COMMAND is shown, so that
# ninja counts on one line what it builds.
in_sight() {
  local what=$1 start=$SECONDS
  if [[ ! -t 1 ]]; then
    quietly "$@"
    return
  fi
  shift
  printf '%s:\n' "$what"
  NINJA_STATUS='  %f of %t, %es: ' "$@" || die "building failed, see above"
  printf 'Built in %d s\n' "$((SECONDS - start))"
}

# Makes .venv with the Python programs that the tools are compared with, unless it is there.
python_environment() {
  local torch=(torch==2.13.0)
  local others=(safetensors==0.8.0 transformers==4.57.6 compressed-tensors==0.20.1 gguf==0.19.0 ml_dtypes numpy)
  # model_signing does not start without pyopenssl.
  others+=(model-signing==1.1.1 pyopenssl pyyaml)
  local beside=(transformers==5.23.0)  # cannot be installed together with version 4
  local alone=(megatron-core==0.13.1)  # its dependencies are there, numpy in a newer version
  local wanted="${torch[*]} ${others[*]} ${beside[*]} ${alone[*]}" stamp=$root/.venv/installed
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return 0
  local pip=("$root/.venv/bin/python" -m pip install --disable-pip-version-check)
  # Joined by && because set -e is off in what `quietly` calls.
  rm -rf "$root/.venv" && python3 -m venv "$root/.venv" &&
    "${pip[@]}" "${torch[@]}" && "${pip[@]}" "${others[@]}" && "${pip[@]}" --no-deps "${alone[@]}" &&
    "${pip[@]}" --target "$root/.venv/transformers-5" "${beside[@]}" &&
    printf '%s\n' "$wanted" >"$stamp"
}

# ModelOpt in .venv/modelopt, with what it imports beyond the packages above. Returns 1 where it
# cannot be installed; the tests that compare with it are then skipped.
modelopt_environment() {
  local place=$root/.venv/modelopt stamp=$root/.venv/modelopt/installed
  local wanted=(nvidia-modelopt==0.47.0 nvidia-ml-py==13.615.71 omegaconf==2.4.0)
  wanted+=(antlr4-python3-runtime==4.9.3 pulp==3.3.2 scipy==1.17.1 rich==15.0.0)
  [[ -f $stamp && $(<"$stamp") == "${wanted[*]}" ]] && return 0
  rm -rf "$place" &&
    "$root/.venv/bin/python" -m pip install --disable-pip-version-check --no-deps \
      --target "$place" "${wanted[@]}" && printf '%s\n' "${wanted[*]}" >"$stamp"
}

# llama.cpp's converter of checkpoints in .venv/llama-cpp: three parts of the source package of
# llama-cpp-python (76 MB), which carries llama.cpp. Returns 1 where it cannot be downloaded.
llama_converter() {
  local place=$root/.venv/llama-cpp name=llama-cpp-python package=llama-cpp-python==0.3.36
  local parts=('*/llama.cpp/convert_hf_to_gguf.py' '*/llama.cpp/conversion/*' '*/llama.cpp/gguf-py/gguf/*')
  [[ -f $place/installed && $(<"$place/installed") == "$package" ]] && return 0
  rm -rf "$place" &&
    "$root/.venv/bin/python" -m pip download --disable-pip-version-check --no-deps \
      --no-binary "$name" --dest "$place/package" "$package" &&
    tar --extract --file "$place/package/"*.tar.gz --directory "$place" --strip-components=3 \
      --wildcards "${parts[@]}" &&
    rm -r "$place/package" && printf '%s\n' "$package" >"$place/installed"
}

# Has DSV3_LLAMA_CPP name a directory with llama.cpp's converter: the one that is downloaded, unless
# the caller named one. Where that is not possible it stays unset, and a message says so.
use_llama_converter() {
  [[ -n ${DSV3_LLAMA_CPP-} ]] && return 0
  if quietly "llama.cpp's converter in .venv/llama-cpp" llama_converter; then
    export DSV3_LLAMA_CPP=$root/.venv/llama-cpp
  else
    echo "${0##*/}: llama.cpp's converter cannot be downloaded; what is compared with it is skipped" >&2
  fi
}

# llama.cpp itself, built as a Python module, in .venv/xllamacpp.
llama_library() {
  local place=$root/.venv/xllamacpp package=xllamacpp==2026.10.11549
  [[ -f $place/installed && $(<"$place/installed") == "$package" ]] && return 0
  rm -rf "$place" &&
    "$root/.venv/bin/python" -m pip install --disable-pip-version-check --no-deps --target "$place" "$package" &&
    printf '%s\n' "$package" >"$place/installed"
}

# Starts the running script anew, with its arguments "$@", without randomised addresses: libFuzzer
# chooses by addresses, so a repeated run needs the same ones, and ThreadSanitizer's shadow memory
# meets a program's own from time to time. Some containers do not allow it.
fix_addresses() {
  if [[ -z ${DSV3_FIXED_ADDRESSES-} ]] && setarch --addr-no-randomize true 2>/dev/null; then
    DSV3_FIXED_ADDRESSES=1 exec setarch --addr-no-randomize "$0" "$@"
  fi
}

# Has CMake call the compilers through ccache where it is installed: before a configuration is made.
use_ccache() {
  command -v ccache >/dev/null || return 0
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
  # What one checkout compiled serves another.
  export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
  # Sources that include a precompiled header are served, too.
  export CCACHE_SLOPPINESS=pch_defines,time_macros
}

# build_preset PRESET [TARGET...]: configures and builds PRESET; all targets when none is named.
build_preset() {
  local preset=$1
  shift
  use_ccache
  (
    # Joined by && because set -e is off in what `quietly` calls.
    cd "$root" && cmake --preset "$preset" &&
      cmake --build --preset "$preset" ${1:+--target "$@"}
  )
}

# run_shard PRESET PROGRAM SHARD: one part of a test program; its log is shown only when it fails.
run_shard() {
  local log=$root/build/logs/$1-$2-$3.log status=0
  GTEST_SHARD_INDEX=$3 timeout --kill-after=10 1800 "$root/build/$1/bin/$2" >"$log" 2>&1 </dev/null || status=$?
  if [[ $status -eq 0 ]]; then
    printf '%s, part %d: %s\n' "$2" "$3" "$(grep -a ' ran\. ' "$log")"
    return 0
  fi
  printf '%s, part %d: FAILED (exit %d), the end of %s:\n' "$2" "$3" "$status" "$log"
  tail -n 100 "$log"
  return 1
}

# run_programs PRESET PROGRAM...: runs whole test programs, not each test as a process of its own, for
# programs with sanitizers are slow to start. Each is cut into parts, so that all processors work.
# GTEST_FILTER chooses tests.
run_programs() {
  local preset=$1 program part
  shift
  export root
  export -f run_shard
  export GTEST_TOTAL_SHARDS=$((2 * $(nproc)))
  for program in "$@"; do
    for ((part = 0; part < GTEST_TOTAL_SHARDS; part++)); do
      printf '%s %s %d\n' "$preset" "$program" "$part"
    done
  done | xargs -P "$(nproc)" -L 1 bash -c 'run_shard "$@"' run_shard
}
