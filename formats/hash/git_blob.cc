#include "formats/hash/git_blob.h"

#include <array>
#include <new>

#include <fmt/format.h>
#include <openssl/evp.h>

#include "formats/error.h"
#include "formats/hash/sha256.h"

namespace dsv3::formats {
namespace {

void CheckOpenSsl(int result) {
  if (result == 1) return;
  throw Error(ErrorCode::kInternal,
              "OpenSSL cannot compute SHA-1, by which files of the hub are named; check its "
              "configuration (openssl dgst -sha1 must work)");
}

}  // namespace

void GitBlobSha1::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

GitBlobSha1::GitBlobSha1(std::uint64_t bytes) : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr) throw std::bad_alloc();
  CheckOpenSsl(EVP_DigestInit_ex(context_.get(), EVP_sha1(), nullptr));
  std::string prefix = fmt::format("blob {}", bytes);
  prefix.push_back('\0');
  Update(std::as_bytes(std::span(prefix)));
}

GitBlobSha1::~GitBlobSha1() = default;
GitBlobSha1::GitBlobSha1(GitBlobSha1&&) noexcept = default;
GitBlobSha1& GitBlobSha1::operator=(GitBlobSha1&&) noexcept = default;

void GitBlobSha1::Update(std::span<const std::byte> data) {
  CheckOpenSsl(EVP_DigestUpdate(context_.get(), data.data(), data.size()));
}

std::string GitBlobSha1::FinishHex() {
  std::array<std::byte, 20> digest;
  CheckOpenSsl(
      EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr));
  return ToHex(digest);
}

std::string GitBlobSha1Hex(std::span<const std::byte> content) {
  GitBlobSha1 hash(content.size());
  hash.Update(content);
  return hash.FinishHex();
}

}  // namespace dsv3::formats
