#include "convert/forward/dump_comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "convert/forward/module_rows.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

bool IsCompared(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
}

// A router's logits may be F32 where the rest is BF16, so the coarsest dtype says in which a
// program works.
Dtype Coarser(Dtype a, Dtype b) { return DefaultMaxNmse(a) < DefaultMaxNmse(b) ? b : a; }

}  // namespace

double DefaultMaxNmse(Dtype dtype) {
  if (dtype == Dtype::kBF16) return 5e-5;
  return dtype == Dtype::kF16 ? 1e-6 : 1e-10;
}

DumpComparison::DumpComparison(ModelWeights& weights, const std::filesystem::path& dump,
                               const std::vector<ModuleOutput>& modules)
    : weights_(weights), dump_(dump) {
  std::unordered_map<std::string, std::size_t> by_name;
  for (std::size_t i = 0; i < dump_.tensors().size(); ++i) by_name[dump_.tensors()[i].name] = i;
  for (const ModuleOutput& module : modules) {
    const auto found = by_name.find(module.module);
    if (found == by_name.end()) continue;
    const DumpFile::Tensor& tensor = dump_.tensors()[found->second];
    Check(tensor, module);
    dtype_ = Coarser(dtype_, tensor.dtype);
    order_.push_back(module.module);
    compared_[module.module] = {found->second, module.columns, {}};
  }
  for (const DumpFile::Tensor& tensor : dump_.tensors()) {
    if (!compared_.contains(tensor.name)) unknown_.push_back(tensor.name);
  }
  if (!order_.empty()) return;
  const std::string first =
      unknown_.empty() ? "nothing" : "names such as " + QuoteForMessage(unknown_.front());
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: none of its names is a module of this run: it has {}, and modules "
                          "have names such as {}; docs/forward.md has the lines that make a dump",
                          dump_.name(), first, modules.front().module),
              {dump_.name(), ""});
}

void DumpComparison::Check(const DumpFile::Tensor& tensor, const ModuleOutput& module) const {
  if (!IsCompared(tensor.dtype)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is {}; write F32, BF16 or F16", dump_.name(),
                            QuoteForMessage(tensor.name), formats::DtypeName(tensor.dtype)),
                {dump_.name(), tensor.name});
  }
  // Batches and positions are rows, one behind the other.
  std::uint64_t rows = 1;
  bool fits = !tensor.shape.empty() && tensor.shape.back() == module.columns;
  for (std::size_t i = 0; fits && i + 1 < tensor.shape.size(); ++i) {
    fits = tensor.shape[i] > 0 && rows <= module.rows / tensor.shape[i];
    rows *= tensor.shape[i];
  }
  if (fits && rows == module.rows) return;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} has shape {}, expected [{}, {}], tokens and columns; run "
                          "the tokens that the dump was made with",
                          dump_.name(), QuoteForMessage(tensor.name),
                          formats::ShapeToString(tensor.shape), module.rows, module.columns),
              {dump_.name(), tensor.name});
}

void DumpComparison::Take(const std::string& module, const Piece& piece) {
  const auto found = compared_.find(module);
  if (found == compared_.end()) return;
  Compared& compared = found->second;
  const DumpFile::Tensor& tensor = dump_.tensors()[compared.tensor];
  std::vector<Sums> of_row(piece.rows);
  weights_.ForEach(piece.rows, [&](std::size_t i) {
    std::vector<float> other(piece.columns);
    dump_.Read(tensor, (piece.first_row + i) * compared.columns + piece.first_column, other);
    float* const own = piece.row(i);
    for (std::size_t k = 0; k < piece.columns; ++k) {
      of_row[i].errors.Add(own[k], other[k]);
      const double difference = std::abs(static_cast<double>(own[k]) - other[k]);
      of_row[i].max_abs = std::max(of_row[i].max_abs, difference);
      if (std::isfinite(other[k])) {
        own[k] = other[k];
      } else {
        of_row[i].max_abs = std::numeric_limits<double>::infinity();
      }
    }
  });
  for (const Sums& row : of_row) {
    compared.sums.errors.Add(row.errors);
    compared.sums.max_abs = std::max(compared.sums.max_abs, row.max_abs);
  }
}

DumpReport DumpComparison::Finish() const {
  DumpReport report;
  report.file = dump_.name();
  report.dtype = dtype_;
  report.unknown = unknown_;
  for (const std::string& module : order_) {
    const Sums& sums = compared_.at(module).sums;
    report.modules.push_back(
        {module, LayerOfModule(module), sums.errors.Nmse(), sums.errors.Cosine(), sums.max_abs});
  }
  return report;
}

}  // namespace dsv3::convert
