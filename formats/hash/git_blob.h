#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace dsv3::formats {

// The name that git gives a file's content: SHA-1 over "blob LENGTH\0" and the content, by OpenSSL.
// Distinguishes files as git does; SHA-1 does not withstand an adversary. One instance is used by
// one thread at a time.
class GitBlobSha1 {
 public:
  // `bytes` is the length of the content to come. Throws Error (kInternal) where OpenSSL has no
  // SHA-1.
  explicit GitBlobSha1(std::uint64_t bytes);
  ~GitBlobSha1();
  GitBlobSha1(GitBlobSha1&&) noexcept;
  GitBlobSha1& operator=(GitBlobSha1&&) noexcept;

  void Update(std::span<const std::byte> data);
  // Ends the stream; 40 lowercase hex digits.
  std::string FinishHex();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// The name of one content.
std::string GitBlobSha1Hex(std::span<const std::byte> content);

}  // namespace dsv3::formats
