#include "convert/recipes/train_to_infer.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "convert/job/runner.h"
#include "convert/model/expected_tensors.h"
#include "convert/parallel/slicing.h"
#include "convert/recipes/conversion.h"
#include "convert/recipes/side_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

// DeepSeek-V4 has its MTP layers outside the others.
constexpr std::string_view kMtpPrefix = "mtp.";

void RequireNumberOfLayers(const OpenedModel& model) {
  if (model.config.num_hidden_layers > 0) return;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: num_hidden_layers is missing, so that it is not known which layers "
                          "are MTP layers; correct {}",
                          formats::kConfigName, formats::kConfigName),
              {formats::kConfigName, ""});
}

PlannedFile PlanUnchanged(const SourceFile& shard, const std::string& header,
                          NamedExpressions tensors) {
  std::string bytes = WithLength(header);
  const formats::SafetensorsHeader parsed =
      formats::ParseSafetensorsHeader(std::as_bytes(std::span(bytes)), shard.bytes, shard.name);
  return PlanFileLike(shard.name, std::move(bytes), parsed, std::move(tensors));
}

}  // namespace

std::vector<std::uint32_t> FindMtpTensors(const OpenedModel& model) {
  RequireNumberOfLayers(model);
  const std::string_view prefix = FindNamePrefix(model.catalog);
  std::vector<std::uint32_t> found;
  for (std::uint32_t i = 0; i < model.catalog.tensors_end(); ++i) {
    const std::string& name = model.catalog.tensors()[i].name;
    if (name.starts_with(kMtpPrefix) || PlaceOf(name, prefix, model.config).mtp) found.push_back(i);
  }
  return found;
}

Plan PlanWithoutTensors(const OpenedModel& model, const ModelFiles& files,
                        const std::vector<std::uint32_t>& dropped) {
  const Catalog& catalog = model.catalog;
  std::vector<NamedExpressions> held(catalog.files().size());
  std::vector<bool> loses(catalog.files().size(), false);
  auto next = dropped.begin();
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    if (next != dropped.end() && *next == i) {
      loses[tensor.extent.file] = true;
      ++next;
    } else {
      held[tensor.extent.file].emplace_back(tensor.name, Copy(catalog, i));
    }
  }
  Plan plan;
  plan.recipe = kTrainToInfer;
  for (std::size_t i = 0; i < held.size(); ++i) {
    if (held[i].empty() && loses[i]) continue;
    const SourceFile& shard = catalog.files()[i];
    plan.files.push_back(loses[i] ? PlanFile(shard.name, std::move(held[i]))
                                  : PlanUnchanged(shard, files.headers[i], std::move(held[i])));
  }
  if (model.needs_index) plan.index = PlanIndex(plan);
  return plan;
}

std::string ConfigWithoutMtp(const OpenedModel& model) {
  const std::string member = model.config.prefix + "num_nextn_predict_layers";
  if (model.config.num_nextn_predict_layers == 0) return model.config_text;
  return formats::ReplaceJsonMember(model.config_text, member, "0", formats::kConfigName);
}

ConversionReport ConvertTrainToInfer(const ConversionRequest& request, formats::FileSystem& fs,
                                     ProgressSink& progress, const StopToken& stop) {
  ConversionKind conversion;
  conversion.recipe = kTrainToInfer;
  conversion.title = "Dropped the MTP layers";
  conversion.check_options = [&] {
    if (request.train_to_infer.drop_mtp) return;
    throw Error(ErrorCode::kUsage,
                "--mtp is missing; give --mtp drop, which leaves the MTP layers out");
  };
  conversion.make_recipe = [&](const OpenedModel& model) {
    const std::vector<std::uint32_t> dropped = FindMtpTensors(model);
    if (dropped.empty()) {
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("{}: the model has no MTP layer, so that there is nothing to drop; use "
                      "it as it is",
                      formats::ShownPath(model.directory)),
          {model.directory.string(), ""});
    }
    const auto plan =
        std::make_shared<Plan>(PlanWithoutTensors(model, ReadModelFiles(model), dropped));
    plan->options.push_back({"mtp", "\"drop\""});
    PlanSideFiles(model, ConfigWithoutMtp(model), {.all = request.run.all_side_files}, *plan);
    Recipe recipe{.plan = plan, .tensors = TensorsOf(model)};
    recipe.hooks.preflight = [](const PreflightRun& run) { return run.known; };
    recipe.add_facts = [&model, dropped](ConversionReport& report) {
      ReportFact fact{
          "dropped",
          "dropped",
          fmt::format("{} tensor{} of MTP layers", dropped.size(), dropped.size() == 1 ? "" : "s"),
          {}};
      for (const std::uint32_t tensor : dropped) {
        fact.names.push_back(model.catalog.tensors()[tensor].name);
      }
      report.facts.push_back(std::move(fact));
    };
    return recipe;
  };
  return RunConversion(conversion, {request.input, request.output, request.run}, fs, progress,
                       stop);
}

}  // namespace dsv3::convert
