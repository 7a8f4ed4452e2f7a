// The floor under a conversion: reads the same files and writes the same number of bytes to the
// same disk, with fsync, and computes nothing. Requests are large, several are under way at once,
// space is allocated up front, and the page cache is bypassed where the file system allows it.
//
//   dsv3-floor-copy [--threads N] [--request BYTES] [--buffered] OUT SOURCE=BYTES...
//
// writes OUT/0, OUT/1, ... of the given lengths and prints one JSON object.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

constexpr std::uint64_t kAlignment = 4096;

std::uint64_t RoundUp(std::uint64_t value) { return (value + kAlignment - 1) & ~(kAlignment - 1); }

[[noreturn]] void Fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

class File {
 public:
  File(const std::string& path, int flags) : path_(path) {
    fd_ = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd_ < 0) Fail(path);
  }
  File(File&& other) noexcept : path_(std::move(other.path_)), fd_(other.fd_) { other.fd_ = -1; }
  File& operator=(File&&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_;
};

struct Options {
  unsigned threads = 4;
  std::uint64_t request_bytes = std::uint64_t{4} << 20;
  bool direct = true;
  std::string out;
  std::vector<std::pair<std::string, std::uint64_t>> sources;  // path, bytes to write for it
};

struct Copy {
  File source;
  File target;
  std::uint64_t read_bytes;
  std::uint64_t write_bytes;
};

// One request: a stretch of a source, and the stretch of the target that it pays for.
struct Piece {
  const Copy* copy;
  std::uint64_t read_begin, read_end;
  std::uint64_t write_begin, write_end;
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  std::vector<std::string> positional;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--threads" && i + 1 < argc) {
      options.threads = static_cast<unsigned>(std::stoul(argv[++i]));
    } else if (argument == "--request" && i + 1 < argc) {
      options.request_bytes = RoundUp(std::stoull(argv[++i]));
    } else if (argument == "--buffered") {
      options.direct = false;
    } else {
      positional.push_back(argument);
    }
  }
  if (positional.size() < 2 || options.threads == 0 || options.request_bytes == 0) {
    throw std::invalid_argument(
        "usage: dsv3-floor-copy [--threads N] [--request BYTES] [--buffered] OUT SOURCE=BYTES...");
  }
  options.out = positional.front();
  for (std::size_t i = 1; i < positional.size(); ++i) {
    const std::size_t equals = positional[i].rfind('=');
    if (equals == std::string::npos)
      throw std::invalid_argument("not SOURCE=BYTES: " + positional[i]);
    options.sources.emplace_back(positional[i].substr(0, equals),
                                 std::stoull(positional[i].substr(equals + 1)));
  }
  return options;
}

std::vector<Copy> OpenAll(const Options& options) {
  const int direct = options.direct ? O_DIRECT : 0;
  std::vector<Copy> copies;
  for (const auto& [path, bytes] : options.sources) {
    const std::string target = options.out + "/" + std::to_string(copies.size());
    copies.push_back(Copy{File(path, O_RDONLY | direct),
                          File(target, O_WRONLY | O_CREAT | O_TRUNC | direct), 0, bytes});
    struct stat status {};
    if (::fstat(copies.back().source.fd(), &status) != 0) Fail(path);
    copies.back().read_bytes = static_cast<std::uint64_t>(status.st_size);
    const auto space = static_cast<off_t>(RoundUp(bytes));
    if (space > 0 && ::fallocate(copies.back().target.fd(), 0, 0, space) != 0 &&
        errno != EOPNOTSUPP) {
      Fail(target);
    }
  }
  return copies;
}

std::vector<Piece> Split(const std::vector<Copy>& copies, std::uint64_t request_bytes) {
  std::vector<Piece> pieces;
  for (const Copy& copy : copies) {
    const std::uint64_t count =
        std::max<std::uint64_t>(1, (copy.read_bytes + request_bytes - 1) / request_bytes);
    const double bytes_per_piece =
        static_cast<double>(copy.write_bytes) / static_cast<double>(count);
    std::uint64_t written = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t end =
          i + 1 == count
              ? RoundUp(copy.write_bytes)
              : RoundUp(static_cast<std::uint64_t>(bytes_per_piece * static_cast<double>(i + 1)));
      pieces.push_back(Piece{&copy, i * request_bytes,
                             std::min((i + 1) * request_bytes, copy.read_bytes), written, end});
      written = end;
    }
  }
  return pieces;
}

void ReadPiece(const Piece& piece, std::byte* buffer) {
  // A direct read may ask for more than the file has left, so that its length is aligned.
  const std::uint64_t wanted = piece.read_end - piece.read_begin;
  for (std::uint64_t done = 0; done < wanted;) {
    const ssize_t got = ::pread(piece.copy->source.fd(), buffer + done, RoundUp(wanted - done),
                                static_cast<off_t>(piece.read_begin + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) Fail(piece.copy->source.path());
    done += static_cast<std::uint64_t>(got);
  }
}

// Writes the buffer as often as it takes to fill the piece, in one request.
void WritePiece(const Piece& piece, std::byte* buffer, std::uint64_t buffer_bytes) {
  for (std::uint64_t at = piece.write_begin; at < piece.write_end;) {
    std::vector<iovec> parts;
    for (std::uint64_t left = piece.write_end - at; left > 0;) {
      const std::uint64_t length = std::min(left, buffer_bytes);
      parts.push_back(iovec{buffer, static_cast<std::size_t>(length)});
      left -= length;
    }
    const ssize_t put = ::pwritev(piece.copy->target.fd(), parts.data(),
                                  static_cast<int>(parts.size()), static_cast<off_t>(at));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) Fail(piece.copy->target.path());
    at += static_cast<std::uint64_t>(put);
  }
}

void CopyAll(const Options& options, const std::vector<Piece>& pieces) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    try {
      const std::unique_ptr<std::byte, decltype(&std::free)> buffer(
          static_cast<std::byte*>(std::aligned_alloc(kAlignment, options.request_bytes)),
          &std::free);
      if (!buffer) throw std::bad_alloc();
      for (std::size_t i = next++; i < pieces.size(); i = next++) {
        ReadPiece(pieces[i], buffer.get());
        WritePiece(pieces[i], buffer.get(), options.request_bytes);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < options.threads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

int Run(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  {
    const std::vector<Copy> copies = OpenAll(options);
    CopyAll(options, Split(copies, options.request_bytes));
    for (const Copy& copy : copies) {
      if (::ftruncate(copy.target.fd(), static_cast<off_t>(copy.write_bytes)) != 0 ||
          ::fsync(copy.target.fd()) != 0) {
        Fail(copy.target.path());
      }
      bytes_read += copy.read_bytes;
      bytes_written += copy.write_bytes;
    }
    const File directory(options.out, O_RDONLY | O_DIRECTORY);
    if (::fsync(directory.fd()) != 0) Fail(options.out);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf(
      "{\"seconds\": %.6f, \"bytes_read\": %llu, \"bytes_written\": %llu, \"threads\": %u, "
      "\"request_bytes\": %llu, \"direct\": %s}\n",
      seconds.count(), static_cast<unsigned long long>(bytes_read),
      static_cast<unsigned long long>(bytes_written), options.threads,
      static_cast<unsigned long long>(options.request_bytes), options.direct ? "true" : "false");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dsv3-floor-copy: %s\n", error.what());
    return 1;
  }
}
