// Work for the Linux guest on a file system that is copied meanwhile: a journal of numbered blocks in one file
// (tests/guest/journal_blocks.h), past the page cache, and numbered files beside it. What it says to be there was
// synced before. One process works:
//
//   numbered run DIRECTORY    until `numbered stop`; what is there already is checked first, and gone on with
//   numbered status           one line: the last numbers that were synced, and the first error
//   numbered stop             returns when it has ended; the same line
//
// Exit status: 0, or 1 when there were errors.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "tests/guest/journal_blocks.h"

namespace {

constexpr char kSharedFile[] = "/tmp/numbered";
constexpr uint64_t kSlots = 1024;
constexpr uint64_t kBlock = guest::kJournalBlockBytes;
constexpr uint64_t kBatchesOfAFile = 4;
constexpr uint64_t kFiles = 8;  // that are there at a time

// Between the process that works and those that ask.
struct Shared {
  std::atomic<bool> stop;
  std::atomic<bool> ended;
  std::atomic<uint64_t> flushed;
  std::atomic<uint64_t> file;
  std::atomic<uint64_t> errors;
  char first_error[256];
};
Shared* shared = nullptr;
uint64_t* block = nullptr;  // where reads and writes past the cache may go

template <typename... Arguments>
void Error(const char* format, Arguments... arguments) {
  if (shared->errors.fetch_add(1) == 0) {
    snprintf(shared->first_error, sizeof(shared->first_error), format, arguments...);
  }
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
  printf("flushed=%llu file=%llu errors=%llu%s%s\n", static_cast<unsigned long long>(shared->flushed),
         static_cast<unsigned long long>(shared->file), static_cast<unsigned long long>(shared->errors),
         shared->errors == 0 ? "" : " first: ", shared->first_error);
  return shared->errors == 0 ? 0 : 1;
}

// Reads one slot from the disk.
bool ReadSlot(int journal, uint64_t slot) {
  if (pread(journal, block, kBlock, static_cast<off_t>(slot * kBlock)) != static_cast<ssize_t>(kBlock)) {
    Error("read slot %llu: %s", static_cast<unsigned long long>(slot), strerror(errno));
    return false;
  }
  return true;
}

// The journal, all of it allocated and on the disk; -1 on an error.
int OpenJournal() {
  int journal = open("journal", O_RDWR | O_DIRECT);
  if (journal < 0 && errno == ENOENT) {
    journal = open("journal", O_RDWR | O_DIRECT | O_CREAT, 0644);
    memset(block, 0, kBlock);
    for (uint64_t slot = 0; journal >= 0 && slot < kSlots; ++slot) {
      if (pwrite(journal, block, kBlock, static_cast<off_t>(slot * kBlock)) != static_cast<ssize_t>(kBlock)) {
        Error("write: %s", strerror(errno));
        return -1;
      }
    }
    if (journal >= 0 && fsync(journal) == 0) {
      sync();
      return journal;
    }
  }
  if (journal < 0) {
    Error("open journal: %s", strerror(errno));
  }
  return journal;
}

// What is there, if it is the disk of one instant.
bool CheckJournal(int journal) {
  static uint64_t numbers[kSlots];
  guest::JournalAudit audit = {.numbers = numbers, .slots = kSlots};
  for (uint64_t slot = 0; slot < kSlots; ++slot) {
    if (!ReadSlot(journal, slot)) {
      return false;
    }
    audit.See(slot, block);
  }
  if (!audit.IsOfOneInstant()) {
    Error("journal: last %llu, flushed %llu, %llu missing, %llu broken", static_cast<unsigned long long>(audit.last),
          static_cast<unsigned long long>(audit.flushed),
          static_cast<unsigned long long>(audit.MissingUpTo(audit.flushed)),
          static_cast<unsigned long long>(audit.broken));
  }
  shared->flushed = audit.flushed;
  return shared->errors == 0;
}

// The file `number`, through the page cache as files are, and its name; the oldest goes.
bool WriteFile(uint64_t number) {
  char name[32];
  snprintf(name, sizeof(name), "file%llu", static_cast<unsigned long long>(number));
  const int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (uint64_t i = 0; fd >= 0 && i <= number % 4; ++i) {
    guest::FillJournalBlock(block, number, i);
    if (write(fd, block, kBlock) != static_cast<ssize_t>(kBlock)) {
      break;
    }
  }
  const int directory = open(".", O_RDONLY | O_DIRECTORY);
  const bool ok = fd >= 0 && fsync(fd) == 0 && fsync(directory) == 0;
  if (!ok) {
    Error("%s: %s", name, strerror(errno));
  }
  close(fd);
  close(directory);
  if (ok) {
    shared->file = number;
  }
  if (ok && number > kFiles) {
    snprintf(name, sizeof(name), "file%llu", static_cast<unsigned long long>(number - kFiles));
    unlink(name);
  }
  return ok;
}

int Work() {
  const int journal = OpenJournal();
  if (journal < 0 || !CheckJournal(journal)) {
    return Report();
  }
  printf("numbered: works\n");
  fflush(stdout);
  for (uint64_t batches = 0; !shared->stop && shared->errors == 0; ++batches) {
    const uint64_t flushed = shared->flushed;
    for (uint64_t number = flushed + 1; number <= flushed + guest::kJournalBatch; ++number) {
      guest::FillJournalBlock(block, number, flushed);
      const off_t at = static_cast<off_t>(guest::JournalSlot(number, kSlots) * kBlock);
      if (pwrite(journal, block, kBlock, at) != static_cast<ssize_t>(kBlock)) {
        Error("write %llu: %s", static_cast<unsigned long long>(number), strerror(errno));
      }
    }
    if (fdatasync(journal) != 0) {
      Error("fdatasync: %s", strerror(errno));
    }
    shared->flushed = flushed + guest::kJournalBatch;
    // One of before: what was written is read.
    if (const uint64_t old = flushed - flushed / 2; old != 0 && ReadSlot(journal, guest::JournalSlot(old, kSlots))) {
      if (block[0] < old || guest::CheckPage(block, guest::JournalContent(block[0], block[1]), 2) != 512) {
        Error("%llu is in the place of %llu", static_cast<unsigned long long>(block[0]),
              static_cast<unsigned long long>(old));
      }
    }
    if (batches % kBatchesOfAFile == 0) {
      WriteFile(flushed / guest::kJournalBatch / kBatchesOfAFile + 1);
    }
  }
  close(journal);
  sync();
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
      while (!shared->ended && shared->errors == 0) {
        usleep(10'000);
      }
    }
    return Report();
  }
  if (strcmp(command, "run") != 0 || argc != 3 || chdir(argv[2]) != 0) {
    fprintf(stderr, "usage: numbered run DIRECTORY | status | stop\n");
    return 2;
  }
  block = static_cast<uint64_t*>(aligned_alloc(kBlock, kBlock));
  return block != nullptr && MapShared(true) ? Work() : 1;
}
