#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/pickle.h"
#include "formats/torch_save.h"
#include "formats/zip_directory.h"

// The records that are tensors; an internal part of the reader in torch_save.h.
namespace dsv3::formats {

// Where tensors of an archive lie, and how errors call it.
struct TorchArchive {
  const InputFile& file;
  const ZipDirectory& zip;
  std::string_view folder;  // "archive/", in which all its entries lie
};

// Throws Error (kBadInput) "FILE: [the archive at byte N: ]PROBLEM; ADVICE", with this tensor as
// its place.
[[noreturn]] void FailTorch(const InputFile& file, FileRange archive, std::string_view tensor,
                            std::string_view problem, std::string_view advice);

// Reads tensors, and finds each storage once. The archive and the pickle must outlive it.
class TorchRebuilder {
 public:
  TorchRebuilder(const TorchArchive& archive, const Pickle& pickle)
      : archive_(archive),
        pickle_(pickle),
        storage_of_entry_(archive.zip.entries().size(), kUnknown) {}

  // The tensor that a record makes; nothing when it makes something else. `name` gives the tensor's
  // name for errors. Throws Error (kBadInput; kIo when the disk fails).
  std::optional<TorchTensor> Read(const PickleRecord& record,
                                  const std::function<std::string()>& name);

  std::vector<TorchStorage> TakeStorages() { return std::move(storages_); }

 private:
  static constexpr std::uint32_t kUnknown = UINT32_MAX;

  TorchArchive archive_;
  const Pickle& pickle_;
  std::vector<std::uint32_t> storage_of_entry_;
  std::vector<TorchStorage> storages_;
};

}  // namespace dsv3::formats
