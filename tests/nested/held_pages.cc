// Pages of a process of the Linux guest, for tests that break them:
//
//   held_pages COUNT    takes blocks of 2 MiB, each contiguous and on such a boundary in the guest's physical memory,
//   and
//                       says so; then obeys the lines that it reads, with a line for each:
//
//   where BLOCK         the guest-physical address of a page in its middle: the page that is broken
//   read BLOCK          reads that page: its text, or the signal that came of it
//   store BLOCK         the same, writing
//   write BLOCK         write(2) of that page to a file
//   both BLOCK          `read` by two threads at once, on processors of their own
//   others BLOCK        whether all other pages of the block are right
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kBlock = size_t{2} << 20;
constexpr size_t kMiddle = 37 * kPage;
constexpr int kMaxBlocks = 32;
constexpr size_t kLine = 200;
constexpr size_t kAnswer = 3 * kLine;

char* blocks[kMaxBlocks];
int count = 0;

thread_local sigjmp_buf* jump;
thread_local siginfo_t received;

void OnBusError(int, siginfo_t* info, void*) {
  received = *info;
  if (jump == nullptr) {
    _exit(1);
  }
  siglongjmp(*jump, 1);
}

// What each page begins with.
void Text(int block, size_t offset, char* out) { snprintf(out, kLine, "held %02d at %06zx", block, offset); }

void Fill(int block) {
  for (size_t offset = 0; offset < kBlock; offset += kPage) {
    Text(block, offset, blocks[block] + offset);
    memset(blocks[block] + offset + 32, static_cast<int>(block + offset / kPage), kPage - 32);
  }
}

bool IsRight(int block, size_t offset) {
  const char* const page = blocks[block] + offset;
  char text[kLine];
  Text(block, offset, text);
  bool right = strcmp(page, text) == 0;
  for (size_t at = 32; at < kPage && right; ++at) {
    right = page[at] == static_cast<char>(block + offset / kPage);
  }
  return right;
}

// 0 when it cannot be told.
uint64_t GuestPhysical(const char* at) {
  const int pagemap = open("/proc/self/pagemap", O_RDONLY);
  uint64_t entry = 0;
  const auto place = static_cast<off_t>(reinterpret_cast<uintptr_t>(at) / kPage * sizeof(entry));
  const bool known = pread(pagemap, &entry, sizeof(entry), place) == sizeof(entry) && (entry >> 63) != 0;
  close(pagemap);
  return known ? (entry & ((uint64_t{1} << 55) - 1)) * kPage : 0;
}

bool IsContiguous(int block) {
  const uint64_t first = GuestPhysical(blocks[block]);
  bool contiguous = first != 0 && first % kBlock == 0;
  for (size_t offset = 0; offset < kBlock && contiguous; offset += kPage) {
    contiguous = GuestPhysical(blocks[block] + offset) == first + offset;
  }
  return contiguous;
}

// Touches the page, and says what came of it.
void Touch(int block, bool store, char* out) {
  char* const page = blocks[block] + kMiddle;
  sigjmp_buf here;
  jump = &here;
  if (sigsetjmp(here, 1) == 0) {
    if (store) {
      *const_cast<volatile char*>(page + 0x123) = 1;
      snprintf(out, kLine, "stored");
    } else {
      char text[kLine];
      for (size_t i = 0; i < 32; ++i) {
        text[i] = const_cast<volatile char*>(page)[i];
      }
      text[32] = '\0';
      snprintf(out, kLine, "%s", text);
    }
  } else {
    const size_t at = static_cast<char*>(received.si_addr) - blocks[0];
    snprintf(out, kLine, "SIGBUS code=%d at=%zu:%06zx lsb=%d", received.si_code, at / kBlock,
             at % kBlock / kPage * kPage, received.si_addr_lsb);
  }
  jump = nullptr;
}

