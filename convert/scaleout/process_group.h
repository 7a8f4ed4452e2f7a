#pragma once

#include <functional>
#include <memory>
#include <string>

#include "convert/job/work_sharing.h"

namespace dsv3::convert {

// The processes that one mpirun started. All of them end together, with one exit code: that of the
// first failure that process 0 heard of.
class ProcessGroup : public WorkSharing {
 public:
  // What ends this process's work soon, for when another one failed; called from another thread,
  // perhaps more than once.
  virtual void SetOnStop(std::function<void()> on_stop) = 0;
  // This process ends with an error. Returns whether it is the group's first, and so the one to be
  // told; the others end because of it.
  virtual bool Fail(int exit_code) = 0;
  // Waits until all processes came here and leaves the group. Returns its exit code.
  virtual int End() = 0;
};

// Joins the group when mpirun started this process and others; nullptr for a process by itself.
// To be called once, before other threads begin.
std::unique_ptr<ProcessGroup> JoinProcessGroup();

}  // namespace dsv3::convert
