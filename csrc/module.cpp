// The Python module gpt2fast._core.
#include "module.h"

#include <atomic>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "cpu.h"
#include "dispatch.h"
#include "gpt2.h"

namespace gpt2fast {
namespace {

std::atomic<int> calls{0};
thread_local int own_calls = 0;  // of them those of this thread
std::atomic<bool> ending{false};

// Runs before the interpreter is finalised, while other threads can still take the GIL: ends their
// calls and waits.
void stop_at_exit() {
  ending = true;
  stop_all();
  const py::gil_scoped_release release;
  while (calls.load() > 0) std::this_thread::yield();
}

}  // namespace

// Counts first and looks then, as stop_at_exit() does the other way round: one sees the other.
Counted::Counted() {
  ++calls;
  counted_ = !ending.load();
  if (!counted_)
    --calls;
  else
    ++own_calls;
}
Counted::~Counted() {
  if (!counted_) return;
  --own_calls;
  --calls;
}
Call::Call() {
  if (!*this) throw std::runtime_error("the interpreter is shutting down");
}

Released::Released() : state_(PyEval_SaveThread()) {}
Released::~Released() { PyEval_RestoreThread(state_); }

}  // namespace gpt2fast

using namespace gpt2fast;  // NOLINT

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The native core of gpt2fast; see csrc/README.md.";

  m.def("targets", [] {
    std::vector<std::string> names;
    for (const TargetState& t : targets()) names.push_back(t.name);
    return names;
  });
  m.def("supported", [] {
    py::dict states;
    for (const TargetState& t : targets()) states[py::str(t.name)] = t.missing;
    return states;
  });
  m.def("target", [] { return active().name; });
  m.def(
      "force_target",
      [](const std::optional<std::string>& name) { force_target(name.value_or("")); },
      py::arg("name"));
  m.def(
      "missing_for",
      [](const std::string& target, const py::dict& facts) {
        CpuFacts f;
        for (const auto& [key, value] : facts) {
          const auto name = py::cast<std::string>(key);
          const auto number = py::cast<uint64_t>(value);
          if (name == "leaf1_ecx")
            f.leaf1_ecx = static_cast<uint32_t>(number);
          else if (name == "leaf7_ebx")
            f.leaf7_ebx = static_cast<uint32_t>(number);
          else if (name == "leaf7_ecx")
            f.leaf7_ecx = static_cast<uint32_t>(number);
          else if (name == "leaf7_1_eax")
            f.leaf7_1_eax = static_cast<uint32_t>(number);
          else if (name == "xcr0")
            f.xcr0 = number;
          else if (name == "neon")
            f.neon = number != 0;
          else if (name == "dotprod")
            f.dotprod = number != 0;
          else if (name == "i8mm")
            f.i8mm = number != 0;
          else
            reject("'" + name + "' is no fact about a CPU");
        }
        return missing_for(target.c_str(), f);
      },
      py::arg("target"), py::arg("facts"));
  m.def("cpu_facts", [] {
    const CpuFacts f = read_cpu();
    py::dict d;
    d["leaf1_ecx"] = f.leaf1_ecx;
    d["leaf7_ebx"] = f.leaf7_ebx;
    d["leaf7_ecx"] = f.leaf7_ecx;
    d["leaf7_1_eax"] = f.leaf7_1_eax;
    d["xcr0"] = f.xcr0;
    d["neon"] = f.neon;
    d["dotprod"] = f.dotprod;
    d["i8mm"] = f.i8mm;
    return d;
  });

  m.attr("MAX_THREADS") = kMaxThreads;
  bind_kernels(m);
  bind_model(m);
#if !defined(_WIN32)
  // A forked child has none of the other threads: its end would wait for their calls for ever.
  pthread_atfork(nullptr, nullptr, [] { calls = own_calls; });
#endif
  py::module_::import("atexit").attr("register")(py::cpp_function(stop_at_exit));
}
