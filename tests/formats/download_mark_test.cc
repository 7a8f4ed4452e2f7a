#include "formats/download_mark.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

using ::testing::HasSubstr;

TEST(DownloadMarkTest, KnowsWhatEachProgramKeeps) {
  for (const char* name : {"m.safetensors.incomplete", "a/0123.incomplete"}) {
    EXPECT_THAT(HowDownloadGoesOn(name), HasSubstr("hf download")) << name;
  }
  for (const char* name : {"m.safetensors.aria2", ".aria2", "m.aria2__temp"}) {
    EXPECT_THAT(HowDownloadGoesOn(name), HasSubstr("aria2c")) << name;
  }
  for (const char* name :
       {"Unconfirmed 7.CRDOWNLOAD", "m.safetensors.opdownload", "m.safetensors.download"}) {
    EXPECT_THAT(HowDownloadGoesOn(name), HasSubstr("browser")) << name;
  }
  for (const char* name : {"m.safetensors.part", "m.safetensors.filepart", "m.safetensors.!qB",
                           "m.safetensors.!ut", "m.safetensors.tmp", "m.gguf.tmp"}) {
    EXPECT_THAT(HowDownloadGoesOn(name), HasSubstr("program that began it")) << name;
  }
  EXPECT_THAT(HowDownloadGoesOn("._____temp/m.safetensors"), HasSubstr("modelscope"));
  EXPECT_THAT(HowDownloadGoesOn("m.safetensors_.gstmp"), HasSubstr("gcloud storage"));
  for (const char* name : {".m.safetensors.Xa1b2C", "a/.config.json.000000", ".~tmp~/m.safetensors",
                           "a/.rsync-partial/m.safetensors"}) {
    EXPECT_THAT(HowDownloadGoesOn(name), HasSubstr("rsync")) << name;
  }
  EXPECT_THAT(HowDownloadGoesOn("m.safetensors.1a2b3c4d.partial"), HasSubstr("rclone"));
  EXPECT_THAT(HowDownloadGoesOn("m.safetensors.6eF5b5dA"), HasSubstr("aws s3"));
}

TEST(DownloadMarkTest, LeavesOtherNames) {
  for (const char* name :
       {"", "model.safetensors", "model.safetensors.partial", "config.json.partial",
        "m.safetensors.1a2b3c4.partial", "m.safetensors.1a2b3c4g", "notes.1a2b3c4d", ".gitignore",
        ".model.bad.json", ".notes.Xa1b2C", "m.safetensors.Xa1b2C", "party", "my.~tmp~/x",
        "x._____temp/a", "a.tmp", "model.safetensors.index.json", "tokenizer.json.deadbeef.txt"}) {
    EXPECT_EQ(HowDownloadGoesOn(name), "") << name;
  }
}

}  // namespace
}  // namespace dsv3::formats
