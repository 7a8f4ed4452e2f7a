#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>

#include <gtest/gtest.h>

#include "convert/job/run_options.h"
#include "convert/recipes/pack.h"
#include "convert/recipes/unpack.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// Two versions of a small checkpoint, to be packed as weight deltas: with --idempotent where the
// parameter says so.
class WeightDeltasTest : public ::testing::TestWithParam<bool> {
 protected:
  // The next version: of the four shards one changes in two tensors, one in a last byte, one
  // everywhere, and one not at all.
  static TinyCheckpoint Next() {
    TinyCheckpoint next = SmallFp8Checkpoint();
    const auto flip = [](char& byte) { byte = static_cast<char>(byte ^ 0x24); };
    flip(next.Find("a.weight").bytes[7]);
    flip(next.Find("norm.weight").bytes.front());
    flip(next.Find("scalar").bytes.back());
    for (TinyTensor& tensor : next.tensors) {
      if (tensor.shard == kTinyShard3)
        std::for_each(tensor.bytes.begin(), tensor.bytes.end(), flip);
    }
    return next;
  }

  void WriteVersions(const std::filesystem::path& next) const {
    SmallFp8Checkpoint().Write(base_);
    Next().Write(next);
  }

  Conversion Pack(const std::filesystem::path& in, const std::filesystem::path& out,
                  std::uint64_t version = 7) const {
    return {in, out,
            convert::PackConversion({.base = base_,
                                     .form = convert::PackForm::kPullWeights,
                                     .weight_version = version,
                                     .idempotent = GetParam()})};
  }
  Conversion Unpack(const std::filesystem::path& deltas, const std::filesystem::path& out) const {
    Conversion conversion(deltas, out, convert::UnpackConversion());
    conversion.request.run.base = base_;
    return conversion;
  }

  static Conversion PartOf(Conversion conversion, std::uint64_t index, std::uint64_t count = 2) {
    conversion.request.run.part = convert::RunOptions::Part{index, count};
    return conversion;
  }
  static Conversion FinishOf(Conversion conversion) {
    conversion.request.run.finish = true;
    return conversion;
  }

  TempDir dir_{MemoryDirectory()};
  std::filesystem::path base_ = dir_ / "base";
};

}  // namespace dsv3::testing
