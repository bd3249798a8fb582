// What all vCPUs share. (The standard's <atomic> does not compile without floating point.)
#ifndef FERRITE_TESTS_GUEST_RUNTIME_ATOMIC_H_
#define FERRITE_TESTS_GUEST_RUNTIME_ATOMIC_H_

namespace guest {

// Loads acquire, stores release, changes do both.
template <typename T>
class Atomic {
 public:
  constexpr Atomic() = default;
  T Load() const { return __atomic_load_n(&value_, __ATOMIC_ACQUIRE); }
  void Store(T value) { __atomic_store_n(&value_, value, __ATOMIC_RELEASE); }
  // Both return the value before.
  T Exchange(T value) { return __atomic_exchange_n(&value_, value, __ATOMIC_ACQ_REL); }
  T Add(T value) { return __atomic_fetch_add(&value_, value, __ATOMIC_ACQ_REL); }

 private:
  T value_{};
};

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_ATOMIC_H_