void WriteOut(int block, char* out) {
  const int file = open("/tmp/written", O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const ssize_t written = write(file, blocks[block] + kMiddle, kPage);
  snprintf(out, kLine, "write %zd %s", written, written < 0 ? strerror(errno) : "");
  close(file);
}

struct Toucher {
  int cpu;
  int block;
  std::atomic<int>* ready;
  char said[kLine];
};

void* TouchOnCpu(void* argument) {
  Toucher& toucher = *static_cast<Toucher*>(argument);
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(toucher.cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) {
    snprintf(toucher.said, kLine, "no CPU %d: %s", toucher.cpu, strerror(errno));
    return nullptr;
  }
  ++*toucher.ready;
  while (*toucher.ready < 2) {
    sched_yield();
  }
  Touch(toucher.block, false, toucher.said);
  return nullptr;
}

void TouchOnBoth(int block, char* out) {
  std::atomic<int> ready = 0;
  Toucher touchers[2] = {{0, block, &ready, {}}, {1, block, &ready, {}}};
  pthread_t threads[2];
  for (int i = 0; i < 2; ++i) {
    if (pthread_create(&threads[i], nullptr, TouchOnCpu, &touchers[i]) != 0) {
      abort();
    }
  }
  for (pthread_t thread : threads) {
    pthread_join(thread, nullptr);
  }
  snprintf(out, kAnswer, "%s; %s", touchers[0].said, touchers[1].said);
}

void Others(int block, char* out) {
  for (size_t offset = 0; offset < kBlock; offset += kPage) {
    if (offset != kMiddle && !IsRight(block, offset)) {
      snprintf(out, kLine, "wrong at %06zx", offset);
      return;
    }
  }
  snprintf(out, kLine, "right");
}

void Obey(const char* line, char* out) {
  char command[16];
  int block = 0;
  if (sscanf(line, "%15s %d", command, &block) != 2 || block < 0 || block >= count) {
    snprintf(out, kAnswer, "what is this: %s", line);
  } else if (strcmp(command, "where") == 0) {
    snprintf(out, kLine, "%llx", static_cast<unsigned long long>(GuestPhysical(blocks[block] + kMiddle)));
  } else if (strcmp(command, "read") == 0 || strcmp(command, "store") == 0) {
    Touch(block, command[0] == 's', out);
  } else if (strcmp(command, "write") == 0) {
    WriteOut(block, out);
  } else if (strcmp(command, "both") == 0) {
    TouchOnBoth(block, out);
  } else if (strcmp(command, "others") == 0) {
    Others(block, out);
  } else {
    snprintf(out, kAnswer, "what is this: %s", line);
  }
}

}  // namespace

int main(int argc, char** argv) {
  count = argc > 1 ? atoi(argv[1]) : 0;
  if (count < 1 || count > kMaxBlocks) {
    fprintf(stderr, "usage: held_pages COUNT\n");
    return 2;
  }
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  void* const mapped = mmap(nullptr, (count + 1) * kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED || madvise(mapped, (count + 1) * kBlock, MADV_HUGEPAGE) != 0) {
    perror("held_pages: memory");
    return 1;
  }
  auto first = reinterpret_cast<uintptr_t>(mapped);
  first += (kBlock - first % kBlock) % kBlock;
  for (int block = 0; block < count; ++block) {
    blocks[block] = reinterpret_cast<char*>(first + block * kBlock);
    Fill(block);
    if (mlock(blocks[block], kBlock) != 0 || !IsContiguous(block)) {
      printf("block %d is not one of 2 MiB\n", block);
      return 1;
    }
  }
  printf("holds %d\n", count);
  fflush(stdout);
  char line[kLine];
  while (fgets(line, sizeof(line), stdin) != nullptr) {
    line[strcspn(line, "\n")] = '\0';
    char said[kAnswer] = "";
    Obey(line, said);
    printf("%s\n", said);
    fflush(stdout);
  }
  return 0;
}
