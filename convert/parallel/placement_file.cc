#include "convert/parallel/placement_file.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/foreign_file.h"
#include "formats/json/json_reader.h"
#include "formats/message_text.h"
#include "formats/number_of.h"

namespace dsv3::convert {
namespace {

// The matrix of one of the two files.
struct Matrix {
  std::string_view member;   // "logical_count"
  std::string_view element;  // what an element of a row is: "expert"
  std::string_view value;    // what it must be: "an expert from 0 to 255"
  std::uint64_t cols = 0;
};

// Reads a matrix element by element, so that a wrong size is found where it begins to be wrong.
template <typename T>
class MatrixReader {
 public:
  MatrixReader(const std::filesystem::path& path, const Matrix& matrix, const ModelConfig& config)
      : file_(path.string()),
        text_(formats::ReadSmallFile(path, kMaxPlacementBytes)),
        reader_(CheckedText(), {.file = file_, .part = "the file", .advice = kAdvice}),
        matrix_(matrix),
        config_(config) {}

  // `parse` makes a T of an element's text, or nothing where it is not one.
  template <typename Parse>
  std::vector<std::vector<T>> Read(const Parse& parse) {
    std::optional<std::vector<std::vector<T>>> rows;
    if (reader_.Peek() != formats::JsonType::kObject) Fail("holds no JSON object");
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      if (*key != matrix_.member) {
        reader_.SkipValue();
        continue;
      }
      if (rows) Fail(fmt::format("'{}' appears twice", matrix_.member));
      rows = ReadRows(parse);
    }
    reader_.End();
    if (!rows) Fail(fmt::format("there is no '{}'", matrix_.member));
    return std::move(*rows);
  }

  [[noreturn]] void Fail(const std::string& problem) const {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: {}; expected is {{\"{}\": […]}} with a row of {} numbers for each of the "
                    "{} main layers, dense ones included",
                    formats::ShownPath(file_), problem, matrix_.member, matrix_.cols,
                    config_.num_hidden_layers),
        {.file = file_, .tensor = {}});
  }

 private:
  static constexpr std::string_view kAdvice = "write it anew";

  std::string_view CheckedText() const {
    const std::string_view foreign = formats::DescribeForeignFile(text_);
    if (!foreign.empty()) {
      throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::ShownPath(file_), foreign),
                  {.file = file_, .tensor = {}});
    }
    return text_;
  }

  template <typename Parse>
  std::vector<std::vector<T>> ReadRows(const Parse& parse) {
    if (reader_.Peek() != formats::JsonType::kArray) {
      Fail(fmt::format("'{}' is not an array", matrix_.member));
    }
    std::vector<std::vector<T>> rows;
    reader_.BeginArray();
    while (reader_.NextElement()) {
      const std::uint64_t layer = rows.size();
      if (layer == config_.num_hidden_layers) {
        Fail(fmt::format("'{}' has more rows than the model has layers, {}", matrix_.member,
                         config_.num_hidden_layers));
      }
      if (IsMoeLayer(config_, layer)) {
        rows.push_back(ReadRow(layer, parse));
      } else {
        reader_.SkipValue();
        rows.emplace_back();
      }
    }
    if (rows.size() < config_.num_hidden_layers) {
      Fail(fmt::format("'{}' ends after {} of {} layers, so there is no row for layer {}",
                       matrix_.member, rows.size(), config_.num_hidden_layers, rows.size()));
    }
    return rows;
  }

  template <typename Parse>
  std::vector<T> ReadRow(std::uint64_t layer, const Parse& parse) {
    if (reader_.Peek() != formats::JsonType::kArray) {
      Fail(fmt::format("the row of layer {} is not an array", layer));
    }
    std::vector<T> row;
    reader_.BeginArray();
    while (reader_.NextElement()) {
      if (row.size() == matrix_.cols) {
        Fail(fmt::format("layer {} has more than {} numbers", layer, matrix_.cols));
      }
      const std::string_view text = reader_.SkipValue();
      const std::optional<T> value = parse(text);
      if (!value) {
        Fail(fmt::format("layer {}, {} {} is {}, which is not {}", layer, matrix_.element,
                         row.size(), QuoteForMessage(text), matrix_.value));
      }
      row.push_back(*value);
    }
    if (row.size() < matrix_.cols) {
      Fail(fmt::format("layer {} has {} numbers, expected {}", layer, row.size(), matrix_.cols));
    }
    return row;
  }

  std::string file_;
  std::string text_;
  formats::JsonReader reader_;
  const Matrix& matrix_;
  const ModelConfig& config_;
};

// The largest load of an expert: sums over all experts stay finite in float.
constexpr double kMaxLoad = 1e30;

}  // namespace

std::vector<std::vector<std::uint32_t>> ReadExpertLocation(const std::filesystem::path& path,
                                                           const Topology& topology,
                                                           const ModelConfig& config) {
  const std::string value = fmt::format("an expert from 0 to {}", topology.experts - 1);
  const Matrix matrix{.member = "physical_to_logical_map",
                      .element = "slot",
                      .value = value,
                      .cols = topology.physical_experts};
  MatrixReader<std::uint32_t> reader(path, matrix, config);
  std::vector<std::vector<std::uint32_t>> maps = reader.Read([&](std::string_view text) {
    const std::optional<std::uint32_t> expert = formats::NumberOf<std::uint32_t>(text);
    return expert && *expert < topology.experts ? expert : std::nullopt;
  });
  for (std::size_t layer = 0; layer < maps.size(); ++layer) {
    if (maps[layer].empty()) continue;
    std::vector<std::uint32_t> replicas(topology.experts, 0);
    for (const std::uint32_t expert : maps[layer]) ++replicas[expert];
    const auto missing = std::find(replicas.begin(), replicas.end(), 0U);
    if (missing == replicas.end()) continue;
    const auto most = std::max_element(replicas.begin(), replicas.end());
    reader.Fail(
        fmt::format("layer {} has no slot for expert {}, but {} for expert {}; give every "
                    "expert a slot",
                    layer, missing - replicas.begin(), *most, most - replicas.begin()));
  }
  return maps;
}

std::vector<std::vector<double>> ReadExpertLoad(const std::filesystem::path& path,
                                                const Topology& topology,
                                                const ModelConfig& config) {
  const Matrix matrix{.member = "logical_count",
                      .element = "expert",
                      .value = "a number from 0 to 1e30",
                      .cols = topology.experts};
  return MatrixReader<double>(path, matrix, config).Read([](std::string_view text) {
    const std::optional<double> load = formats::NumberOf<double>(text);
    return load && *load >= 0 && *load <= kMaxLoad ? load : std::nullopt;
  });
}

}  // namespace dsv3::convert
