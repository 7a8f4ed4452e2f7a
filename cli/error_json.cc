#include "cli/error_json.h"

#include "cli/json_members.h"
#include "formats/given_paths.h"

namespace dsv3::cli {

std::string ErrorJson(const Error& error) {
  formats::JsonWriter json(2);
  json.BeginObject();
  json.BeginObject("error");
  StringMember(json, "code", ErrorCodeName(error.code()));
  json.Uint("exit_code", static_cast<std::uint64_t>(error.code()));
  // As the message shows it.
  StringOrNullMember(json, "file", formats::AsGiven(error.place().file).native());
  StringOrNullMember(json, "tensor", error.place().tensor);
  StringMember(json, "message", error.message());
  json.EndObject();
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
