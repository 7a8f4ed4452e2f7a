#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"

namespace dsv3::convert {

// How processes that were started together (mpirun) share the work of one command. All of them call
// the same command with the same arguments and make the same plan; process 0 leads: it looks at the
// output, holds its lock, writes the files that are not weights and ends the job. The others help.
//
// A call that waits for another process throws Error (kInterrupted) once any process has failed.
// Calls of one process come from one thread at a time.
class WorkSharing {
 public:
  virtual ~WorkSharing() = default;

  virtual std::size_t process() const = 0;
  virtual std::size_t processes() const = 0;

  // Each process calls it: gives all of them the text of process 0.
  virtual std::string Broadcast(const std::string& text) = 0;
  // Each process calls it: process 0 gets the texts of all, by process; the others nothing.
  virtual std::vector<std::string> Gather(const std::string& text) = 0;
  // A number that no process has had, from 0 upwards.
  virtual std::uint64_t Next() = 0;

  // A helper reports how many more bytes it has done; any thread may call it.
  virtual void AddBytes(std::uint64_t bytes) = 0;
  // Process 0: where the helpers' bytes go, until it is called with nullptr.
  virtual void ShowBytes(ProgressSink* progress) = 0;
};

}  // namespace dsv3::convert
