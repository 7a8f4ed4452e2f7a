#pragma once

#include <vector>

#include "cli/option_table.h"
#include "cli/verify_report.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"

// What dsv3-verify forward says of its run.
namespace dsv3::cli {

// The words of --weights, --activations and --attention.
const std::vector<ChoiceOf<convert::WeightValues>>& WeightChoices();
const std::vector<ChoiceOf<convert::ActivationValues>>& ActivationChoices();
const std::vector<ChoiceOf<convert::AttentionForm>>& AttentionChoices();

// `all`: the text has every row of its tables.
VerifyReport ForwardVerifyReport(const convert::ForwardRequest& request,
                                 const convert::ForwardLimits& limits, bool all,
                                 const convert::ForwardReport& run);

}  // namespace dsv3::cli
