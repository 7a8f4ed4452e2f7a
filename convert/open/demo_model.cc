#include "convert/open/demo_model.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/catalog/box.h"
#include "convert/catalog/tensor_file.h"
#include "convert/layouts/deepseek_names.h"
#include "convert/layouts/stacks.h"
#include "convert/model/config_edit.h"
#include "convert/model/layer_kinds.h"
#include "convert/open/assembled_model.h"
#include "convert/open/rank_shards.h"
#include "convert/plan/assemble_expression.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/freed_shard.h"
#include "formats/io/existence.h"
#include "formats/json/json_edit.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::kConfigName;
using formats::kMaxConfigBytes;

[[noreturn]] void Fail(const std::string& file, const std::string& tensor,
                       const std::string& message) {
  throw Error(ErrorCode::kBadInput, message, {file, tensor});
}

// A tensor of the model and the ranks' tensors that it is made of.
struct Gathered {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> held;  // rank, position in the catalog
};

struct Ranks {
  Catalog catalog;
  std::map<std::string, Gathered> tensors;  // by Hugging Face name
};

Ranks ReadRanks(const fs::path& directory, const std::vector<formats::FreedShard>& freed) {
  const std::uint64_t size = *DemoRanks(DemoFiles(directory, freed));
  std::vector<TensorFile> files(size);
  tbb::parallel_for(std::uint64_t{0}, size, [&](std::uint64_t rank) {
    const std::string name = DeepseekFileName(rank, size);
    if (!formats::EntryExists(directory / name) &&
        formats::FindFreed(freed, name, directory / name) == nullptr) {
      Fail(name, "",
           fmt::format("{}: the other files are of {} ranks, and this one is missing; copy it from "
                       "where they come from",
                       formats::ShownPath(name), size));
    }
    files[rank] = OpenTensorFile(directory, name, freed);
    files[rank].file.shares_names = true;
  });
  Ranks ranks{CatalogOfFiles(std::move(files)), {}};
  const std::vector<CatalogTensor>& tensors = ranks.catalog.tensors();
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    const std::string name = HuggingFaceName(ranks.catalog.NameInFile(i));
    ranks.tensors[name].held.emplace_back(tensors[i].extent.file, i);
  }
  return ranks;
}

// How a model's tensor is made of the ranks' tensors.
class Joiner {
 public:
  Joiner(const Catalog& catalog, std::uint64_t ranks) : catalog_(catalog), ranks_(ranks) {}

  ExpressionPtr Join(const std::string& name, const Gathered& gathered) {
    const auto& held = gathered.held;
    const CatalogTensor& first = catalog_.tensors()[held.front().second];
    const bool is_expert = IsRoutedExpert(name);
    if (is_expert && held.size() > 1) {
      Fail(
          FileOf(held[1].second), name,
          fmt::format("tensor {}: the ranks {} and {} hold this expert; the demo gives each expert "
                      "to one rank, so these files are of two conversions",
                      QuoteForMessage(name), held[0].first, held[1].first));
    }
    if (is_expert) return Copy(catalog_, held.front().second);
    RequireAllRanks(name, held);
    for (const auto& [rank, position] : held) {
      const CatalogTensor& other = catalog_.tensors()[position];
      if (other.dtype == first.dtype && other.shape == first.shape) continue;
      Fail(FileOf(position), name,
           fmt::format("tensor {}: {} holds it as {} {}, {} as {} {}; these files are of two "
                       "conversions",
                       QuoteForMessage(name), FileOf(held.front().second),
                       formats::DtypeName(first.dtype), formats::ShapeToString(first.shape),
                       FileOf(position), formats::DtypeName(other.dtype),
                       formats::ShapeToString(other.shape)));
    }
    const std::optional<std::size_t> cut = DeepseekCutDimension(name);
    if (!cut || ranks_ == 1) {
      std::vector<std::uint32_t> copies;
      copies.reserve(held.size());
      for (const auto& [rank, position] : held) copies.push_back(position);
      if (copies.size() > 1) copies_.push_back(std::move(copies));
      return Copy(catalog_, held.front().second);
    }
    return JoinAlong(*cut, name, held);
  }

