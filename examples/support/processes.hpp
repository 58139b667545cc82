// SPDX-License-Identifier: MIT
#pragma once

// Several processes of one program, for redis_fleet.cpp and others: memory that they share, and a
// parent that leaves none of them behind. For Linux.

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <system_error>
#include <vector>

// A T in memory that is shared with all processes forked later. Its destructor is not run: only the
// memory is released.
template <class T>
class InSharedMemory {
 public:
  InSharedMemory()
      : memory_(
            ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    object_ = new (memory_) T();
  }
  ~InSharedMemory() { ::munmap(memory_, sizeof(T)); }
  InSharedMemory(const InSharedMemory&) = delete;
  InSharedMemory& operator=(const InSharedMemory&) = delete;

  T& operator*() const { return *object_; }
  T* operator->() const { return object_; }

 private:
  void* memory_;
  T* object_;
};

// A barrier for threads of several processes. It must be in shared memory.
class ProcessBarrier {
 public:
  explicit ProcessBarrier(unsigned count) {
    pthread_barrierattr_t in_processes;
    pthread_barrierattr_init(&in_processes);
    pthread_barrierattr_setpshared(&in_processes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&barrier_, &in_processes, count);
    pthread_barrierattr_destroy(&in_processes);
  }
  void ArriveAndWait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;  // never destroyed, since a process may have been killed inside
};

// Runs `work`. If it throws, the process exits at once, because others may be waiting for the work
// that it did not do.
template <class Work>
void OrExit(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    std::cerr << "process " + std::to_string(::getpid()) + ": " + error.what() + "\n";
    ::_exit(1);
  }
}

// Starts child processes. While this object exists, SIGINT, SIGTERM and SIGHUP do not kill the
// program: Run returns instead, so that destructors tidy up.
//
// Lifetime: construct it before the program starts threads or creates what must be tidied up.
class Processes {
 public:
  Processes() {
    ::sigemptyset(&awaited_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) ::sigaddset(&awaited_, signal);
    ::pthread_sigmask(SIG_BLOCK, &awaited_, &before_);
  }
  ~Processes() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // Runs `work(number)` in `count` processes and waits for them. `to_be_killed` of them may be
  // killed by SIGKILL, which then is no failure. When Run returns, none of them is running.
  //
  // Returns the exit code for the program. It is 0 if all of them have finished, and 1 if one has
  // failed. If the program received a signal, it is 128 plus the signal's number.
  template <class Work>
  int Run(std::size_t count, const Work& work, int to_be_killed = 0) {
    std::cout.flush();  // otherwise each child would print what is in the buffer
    const pid_t parent = ::getpid();
    std::vector<pid_t> running;
    for (std::size_t number = 0; number < count; ++number) {
      const pid_t child = ::fork();
      if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() == parent) OrExit([&] { work(number); });
        ::_exit(0);  // destructors are the parent's business
      }
      if (child < 0) {
        std::cerr << "fork: " << std::generic_category().message(errno) << "\n";
        Kill(running);
        return 1;
      }
      running.push_back(child);
    }
    int exit_code = 0;
    while (!running.empty() && exit_code == 0) {
      int signal = 0;
      ::sigwait(&awaited_, &signal);
      exit_code = signal == SIGCHLD ? Reap(running, to_be_killed) : 128 + signal;
    }
    Kill(running);
    return exit_code;
  }

 private:
  // Removes the processes that have finished from the list. Returns 1 if one of them has failed.
  static int Reap(std::vector<pid_t>& running, int& to_be_killed) {
    int failed = 0;
    std::erase_if(running, [&](pid_t child) {
      int status = 0;
      if (::waitpid(child, &status, WNOHANG) == 0) return false;
      if (WIFSIGNALED(status)) {
        if (WTERMSIG(status) == SIGKILL && to_be_killed-- > 0) return true;
        std::cerr << "process " << child << ": killed by signal " << WTERMSIG(status) << "\n";
      }
      if (status != 0) failed = 1;
      return true;
    });
    return failed;
  }

  static void Kill(const std::vector<pid_t>& running) {
    for (const pid_t child : running) ::kill(child, SIGKILL);
    for (const pid_t child : running) ::waitpid(child, nullptr, 0);
  }

  sigset_t awaited_;
  sigset_t before_;
};
