#include "formats/relative_name.h"

#include <string>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

TEST(RelativeName, MayBeThatOfAFileBelowADirectory) {
  for (const std::string& name :
       {std::string("model.safetensors"), std::string("a/b/c.json"), std::string("..a/b..c/..."),
        std::string(255, 'x') + "/" + std::string(255, 'y'), std::string("é/ü")}) {
    EXPECT_EQ(OutsidePath(name), "") << name;
    EXPECT_EQ(UnsafePath(name), "") << name;
  }
}

TEST(RelativeName, ThatNoFileBelowADirectoryHas) {
  std::string deep = "x";
  while (deep.size() <= 4095) deep += "/x";
  for (const auto& [name, why] :
       {std::pair(std::string(), "which is empty"),
        std::pair(std::string("/etc/passwd"), "which is an absolute path"),
        std::pair(std::string("a\0b", 3), "which holds a NUL"),
        std::pair(std::string("a/../../b"), "which leads out of the directory by '..'"),
        std::pair(std::string(".."), "which leads out of the directory by '..'"),
        std::pair(std::string("a//b"), "which has an empty or '.' component"),
        std::pair(std::string("./a"), "which has an empty or '.' component"),
        std::pair(std::string("a/"), "which has an empty or '.' component"),
        std::pair(std::string(256, 'x'), "which is longer than a file name can be"),
        std::pair("a/" + std::string(256, 'x'), "which is longer than a file name can be"),
        std::pair(deep, "which is longer than a path can be")}) {
    EXPECT_EQ(OutsidePath(name), why) << name;
    EXPECT_EQ(UnsafePath(name), why) << name;
  }
}

TEST(RelativeName, ThatAnotherSystemTakesForAnotherPlace) {
  for (const auto& [name, why] :
       {std::pair("C:/model.safetensors", "which begins with a drive letter"),
        std::pair("c:model.safetensors", "which begins with a drive letter"),
        std::pair("a\\..\\b", "which holds a backslash"),
        std::pair("a\nb", "which holds a control character"),
        std::pair("a\x7F", "which holds a control character")}) {
    EXPECT_EQ(OutsidePath(name), "") << name;
    EXPECT_EQ(UnsafePath(name), why) << name;
  }
}

}  // namespace
}  // namespace dsv3::formats
