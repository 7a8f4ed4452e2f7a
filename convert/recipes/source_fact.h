#pragma once

#include "convert/job/conversion_report.h"
#include "convert/open/open_model.h"

namespace dsv3::convert {

// For the report: what a training checkpoint is, and what of it is not taken.
ReportFact SourceFact(const OpenedModel::Training& training);

}  // namespace dsv3::convert
