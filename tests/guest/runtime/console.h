// Report lines and commands over the first serial port: a line is "name=value name=value ...".
#ifndef FERRITE_TESTS_GUEST_RUNTIME_CONSOLE_H_
#define FERRITE_TESTS_GUEST_RUNTIME_CONSOLE_H_

#include <cstdint>

namespace guest {

// One line. Always starts with event=NAME; Send() adds the vCPU and the time stamp. Lines of several vCPUs do not mix.
class Line {
 public:
  explicit Line(const char* event) { Add("event", event); }
  Line& Add(const char* name, const char* value);
  Line& Add(const char* name, uint64_t value);
  Line& AddHex(const char* name, uint64_t value);
  void Send();

 private:
  void Append(char c) {
    if (length_ < sizeof(text_) - 1) {
      text_[length_++] = c;
    }
  }
  void Append(const char* text);
  void AppendName(const char* name);

  char text_[480];
  uint32_t length_ = 0;
};

// Ends the line that a guest before this one (a reset) may have left unfinished.
void StartConsole();

// The next byte that was sent to the guest, or -1. An exit to the monitor each time.
int ReadCommand();

// Says why, and stops the machine.
[[noreturn]] void Fail(const char* reason, uint64_t value = 0);

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_CONSOLE_H_
