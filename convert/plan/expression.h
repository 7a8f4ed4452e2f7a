#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/zero_blocks.h"
#include "formats/dtype.h"
#include "formats/shape.h"
#include "quant/quality.h"

namespace dsv3::convert {

// Bytes [begin, end) of a source tensor; `tensor` is its position in the catalog.
struct SourceRange {
  std::uint32_t tensor = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// The counts that evaluating finds.
struct EvaluationCounts {
  std::uint64_t nan_codes = 0;  // FP8 NaN codes that became BF16 NaNs
  ZeroBlocks zero_blocks;       // of the FP8 weight that the value is made of
  // The quality of the quantised values, one element for each panel in the order of the value, so
  // that sums do not depend on how the work was cut. Empty for other rules.
  std::vector<quant::Quality> quality;
};

// The buffers that Evaluate fills.
struct EvaluationOutput {
  std::span<std::byte> value;
  std::span<std::byte> by_product;  // empty for an expression without a by-product
  EvaluationCounts counts;
};

// Bytes [begin, end) of a value.
struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool empty() const { return begin >= end; }
  std::uint64_t size() const { return end - begin; }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

class SliceExpression;

// How a target tensor is made of source tensors. Immutable; knows dtype and shape before any byte
// moves, and can make byte ranges of its value alone, so that an executor may cut the work. All
// member functions are thread-safe.
//
// Some expressions make two tensors at once: quantising a weight finds its scales. The weight's
// expression then has a by-product, and the scales' expression (rule "quantize-scale") names the
// weight's as its maker and is never evaluated itself.
class Expression {
 public:
  virtual ~Expression() = default;
  Expression(const Expression&) = delete;
  Expression& operator=(const Expression&) = delete;

  formats::Dtype dtype() const { return dtype_; }
  const formats::Shape& shape() const { return shape_; }
  std::uint64_t num_bytes() const { return num_bytes_; }

  // The rule's name in the manifest: "copy", "dequantize", "quantize", "quantize-scale", "slice",
  // "assemble", "recut-scales", "repack" … (docs/manifest.md has all).
  virtual std::string_view rule() const = 0;

  // Everything that decides the bytes beside rule, sources and the plan's options, as text. A job
  // continues only where this text is the same.
  virtual std::string parameters() const { return {}; }

  // The source tensors whose bytes are streamed: evaluating consecutive ranges reads consecutive
  // ranges of each. Each once, in a fixed order; most expressions have one. An expression may read
  // nothing (a constant that was found in that tensor before), or have none (zeros).
  virtual std::vector<std::uint32_t> streamed_sources() const = 0;
  // Whether there is one streamed source, of which each byte is read once: then streaming finds its
  // digest.
  virtual bool streams_whole_source() const { return true; }
  // Small source tensors that are looked up beside the stream (scales), in a fixed order.
  virtual std::vector<std::uint32_t> side_sources() const { return {}; }

  // The places where the value may be cut: the last one that is not behind `position`, and the
  // first one behind it (the value's end at the latest). 0 and the end are such places, and by
  // default every border between elements. Precondition: position < num_bytes(). Not called for
  // by-products.
  virtual std::uint64_t CutAtOrBefore(std::uint64_t position) const;
  virtual std::uint64_t CutAfter(std::uint64_t position) const;
  // The largest number of bytes between two neighbouring places, which decides how much memory is
  // needed; by default the bytes before the first place behind 0. Precondition: num_bytes() > 0.
  virtual std::uint64_t LongestPiece() const { return CutAfter(0); }

  // Source bytes that AppendReads names for each byte of the value, and the memory that Evaluate
  // takes beside them, rounded up: for planning memory. 1 for a copy.
  virtual std::uint64_t input_bytes_per_output_byte() const { return 1; }

  // The expression of the tensor that evaluating this one makes as well, or nullptr. The two are
  // planned into the same file.
  virtual const Expression* by_product() const { return nullptr; }
  // The part of the by-product that evaluating [begin, end) makes. Consecutive ranges make
  // consecutive parts.
  virtual ByteRange ByProductRange(std::uint64_t /*begin*/, std::uint64_t /*end*/) const {
    return {};
  }
  // For a by-product: the expression that makes it; nullptr for all others.
  virtual const Expression* maker() const { return nullptr; }
  // For a by-product: a source tensor of the same size whose bytes it has unless evaluating finds
  // otherwise, so that they can be digested before it was made; nothing when there is none.
  virtual std::optional<std::uint32_t> expected_source() const { return std::nullopt; }

  // The expression itself where it cuts boxes out of values that several tensors share.
  virtual const SliceExpression* slice() const { return nullptr; }

  // Appends the source ranges that the value's bytes [begin, end) need; the streamed source of
  // streams_whole_source() first. Of that one nothing is appended for any range, or something for
  // every range.
  // `begin` and `end` are places where the value may be cut, begin < end.
  virtual void AppendReads(std::uint64_t begin, std::uint64_t end,
                           std::vector<SourceRange>& reads) const = 0;

  // The source bytes that the value's bytes [begin, end) are, where these lie together in one
  // streamed source as they are; nothing otherwise. `begin` < `end`, at any byte.
  virtual std::optional<SourceRange> AsStored(std::uint64_t /*begin*/,
                                              std::uint64_t /*end*/) const {
    return std::nullopt;
  }

  // Writes the value's bytes [begin, end), and those of the by-product that belong to them, to
  // `out`. `inputs` holds the bytes of the ranges that AppendReads named for the same range, in
  // that order. Throws Error (kBadInput) for values that must not be converted.
  virtual void Evaluate(std::uint64_t begin, std::uint64_t end,
                        std::span<const std::span<const std::byte>> inputs,
                        EvaluationOutput& out) const = 0;

 protected:
  // Throws Error (kInternal) when dtype and shape have no byte size.
  Expression(formats::Dtype dtype, formats::Shape shape);

 private:
  formats::Dtype dtype_;
  formats::Shape shape_;
  std::uint64_t num_bytes_;
};

// Shared: tensors of several files may be made in the same way.
using ExpressionPtr = std::shared_ptr<const Expression>;

// The bytes of the shortest value around `range` that the expression can make: `range` itself where
// it may be cut there. Precondition: `range` is not empty and within the value.
ByteRange PiecesAround(const Expression& value, ByteRange range);

// The source tensor as it is, whatever its dtype. May be cut at any byte.
ExpressionPtr Copy(const Catalog& catalog, std::uint32_t tensor);
// Its bytes as they are, under another dtype and shape of the same size. Rule "repack".
ExpressionPtr SameBytes(const Catalog& catalog, std::uint32_t tensor, formats::Dtype dtype,
                        formats::Shape shape);

}  // namespace dsv3::convert
