// The kernels against the memory of this machine: the rate at which one byte is read and two are
// written past the caches, for dequantising (four, of codes of four bits), and that at which two
// are read and one is written, for quantising (four, to codes of four bits and of floats to Q8_0),
// in the same run.
//
//   dsv3-kernel-bench [--json FILE] [Google Benchmark's options]
//
// Prints each rate (bytes read plus bytes written) and its ratio to its roofline; --json writes
// them to FILE. With --benchmark_format the output is Google Benchmark's alone. Needs 3.5 GiB.

#include "tests/bench/kernel_bench.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "quant/dequantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/kernel_bench.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dsv3::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Reads each byte and writes two, in whole vectors past the caches. The most that a kernel of this
// shape can reach. `size` is a multiple of 256, `to` is aligned to 64 bytes.
void ReadOneWriteTwo(const std::uint8_t* HWY_RESTRICT from, std::size_t size,
                     std::uint8_t* HWY_RESTRICT to) {
  const hn::ScalableTag<std::uint8_t> d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < size; i += lanes) {
    const auto v = hn::LoadU(d, from + i);
    hn::Stream(v, d, to + 2 * i);
    hn::Stream(v, d, to + 2 * i + lanes);
  }
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace dsv3::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv3::bench {
namespace {

HWY_EXPORT(ReadOneWriteTwo);

constexpr std::uint64_t kRows = 73728;
constexpr std::size_t kElements = kCols * kRows;             // 504 MiB of codes, 1008 of results
constexpr std::size_t kTileElements = std::size_t{4} << 20;  // what a conversion does at a time
constexpr std::size_t kSlack = 4096;
constexpr std::string_view kQuantize = "Quantize";
constexpr std::string_view kEncode = "Encode";
constexpr std::string_view kFourBits = "FourBits";
constexpr std::string_view kGguf = "Gguf";

// All these benchmarks work on the same memory, every page of which was written before.
struct Buffers {
  Buffers() : in(Allocate(kElements + kSlack)), out(Allocate(2 * kElements + kSlack)) {
    for (std::size_t i = 0; i < kElements + kSlack; ++i) {
      const auto code = static_cast<std::uint8_t>((i * 2654435761U) >> 13);
      in.get()[i] = (code & 0x7F) == 0x7F ? std::uint8_t{0x38} : code;
    }
    std::memset(out.get(), 1, 2 * kElements + kSlack);
  }
  std::unique_ptr<std::uint8_t, Free> in;
  std::unique_ptr<std::uint8_t, Free> out;
};

const Buffers& TheBuffers() {
  static const Buffers buffers;
  return buffers;
}

// The share of the elements that this thread does, in tiles.
struct Share {
  explicit Share(const benchmark::State& state) {
    const auto threads = static_cast<std::size_t>(state.threads());
    const std::size_t rows = kRows / threads;
    begin = rows * kCols * static_cast<std::size_t>(state.thread_index());
    end = begin + rows * kCols;
  }

  template <typename Work>
  void ForEachTile(const Work& work) const {
    for (std::size_t i = begin; i < end; i += kTileElements) {
      work(i, std::min(kTileElements, end - i));
    }
  }

  std::size_t begin = 0;
  std::size_t end = 0;
};

void SetBytes(benchmark::State& state, const Share& share, std::size_t bytes_per_element) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>((share.end - share.begin) * bytes_per_element));
}

void Roofline(benchmark::State& state) {
  const Buffers& buffers = TheBuffers();
  const Share share(state);
  for (auto _ : state) {
    share.ForEachTile([&](std::size_t begin, std::size_t size) {
      HWY_DYNAMIC_DISPATCH(ReadOneWriteTwo)
      (buffers.in.get() + begin, size, buffers.out.get() + 2 * begin);
    });
  }
  SetBytes(state, share, 3);
}

void Memcpy(benchmark::State& state) {
  const Buffers& buffers = TheBuffers();
  const Share share(state);
  for (auto _ : state) {
    share.ForEachTile([&](std::size_t begin, std::size_t size) {
      std::memcpy(buffers.out.get() + begin, buffers.in.get() + begin, size);
    });
  }
  SetBytes(state, share, 2);
}

// `offset` elements lie between a cache line's start and the first result, as the header of a file
// makes it.
void Dequantize(benchmark::State& state, quant::BlockShape block, std::size_t offset) {
  const Buffers& buffers = TheBuffers();
  const Share share(state);
  const std::uint64_t block_cols = (kCols - 1) / block.cols + 1;
  const std::vector<float> scales(block_cols * ((kRows - 1) / block.rows + 1), 0x1.5p-10F);
  auto* const out = reinterpret_cast<std::uint16_t*>(buffers.out.get()) + offset;
  quant::DequantizeCounts counts;
  for (auto _ : state) {
    share.ForEachTile([&](std::size_t begin, std::size_t size) {
      const std::uint64_t first_scale_row = begin / kCols / block.rows;
      quant::DequantizeE4M3ToBF16(
          {.codes = std::span(buffers.in.get() + begin, size),
           .first = begin,
           .cols = kCols,
           .block = block,
           .scales = std::span(scales).subspan(first_scale_row * block_cols)},
          out + begin, counts);
    });
  }
  SetBytes(state, share, 3);
}

