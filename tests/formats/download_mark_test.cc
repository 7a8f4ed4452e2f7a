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
  for (const char* name :
       {"m.safetensors.part", "m.safetensors.filepart", "m.safetensors.!qB", "m.safetensors.!ut",
        "m.safetensors.tmp", "m.gguf.tmp", "config.json.temp", "a/m.safetensors.xltd",
        "m.safetensors.td.cfg", "m.safetensors.bc!", "m.safetensors.baiduyun.p.downloading",
        "m.safetensors.fdmdownload", ".tmp.drivedownload/4711", ".syncthing.m.safetensors.tmp"}) {
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
  EXPECT_THAT(HowDownloadGoesOn("m.safetensors.st"), HasSubstr("axel"));
  EXPECT_THAT(HowDownloadGoesOn("m.safetensors.lftp-pget-status"), HasSubstr("lftp"));
  EXPECT_THAT(HowDownloadGoesOn("m.safetensors.part.minio"), HasSubstr("`mc`"));
  EXPECT_THAT(HowDownloadGoesOn("a/.azDownload-0b3f2f4a-6e1d-7b40-5e4d-3e2a1c9a7d11-m.safetensors"),
              HasSubstr("azcopy"));
  EXPECT_THAT(HowDownloadGoesOn(".unison.m.safetensors.0123abcd.unison.tmp"), HasSubstr("unison"));
}

TEST(DownloadMarkTest, LeavesOtherNames) {
  for (const char* name : {"",
                           "model.safetensors",
                           "model.safetensors.partial",
                           "config.json.partial",
                           "m.safetensors.1a2b3c4.partial",
                           "m.safetensors.1a2b3c4g",
                           "notes.1a2b3c4d",
                           ".gitignore",
                           ".model.bad.json",
                           ".notes.Xa1b2C",
                           "m.safetensors.Xa1b2C",
                           "party",
                           "my.~tmp~/x",
                           "x._____temp/a",
                           "a.tmp",
                           "a.temp",
                           "notes.st",
                           "azDownload-1-m.safetensors",
                           "model.safetensors.index.json",
                           "tokenizer.json.deadbeef.txt"}) {
    EXPECT_EQ(HowDownloadGoesOn(name), "") << name;
  }
}

}  // namespace
}  // namespace dsv3::formats
