#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "convert/catalog/catalog.h"
#include "convert/model/zero_blocks.h"
#include "convert/plan/plan.h"
#include "convert/stream/chunk.h"
#include "convert/stream/file_hash.h"
#include "convert/stream/record.h"
#include "convert/stream/source_checks.h"
#include "convert/stream/tensor_zeros.h"
#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"

namespace dsv3::convert {

// How many bytes of a file must be read back for its digest, as far as the plan knows: all bytes
// from the first by-product on that has no expected bytes.
std::uint64_t PlannedRest(const PlannedFile& file);

// The digests of a file that is written chunk by chunk. Chunks must come in order, to Take and to
// Add, each called by one thread at a time; the two may run side by side and be at different
// chunks.
//
// The digest of the file takes its bytes in order. It stops at bytes of a by-product that is made
// only later: the bytes behind them, the rest, are read back when the file is written. Where a
// by-product has other bytes than expected, the rest is the whole file.
class FileDigests {
 public:
  struct Options {
    bool sha256 = true;              // of the file; else its xxh3
    bool tensor_sha256 = false;      // of tensors and of what they were streamed from
    SourceChecks* checks = nullptr;  // gets what the file's tensors are made of; may be nullptr
    // In which the holes of weights are looked for whose own bytes do not show them.
    const Catalog* sources = nullptr;
  };

  FileDigests(const PlannedFile& file, Options options);

  // What the digest of the file takes of the next chunk, for FileHash::UpdateMany.
  FileHash::Part Take(const Chunk& chunk);
  // Digests the tensors of the next chunk.
  void Add(const Chunk& chunk);

  // After the last chunk, taken and added: where the rest begins, the file's end when there is
  // none. TakeRest takes its bytes, in order, for FileHash::UpdateMany.
  std::uint64_t BeginRest();
  FileHash::Part TakeRest(std::span<const std::byte> data);

  // After the rest.
  FileRecord Finish();

 private:
  struct Stream {
    formats::Xxh3 xxh3;
    formats::Sha256 sha256;
  };

  void CheckSources(const Chunk& chunk, const ChunkPart& part) const;
  void EndTensor(const ChunkPart& part);
  void LookForZeros(const Chunk& chunk, const ChunkPart& part);
  void JudgeZeros(TensorRecord& record) const;
  void UpdateStream(Stream& stream, std::span<const std::byte> data) const;
  Digests FinishStream(Stream& stream) const;

  const PlannedFile& file_;
  Options options_;
  FileRecord record_;
  std::uint64_t next_ = 0;  // as far as the file's digest has come
  // Of the tensor at hand:
  TensorZeros zeros_{TensorZeros::Rows::kAll};  // its own (Catalog::kNone), or its sources'
  ZeroBlocks zero_blocks_;
  bool unexpected_ = false;  // some by-product has other bytes than were digested in its place
  FileHash file_hash_;
  Stream output_;
  Stream streamed_;
  Stream by_product_;
};

}  // namespace dsv3::convert
