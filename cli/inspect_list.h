#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/inspect/inspection.h"
#include "formats/json/json_writer.h"

// The tensors of a checkpoint one by one, by their positions in its catalog, from headers alone.
namespace dsv3::cli {

// A line for each: name, dtype, shape, bytes, file. Where the lines would be longer than `columns`
// (0: any length) the names are cut; the file is left out where too little of a name would stay.
std::string ListText(const convert::Inspection& inspection,
                     const std::vector<std::uint32_t>& positions, std::size_t columns = 0);

// The same as one JSON object.
std::string ListJson(const convert::Inspection& inspection,
                     const std::vector<std::uint32_t>& positions, std::string_view tool);

// The members that every report has of a tensor: name, dtype, shape, and where its bytes lie.
void PlaceMembers(formats::JsonWriter& json, const convert::InspectedTensor& tensor);

}  // namespace dsv3::cli
