#include "cli/error_json.h"

#include "cli/json_members.h"

namespace dsv3::cli {

std::string ErrorJson(const Error& error) {
  formats::JsonWriter json(2);
  json.BeginObject();
  json.BeginObject("error");
  StringMember(json, "code", ErrorCodeName(error.code()));
  json.Uint("exit_code", static_cast<std::uint64_t>(error.code()));
  StringOrNullMember(json, "file", error.place().file);
  StringOrNullMember(json, "tensor", error.place().tensor);
  StringMember(json, "message", error.message());
  json.EndObject();
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
