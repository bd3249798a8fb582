// Work for the Linux guest, which finds out whether its memory, its clock or its disk ever went wrong. One process
// works:
//
//   load run MIB THREADS [DIRECTORY]    until `load stop`; writes and checks MIB of memory, and files in DIRECTORY
//   load status                         one line: what has been done, and the first error
//   load stop                           returns when everything has ended; the same line
//
// Each page of the memory holds a pattern of its page and of how often it was written; a page is checked as a whole
// before it is written again. In each pass another thread has it. Every eighth is all zero. `clock_ns` is
// CLOCK_MONOTONIC. Exit status: 0, or 1 when there were errors.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace {

constexpr char kSharedFile[] = "/tmp/load";
constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);
constexpr size_t kFileWords = (size_t{256} << 10) / sizeof(uint64_t);
constexpr int kFiles = 4;
constexpr int kMaxThreads = 8;

// Between the process that works and those that ask.
struct Shared {
  std::atomic<bool> stop;
  std::atomic<bool> ended;
  std::atomic<uint64_t> passes;
  std::atomic<uint64_t> pages;
  std::atomic<uint64_t> files;
  std::atomic<uint64_t> errors;
  std::atomic<uint64_t> longest_gap_ns;  // between two looks at the clock, some milliseconds apart
  char first_error[256];
};
Shared* shared = nullptr;

uint64_t Mix(uint64_t x) {
  x *= 0x9e3779b97f4a7c15;
  return x ^ (x >> 29);
}

uint64_t Now() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

template <typename... Arguments>
void Error(const char* format, Arguments... arguments) {
  if (shared->errors.fetch_add(1) == 0) {
    snprintf(shared->first_error, sizeof(shared->first_error), format, arguments...);
  }
}

// The clock, which no CPU may see behind what another has seen.
std::atomic<uint64_t> latest_clock;

uint64_t CheckedClock() {
  const uint64_t before = latest_clock.load();
  const uint64_t now = Now();
  if (now < before) {
    Error("the clock went back from %llu to %llu ns", static_cast<unsigned long long>(before),
          static_cast<unsigned long long>(now));
  }
  uint64_t latest = before;
  while (latest < now && !latest_clock.compare_exchange_weak(latest, now)) {
  }
  return now;
}

void* WatchClock(void*) {
  uint64_t last = CheckedClock();
  while (!shared->stop) {
    usleep(2000);
    const uint64_t now = CheckedClock();
    shared->longest_gap_ns = std::max(shared->longest_gap_ns.load(), now - last);
    last = now;
  }
  return nullptr;
}

// A part of the memory, and how often each page of it was written.
struct Region {
  uint64_t* words;
  uint32_t* generations;
};

struct Memory {
  size_t pages;  // of each region, a power of two
  int threads;
  Region regions[kMaxThreads];
  pthread_barrier_t barrier;
  bool go_on;  // written by one thread between two barriers
};

uint64_t PatternWord(int region, size_t page, uint32_t generation, size_t word) {
  if ((page + generation) % 8 == 0) {
    return 0;
  }
  return Mix((static_cast<uint64_t>(generation) << 32) + (page << 12) + (static_cast<uint64_t>(region) << 9) + word +
             1);
}

void CheckPage(const Memory& memory, int region, size_t page) {
  const uint64_t* words = memory.regions[region].words + page * kWords;
  const uint32_t generation = memory.regions[region].generations[page];
  for (size_t word = 0; word < kWords; ++word) {
    const uint64_t expected = PatternWord(region, page, generation, word);
    if (words[word] != expected) {
      Error("region %d page %zu generation %u word %zu is %llx, not %llx", region, page, generation, word,
            static_cast<unsigned long long>(words[word]), static_cast<unsigned long long>(expected));
      return;
    }
  }
}

void WritePage(Memory& memory, int region, size_t page) {
  uint64_t* words = memory.regions[region].words + page * kWords;
  const uint32_t generation = ++memory.regions[region].generations[page];
  for (size_t word = 0; word < kWords; ++word) {
    words[word] = PatternWord(region, page, generation, word);
  }
}

struct Worker {
  Memory* memory;
  int number;
};