  std::vector<std::vector<std::uint32_t>> TakeCopies() { return std::move(copies_); }

 private:
  std::string FileOf(std::uint32_t position) const {
    return catalog_.files()[catalog_.tensors()[position].extent.file].name;
  }

  void RequireAllRanks(const std::string& name,
                       const std::vector<std::pair<std::uint64_t, std::uint32_t>>& held) const {
    if (held.size() == ranks_) return;
    std::uint64_t missing = 0;
    while (missing < held.size() && held[missing].first == missing) ++missing;
    Fail(DeepseekFileName(missing, ranks_), name,
         fmt::format("{}: tensor {} is missing, of which every rank holds a part; the file is of "
                     "another conversion than the others",
                     DeepseekFileName(missing, ranks_), QuoteForMessage(name)));
  }

  ExpressionPtr JoinAlong(std::size_t dimension, const std::string& name,
                          const std::vector<std::pair<std::uint64_t, std::uint32_t>>& held) const {
    const CatalogTensor& first = catalog_.tensors()[held.front().second];
    if (first.shape.size() <= dimension || first.shape.size() > 2) {
      Fail(FileOf(held.front().second), name,
           fmt::format("tensor {}: a tensor of shape {} cannot be a part along dimension {}",
                       QuoteForMessage(name), formats::ShapeToString(first.shape), dimension));
    }
    formats::Shape shape = first.shape;
    const MatrixShape part = MatrixOf(shape);
    shape[dimension] *= ranks_;
    std::vector<Tile> tiles;
    tiles.reserve(held.size());
    for (const auto& [rank, position] : held) {
      const Box box = dimension == 0 ? Box{rank * part.rows, (rank + 1) * part.rows, 0, part.cols}
                                     : Box{0, part.rows, rank * part.cols, (rank + 1) * part.cols};
      tiles.push_back({box, position, 0, 0});
    }
    return Assemble(catalog_, name, first.dtype, std::move(shape), std::move(tiles));
  }

  const Catalog& catalog_;
  std::uint64_t ranks_;
  std::vector<std::vector<std::uint32_t>> copies_;
};

std::string ReadConfig(const fs::path& directory, const OpenOptions& options) {
  const fs::path path = options.config.empty() ? directory / kConfigName : options.config;
  std::string text = formats::ReadSmallFile(path, kMaxConfigBytes);
  const std::string file = path.string();
  const bool is_demos =
      formats::JsonMember(text, "dim", file) && !formats::JsonMember(text, "hidden_size", file);
  if (is_demos) {
    Fail(file, "",
         fmt::format("{}: this is a config of DeepSeek's inference demo (it has dim and no "
                     "hidden_size); give the config.json of the model as it is on Hugging Face, "
                     "with --config FILE",
                     formats::ShownPath(file)));
  }
  return text;
}

// Makes the config say what the ranks hold, and warns of each change.
void FitConfig(const std::string& file, OpenedModel& model) {
  const auto warn = [&](std::string message) {
    model.findings.push_back(
        {formats::Severity::kWarning, kDemoConfig, kConfigName, "", std::move(message)});
  };
  std::set<std::uint64_t> mtp_layers;
  bool has_fp8 = false;
  for (const CatalogTensor& tensor : model.catalog.tensors()) {
    const std::optional<std::uint64_t> layer = LayerOf(tensor.name, "");
    if (layer && *layer >= model.config.num_hidden_layers) mtp_layers.insert(*layer);
    has_fp8 = has_fp8 || tensor.dtype == formats::Dtype::kF8E4M3;
  }
  if (has_fp8 && !model.config.quantization) {
    Fail(file, "",
         fmt::format("{}: there is no quantization_config, but weights of the ranks are FP8; give "
                     "the config.json of the FP8 release",
                     formats::ShownPath(file)));
  }
  if (!has_fp8 && model.config.quantization) {
    RemovedConfig unused;
    model.config_text = ConfigForBf16(model.config_text, model.config, unused);
    warn("config.json is taken without quantization_config, for no weight of the ranks is FP8.");
  }
  if (model.config.known && mtp_layers.size() != model.config.num_nextn_predict_layers) {
    warn(
        fmt::format("config.json is taken with {} {}, not {}: the demo's files hold {} MTP layers.",
                    kMtpField, mtp_layers.size(), model.config.num_nextn_predict_layers,
                    mtp_layers.empty() ? std::string("no") : std::to_string(mtp_layers.size())));
    SetMtpLayers(model.config, mtp_layers.size(), model.config_text);
  }
  model.config = ParseModelConfig(model.config_text, file);
}

