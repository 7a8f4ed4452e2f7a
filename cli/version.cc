#include "cli/version.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <tbb/version.h>

#include "quant/dequantize.h"

namespace dsv3::cli {

std::string VersionText(const std::string& tool) {
  return fmt::format("{} {}\nkernels {}; oneTBB {}.{}; OpenSSL {}; MPI no\n", tool, kVersion,
                     quant::KernelTargetName(), TBB_VERSION_MAJOR, TBB_VERSION_MINOR,
                     OpenSSL_version(OPENSSL_VERSION_STRING));
}

}  // namespace dsv3::cli
