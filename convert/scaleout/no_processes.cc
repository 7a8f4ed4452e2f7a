// Takes the place of mpi_processes.cc in a build without MPI.

#include <cstdlib>
#include <string>

#include "convert/scaleout/process_group.h"
#include "formats/error.h"

namespace dsv3::convert {

std::unique_ptr<ProcessGroup> JoinProcessGroup() {
  const char* const processes = std::getenv("OMPI_COMM_WORLD_SIZE");
  if (processes == nullptr || std::string(processes) == "1") return nullptr;
  // Each of them would take the output directory for its own.
  throw Error(ErrorCode::kUsage,
              "mpirun started several processes, and this build has no MPI (see --version); build "
              "with -DDSV3_MPI=ON, or use --part");
}

}  // namespace dsv3::convert
