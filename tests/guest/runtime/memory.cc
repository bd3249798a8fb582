// The functions that a compiler calls by itself.
#include <cstddef>
#include <cstdint>

extern "C" {

void* memcpy(void* to, const void* from, size_t bytes) {
  void* result = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
  return result;
}

void* memmove(void* to, const void* from, size_t bytes) {
  auto* d = static_cast<volatile uint8_t*>(to);
  const auto* s = static_cast<const volatile uint8_t*>(from);
  if (d <= s) {
    for (size_t i = 0; i < bytes; ++i) {
      d[i] = s[i];
    }
  } else {
    while (bytes-- > 0) {
      d[bytes] = s[bytes];
    }
  }
  return to;
}

void* memset(void* to, int value, size_t bytes) {
  void* result = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
  return result;
}

int memcmp(const void* left, const void* right, size_t bytes) {
  const auto* a = static_cast<const volatile uint8_t*>(left);
  const auto* b = static_cast<const volatile uint8_t*>(right);
  for (size_t i = 0; i < bytes; ++i) {
    if (a[i] != b[i]) {
      return a[i] - b[i];
    }
  }
  return 0;
}

}  // extern "C"
