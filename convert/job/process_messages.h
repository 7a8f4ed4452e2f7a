#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "convert/job/journal.h"
#include "convert/job/work_sharing.h"
#include "convert/stream/record.h"

// The messages between the processes of one run.
namespace dsv3::convert {

// Whether several processes share a run.
bool IsShared(const WorkSharing* sharing);
// Whether this process is one of those that help process 0.
bool IsHelper(const WorkSharing* sharing);

// From process 0 to its helpers: the files to make.
struct WorkOrder {
  JournalHead head;                  // of the job
  std::vector<std::uint64_t> files;  // positions in Plan::files
};
std::string WorkOrderText(const WorkOrder& order);
WorkOrder ParseWorkOrder(const std::string& text);

// From a helper to process 0: the files that it made.
struct WorkResult {
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::vector<FileRecord> records;
};
std::string WorkResultText(const WorkResult& result);
WorkResult ParseWorkResult(const std::string& text);

// Passes a helper's bytes on to process 0, but no phases.
class HelperProgress final : public ProgressSink {
 public:
  HelperProgress(WorkSharing& sharing, ProgressSink& own) : sharing_(sharing), own_(own) {}

  void OnBytes(std::uint64_t bytes, std::string_view) override { sharing_.AddBytes(bytes); }
  void OnWarning(const std::string& message) override { own_.OnWarning(message); }

 private:
  WorkSharing& sharing_;
  ProgressSink& own_;
};

}  // namespace dsv3::convert
