#pragma once

#include <algorithm>
#include <cstdint>

// An internal part of forward.h.
namespace dsv3::convert {

// How the memory for weights is used: half of what a run may take, the other half is for keys and
// values.
struct PanelMemory {
  std::uint64_t panel_bytes = 1;       // of a panel's floats
  std::uint64_t read_ahead_bytes = 0;  // of panels that are read ahead
  std::uint64_t kept_bytes = 0;        // the rest

  PanelMemory(std::uint64_t memory_bytes, unsigned threads) {
    // Of floats: a panel of BF16 is read in one request of a megabyte.
    constexpr std::uint64_t kPanelBytes = std::uint64_t{2} << 20;
    constexpr std::uint64_t kReadAheadBytes = std::uint64_t{16} << 20;
    // Beside its floats a panel has the bytes that were read.
    const std::uint64_t buffers = std::uint64_t{2} * threads;
    const std::uint64_t half = memory_bytes / 2;
    panel_bytes = std::clamp<std::uint64_t>(half / buffers, 1, kPanelBytes);
    read_ahead_bytes = std::min(kReadAheadBytes, half);
    kept_bytes = half - std::min(half, buffers * panel_bytes + read_ahead_bytes);
  }
};

// How weights are cut into panels of rows.
struct PanelRule {
  std::uint64_t panel_bytes = 1;  // of floats
  unsigned threads = 1;

  // Rows that are read at a time of a weight whose elements are stored in so many bits. All threads
  // have some panels, but no read is small for that.
  std::uint64_t RowsOf(std::uint64_t rows, std::uint64_t cols, std::uint64_t bits) const {
    constexpr std::uint64_t kSmallReadBytes = std::uint64_t{256} << 10;
    constexpr std::uint64_t kTileRows = 8;  // of the kernels, or a multiple
    const std::uint64_t most = std::max<std::uint64_t>(1, panel_bytes / (cols * sizeof(float)));
    const std::uint64_t reads = rows * cols * bits / 8 / kSmallReadBytes;
    const std::uint64_t panels = std::clamp<std::uint64_t>(reads, 1, std::uint64_t{2} * threads);
    const std::uint64_t wanted = (rows + panels - 1) / panels;
    return std::min(most, (wanted + kTileRows - 1) / kTileRows * kTileRows);
  }
};

}  // namespace dsv3::convert