void TakeSideFiles(OpenedModel& model) {
  for (const std::string& name : formats::ListCheckpoint(model.directory, true).side_files) {
    if (name == kConfigName) continue;
    if (const auto kind = formats::KindOfLeftBehind(name)) {
      std::error_code error;
      const std::uintmax_t bytes = fs::file_size(model.directory / name, error);
      model.left_behind.push_back({name, *kind, error ? 0 : bytes});
    } else {
      model.side_files.push_back(name);
    }
  }
  model.side_files.emplace_back(kConfigName);
  std::sort(model.side_files.begin(), model.side_files.end());
}

}  // namespace

void RequireDemoConfig(const fs::path& directory, const OpenOptions& options) {
  if (!options.config.empty() || formats::EntryExists(directory / kConfigName)) {
    return;
  }
  const bool is_usage = options.takes_config && options.faults == OpenOptions::Faults::kThrow;
  const std::string advice =
      options.takes_config
          ? "add --config FILE"
          : "make a checkpoint of them with `dsv3-reshard merge --config FILE`, or copy FILE into "
            "this directory";
  throw Error(
      is_usage ? ErrorCode::kUsage : ErrorCode::kBadInput,
      fmt::format("{}: the files of DeepSeek's inference demo do not say what the model "
                  "is; {}, where FILE is the config.json of the model as it is on Hugging Face",
                  formats::ShownPath(directory), advice),
      {kConfigName, ""});
}

OpenedModel OpenDemo(const fs::path& input, const OpenOptions& options) {
  const fs::path directory = fs::absolute(input);
  if (options.from && *options.from != Stack::kDeepseek) {
    Fail(directory.string(), "",
         fmt::format("{}: these are files of DeepSeek's inference demo, not of {}; leave out "
                     "--from, or say --from {}",
                     formats::ShownPath(input), StackName(*options.from),
                     StackName(Stack::kDeepseek)));
  }
  OpenedModel model;
  model.directory = directory;
  model.form = formats::CheckpointFiles::Form::kUnindexed;
  model.has_config = true;
  model.config_given = !options.config.empty();
  model.config_text = ReadConfig(directory, options);
  const std::string config_file =
      model.config_given ? options.config.string() : std::string(kConfigName);
  model.config = ParseModelConfig(model.config_text, config_file);
  Ranks ranks = ReadRanks(directory, options.freed);
  Joiner joiner(ranks.catalog, ranks.catalog.files().size());
  NamedExpressions ordered;
  ordered.reserve(ranks.tensors.size());
  for (const auto& [name, gathered] : ranks.tensors) {
    ordered.emplace_back(name, joiner.Join(name, gathered));
  }
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return PlaceInModel(a.first, "") < PlaceInModel(b.first, "");
  });
  std::vector<std::string> order;
  order.reserve(ordered.size());
  for (const auto& [name, expression] : ordered) order.push_back(name);
  AssembledModel assembled;
  assembled.stored = std::move(ranks.catalog);
  assembled.copies = joiner.TakeCopies();
  model.catalog = MakeShards(std::move(ordered), kDefaultShardBytes, assembled);
  model.needs_index = assembled.index.has_value();
  model.assembled = std::make_shared<const AssembledModel>(std::move(assembled));
  model.training.stack = StackName(Stack::kDeepseek);
  for (const std::string& name : order) model.training.order.push_back(model.catalog.Find(name));
  FitConfig(config_file, model);
  TakeSideFiles(model);
  RequireModel(model.config, model.catalog, model.findings);
  return model;
}

}  // namespace dsv3::convert
