#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "convert/catalog/progress.h"
#include "convert/job/conversion_report.h"
#include "convert/job/run_options.h"
#include "convert/job/run_plan.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// A conversion makes this value from an opened model, and the runner runs it. The functions in
// `hooks` and `add_facts` own the data that they use, or refer to the model, which outlives the
// recipe.
struct Recipe {
  std::shared_ptr<const Plan> plan;  // never copied: that of a reshard may have a million tensors
  ModelTensors tensors;              // what the plan's expressions read
  RecipeHooks hooks = {};
  // For the report: tensors of the source that are converted; of the output those that are copied
  // (nothing: those of rule "copy"); warnings beside those of opening the model.
  std::uint64_t converted_tensors = 0;
  std::optional<std::uint64_t> copied_tensors = std::nullopt;
  formats::Findings warnings = {};
  // As ConversionKind::keeps_source, where it depends on the input.
  std::string keeps_source = {};
  // Adds to the report what only this recipe knows, after the run.
  std::function<void(ConversionReport& report)> add_facts = {};
};

// Where a conversion reads and writes, and how it runs.
struct JobRequest {
  std::filesystem::path input;
  std::filesystem::path output;
  RunOptions run = {};
};

// What a recipe is made for; all of it outlives the recipe.
struct RecipeContext {
  const JobRequest& request;
  ProgressSink& progress;
  const StopToken& stop;
};

// A conversion as its command names it, with the command's own options, before anything is opened.
struct ConversionKind {
  std::string recipe;  // "fp8-to-bf16"; Plan::recipe is the same
  // For the report's text: "Converted FP8 to BF16", and what is said of the converted tensors:
  // "FP8 to BF16"; empty where none is converted.
  std::string title = {};
  std::string converted_text = {};
  // Why --delete-source-shards is refused, a whole sentence; empty where shards may be deleted on
  // the way.
  std::string keeps_source = {};
  // Whether that holds of rank shards and training checkpoints, too: the recipe needs to know no
  // values of files that an earlier run deleted.
  bool frees_assembled = false;
  // Whether OUT is a file with its manifest beside it, or several (OneFileOutput), and no
  // directory.
  bool one_file = false;
  // Throws Error (kUsage) for options that are wrong whatever the input is. May be empty.
  std::function<void(const JobRequest& request)> check_options = {};
  // Opens the input, by `opening` and with what an unfinished run freed; empty: OpenModel.
  std::function<OpenedModel(const JobRequest& request, const OpenOptions& options)> open = {};
  OpenOptions opening = {};
  // A recipe may append a second checkpoint to the model's catalog.
  std::function<Recipe(OpenedModel& model, const RecipeContext& context)> make_recipe = {};
};

// Runs a conversion from the options to the report, the same for every recipe: checks options and
// places, opens the input, makes the recipe and runs its plan (RunPlan). Throws Error with the code
// of design.md's table. When `stop` is requested it ends with kInterrupted, and the same request
// continues from there.
ConversionReport RunConversion(const ConversionKind& conversion, const JobRequest& request,
                               formats::FileSystem& file_system, ProgressSink& progress,
                               const StopToken& stop);

}  // namespace dsv3::convert
