#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

namespace dsv3::testing {

// Acts as a user who does not own the files; root may do everything.
class OtherUser {
 public:
  OtherUser() {
    if (root_) {
      EXPECT_EQ(::seteuid(65534), 0);
    }
  }
  ~OtherUser() {
    if (root_) {
      EXPECT_EQ(::seteuid(0), 0);
    }
  }
  OtherUser(const OtherUser&) = delete;
  OtherUser& operator=(const OtherUser&) = delete;
  bool is_other() const { return root_; }

 private:
  const bool root_ = ::geteuid() == 0;
};

}  // namespace dsv3::testing
