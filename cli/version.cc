#include "cli/version.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <tbb/version.h>

#include "quant/dequantize.h"

namespace dsv3::cli {

namespace {

#ifdef DSV3_MPI_VERSION
constexpr const char* kMpi = "yes (Open MPI " DSV3_MPI_VERSION ")";
#else
constexpr const char* kMpi = "no";
#endif

}  // namespace

std::string VersionText(const std::string& tool) {
  return fmt::format("{} {}\nkernels {}; oneTBB {}.{}; OpenSSL {}; MPI {}\n", tool, kVersion,
                     quant::KernelTargetName(), TBB_VERSION_MAJOR, TBB_VERSION_MINOR,
                     OpenSSL_version(OPENSSL_VERSION_STRING), kMpi);
}

}  // namespace dsv3::cli
