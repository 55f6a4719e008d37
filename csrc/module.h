// What the parts of the Python module share: checks that name what was given and what is allowed.
//
// The module*.cpp are the only files that know Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "kernels/table.h"
#include "kv_cache.h"
#include "thread_pool.h"

namespace gpt2fast {

namespace py = pybind11;

using Floats = py::array_t<float>;

[[noreturn]] void reject_busy();  // a second call on one cache

[[noreturn]] inline void reject(const std::string& message) { throw py::value_error(message); }

inline py::tuple shape_tuple(const py::array& a) { return a.attr("shape"); }

inline std::string shape_of(const py::array& a) { return py::str(shape_tuple(a)); }

// A C-contiguous float32 array of `ndim` dimensions.
inline const float* floats(const py::array& a, int ndim, const char* name) {
  if (!py::isinstance<Floats>(a) || a.ndim() != ndim || !(a.flags() & py::array::c_style))
    reject(std::string(name) + " must be a C-contiguous float32 array of " + std::to_string(ndim) +
           " dimensions, not " + std::string(py::str(a.dtype())) + " of shape " + shape_of(a));
  return static_cast<const float*>(a.data());
}

inline const float* vector_of(const py::array& a, py::ssize_t n, const char* name) {
  const float* p = floats(a, 1, name);
  if (a.shape(0) != n)
    reject(std::string(name) + " must have length " + std::to_string(n) + ", not " + shape_of(a));
  return p;
}

inline void check_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads)
    reject("threads is " + std::to_string(threads) + "; allowed are 1 to " +
           std::to_string(kMaxThreads));
}

inline const uint8_t* packed_of(const py::array& a, size_t bytes, const std::string& name) {
  if (!(a.flags() & py::array::c_style) || static_cast<size_t>(a.nbytes()) != bytes)
    reject(name + " must be a C-contiguous array of " + std::to_string(bytes) + " bytes, not " +
           std::to_string(a.nbytes()));
  return static_cast<const uint8_t*>(a.data());
}

inline int checked_int(py::ssize_t n, const char* name) {
  if (n < 1 || n > (1 << 28))
    reject(std::string(name) + " is " + std::to_string(n) + "; allowed are 1 to 2^28");
  return static_cast<int>(n);
}

inline bool is_f16(const std::string& cache_dtype) {
  if (cache_dtype != "float16" && cache_dtype != "float32")
    reject("cache_dtype is '" + cache_dtype + "'; allowed are float16 and float32");
  return cache_dtype == "float16";
}

// A native call: ending the interpreter cancels and awaits it. One that comes later is not counted,
// or threads that try again and again would never let it end.
class Counted {
 public:
  Counted();
  ~Counted();
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  explicit operator bool() const { return counted_; }

 private:
  bool counted_;
};

// A native call that holds the GIL, or will take it again. Throws std::runtime_error if the
// interpreter is ending: the thread could be killed wherever it asks for the GIL.
struct Call : Counted {
  Call();
};

// Releases the GIL for its lifetime. A thread that asked for the GIL of a finalised interpreter
// would be killed inside C++ frames, which aborts the process: hence the Call.
class Released {
 public:
  Released();
  ~Released();
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  const Call call_;
  PyThreadState* state_;
};

void bind_kernels(py::module_& m);  // formats and kernels one by one, and the roofs
void bind_model(py::module_& m);    // Model and the C table
py::class_<KvCache> bind_cache(py::module_& m);

}  // namespace gpt2fast
