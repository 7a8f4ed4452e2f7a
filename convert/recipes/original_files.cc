#include "convert/recipes/original_files.h"

#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/job/output_place.h"
#include "convert/model/config_edit.h"
#include "convert/open/model_files.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

OriginalFiles Open(const std::filesystem::path& directory, const std::filesystem::path& base,
                   const std::filesystem::path& output,
                   const std::function<void(const OpenedModel& model)>& look, Catalog& catalog) {
  OriginalFiles original;
  original.directory = directory;
  OpenedModel model = OpenModel(directory, {.mtp_may_be_missing = true, .base = base});
  RequireApart(model.directory, output);
  if (!model.has_own_shards()) {
    throw Error(ErrorCode::kBadInput,
                "this is a training checkpoint, which has no shards whose form the output could "
                "take; name the quantised checkpoint that IN was made from",
                {model.directory.string(), ""});
  }
  for (formats::Finding& finding : model.findings) {
    original.warnings.push_back(OfOriginal(original, std::move(finding)));
  }
  look(model);
  ModelFiles files = ReadModelFiles(model);
  original.index = std::move(files.index).value_or("");
  original.needs_index = model.needs_index;
  for (std::size_t i = 0; i < model.catalog.files().size(); ++i) {
    const SourceFile& file = model.catalog.files()[i];
    formats::SafetensorsHeader header = ParseHeader(file, files.headers[i]);
    original.shards.push_back({file.name, std::move(files.headers[i]), std::move(header)});
  }
  original.config_text = std::move(model.config_text);
  original.config = std::move(model.config);
  original.side_directory = model.directory;
  original.side_files = std::move(model.side_files);
  original.assembled = model.assembled;
  catalog.Append(std::move(model.catalog), kScalesFrom);
  return original;
}

}  // namespace

OriginalFiles OpenOriginalFiles(const std::filesystem::path& directory,
                                const std::filesystem::path& base,
                                const std::filesystem::path& output,
                                const std::function<void(const OpenedModel& model)>& look,
                                Catalog& catalog) {
  try {
    return Open(directory, base, output, look, catalog);
  } catch (const Error& error) {
    throw Error(error.code(), OriginalPrefix(directory) + error.message(), error.place());
  }
}

std::string OriginalPrefix(const std::filesystem::path& directory) {
  return fmt::format("--scales-from {}: ", formats::ShownPath(directory));
}

formats::Finding OfOriginal(const OriginalFiles& original, formats::Finding finding) {
  finding.message.insert(0, OriginalPrefix(original.directory));
  return finding;
}

void FailUnlikeOriginal(const Catalog& catalog, std::uint32_t tensor, const std::string& problem,
                        const OriginalFiles& original) {
  const CatalogTensor& found = catalog.tensors()[tensor];
  const std::string& file = catalog.files()[found.extent.file].name;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: tensor {} {} (--scales-from {})", formats::ShownPath(file),
                  QuoteForMessage(found.name), problem, formats::ShownPath(original.directory)),
      {file, found.name});
}

std::string ConfigLikeOriginal(const std::string& config_text, const OriginalFiles& original) {
  RemovedConfig removed;
  if (ConfigForBf16(original.config_text, original.config, removed) == config_text) {
    return original.config_text;
  }
  std::string text = config_text;
  for (const auto& [member, json] : removed) {
    const std::string_view name = std::string_view(member).substr(member.rfind('/') + 1);
    // The other tensors are as they are in the source.
    if (name == "torch_dtype" || name == "dtype") continue;
    text = SetConfigMember(text, member, json);
  }
  return text;
}

}  // namespace dsv3::convert
