#include "convert/model/config_object.h"

#include "convert/model/config_fields-inl.h"

namespace dsv3::convert {

void RequireConfigObject(std::string_view text, const std::string& file) {
  ParseConfigObject(text, file);
}

}  // namespace dsv3::convert