// In turns from page to page in order, and criss-cross.
void* WorkOnMemory(void* argument) {
  const Worker& worker = *static_cast<Worker*>(argument);
  Memory& memory = *worker.memory;
  for (uint64_t pass = 0;; ++pass) {
    const int region = static_cast<int>((worker.number + pass) % memory.threads);
    const size_t stride = pass % 2 == 0 ? 1 : 12347;
    for (size_t i = 0; i < memory.pages && !shared->stop; ++i) {
      const size_t page = i * stride % memory.pages;
      CheckPage(memory, region, page);
      WritePage(memory, region, page);
      CheckedClock();
      ++shared->pages;
    }
    if (pthread_barrier_wait(&memory.barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
      memory.go_on = !shared->stop;
      ++shared->passes;
    }
    pthread_barrier_wait(&memory.barrier);
    if (!memory.go_on) {
      break;
    }
  }
  // What was written last.
  for (size_t page = 0; page < memory.pages; ++page) {
    CheckPage(memory, worker.number, page);
  }
  return nullptr;
}

uint64_t FileWord(uint64_t generation, size_t word) { return Mix((generation << 32) + word); }

// False, with an error, when a system call fails.
bool WriteFile(const char* path, uint64_t generation, uint64_t* buffer) {
  for (size_t word = 0; word < kFileWords; ++word) {
    buffer[word] = FileWord(generation, word);
  }
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const bool written = fd >= 0 && write(fd, buffer, kFileWords * sizeof(uint64_t)) == kFileWords * sizeof(uint64_t) &&
                       fsync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
  if (!written) {
    Error("write %s: %s", path, strerror(errno));
  }
  if (fd >= 0) {
    close(fd);
  }
  return written;
}

// What the disk holds, not the page cache: it was dropped once it had been written.
bool CheckFile(const char* path, uint64_t generation, uint64_t* buffer) {
  const int fd = open(path, O_RDONLY);
  const bool read_whole = fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0 &&
                          read(fd, buffer, kFileWords * sizeof(uint64_t)) == kFileWords * sizeof(uint64_t);
  if (!read_whole) {
    Error("read %s: %s", path, strerror(errno));
  }
  if (fd >= 0) {
    close(fd);
  }
  for (size_t word = 0; read_whole && word < kFileWords; ++word) {
    if (buffer[word] != FileWord(generation, word)) {
      Error("%s of generation %llu differs at word %zu", path, static_cast<unsigned long long>(generation), word);
      return false;
    }
  }
  return read_whole;
}

void* WorkOnDisk(void* argument) {
  const char* directory = static_cast<const char*>(argument);
  auto* buffer = static_cast<uint64_t*>(malloc(kFileWords * sizeof(uint64_t)));
  for (uint64_t generation = 0; !shared->stop; ++generation) {
    char path[128];
    snprintf(path, sizeof(path), "%s/load%llu", directory, static_cast<unsigned long long>(generation % kFiles));
    if (generation >= kFiles && !CheckFile(path, generation - kFiles, buffer)) {
      break;
    }
    if (!WriteFile(path, generation, buffer) || !CheckFile(path, generation, buffer)) {
      break;
    }
    ++shared->files;
  }
  free(buffer);
  return nullptr;
}

bool MapShared(bool create) {
  const int fd = open(kSharedFile, O_RDWR | (create ? O_CREAT | O_TRUNC : 0), 0644);
  if (fd < 0 || (create && ftruncate(fd, sizeof(Shared)) != 0)) {
    perror(kSharedFile);
    return false;
  }
  void* mapped = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  shared = static_cast<Shared*>(mapped);
  return mapped != MAP_FAILED;
}

int Report() {
  printf("passes=%llu pages=%llu files=%llu errors=%llu longest_gap_ms=%llu clock_ns=%llu%s%s\n",
         static_cast<unsigned long long>(shared->passes), static_cast<unsigned long long>(shared->pages),
         static_cast<unsigned long long>(shared->files), static_cast<unsigned long long>(shared->errors),
         static_cast<unsigned long long>(shared->longest_gap_ns / 1'000'000), static_cast<unsigned long long>(Now()),
         shared->errors == 0 ? "" : " first: ", shared->first_error);
  return shared->errors == 0 ? 0 : 1;
}

int Work(size_t bytes, int threads, const char* directory) {
  static Memory memory;
  memory.threads = threads;
  memory.pages = bytes / kPage / threads;
  pthread_barrier_init(&memory.barrier, nullptr, threads);
  for (int i = 0; i < threads; ++i) {
    Region& region = memory.regions[i];
    void* mapped = mmap(nullptr, memory.pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    region.words = static_cast<uint64_t*>(mapped);
    region.generations = static_cast<uint32_t*>(calloc(memory.pages, sizeof(uint32_t)));
    if (mapped == MAP_FAILED || region.generations == nullptr) {
      perror("load: memory");
      return 1;
    }
    for (size_t page = 0; page < memory.pages; ++page) {
      WritePage(memory, i, page);
    }
  }
  pthread_t running[kMaxThreads + 2];
  static Worker workers[kMaxThreads];
  int count = 0;
  int error = pthread_create(&running[count++], nullptr, WatchClock, nullptr);
  for (int i = 0; i < threads && error == 0; ++i) {
    workers[i] = {&memory, i};
    error = pthread_create(&running[count++], nullptr, WorkOnMemory, &workers[i]);
  }
  if (directory != nullptr && error == 0) {
    error = pthread_create(&running[count++], nullptr, WorkOnDisk, const_cast<char*>(directory));
  }
  if (error != 0) {
    fprintf(stderr, "load: threads: %s\n", strerror(error));
    return 1;
  }
  printf("load: works on %zu pages\n", memory.pages * threads);
  fflush(stdout);
  for (int i = 0; i < count; ++i) {
    pthread_join(running[i], nullptr);
  }
  shared->ended = true;
  return shared->errors == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const char* command = argc < 2 ? "" : argv[1];
  if (strcmp(command, "status") == 0 || strcmp(command, "stop") == 0) {
    if (!MapShared(false)) {
      return 1;
    }
    if (strcmp(command, "stop") == 0) {
      shared->stop = true;
      while (!shared->ended) {
        usleep(10'000);
      }
    }
    return Report();
  }
  const size_t mib = argc < 4 ? 0 : strtoul(argv[2], nullptr, 10);
  const int threads = argc < 4 ? 0 : atoi(argv[3]);
  const bool sizes_ok = mib > 0 && (mib & (mib - 1)) == 0 && (threads == 1 || threads == 2 || threads == 4);
  if (strcmp(command, "run") != 0 || !sizes_ok) {
    fprintf(stderr, "usage: load run MIB THREADS [DIRECTORY] | status | stop; MIB a power of two, THREADS 1, 2 or 4\n");
    return 2;
  }
  return MapShared(true) ? Work(mib << 20, threads, argc > 4 ? argv[4] : nullptr) : 1;
}
