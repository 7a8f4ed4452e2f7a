#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "convert/forward/kept_rows.h"
#include "convert/forward/panel_rule.h"
#include "convert/forward/read_ahead.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/stream/source_files.h"

// An internal part of forward.h.
namespace dsv3::convert {

// Gives the bytes of rows of weights, and those of their scales: those that are kept, those that
// were read ahead, else from the files. All functions may be called by several threads at once,
// where they do not say otherwise.
class RowReader {
 public:
  // Weights are made as `origins` say where there are some. What is given must outlive the object.
  RowReader(const OpenedModel& model, const ScaleMap& scales,
            const std::vector<ExpressionPtr>& origins, const PanelMemory& memory);

  // The bytes are in `own` where they are not kept.
  const RowBytes& BytesOf(const TensorRows& rows, RowBytes& own);
  // Whether reading ahead gives nothing: the rows are kept, or being read, or in the page cache.
  // Tensors that are made of others, as those of rank shards, are not read ahead.
  bool IsAtHand(const TensorRows& rows);
  // These rows are read next, in this order.
  void Ask(std::span<const TensorRows> rows) { read_ahead_.Ask(rows); }
  // From now on rows that are read again are kept, in the memory for it and in so much more. Not
  // while a thread reads.
  void KeepRows(std::uint64_t more_bytes) { kept_.Begin(kept_bytes_ + more_bytes); }

  SourceFiles& sources() { return sources_; }
  std::uint64_t bytes_read() const { return sources_.bytes_read(); }

 private:
  // Where the rows and their scales lie.
  std::vector<SourceRange> RangesOf(const TensorRows& rows) const;

  const OpenedModel& model_;
  const ScaleMap& scales_;
  const std::uint64_t kept_bytes_;
  SourceFiles sources_;
  KeptRows kept_;
  ReadAhead read_ahead_;
};

}  // namespace dsv3::convert