BENCHMARK(Roofline)->Apply(OnOneAndAllThreads);
BENCHMARK(Memcpy)->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Dequantize, 128x128, quant::BlockShape{128, 128}, 0)->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Dequantize, 128x128_off_cache_lines, quant::BlockShape{128, 128}, 4)
    ->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Dequantize, 32x32, quant::BlockShape{32, 32}, 4)->Apply(OnOneAndAllThreads);
BENCHMARK_CAPTURE(Dequantize, 1x128, quant::BlockShape{1, 128}, 4)->Apply(OnOneAndAllThreads);
struct Rate {
  std::string name;
  std::int64_t threads = 0;
  std::int64_t order = 0;  // of registration; repetitions run in random order
  double gb_per_s = 0;
};

// Keeps the medians.
class MedianKeeper : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context& context) override {
    PrintBasicContext(&GetErrorStream(), context);
    return true;
  }

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.aggregate_name != "median") continue;
      const auto rate = run.counters.find("bytes_per_second");
      if (rate == run.counters.end()) continue;
      rates_.push_back(
          {run.run_name.function_name, run.threads, run.family_index, rate->second / 1e9});
    }
  }

  std::vector<Rate> TakeRates() {
    std::sort(rates_.begin(), rates_.end(), [](const Rate& a, const Rate& b) {
      return std::pair(a.threads, a.order) < std::pair(b.threads, b.order);
    });
    return std::move(rates_);
  }

 private:
  std::vector<Rate> rates_;
};

// That of a benchmark's kind.
double RooflineOf(const std::vector<Rate>& rates, const Rate& of) {
  const bool encode = of.name.find(kEncode) != std::string::npos;
  const bool quantize = encode || of.name.find(kQuantize) != std::string::npos;
  // Q8_0 writes little more than a byte for each float.
  const bool four_bits =
      of.name.find(kFourBits) != std::string::npos || of.name.find(kGguf) != std::string::npos;
  const std::string_view name = encode && four_bits ? "RooflineEncodeFourBits"
                                : quantize          ? "RooflineQuantize"
                                : four_bits         ? "RooflineFourBits"
                                                    : "Roofline";
  for (const Rate& rate : rates) {
    if (rate.name == name && rate.threads == of.threads) return rate.gb_per_s;
  }
  return 0;
}

std::string ToJson(const std::vector<Rate>& rates) {
  std::string rows;
  for (const Rate& rate : rates) {
    const double roofline = RooflineOf(rates, rate);
    if (roofline == 0) continue;
    rows += fmt::format(
        "{}\n    {{\"name\": \"{}, {} thread{}\", \"threads\": {}, \"gb_per_s\": {:.2f}, "
        "\"roofline_gb_per_s\": {:.2f}, \"ratio\": {:.3f}}}",
        rows.empty() ? "" : ",", rate.name, rate.threads, rate.threads == 1 ? "" : "s",
        rate.threads, rate.gb_per_s, roofline, rate.gb_per_s / roofline);
  }
  return fmt::format("{{\n  \"target\": \"{}\",\n  \"kernels\": [{}\n  ]\n}}\n",
                     quant::KernelTargetName(), rows);
}

void PrintRatios(const std::vector<Rate>& rates) {
  fmt::print("Instruction set {}; medians; GB/s of bytes read plus bytes written.\n",
             quant::KernelTargetName());
  for (const Rate& rate : rates) {
    const double roofline = RooflineOf(rates, rate);
    fmt::print("{:<36} {:>2} thread(s) {:>7.2f} GB/s", rate.name, rate.threads, rate.gb_per_s);
    if (roofline > 0) fmt::print("  {:.2f} of the roofline", rate.gb_per_s / roofline);
    fmt::print("\n");
  }
}

int Main(int argc, char** argv) {
  std::string json_path;
  bool own_report = true;
  // Repetitions of all benchmarks in random order: what else the machine does hits all alike.
  std::string interleave = "--benchmark_enable_random_interleaving=true";
  std::vector<char*> arguments = {argv[0], interleave.data()};
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--json" && i + 1 < argc) {
      json_path = argv[++i];
      continue;
    }
    if (std::string_view(argv[i]).starts_with("--benchmark_format")) own_report = false;
    arguments.push_back(argv[i]);
  }
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  if (!own_report) {
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  }
  MedianKeeper reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  const std::vector<Rate> rates = reporter.TakeRates();
  PrintRatios(rates);
  if (json_path.empty()) return 0;
  std::ofstream file(json_path);
  file << ToJson(rates);
  file.close();
  if (!file) {
    std::cerr << "dsv3-kernel-bench: cannot write " << json_path << '\n';
    return 4;
  }
  return 0;
}

}  // namespace
}  // namespace dsv3::bench

int main(int argc, char** argv) { return dsv3::bench::Main(argc, argv); }
#endif  // HWY_ONCE
