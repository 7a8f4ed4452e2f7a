#pragma once

#include <string>
#include <string_view>
#include <vector>

// How the tensors are called that hold the codes of a weight in place of "….weight". Pure and
// thread-safe.
namespace dsv3::convert {

// The name of the weight that codes make: WeightNameOf of scale_names.h, and "….weight" for
// "….qweight".
std::string WeightOfCodes(std::string_view codes);

// The names beside its own that the codes of a weight "….weight" can have.
std::vector<std::string> OtherCodeNamesOf(std::string_view weight);

// Whether codes that are decoded are kept by columns: those of AWQ, "….qweight". A ScaledWeight
// then describes the tensors that row_tensors.h (plan/) makes of the weight's own.
bool AreKeptByColumns(std::string_view codes);

}  // namespace dsv3::convert
