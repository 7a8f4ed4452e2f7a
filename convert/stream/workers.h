#pragma once

#include <functional>

namespace dsv3::convert {

// Calls `work(i)` for each i below `workers`, each on a thread of its own, and waits for all of
// them; they may wait for each other. `work` must not throw.
void RunWorkers(unsigned workers, const std::function<void(unsigned worker)>& work);

}  // namespace dsv3::convert
