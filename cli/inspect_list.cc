#include "cli/inspect_list.h"

#include <string>
#include <utility>

#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/version.h"
#include "formats/shape.h"

namespace dsv3::cli {

std::string ListText(const convert::Inspection& inspection,
                     const std::vector<std::uint32_t>& positions, std::size_t columns) {
  Table table("lllrl");
  Table narrow("lllr");
  for (const std::uint32_t position : positions) {
    const convert::InspectedTensor tensor = convert::InspectedTensorOf(inspection, position);
    std::vector<std::string> cells = {Printable(tensor.name), tensor.type,
                                      formats::ShapeToString(tensor.shape),
                                      std::to_string(tensor.extent.length)};
    if (columns != 0) narrow.Add(cells);
    cells.push_back(Printable(tensor.file));
    table.Add(std::move(cells));
  }
  constexpr std::size_t kName = 32;  // so much of a name says which tensor it is
  return (table.Fits("", columns, kName) ? table : narrow).Text("", columns);
}

std::string ListJson(const convert::Inspection& inspection,
                     const std::vector<std::uint32_t>& positions, std::string_view tool) {
  formats::JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "tool", tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "input", inspection.path.string());
  json.BeginArray("tensors");
  for (const std::uint32_t position : positions) {
    json.BeginObject();
    PlaceMembers(json, convert::InspectedTensorOf(inspection, position));
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
  return json.Take() + "\n";
}

void PlaceMembers(formats::JsonWriter& json, const convert::InspectedTensor& tensor) {
  StringMember(json, "name", tensor.name);
  StringMember(json, "dtype", tensor.type);
  json.Uints("shape", tensor.shape);
  StringMember(json, "file", tensor.file);
  json.Uint("offset", tensor.extent.offset);
  json.Uint("bytes", tensor.extent.length);
}

}  // namespace dsv3::cli
