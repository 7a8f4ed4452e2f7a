#include "convert/forward/trace_output.h"

#include <bit>
#include <cstddef>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/glob.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

static_assert(std::endian::native == std::endian::little, "floats are written as they are");

std::vector<ModuleOutput> Choose(const std::vector<ModuleOutput>& modules,
                                 const std::string& pattern) {
  if (pattern.empty()) return modules;
  std::vector<ModuleOutput> chosen;
  for (const ModuleOutput& module : modules) {
    if (MatchesGlob(pattern, module.module)) chosen.push_back(module);
  }
  if (!chosen.empty()) return chosen;
  throw Error(ErrorCode::kUsage,
              fmt::format("--modules {} matches no module of this run; docs/forward.md lists them, "
                          "such as {} and {}",
                          QuoteForMessage(pattern), modules.front().module, modules.back().module));
}

}  // namespace

TraceOutput::Layout TraceOutput::LayOut(const std::vector<ModuleOutput>& modules) {
  std::vector<formats::SafetensorsTensor> tensors;
  tensors.reserve(modules.size());
  for (const ModuleOutput& module : modules) {
    tensors.push_back({module.module, formats::Dtype::kF32, {module.rows, module.columns}, 0, 0});
  }
  formats::LayOutTensors(tensors);
  Layout layout;
  layout.header = formats::SerializeSafetensorsHeader(
      tensors, {{"format", "pt"}, {"made_by", std::string(kTraceMaker)}});
  layout.bytes = layout.header.size();
  for (const formats::SafetensorsTensor& tensor : tensors) {
    layout.places[tensor.name] = {layout.header.size() + tensor.begin, tensor.shape[0],
                                  tensor.shape[1], tensor.shape[0] * tensor.shape[1]};
    layout.bytes += tensor.end - tensor.begin;
  }
  return layout;
}

TraceOutput::TraceOutput(formats::FileSystem& fs, const std::filesystem::path& path,
                         const std::vector<ModuleOutput>& modules, const std::string& pattern)
    : TraceOutput(fs, path, LayOut(Choose(modules, pattern))) {}

TraceOutput::TraceOutput(formats::FileSystem& fs, const std::filesystem::path& path, Layout layout)
    : path_(path),
      places_(std::move(layout.places)),
      file_(fs, formats::WritablePlace(fs, path), layout.bytes) {
  file_.file().WriteAt(0, std::as_bytes(std::span(layout.header)));
}

void TraceOutput::Take(const std::string& module, const Piece& piece) {
  const auto found = places_.find(module);
  if (found == places_.end()) return;
  Place& place = found->second;
  const std::uint64_t elements = std::uint64_t{piece.rows} * piece.columns;
  if (piece.first_row + piece.rows > place.rows ||
      piece.first_column + piece.columns > place.columns || elements > place.missing) {
    FailInternal(fmt::format("{} gives {} rows of {} from row {}, column {} on, expected [{}, {}]",
                             module, piece.rows, piece.columns, piece.first_row, piece.first_column,
                             place.rows, place.columns));
  }
  place.missing -= elements;
  const auto write = [&](std::size_t row, std::size_t rows) {
    const std::uint64_t first = (piece.first_row + row) * place.columns + piece.first_column;
    file_.file().WriteAt(place.offset + first * sizeof(float),
                         std::as_bytes(std::span(piece.row(row), rows * piece.columns)));
  };
  if (piece.columns == place.columns) return write(0, piece.rows);
  for (std::size_t row = 0; row < piece.rows; ++row) write(row, 1);
}

void TraceOutput::Commit() {
  for (const auto& [module, place] : places_) {
    if (place.missing > 0) {
      FailInternal(fmt::format("{} elements of {} were not written", place.missing, module));
    }
  }
  file_.Commit();
}

void TraceOutput::FailInternal(const std::string& problem) const {
  throw Error(ErrorCode::kInternal, fmt::format("{}: {}", formats::ShownPath(path_), problem),
              {.file = path_.string(), .tensor = {}});
}

}  // namespace dsv3::convert
