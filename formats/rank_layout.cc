#include "formats/rank_layout.h"

#include "formats/json/json_writer.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kHead = "{\n\"format\": \"dsv3-rank-layout\",\n\"version\": 1";

// One element a line, so that line tools can work on it.
class Lines {
 public:
  explicit Lines(std::string& text) : text_(text) { text_ += "[\n"; }
  void Add(std::string_view line) {
    if (!first_) text_ += ",\n";
    first_ = false;
    text_ += line;
  }
  void End() { text_ += first_ ? "]" : "\n]"; }

 private:
  std::string& text_;
  bool first_ = true;
};

void BeginMember(std::string& text, std::string_view name) {
  text += ",\n";
  AppendJsonString(text, name);
  text += ": ";
}

void StringMember(std::string& text, std::string_view name, std::string_view value) {
  BeginMember(text, name);
  AppendJsonString(text, value);
}

void UintMember(std::string& text, std::string_view name, std::uint64_t value) {
  BeginMember(text, name);
  text += std::to_string(value);
}

void StringsMember(std::string& text, std::string_view name,
                   const std::vector<std::string>& values) {
  BeginMember(text, name);
  Lines lines(text);
  for (const std::string& value : values) {
    std::string line;
    AppendJsonString(line, value);
    lines.Add(line);
  }
  lines.End();
}

void DigestMember(JsonWriter& writer, std::string_view key, const std::string& value) {
  if (!value.empty()) writer.String(key, value);
}

std::string RankLine(const RankLayout& layout, const LayoutRank& rank) {
  JsonWriter writer(0);
  writer.BeginObject();
  writer.Uint("rank", rank.rank);
  writer.Uint("stage", rank.stage);
  writer.Uint("tp_rank", rank.tp_rank);
  writer.Uint("dp_rank", rank.dp_rank);
  writer.Uint("ep_rank", rank.ep_rank);
  writer.Uint("moe_tp_rank", rank.moe_tp_rank);
  writer.Uint("bytes", rank.bytes);
  writer.Uint("parameters", rank.parameters);
  writer.BeginArray("files");
  for (const std::uint32_t file : rank.files) writer.String(layout.files[file].name);
  writer.EndArray();
  writer.EndObject();
  return writer.Take();
}

std::string FileLine(const LayoutFile& file) {
  JsonWriter writer(0);
  writer.BeginObject();
  writer.String("name", file.name);
  writer.Uint("bytes", file.bytes);
  DigestMember(writer, "sha256", file.sha256);
  writer.String("header_xxh3_128", file.header_xxh3);
  writer.EndObject();
  return writer.Take();
}

void WriteSlice(JsonWriter& writer, const LayoutTensor& tensor) {
  writer.BeginObject();
  writer.Uints("files", tensor.files);
  writer.Uints("shape", tensor.shape);
  writer.BeginArray("parts");
  for (const LayoutPart& part : tensor.parts) {
    writer.BeginObject();
    if (part.name != tensor.name) writer.String("name", part.name);
    writer.Uints("rows", {part.row_begin, part.row_end});
    writer.Uints("cols", {part.col_begin, part.col_end});
    writer.EndObject();
  }
  writer.EndArray();
  writer.String("xxh3_128", tensor.xxh3);
  writer.EndObject();
}

bool ShareLine(const LayoutTensor& a, const LayoutTensor& b) {
  return a.name == b.name && a.dtype == b.dtype && a.rule == b.rule;
}

// All slices under one name are in one line: repeated names would be most of the text.
void WriteTensors(std::string& text, const std::vector<LayoutTensor>& tensors) {
  BeginMember(text, "tensors");
  Lines lines(text);
  for (std::size_t i = 0; i < tensors.size();) {
    const LayoutTensor& first = tensors[i];
    JsonWriter writer(0);
    writer.BeginObject();
    writer.String("name", first.name);
    writer.String("dtype", DtypeName(first.dtype));
    if (first.rule != kSliceRule) writer.String("rule", first.rule);
    writer.BeginArray("slices");
    for (; i < tensors.size() && ShareLine(first, tensors[i]); ++i) WriteSlice(writer, tensors[i]);
    writer.EndArray();
    writer.EndObject();
    lines.Add(writer.text());
  }
  lines.End();
}

void WriteExpertMap(std::string& text, const std::vector<std::vector<std::uint32_t>>& map) {
  BeginMember(text, "physical_to_logical_map");
  Lines lines(text);
  for (const std::vector<std::uint32_t>& layer : map) {
    JsonWriter writer(0);
    writer.Uints(layer);
    lines.Add(writer.text());
  }
  lines.End();
}

void WriteSource(std::string& text, const RankLayout& layout) {
  BeginMember(text, "source");
  text += "{\n\"config\": ";
  AppendJsonString(text, layout.source_config);
  if (layout.source_index) StringMember(text, "index", *layout.source_index);
  BeginMember(text, "files");
  Lines files(text);
  for (const LayoutSourceFile& file : layout.source_files) {
    JsonWriter writer(0);
    writer.BeginObject();
    writer.String("name", file.name);
    writer.Uint("bytes", file.bytes);
    writer.String("header", file.header);
    writer.EndObject();
    files.Add(writer.text());
  }
  files.End();
  BeginMember(text, "side_files");
  Lines side_files(text);
  for (const LayoutSideFile& file : layout.side_files) {
    JsonWriter writer(0);
    writer.BeginObject();
    writer.String("name", file.name);
    writer.Uint("bytes", file.bytes);
    DigestMember(writer, "sha256", file.sha256);
    DigestMember(writer, "xxh3_128", file.xxh3);
    writer.EndObject();
    side_files.Add(writer.text());
  }
  side_files.End();
  text += "\n}";
}

}  // namespace

std::string SerializeRankLayout(const RankLayout& layout) {
  std::string text(kHead);
  StringMember(text, "layout", layout.format);
  StringMember(text, "grouping", layout.grouping);
  StringMember(text, "job", layout.job);
  const RankLayout::Sizes& sizes = layout.sizes;
  UintMember(text, "world_size", sizes.world_size);
  UintMember(text, "tp", sizes.tp);
  UintMember(text, "ep", sizes.ep);
  UintMember(text, "dp", sizes.dp);
  UintMember(text, "pp", sizes.pp);
  UintMember(text, "moe_tp", sizes.moe_tp);
  UintMember(text, "dense_tp", sizes.dense_tp);
  UintMember(text, "shared_expert_tp", sizes.shared_expert_tp);
  UintMember(text, "embed_tp", sizes.embed_tp);
  UintMember(text, "redundant_experts", sizes.redundant_experts);
  StringMember(text, "on_misaligned", layout.on_misaligned);
  if (layout.recut_block.first != 0) {
    BeginMember(text, "recut_block");
    text += '[' + std::to_string(layout.recut_block.first) + ',' +
            std::to_string(layout.recut_block.second) + ']';
  }
  StringsMember(text, "bf16_modules", layout.bf16_modules);
  StringsMember(text, "replicated_modules", layout.replicated_modules);
  StringsMember(text, "dropped", layout.dropped);
  WriteExpertMap(text, layout.expert_map);
  BeginMember(text, "ranks");
  Lines ranks(text);
  for (const LayoutRank& rank : layout.ranks) ranks.Add(RankLine(layout, rank));
  ranks.End();
  BeginMember(text, "files");
  Lines files(text);
  for (const LayoutFile& file : layout.files) files.Add(FileLine(file));
  files.End();
  WriteTensors(text, layout.tensors);
  WriteSource(text, layout);
  text += "\n}\n";
  return text;
}

}  // namespace dsv3::formats
