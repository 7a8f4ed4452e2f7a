#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "formats/zstd_stream.h"
#include "tests/support/files.h"

namespace dsv3::testing {

// One frame with this content.
inline std::string ZstdFrame(std::string_view content) {
  std::string frame;
  formats::ZstdStreamEncoder encoder;
  const auto take = [&](std::span<const std::byte> piece) {
    frame.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  };
  encoder.Begin(content.size());
  encoder.Add(AsBytes(content), take);
  encoder.End(take);
  return frame;
}

}  // namespace dsv3::testing
