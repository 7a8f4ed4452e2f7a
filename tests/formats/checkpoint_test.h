#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/checkpoint_files.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/safetensors_text.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// A shard of U8 [4] tensors, its header padded as the format wants it.
inline std::string Shard(const std::vector<std::string>& names) {
  std::string json = "{";
  for (std::size_t i = 0; i < names.size(); ++i) {
    json += (i == 0 ? "" : ",") + Entry(names[i], "U8", "[4]", 4 * i, 4 * i + 4);
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  return SafetensorsFile(json, 4 * names.size());
}

inline std::string Index(const std::vector<std::pair<std::string, std::string>>& map,
                         std::string_view total_size = "") {
  std::string json = "{\"metadata\":{";
  if (!total_size.empty()) json += "\"total_size\":" + std::string(total_size);
  json += "},\"weight_map\":{";
  for (std::size_t i = 0; i < map.size(); ++i) {
    json += (i == 0 ? "\"" : ",\"") + map[i].first + "\":\"" + map[i].second + "\"";
  }
  return json + "}}";
}

class CheckpointFilesTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, std::string_view content) {
    WriteFile(directory_ / name, content);
  }
  void WriteIndex(const std::vector<std::pair<std::string, std::string>>& map,
                  std::string_view total_size = "") {
    Write(std::string(formats::kShardIndexName), Index(map, total_size));
  }
  // Two shards, their index and a config.
  void WriteSound() {
    Write("x.safetensors", Shard({"a", "b"}));
    Write("y.safetensors", Shard({"c"}));
    WriteIndex({{"a", "x.safetensors"}, {"b", "x.safetensors"}, {"c", "y.safetensors"}}, "12");
    Write("config.json", "{}");
  }
  formats::CheckpointFiles Open() const { return formats::OpenCheckpointFiles(directory_.path()); }

  // The only finding; checks its place and words.
  formats::Finding OnlyFinding(const formats::CheckpointFiles& files, std::string_view kind,
                               std::string_view file, std::string_view tensor = "") {
    EXPECT_EQ(files.findings.size(), 1U);
    for (const formats::Finding& finding : files.findings) {
      EXPECT_EQ(finding.kind, kind) << finding.message;
    }
    if (files.findings.empty()) return {};
    const formats::Finding& finding = files.findings[0];
    EXPECT_EQ(finding.file, file);
    EXPECT_EQ(finding.tensor, tensor);
    return finding;
  }

  TempDir directory_;
};

inline std::vector<std::string> Names(const formats::CheckpointFiles& files) {
  std::vector<std::string> names;
  for (const formats::ShardFile& shard : files.shards) names.push_back(shard.name);
  return names;
}

}  // namespace dsv3::testing
