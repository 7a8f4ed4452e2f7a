#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/plan/planned_file.h"
#include "formats/error.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::testing {

// A file format with gaps between its tensors, which have the order of safetensors.
class AlignedContainer final : public convert::Container {
 public:
  static const convert::Container& Get() {
    static const AlignedContainer container;
    return container;
  }

  std::string_view suffix() const override { return ".aligned"; }
  std::uint64_t alignment() const override { return 32; }
  void LayOut(std::vector<convert::TensorEntry>& tensors) const override {
    convert::Safetensors().LayOut(tensors);
    std::uint64_t end = 0;
    for (convert::TensorEntry& tensor : tensors) {
      tensor.offset = formats::AlignUp(end, alignment());
      end = tensor.end();
    }
  }
  std::string Header(const std::vector<convert::TensorEntry>& tensors,
                     const convert::FileMetadata& /*metadata*/) const override {
    std::string header = "aligned " + std::to_string(tensors.size());
    header.resize(formats::AlignUp(header.size(), alignment()), ' ');
    return header;
  }
  convert::ContainerHeader ReadHeader(const std::filesystem::path& /*path*/,
                                      const std::string& name) const override {
    throw Error(ErrorCode::kInternal, name + " is never read");
  }
};

// Appends zeros to a file's bytes up to a tensor's place.
inline void FillGap(const convert::PlannedFile& file, const convert::PlannedTensor& tensor,
                    std::string& content) {
  content.resize(file.data_offset + tensor.entry.offset, '\0');
}

}  // namespace dsv3::testing
