#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "convert/job/conversion_report.h"

namespace dsv3::convert {

// The fact of tensors: "3 tensors of MTP layers" where `what` is "tensor" and `which` "of MTP
// layers". No line where there are none.
ReportFact FactOf(std::string_view member, std::vector<std::string> names, std::string_view what,
                  std::string_view which);
// The fact "dropped", with the patterns of the names.
ReportFact DroppedFact(std::vector<std::string> names, std::string_view what,
                       std::string_view which);

}  // namespace dsv3::convert
