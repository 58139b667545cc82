// SPDX-License-Identifier: MIT

// Counts allocations, and starts a second thread before anything is measured. As long as a process
// has only ever had one thread, glibc locks a mutex without an atomic instruction. The floor and
// everything else would then seem faster than in any program that has a use for them.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdlib>
#include <latch>
#include <new>
#include <thread>

#include "allocations.hpp"

// The array and nothrow forms call this one. Only those for over-aligned types do not, and no such
// type is allocated where allocations are counted.
void* operator new(std::size_t size) {
  ++allocations_of_this_thread;
  allocated_bytes_of_this_thread += size;
  if (size >= kLarge) ++large_allocations;
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  std::latch measured(1);
  const std::jthread parked([&measured] { measured.wait(); });
  benchmark::Initialize(&argc, argv);
  const bool understood = !benchmark::ReportUnrecognizedArguments(argc, argv);
  if (understood) benchmark::RunSpecifiedBenchmarks();
  measured.count_down();
  return understood ? EXIT_SUCCESS : EXIT_FAILURE;
}
