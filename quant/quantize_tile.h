#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "quant/quantize_rule.h"
#include "quant/stream_stores.h"

// The interface between the functions of quantize.h, which cut matrices into tiles, and the kernels
// that compute them. Callers hold a DefaultFloatEnvironment. Internal to quant/.
namespace dsv3::quant::internal {

// The most blocks side by side in a tile.
inline constexpr std::uint64_t kMaxTileBlocks = 256;

// A tile's values are read twice, and stay in the second-level cache in between.
inline constexpr std::uint64_t kTileBytes = std::uint64_t{128} << 10;

// The most columns whose codes are put together before they are stored past the caches.
inline constexpr std::uint64_t kRowPart = 512;

// A rectangle of a row-major matrix that lies in one row of blocks.
struct QuantizeTile {
  FloatFormat format = FloatFormat::kBF16;
  const std::byte* values = nullptr;  // of the first element
  std::uint64_t rows = 0;
  std::uint64_t width = 0;   // elements of each row
  std::uint64_t stride = 0;  // elements from row to row
  std::uint64_t column = 0;  // of the first element in the matrix
  std::uint64_t block_cols = 0;
  // Bytes from an element to that of the next tile, which is to be fetched meanwhile. Behind the
  // last tile of the values others often follow; if none do, fetching does no harm.
  std::uint64_t ahead = 0;

  std::uint64_t first_block() const { return column / block_cols; }
  std::size_t blocks() const {
    return static_cast<std::size_t>((column + width - 1) / block_cols - first_block() + 1);
  }
};

// Some rows and columns of a tile as a tile.
inline QuantizeTile SubTile(const QuantizeTile& tile, std::uint64_t row, std::uint64_t rows,
                            std::uint64_t offset, std::uint64_t size) {
  QuantizeTile part = tile;
  part.values += (row * tile.stride + offset) * FloatBytes(tile.format);
  part.rows = rows;
  part.width = size;
  part.column += offset;
  return part;
}

// Raises magnitudes[i] to the largest magnitude of the tile's i-th block: the bits of the values'
// own format without the sign, so that infinities and NaN are the largest of all.
void MaxMagnitudes(const QuantizeTile& tile, std::uint32_t* magnitudes);

// The bits of the float that has the value of a magnitude's bits in the format of the values.
std::uint32_t FloatBits(FloatFormat format, std::uint32_t magnitude);

// Writes the codes, whose rows lie `tile.stride` apart, too, and adds all but the blocks to
// `quality`. rules[i] is that of the tile's i-th block. All values of blocks whose rule is regular
// must be finite. With `stream` the codes go past the caches where whole vectors fit.
void EncodeTile(const QuantizeTile& tile, const BlockRule* rules, bool stream, std::uint8_t* codes,
                Quality& quality);

// The same for values of one block that lie side by side, one by one.
void EncodeRunScalar(const BlockRule& rule, FloatFormat format, const std::byte* values,
                     std::size_t size, std::uint8_t* codes, Quality& quality);

// The sum of x² of finite values.
double SumOfSquares(FloatFormat format, const std::byte* values, std::size_t size);

// Adds the tile to the states of its blocks. Returns whether all its values are finite.
bool TakeTile(const QuantizeTile& tile, BlockState* blocks);

// The first NaN or infinity.
std::optional<NonfiniteValue> FindNonfinite(const PanelPart& part);

BlockRule RuleOf(const QuantizeFormat& format, FloatFormat values, const BlockState& state);

inline std::size_t BlocksAcross(std::uint64_t cols, std::uint64_t block_cols) {
  return cols == 0 ? 0 : static_cast<std::size_t>((cols - 1) / block_cols + 1);
}

inline std::uint64_t Elements(const PanelPart& part) {
  return part.values.size() / FloatBytes(part.format);
}

// Calls work(tile, first) for rectangles that together make the part; `first` is the first
// element's place in it. Tiles of whole rows have whole blocks, as many as stay in the cache but
// at least one.
template <typename Work>
void ForEachTile(const PanelPart& part, std::uint64_t block_cols, const Work& work) {
  const std::size_t bytes = FloatBytes(part.format);
  const std::uint64_t size = Elements(part);
  std::uint64_t done = 0;
  while (done < size) {
    // A row that begins or ends within the part is a band of its own.
    const std::uint64_t column = (part.first + done) % part.cols;
    const std::uint64_t left = size - done;
    const bool whole_rows = column == 0 && left >= part.cols;
    const std::uint64_t rows = whole_rows ? left / part.cols : 1;
    const std::uint64_t end = whole_rows ? part.cols : std::min(part.cols, column + left);
    const std::uint64_t fitting = kTileBytes / bytes / rows / block_cols;
    const std::uint64_t blocks = std::clamp<std::uint64_t>(fitting, 1, kMaxTileBlocks);
    for (std::uint64_t begin = column; begin < end;) {
      // Written so that no product can overflow, however wide a block is said to be.
      const std::uint64_t last_block = begin / block_cols + blocks;
      const std::uint64_t tile_end =
          (end - 1) / block_cols < last_block ? end : last_block * block_cols;
      QuantizeTile tile;
      tile.format = part.format;
      tile.values = part.values.data() + (done + begin - column) * bytes;
      tile.rows = rows;
      tile.width = tile_end - begin;
      tile.stride = part.cols;
      tile.column = begin;
      tile.block_cols = block_cols;
      const std::uint64_t left_of_band = rows * (end - column) - (begin - column);
      tile.ahead = (tile_end < end ? tile.width : left_of_band) * bytes;
      work(tile, done + begin - column);
      begin = tile_end;
    }
    done += rows * (end - column);
  }
}

// Calls work(block, offset, size) for each block of a tile: its columns in the tile.
template <typename Work>
void ForEachBlock(const QuantizeTile& tile, const Work& work) {
  std::uint64_t offset = 0;
  std::uint64_t end = std::min(tile.block_cols - tile.column % tile.block_cols, tile.width);
  for (std::size_t block = 0;; ++block) {
    work(block, static_cast<std::size_t>(offset), static_cast<std::size_t>(end - offset));
    if (end == tile.width) return;
    offset = end;
    end += std::min(tile.block_cols, tile.width - end);
  }
}

}  // namespace dsv3::quant::internal
