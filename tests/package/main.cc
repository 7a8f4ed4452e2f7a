#include <cstdio>
#include <exception>

#include "convert/catalog/progress.h"
#include "convert/job/runner.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "formats/io/file_system.h"

// Plans a conversion through the libraries and says what it would do.
int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: consumer IN OUT\n");
    return 2;
  }
  try {
    dsv3::convert::JobRequest request;
    request.input = argv[1];
    request.output = argv[2];
    request.run.dry_run = true;
    dsv3::convert::ProgressSink silent;
    const dsv3::convert::StopToken never;
    const auto report =
        dsv3::convert::RunConversion(dsv3::convert::Fp8ToBf16Conversion(), request,
                                     dsv3::formats::PosixFileSystem(), silent, never);
    std::printf("consumer: %llu tensors, %llu bytes to write\n",
                static_cast<unsigned long long>(report.tensors),
                static_cast<unsigned long long>(report.output_bytes));
    return report.output_bytes > 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "consumer: %s\n", error.what());
    return 1;
  }
}
