// Sizes and rates of packed chunks of generated weights, each against its limit or bar.
//
//   dsv3-packing-bench [--json FILE] [--write DIR]
//
// Prints for each kind of weights the packed size as a part of the raw one and of the order-0
// entropy, and the raw bytes that one thread and all threads pack and unpack a second (the median
// of several rounds). --json writes these to FILE, --write the weights to DIR for other programs:
// NAME.bin, and NAME.base.bin for what they are packed against.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "convert/packing/chunk_coder.h"
#include "convert/packing/packed_file.h"
#include "formats/dtype.h"
#include "formats/seek_table.h"
#include "tests/support/weight_samples.h"

namespace dsv3::bench {
namespace {

using convert::kPackedChunkBytes;
using formats::Dtype;
using Bytes = std::vector<std::byte>;

constexpr std::size_t kRows = 7168;
constexpr std::size_t kCols = 4096;  // 56 MiB of BF16
constexpr int kRounds = 7;

struct Sample {
  std::string name;
  Dtype dtype;
  Bytes raw;
  Bytes base;  // empty for weights that are packed alone
  double entropy_bytes;
};

template <typename T>
Bytes BytesOf(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::uint8_t> E4M3(const std::vector<std::uint16_t>& values) {
  std::vector<float> floats(values.size());
  std::transform(values.begin(), values.end(), floats.begin(), testing::FromBF16);
  return testing::E4M3Of(floats, kCols);
}

std::vector<Sample> MakeSamples() {
  const auto base = testing::BF16Of(testing::NormalWeights(kRows, kCols, 1));
  const auto step = testing::StepOf(base, 3);
  const auto tuned = testing::TunedOf(base, testing::NormalWeights(kRows, kCols, 2));
  const auto codes = E4M3(base);
  const auto tuned_codes = E4M3(tuned);
  const auto differences = [](const auto& values, const auto& from) {
    return testing::EntropyBytes(testing::OrderedDifferences(values, from));
  };
  double codes_entropy = 0;
  for (std::size_t i = 0; i < codes.size(); i += kPackedChunkBytes) {
    const auto begin = codes.begin() + static_cast<std::ptrdiff_t>(i);
    codes_entropy += testing::EntropyBytes(
        std::vector<std::uint8_t>(begin, begin + static_cast<std::ptrdiff_t>(kPackedChunkBytes)));
  }
  return {{"BF16",
           Dtype::kBF16,
           BytesOf(base),
           {},
           testing::PlaneEntropyBytes(base, kPackedChunkBytes / 2)},
          {"FP8", Dtype::kF8E4M3, BytesOf(codes), {}, codes_entropy},
          {"BF16 RL step", Dtype::kBF16, BytesOf(step), BytesOf(base), differences(step, base)},
          {"BF16 fine-tune", Dtype::kBF16, BytesOf(tuned), BytesOf(base), differences(tuned, base)},
          {"FP8 fine-tune", Dtype::kF8E4M3, BytesOf(tuned_codes), BytesOf(codes),
           differences(tuned_codes, codes)}};
}

// A packed chunk of a sample.
struct Chunk {
  Bytes bytes;
  std::vector<formats::SeekEntry> frames;
};

template <typename Span>
Span PartOf(Span whole, std::size_t chunk) {
  if (whole.empty()) return whole;
  const std::size_t begin = chunk * kPackedChunkBytes;
  return whole.subspan(begin, std::min(kPackedChunkBytes, whole.size() - begin));
}

// Calls work(chunk) for all chunks on so many threads; `make` gives each thread its work. Returns
// the seconds.
template <typename Make>
double OnThreads(std::size_t chunks, unsigned threads, const Make& make) {
  std::atomic<std::size_t> next = 0;
  const auto run = [&] {
    auto work = make();
    for (std::size_t i = next++; i < chunks; i = next++) work(i);
  };
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::jthread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(run);
  run();
  others.clear();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double Pack(const Sample& sample, std::vector<Chunk>& chunks, unsigned threads) {
  return OnThreads(chunks.size(), threads, [&] {
    return [&, encoder = convert::ChunkEncoder(),
            out = Bytes(convert::PackedChunkBound(kPackedChunkBytes))](std::size_t i) mutable {
      chunks[i].frames.clear();
      const std::size_t bytes =
          encoder.Encode(sample.dtype, PartOf(std::span(sample.raw), i),
                         PartOf(std::span(sample.base), i), out, chunks[i].frames);
      chunks[i].bytes.assign(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(bytes));
    };
  });
}

double Unpack(const Sample& sample, const std::vector<Chunk>& chunks, unsigned threads,
              std::atomic<bool>& wrong) {
  return OnThreads(chunks.size(), threads, [&] {
    return [&, decoder = convert::ChunkDecoder(),
            raw = Bytes(kPackedChunkBytes)](std::size_t i) mutable {
      const auto expected = PartOf(std::span(sample.raw), i);
      const auto place = std::span(raw).first(expected.size());
      decoder.Decode(chunks[i].bytes, chunks[i].frames, PartOf(std::span(sample.base), i),
                     {"bench", sample.name, i}, place);
      // One byte a chunk: to compare all would be measured, too.
      if (place.back() != expected.back()) wrong = true;
    };
  });
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The JSON object of a sample on so many threads; prints a line.
std::string Measure(const Sample& sample, unsigned threads) {
  std::vector<Chunk> chunks((sample.raw.size() - 1) / kPackedChunkBytes + 1);
  std::vector<double> pack;
  std::vector<double> unpack;
  std::atomic<bool> wrong = false;
  for (int round = 0; round < kRounds; ++round) {
    pack.push_back(Pack(sample, chunks, threads));
    unpack.push_back(Unpack(sample, chunks, threads, wrong));
  }
  std::size_t bytes = 0;
  std::size_t frames = 0;
  for (const Chunk& chunk : chunks) {
    bytes += chunk.bytes.size();
    frames += chunk.frames.size();
  }
  if (wrong) throw std::runtime_error(sample.name + " was not unpacked right");
  const auto raw = static_cast<double>(sample.raw.size());
  const auto packed = static_cast<double>(bytes + formats::SeekTableBytes(frames));
  const double pack_rate = raw / 1e9 / Median(pack);
  const double unpack_rate = raw / 1e9 / Median(unpack);
  fmt::print(
      "{:<16}{:>2} thread(s)  {:.4f} of raw  {:.4f} of entropy  pack {:.2f}  unpack {:.2f} "
      "GB/s\n",
      sample.name, threads, packed / raw, packed / sample.entropy_bytes, pack_rate, unpack_rate);
  return fmt::format(
      "{{\"name\": \"{}\", \"threads\": {}, \"ratio\": {:.5f}, \"of_entropy\": {:.4f}, "
      "\"pack_gb_per_s\": {:.3f}, \"unpack_gb_per_s\": {:.3f}}}",
      sample.name, threads, packed / raw, packed / sample.entropy_bytes, pack_rate, unpack_rate);
}

void WriteBytes(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path.string());
}

int Run(int argc, char** argv) {
  std::filesystem::path json;
  std::filesystem::path directory;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    if (i + 1 == argc || (option != "--json" && option != "--write")) {
      std::fputs("usage: dsv3-packing-bench [--json FILE] [--write DIR]\n", stderr);
      return 2;
    }
    (option == "--json" ? json : directory) = argv[i + 1];
  }
  const std::vector<Sample> samples = MakeSamples();
  for (const Sample& sample : samples) {
    if (directory.empty()) break;
    WriteBytes(directory / (sample.name + ".bin"), sample.raw);
    if (!sample.base.empty()) WriteBytes(directory / (sample.name + ".base.bin"), sample.base);
  }
  std::string rows;
  const unsigned all = std::max(1U, std::thread::hardware_concurrency());
  for (const unsigned threads : {1U, all}) {
    for (const Sample& sample : samples) {
      rows += (rows.empty() ? "\n  " : ",\n  ") + Measure(sample, threads);
    }
    if (all == 1) break;
  }
  if (json.empty()) return 0;
  const std::string text = "[" + rows + "\n]\n";
  WriteBytes(json, std::as_bytes(std::span(text)));
  return 0;
}

}  // namespace
}  // namespace dsv3::bench

int main(int argc, char** argv) {
  try {
    return dsv3::bench::Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dsv3-packing-bench: %s\n", error.what());
    return 1;
  }
}
