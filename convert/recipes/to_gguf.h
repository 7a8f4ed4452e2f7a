#pragma once

#include "convert/job/runner.h"
#include "convert/open/open_model.h"
#include "convert/recipes/conversion.h"

// A model of any form → one GGUF file.
namespace dsv3::convert {

// The recipe of `dsv3-convert to-gguf`. Refers to the model, which must outlive it.
Recipe MakeToGgufRecipe(const OpenedModel& model, const ConversionRequest& request,
                        ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
