// SPDX-License-Identifier: MIT
#pragma once

// Several processes of one program, for an example: memory that they share, and all of them end
// together. For Linux.

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

// A T that the processes forked after it was made have in common. Its end is that of the memory; no
// destructor is run.
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

// Where threads of several processes wait until as many as it is for have come. In shared memory.
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
  pthread_barrier_t barrier_;  // never destroyed: a process may have been killed inside
};

// Runs `work`. If that throws, ends the process at once: others may be waiting for what it does not
// do any more.
template <class Work>
void OrExit(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    std::cerr << "process " + std::to_string(::getpid()) + ": " + error.what() + "\n";
    ::_exit(1);
  }
}

// From here on until its end, SIGINT, SIGTERM and SIGHUP do not end the program at once, but what
// Run runs. To be made before whatever must be tidied up then, and before there are threads.
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

  // Runs `work(number)` in `count` processes, and returns what the program should exit with: 0 when
  // all have come to the end, 1 if one has not, 128 and the signal if the program was told to end.
  // None of them is left then.
  template <class Work>
  int Run(std::size_t count, const Work& work) {
    std::cout.flush();  // or each process would print what is in there
    const pid_t parent = ::getpid();
    std::vector<pid_t> running;
    for (std::size_t number = 0; number < count; ++number) {
      const pid_t child = ::fork();
      if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() == parent) OrExit([&] { work(number); });
        ::_exit(0);  // what there is to destroy is the parent's
      }
      if (child < 0) {
        std::cerr << "fork: " << std::generic_category().message(errno) << "\n";
        End(running);
        return 1;
      }
      running.push_back(child);
    }
    int exit_code = 0;
    while (!running.empty() && exit_code == 0) {
      int signal = 0;
      ::sigwait(&awaited_, &signal);
      exit_code = signal == SIGCHLD ? Reap(running) : 128 + signal;
    }
    End(running);
    return exit_code;
  }

 private:
  // Forgets those that have ended; 1 if one of them has failed.
  static int Reap(std::vector<pid_t>& running) {
    int failed = 0;
    std::erase_if(running, [&failed](pid_t child) {
      int status = 0;
      if (::waitpid(child, &status, WNOHANG) == 0) return false;
      if (WIFSIGNALED(status)) {
        std::cerr << "process " << child << ": killed by signal " << WTERMSIG(status) << "\n";
      }
      if (status != 0) failed = 1;
      return true;
    });
    return failed;
  }

  static void End(const std::vector<pid_t>& running) {
    for (const pid_t child : running) ::kill(child, SIGKILL);
    for (const pid_t child : running) ::waitpid(child, nullptr, 0);
  }

  sigset_t awaited_;
  sigset_t before_;
};
