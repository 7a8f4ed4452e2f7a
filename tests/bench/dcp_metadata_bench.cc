// How long the .metadata of a distributed checkpoint takes to open. Takes the file's path, which
// tests/bench/dcp_metadata.py writes.

#include <cstddef>
#include <cstdio>
#include <string>

#include <benchmark/benchmark.h>

#include "formats/dcp_metadata.h"
#include "formats/error.h"
#include "formats/io/input_file.h"

namespace {

void Open(benchmark::State& state, const std::string& path) {
  std::size_t chunks = 0;
  for (auto _ : state) {
    const auto metadata = dsv3::formats::ReadDcpMetadata(dsv3::formats::InputFile(path, path));
    chunks = 0;
    for (const auto& tensor : metadata.tensors) chunks += tensor.chunks.size();
  }
  state.counters["chunks"] = static_cast<double>(chunks);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc != 2) {
    std::fprintf(stderr, "usage: dsv3-dcp-metadata-bench [--benchmark_...] FILE\n");
    return 2;
  }
  try {
    const std::string path = argv[1];
    benchmark::RegisterBenchmark("OpenDcpMetadata", Open, path)->Unit(benchmark::kMillisecond);
    benchmark::RunSpecifiedBenchmarks();
  } catch (const dsv3::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
