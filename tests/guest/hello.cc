// Says hello as soon as it runs, and powers off: for start-up times.
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/platform.h"
#include "tests/guest/runtime/smp.h"

void guest::Main() {
  Line("hello").Add("pages", FreePages()).Add("cpus", Cpus()).Send();
  while (OptionIs("then", "wait", "off") && ReadCommand() != 'q') {
    Relax();
  }
}
