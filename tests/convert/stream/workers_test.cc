#include "convert/stream/workers.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "convert/stream/slots.h"

namespace dsv3::convert {
namespace {

TEST(WorkersTest, CallsTheWorkOnceForEachNumber) {
  const StopToken stop;
  Workers workers(6, 2, stop);
  std::vector<int> calls(6, 0);
  workers.Run([&](unsigned worker) { ++calls[worker]; });
  EXPECT_EQ(calls, std::vector<int>(6, 1));
  EXPECT_FALSE(workers.failed());
  EXPECT_FALSE(workers.ended());
}

TEST(WorkersTest, WorkersMayWaitForEachOther) {
  const StopToken stop;
  Workers workers(8, 1, stop);
  unsigned arrived = 0;
  workers.Run([&](unsigned) {
    Workers::Lock lock = workers.Acquire();
    ++arrived;
    workers.NotifyAll();
    while (arrived < 8) workers.Wait(lock);
  });
  EXPECT_EQ(arrived, 8U);
}

TEST(WorkersTest, ThrowsTheFirstError) {
  const StopToken stop;
  Workers workers(3, 3, stop);
  try {
    workers.Run([&](unsigned worker) {
      if (worker == 1) throw std::runtime_error("the first");
      while (!workers.failed()) {
      }
      throw std::runtime_error("a later one");
    });
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(error.what(), std::string("the first"));
  }
  EXPECT_TRUE(workers.failed());
  EXPECT_TRUE(workers.ended());
}

TEST(WorkersTest, AnErrorWakesWorkersThatWait) {
  const StopToken stop;
  Workers workers(4, 4, stop);
  unsigned waiting = 0;
  const auto work = [&](unsigned worker) {
    Workers::Lock lock = workers.Acquire();
    if (worker == 0) {
      while (waiting < 3) workers.Wait(lock);
      throw std::runtime_error("broken");
    }
    ++waiting;
    workers.NotifyAll();
    while (!workers.ended()) workers.Wait(lock);
  };
  EXPECT_THROW(workers.Run(work), std::runtime_error);
}

TEST(WorkersTest, AWorkerThatLeavesWakesTheOthers) {
  StopToken stop;
  Workers workers(2, 2, stop);
  workers.Run([&](unsigned worker) {
    Workers::Lock lock = workers.Acquire();
    if (worker == 0) {
      stop.RequestStop();
      return;
    }
    while (!workers.ended()) workers.Wait(lock);
  });
  EXPECT_FALSE(workers.failed());
  EXPECT_TRUE(workers.ended());
}

TEST(WorkersTest, BoundsTheThreadsThatCompute) {
  const StopToken stop;
  Workers workers(8, 2, stop);
  std::atomic<int> computing{0};
  std::atomic<int> most{0};
  workers.Run([&](unsigned) {
    for (int i = 0; i < 200; ++i) {
      const ComputeSlot slot = workers.Compute();
      const int now = ++computing;
      int before = most;
      while (before < now && !most.compare_exchange_weak(before, now)) {
      }
      --computing;
    }
  });
  EXPECT_LE(most, 2);
  EXPECT_GE(most, 1);
}

TEST(SlotsTest, GivesEachFreeSlotToOneTaker) {
  Slots<int> slots(2);
  int& first = slots.Take();
  int& second = slots.Take();
  EXPECT_NE(&first, &second);
  EXPECT_FALSE(slots.any_free());
  slots.Free(first);
  EXPECT_TRUE(slots.any_free());
  EXPECT_EQ(&slots.Take(), &first);
  EXPECT_FALSE(slots.any_free());
}

}  // namespace
}  // namespace dsv3::convert
