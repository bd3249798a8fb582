// Runs a fuzz target as a plain test (tools/fuzz.bzl): all files of the corpus, then inputs that are the same in every
// run. An input that kills the process is printed first.
//
// usage: TARGET [gtest's flags] [--max_bytes=N] [corpus files or directories...]

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Null when no sanitizer is linked in.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Input = std::vector<uint8_t>;

constexpr int kRandomInputs = 3000;
constexpr char kMaxBytesFlag[] = "--max_bytes=";

size_t max_bytes = 4096;
std::vector<Input> corpus;

// What is running, for the signal handler.
const Input* current = nullptr;

void PrintInput() {
  static constexpr char kDigits[] = "0123456789abcdef";
  static constexpr char kIntro[] = "the input that did it, as hexadecimal: ";
  (void)!write(STDERR_FILENO, kIntro, sizeof(kIntro) - 1);
  for (size_t i = 0; current != nullptr && i < current->size(); ++i) {
    const char byte[2] = {kDigits[(*current)[i] >> 4], kDigits[(*current)[i] & 15]};
    (void)!write(STDERR_FILENO, byte, sizeof(byte));
  }
  (void)!write(STDERR_FILENO, "\n", 1);
}

void OnFatalSignal(int signal_number) {
  PrintInput();
  // The handler was for one time only: the signal now does what it always does.
  raise(signal_number);
}

void PrintInputOnDeath() {
  std::vector<int> signals = {SIGABRT};
  if (__sanitizer_set_death_callback != nullptr) {
    // The sanitizer handles the others, and its report is worth more.
    __sanitizer_set_death_callback(PrintInput);
  } else {
    signals.insert(signals.end(), {SIGSEGV, SIGBUS, SIGFPE, SIGILL});
  }
  struct sigaction action = {};
  action.sa_handler = OnFatalSignal;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
  for (const int signal_number : signals) {
    sigaction(signal_number, &action, nullptr);
  }
}

void RunOne(const Input& input) {
  current = &input;
  // A copy that ends where the heap block ends, so that the address sanitizer sees a read past the end.
  const Input exact(input.begin(), input.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  current = nullptr;
}

void AddToCorpus(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    std::vector<std::filesystem::path> entries;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      entries.push_back(entry.path());
    }
    std::sort(entries.begin(), entries.end());
    for (const auto& entry : entries) {
      AddToCorpus(entry);
    }
    return;
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "fuzz driver: cannot read %s\n", path.c_str());
    std::exit(2);
  }
  corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// Mostly short inputs, since most mistakes show with few bytes; now and then up to the longest.
Input RandomInput(std::mt19937_64& random) {
  const size_t limit = random() % 8 == 0 ? max_bytes : std::min<size_t>(max_bytes, 128);
  Input input(random() % (limit + 1));
  for (uint8_t& byte : input) {
    // Small values and all ones are what counts, types and lengths look like.
    const uint64_t kind = random() % 4;
    byte = static_cast<uint8_t>(kind == 0 ? random() % 4 : kind == 1 ? 0xff : random());
  }
  return input;
}

Input Mutated(Input input, std::mt19937_64& random) {
  for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
    const size_t at = input.empty() ? 0 : random() % input.size();
    switch (random() % 4) {
      case 0:
        input.resize(at);
        break;
      case 1:
        input.insert(input.begin() + static_cast<ptrdiff_t>(at), static_cast<uint8_t>(random()));
        break;
      case 2:
        if (!input.empty()) {
          input[at] ^= static_cast<uint8_t>(1u << (random() % 8));
        }
        break;
      default:
        if (!input.empty()) {
          input[at] = static_cast<uint8_t>(random());
        }
        break;
    }
  }
  input.resize(std::min(input.size(), max_bytes));
  return input;
}

TEST(Fuzz, Corpus) {
  RunOne({});
  for (const Input& input : corpus) {
    RunOne(input);
  }
}

TEST(Fuzz, PseudoRandomInputs) {
  std::mt19937_64 random(20240229);  // The same inputs in each run, so that a failure comes back.
  for (int i = 0; i < kRandomInputs; ++i) {
    const bool mutate = !corpus.empty() && random() % 2 == 0;
    RunOne(mutate ? Mutated(corpus[random() % corpus.size()], random) : RandomInput(random));
  }
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], kMaxBytesFlag, std::strlen(kMaxBytesFlag)) == 0) {
      max_bytes = std::strtoull(argv[i] + std::strlen(kMaxBytesFlag), nullptr, 10);
    } else {
      AddToCorpus(argv[i]);
    }
  }
  PrintInputOnDeath();
  return RUN_ALL_TESTS();
}
