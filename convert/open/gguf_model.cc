#include "convert/open/gguf_model.h"

#include <map>
#include <memory>
#include <unordered_set>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "convert/catalog/box.h"
#include "convert/layouts/gguf_names.h"
#include "convert/model/model_config.h"
#include "convert/plan/cast_expression.h"
#include "convert/plan/gguf_decode_expression.h"
#include "convert/plan/gguf_encode_expression.h"
#include "convert/plan/slice_expression.h"
#include "convert/plan/transpose_expression.h"
#include "formats/error.h"
#include "formats/gguf_files.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::GgufFile;
using formats::GgufTensor;
using formats::GgufType;
using formats::Shape;

// Beyond any model.
constexpr std::uint64_t kMaxHeads = 65'536;

// The names that the files' tensors have; nullptr where only the files know them.
const GgufNames* NamesOf(const std::vector<GgufFile>& files) {
  const formats::GgufValue* const value =
      formats::FindGgufKey(files.front().header.keys, formats::kGgufArchitectureKey);
  const auto* const architecture = value == nullptr ? nullptr : std::get_if<std::string>(value);
  return architecture == nullptr ? nullptr : FindGgufNames(*architecture);
}

class Builder {
 public:
  Builder(const std::vector<GgufFile>& files, const OpenOptions& options)
      : prefix_(options.name_prefix), own_names_(options.gguf == OpenOptions::Gguf::kOwnNames) {
    TakeStored(files, own_names_ ? nullptr : NamesOf(files));
    made_.version = files.front().header.version;
    made_.keys = files.front().header.keys;
  }

  OpenedModel Build(const std::filesystem::path& directory) {
    for (std::uint32_t i = 0; i < meanings_.size(); ++i) Add(i);
    std::vector<SourceFile> files = made_.stored.files();
    OpenedModel model;
    model.directory = directory;
    model.form = formats::CheckpointFiles::Form::kUnindexed;
    model.catalog = Catalog(std::move(files), std::move(tensors_));
    model.gguf = std::make_shared<const GgufModel>(std::move(made_));
    model.assembled = model.gguf;
    return model;
  }

 private:
  using Kind = GgufMeaning::Kind;

  void TakeStored(const std::vector<GgufFile>& files, const GgufNames* names) {
    std::vector<SourceFile> sources;
    std::vector<CatalogTensor> tensors;
    for (const GgufFile& file : files) {
      const auto position = static_cast<std::uint32_t>(sources.size());
      SourceFile& source = sources.emplace_back();
      source.name = file.name;
      source.path = file.path;
      source.bytes = file.header.file_bytes;
      source.mtime_ns = file.mtime_ns;
      source.header_digest = file.header.digest;
      source.described_by = {{0, file.header.data_offset}};
      for (const GgufTensor& tensor : file.header.tensors) {
        if (!own_names_) RequireDecoded(file, tensor);
        tensors.push_back({tensor.name,
                           DtypeOfGguf(tensor.type),
                           ShapeOfGguf(tensor.type, tensor.shape),
                           {position, file.header.data_offset + tensor.offset, tensor.bytes}});
        made_.held.push_back({tensor.type, tensor.shape});
        meanings_.push_back(names == nullptr ? std::nullopt : MeaningOfGguf(*names, tensor.name));
      }
    }
    made_.stored = Catalog(std::move(sources), std::move(tensors));
    for (std::uint32_t i = 0; i < meanings_.size(); ++i) {
      if (!meanings_[i]) continue;
      const std::string& name = meanings_[i]->name;
      if (meanings_[i]->kind == Kind::kWhole) wholes_.insert(name);
      if (meanings_[i]->kind == Kind::kKeys) keys_.insert(name);
      if (meanings_[i]->kind == Kind::kValues) values_of_[name] = i;
    }
    ends_.resize(made_.stored.files().size(), 0);
  }

