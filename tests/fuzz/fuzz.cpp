// SPDX-License-Identifier: MIT

// Bytes become a program for a small world (world.hpp), in which the group must do what its model
// (model.hpp) says. Compile this with clang++ -fsanitize=fuzzer,address,undefined to use libFuzzer.
// With -DFUZZ_REPLAY it becomes a program that runs each file in the given folders.

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "support/evidence.hpp"
#include "world.hpp"

namespace {

fuzz::World* running = nullptr;  // null: no world is running

struct Running {
  explicit Running(fuzz::World& world) { running = &world; }
  ~Running() { running = nullptr; }
};

constexpr std::int64_t kSecond = 1'000'000'000;

}  // namespace

// std::chrono::steady_clock::now() calls this. Its time moves only by the program's steps.
extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  if (running == nullptr || clock != CLOCK_MONOTONIC) {
    return static_cast<int>(syscall(SYS_clock_gettime, clock, now));
  }
  now->tv_sec = *running->Clock() / kSecond;
  now->tv_nsec = *running->Clock() % kSecond;
  return 0;
}

// There is no other thread. What the others would do meanwhile is done here.
extern "C" int pthread_cond_clockwait(pthread_cond_t*, pthread_mutex_t* mutex, clockid_t,
                                      const timespec* until) {
  fuzz::Must(running != nullptr, "something waits outside the world");
  pthread_mutex_unlock(mutex);
  const bool woken = running->Wait(until->tv_sec * kSecond + until->tv_nsec);
  pthread_mutex_lock(mutex);
  return woken ? 0 : ETIMEDOUT;
}

static int RunProgram(const std::uint8_t* data, std::size_t size) {
  fuzz::World world(data, size);
  const Running scope(world);
  world.Run();
  return world.Steps();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  RunProgram(data, size);
  return 0;
}

#ifdef FUZZ_REPLAY
// usage: replay FOLDER... (FUZZ_VERBOSE=1 prints each file's name before it is run)
int main(int count, char** arguments) {
  const bool verbose = std::getenv("FUZZ_VERBOSE") != nullptr;
  std::size_t files = 0;
  int steps = 0;
  for (int i = 1; i < count; ++i) {
    for (const auto& file : std::filesystem::directory_iterator(arguments[i])) {
      std::ifstream in(file.path(), std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
      if (verbose) std::cerr << file.path().string() << std::endl;
      alarm(60);  // kills a program that hangs
      steps += RunProgram(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
      ++files;
    }
  }
  test::Evidence("fuzz.corpus", files);
  test::Evidence("fuzz.corpus_steps", steps);
  return files > 0 ? 0 : 1;
}
#endif
