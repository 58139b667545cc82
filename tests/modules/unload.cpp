// SPDX-License-Identifier: MIT

// usage: modules MODULE
//
// Loads and unloads MODULE many times. Each time a group of the module has started threads and was
// destroyed. If one of them still ran the module's code, this program would crash.

#include <dlfcn.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

namespace {

constexpr int kTimes = 300;

[[noreturn]] void Fail(const std::string& what) {
  std::cerr << what << '\n';
  std::exit(1);
}

// Loads the module, uses it, and unloads it. Returns what UseGroup does.
bool UseOnce(const char* path, int way) {
  void* const module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) Fail(dlerror());
  auto* const use = reinterpret_cast<bool (*)(int)>(dlsym(module, "UseGroup"));
  if (use == nullptr) Fail(dlerror());
  const bool used = use(way);
  dlclose(module);
  if (dlopen(path, RTLD_NOW | RTLD_NOLOAD) != nullptr) Fail("the module is still loaded");
  // A thread that is left over crashes now. Once the module is loaded again, it might not. On a
  // busy machine, a yield may take milliseconds.
  for (int i = 0; i < 20; ++i) std::this_thread::yield();
  return used;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) Fail("usage: modules MODULE");
  int way = 0;
  while (UseOnce(argv[1], way)) {
    for (int i = 1; i < kTimes; ++i) UseOnce(argv[1], way);
    ++way;
  }
  if (way == 0) Fail("the module was not used");
  std::cout << "the module was unloaded " << kTimes << " times after each of " << way << " uses\n";
}