  static void RequireDecoded(const GgufFile& file, const GgufTensor& tensor) {
    if (IsDecodedGguf(tensor.type)) return;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is {}, and values of that type are not decoded; F32, "
                            "F16, BF16, Q8_0, Q4_0 and MXFP4 are. dsv3-inspect shows what the file "
                            "holds",
                            formats::ShownPath(file.name), QuoteForMessage(tensor.name),
                            formats::GgufTypeInfoOf(tensor.type).name),
                {file.name, tensor.name});
  }

  const std::string& FileOf(std::uint32_t stored) const {
    return made_.stored.files()[made_.stored.tensors()[stored].extent.file].name;
  }
  const Shape& ShapeOf(std::uint32_t stored) const { return made_.held[stored].shape; }

  [[noreturn]] void Fail(std::uint32_t stored, const std::string& problem) const {
    const std::string& name = made_.stored.tensors()[stored].name;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} {}", formats::ShownPath(FileOf(stored)),
                            QuoteForMessage(name), problem),
                {FileOf(stored), name});
  }

  void Add(std::uint32_t i) {
    const std::optional<GgufMeaning>& meaning = meanings_[i];
    if (!meaning) return AddOwn(i);
    switch (meaning->kind) {
      case Kind::kWhole:
        return AddTensor(prefix_ + meaning->name, ValueOf(i), {i});
      case Kind::kExperts:
        return AddExperts(i);
      case Kind::kKeys:
        return IsInOnePiece(*meaning) ? AddOwn(i) : AddKvB(i);
      case Kind::kValues:
        // With the keys.
        if (IsInOnePiece(*meaning)) return AddOwn(i);
        if (!keys_.contains(meaning->name))
          Fail(i, "has no keys beside it: attn_k_b.weight is missing");
        return;
    }
  }

  // Whether a file has kv_b_proj in one piece, beside the parts.
  bool IsInOnePiece(const GgufMeaning& meaning) const { return wholes_.contains(meaning.name); }

  // Under its name in the file.
  void AddOwn(std::uint32_t i) { AddTensor(made_.stored.tensors()[i].name, ValueOf(i), {i}); }

  ExpressionPtr ValueOf(std::uint32_t i) const {
    ExpressionPtr bytes = Copy(made_.stored, i);
    const GgufType type = made_.held[i].type;
    return IsDecodedGguf(type) ? DecodeGguf(std::move(bytes), type, ShapeOf(i)) : bytes;
  }

  void AddExperts(std::uint32_t i) {
    const Shape& shape = ShapeOf(i);
    const CatalogTensor& stored = made_.stored.tensors()[i];
    if (shape.size() != 3 || stored.extent.length == 0) return AddOwn(i);
    const ExpressionPtr all = Copy(made_.stored, i);
    const Shape matrix(shape.begin() + 1, shape.end());
    const Shape stored_matrix(stored.shape.begin() + 1, stored.shape.end());
    const std::uint64_t elements = shape[1] * shape[2];
    // "…mlp.experts." and "gate_proj.weight" of expert 0's name.
    const std::string& first = meanings_[i]->name;
    const std::size_t number = first.rfind(".0.") + 1;
    for (std::uint64_t expert = 0; expert < shape[0]; ++expert) {
      const Box box = {expert * shape[1], (expert + 1) * shape[1], 0, stored_matrix[1]};
      ExpressionPtr part = std::make_shared<SliceExpression>(stored.dtype, stored_matrix,
                                                             std::vector<SlicePart>{{all, box}});
      AddTensor(fmt::format("{}{}{}{}", prefix_, first.substr(0, number), expert,
                            first.substr(number + 1)),
                DecodeGguf(std::move(part), made_.held[i].type, matrix), {i, expert * elements});
    }
  }

  // kv_b_proj of its keys, which lie transposed, and its values.
  void AddKvB(std::uint32_t keys) {
    const std::string& name = meanings_[keys]->name;
    const auto found = values_of_.find(name);
    if (found == values_of_.end()) {
      Fail(keys, "has no values beside it: attn_v_b.weight is missing");
    }
    const std::uint32_t values = found->second;
    const Shape& k = ShapeOf(keys);    // heads, columns, rows of a head
    const Shape& v = ShapeOf(values);  // heads, rows of a head, columns
    if (k.size() != 3 || v.size() != 3 || k[0] != v[0] || k[1] != v[2] || k[0] > kMaxHeads ||
        made_.stored.tensors()[keys].extent.length == 0 ||
        made_.stored.tensors()[values].extent.length == 0) {
      Fail(keys, fmt::format("has shape {}, and {} has {}; the two do not make kv_b_proj",
                             formats::ShapeToString(k),
                             QuoteForMessage(made_.stored.tensors()[values].name),
                             formats::ShapeToString(v)));
    }
    ExpressionPtr of_keys = ValueOf(keys);
    ExpressionPtr of_values = ValueOf(values);
    if (of_keys->dtype() != of_values->dtype()) {
      of_keys = AsF32(std::move(of_keys), keys);
      of_values = AsF32(std::move(of_values), values);
    }
    of_keys = TransposeMatrices(of_keys);
    std::vector<SlicePart> parts;
    parts.reserve(2 * k[0]);
    for (std::uint64_t head = 0; head < k[0]; ++head) {
      parts.push_back({of_keys, {head * k[2], (head + 1) * k[2], 0, k[1]}});
      parts.push_back({of_values, {head * v[1], (head + 1) * v[1], 0, k[1]}});
    }
    const Dtype dtype = of_keys->dtype();
    AddTensor(prefix_ + name,
              std::make_shared<SliceExpression>(dtype, Shape{k[0] * (k[2] + v[1]), k[1]},
                                                std::move(parts)),
              {keys, 0, values});
  }

  ExpressionPtr AsF32(ExpressionPtr value, std::uint32_t stored) const {
    const Dtype dtype = value->dtype();
    if (dtype == Dtype::kF32) return value;
    if (dtype != Dtype::kF16 && dtype != Dtype::kBF16) Fail(stored, "does not hold floats");
    return Cast(std::move(value), Dtype::kF32);
  }

  void AddTensor(std::string name, ExpressionPtr value, const GgufModel::Source& source) {
    if (tensors_.size() >= kMaxExpectedTensors) {
      Fail(source.tensor, fmt::format("makes the model one of more than {} tensors, and the "
                                      "largest have a third of that",
                                      kMaxExpectedTensors));
    }
    if (!names_.insert(name).second) {
      Fail(source.tensor,
           fmt::format("is {} of the model, and so is another tensor", QuoteForMessage(name)));
    }
    const std::uint32_t file = made_.stored.tensors()[source.tensor].extent.file;
    // Where it would lie in a file of such tensors.
    tensors_.push_back(
        {std::move(name), value->dtype(), value->shape(), {file, ends_[file], value->num_bytes()}});
    ends_[file] += value->num_bytes();
    made_.origins.push_back(std::move(value));
    made_.sources.push_back(source);
  }

  const std::string prefix_;
  const bool own_names_;
  GgufModel made_;
  std::vector<std::optional<GgufMeaning>> meanings_;  // by position in `stored`
  std::map<std::string, std::uint32_t> values_of_;    // of kv_b_proj, by its name
  std::unordered_set<std::string> wholes_;            // tensors of the model in one piece
  std::unordered_set<std::string> keys_;              // kv_b_proj whose keys are there
  std::vector<CatalogTensor> tensors_;
  std::unordered_set<std::string> names_;
  std::vector<std::uint64_t> ends_;  // by file
};

