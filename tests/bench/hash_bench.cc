// Hash rates from memory: what a conversion with checksums can reach at most.

#include <cstddef>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>
#include <xxhash.h>

#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"

namespace {

using dsv3::formats::Sha256;
using dsv3::formats::Xxh3;

// A tile as a conversion hashes it: it stays in the second-level cache.
constexpr std::size_t kTileBytes = 256 << 10;
constexpr std::size_t kMostStreams = 6;

std::vector<std::byte> Tiles(std::size_t count) {
  std::vector<std::byte> data(count * kTileBytes);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 2654435761u);
  return data;
}

void ReportRate(benchmark::State& state, std::size_t bytes_per_iteration) {
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(bytes_per_iteration) / 1e9,
      benchmark::Counter::kIsRate);
}

void Sha256Alone(benchmark::State& state, Sha256::Backend backend) {
  const std::vector<std::byte> data = Tiles(1);
  Sha256 hash(backend);
  for (auto _ : state) hash.Update(data);
  benchmark::DoNotOptimize(hash.Finish());
  ReportRate(state, data.size());
}

// As many streams side by side on one thread as the argument says.
void Sha256SideBySide(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const std::vector<std::byte> data = Tiles(count);
  std::vector<Sha256> hashes(count);
  std::vector<Sha256::Part> parts;
  for (std::size_t i = 0; i < count; ++i) {
    parts.push_back({&hashes[i], std::span(data).subspan(i * kTileBytes, kTileBytes)});
  }
  for (auto _ : state) Sha256::UpdateMany(parts);
  for (Sha256& hash : hashes) benchmark::DoNotOptimize(hash.Finish());
  ReportRate(state, data.size());
}

void Xxh3Stream(benchmark::State& state) {
  const std::vector<std::byte> data = Tiles(1);
  Xxh3 hash;
  for (auto _ : state) hash.Update(data);
  benchmark::DoNotOptimize(hash.Hex());
  ReportRate(state, data.size());
}

// libxxhash without its run-time dispatch.
void Xxh3Baseline(benchmark::State& state) {
  const std::vector<std::byte> data = Tiles(1);
  XXH3_state_t* const hash = XXH3_createState();
  XXH3_128bits_reset(hash);
  for (auto _ : state) XXH3_128bits_update(hash, data.data(), data.size());
  benchmark::DoNotOptimize(XXH3_128bits_digest(hash));
  XXH3_freeState(hash);
  ReportRate(state, data.size());
}

void OnOneAndTwoThreads(benchmark::internal::Benchmark* benchmark) {
  benchmark->Threads(1)->Threads(2)->UseRealTime();
}

BENCHMARK_CAPTURE(Sha256Alone, Fastest, Sha256::Backend::kFastest)->Apply(OnOneAndTwoThreads);
BENCHMARK_CAPTURE(Sha256Alone, OpenSsl, Sha256::Backend::kOpenSsl)->Apply(OnOneAndTwoThreads);
BENCHMARK(Sha256SideBySide)->DenseRange(2, kMostStreams)->Apply(OnOneAndTwoThreads);
BENCHMARK(Xxh3Stream)->Apply(OnOneAndTwoThreads);
BENCHMARK(Xxh3Baseline)->Apply(OnOneAndTwoThreads);

}  // namespace

BENCHMARK_MAIN();