// The stored tensor and the element of it that an element of the model's tensor is.
std::pair<std::uint32_t, std::uint64_t> ElementInFile(const GgufModel& model,
                                                      const GgufModel::Source& source,
                                                      std::uint64_t element) {
  if (!source.values) return {source.tensor, source.first + element};
  const Shape& k = model.held[source.tensor].shape;
  const std::uint64_t value_rows = model.held[*source.values].shape[1];
  const std::uint64_t cols = k[1];
  const std::uint64_t key_rows = k[2];
  const std::uint64_t col = element % cols;
  const std::uint64_t head = element / cols / (key_rows + value_rows);
  const std::uint64_t row = element / cols % (key_rows + value_rows);
  if (row < key_rows) return {source.tensor, (head * cols + col) * key_rows + row};
  return {*source.values, (head * value_rows + row - key_rows) * cols + col};
}

}  // namespace

OpenedModel OpenGguf(const std::filesystem::path& input, const OpenOptions& options) {
  const std::vector<GgufFile> files = formats::OpenGgufFiles(input);
  return Builder(files, options).Build(files.front().path.parent_path());
}

std::string GgufTypesOf(const GgufModel& model, std::uint32_t tensor) {
  const GgufModel::Source& source = model.sources[tensor];
  const GgufType type = model.held[source.tensor].type;
  const std::string_view name = formats::GgufTypeInfoOf(type).name;
  if (!source.values || model.held[*source.values].type == type) return std::string(name);
  return fmt::format("{} and {}", name,
                     formats::GgufTypeInfoOf(model.held[*source.values].type).name);
}

std::string GgufPlaceOf(const GgufModel& model, std::uint32_t tensor, std::uint64_t element) {
  const auto [stored, at] = ElementInFile(model, model.sources[tensor], element);
  const CatalogTensor& held = model.stored.tensors()[stored];
  const formats::GgufTypeInfo& type = formats::GgufTypeInfoOf(model.held[stored].type);
  const std::uint64_t block = at / type.block_elements;
  const std::uint64_t begin = held.extent.offset + block * type.block_bytes;
  return fmt::format("{} {} of tensor {} ({}), bytes [{}, {}) of the file",
                     type.block_elements > 1 ? "block" : "element", block,
                     QuoteForMessage(held.name), type.name, begin, begin + type.block_bytes);
}

}  // namespace dsv3::convert
