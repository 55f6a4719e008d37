// The Python module gpt2fast._core: argument checks, GIL release, error translation. The only file that knows Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "cpu.h"
#include "dispatch.h"
#include "gpt2.h"
#include "isa/machine.h"
#include "probes.h"
#include "roofs.h"
#include "thread_pool.h"

namespace py = pybind11;
using namespace gpt2fast;  // NOLINT

namespace {

using Floats = py::array_t<float>;

[[noreturn]] void reject(const std::string& message) { throw py::value_error(message); }

std::string shape_of(const py::array& a) { return py::str(py::cast<py::object>(a.attr("shape"))); }

// A C-contiguous float32 array of `ndim` dimensions.
const float* floats(const py::array& a, int ndim, const char* name) {
  if (!py::isinstance<Floats>(a) || a.ndim() != ndim || !(a.flags() & py::array::c_style))
    reject(std::string(name) + " must be a C-contiguous float32 array of " + std::to_string(ndim) + " dimensions, not " +
           std::string(py::str(a.dtype())) + " of shape " + shape_of(a));
  return static_cast<const float*>(a.data());
}

const float* vector_of(const py::array& a, py::ssize_t n, const char* name) {
  const float* p = floats(a, 1, name);
  if (a.shape(0) != n) reject(std::string(name) + " must have length " + std::to_string(n) + ", not " + shape_of(a));
  return p;
}

void check_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads)
    reject("threads is " + std::to_string(threads) + "; allowed are 1 to " + std::to_string(kMaxThreads));
}

const uint8_t* packed_of(const py::array& a, size_t bytes, const std::string& name) {
  if (!(a.flags() & py::array::c_style) || static_cast<size_t>(a.nbytes()) != bytes)
    reject(name + " must be a C-contiguous array of " + std::to_string(bytes) + " bytes, not " + std::to_string(a.nbytes()));
  return static_cast<const uint8_t*>(a.data());
}

int checked_int(py::ssize_t n, const char* name) {
  if (n < 1 || n > (1 << 28)) reject(std::string(name) + " is " + std::to_string(n) + "; allowed are 1 to 2^28");
  return static_cast<int>(n);
}

// --- formats ---------------------------------------------------------------------------------------------------------

py::array pack_weight(const py::array& weight, const std::string& dtype) {
  const float* w = floats(weight, 2, "weight");
  const int n_out = checked_int(weight.shape(0), "n_out"), n_in = checked_int(weight.shape(1), "n_in");
  const Dtype d = parse_dtype(dtype);
  py::array_t<uint8_t> out(static_cast<py::ssize_t>(packed_bytes(d, n_out, n_in)));
  uint8_t* bytes = out.mutable_data();
  {
    const py::gil_scoped_release release;
    pack(d, w, n_out, n_in, bytes);
  }
  return out;
}

py::array unpack_weight(const py::array& packed, const std::string& dtype, int n_out, int n_in) {
  const Dtype d = parse_dtype(dtype);
  checked_int(n_out, "n_out");
  checked_int(n_in, "n_in");
  const PackedMatrix matrix{d, n_out, n_in, packed_of(packed, packed_bytes(d, n_out, n_in), "packed")};
  Floats out({n_out, n_in});
  float* to = out.mutable_data();
  {
    const py::gil_scoped_release release;
    for (int o = 0; o < n_out; ++o) unpack_row(matrix, o, to + static_cast<size_t>(o) * static_cast<size_t>(n_in));
  }
  return out;
}

py::tuple packed_shape(const std::string& dtype, int n_out, int n_in) {
  checked_int(n_out, "n_out");
  checked_int(n_in, "n_in");
  if (parse_dtype(dtype) == Dtype::int8) return py::make_tuple(blocks(n_out), blocks(n_in), packed_row_bytes(Dtype::int8, 1));
  return py::make_tuple(blocks(n_out), n_in, kBlock);
}

// --- kernels one by one ----------------------------------------------------------------------------------------------

template <class Call>
Floats map_array(const py::array& x, Call call) {
  if (!py::isinstance<Floats>(x) || !(x.flags() & py::array::c_style))
    reject("x must be a C-contiguous float32 array, not " + std::string(py::str(x.dtype())) + " of shape " + shape_of(x));
  Floats y(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  const FloatEnvironment environment;
  call(static_cast<const float*>(x.data()), y.mutable_data(), static_cast<size_t>(x.size()));
  return y;
}

Floats linear(const py::array& x, const py::array& packed, const std::string& dtype, int n_out, const py::object& bias,
              int threads) {
  const float* rows = floats(x, 2, "x");
  check_threads(threads);
  const Dtype d = parse_dtype(dtype);
  const int n_in = checked_int(x.shape(1), "n_in"), n = static_cast<int>(x.shape(0));
  const PackedMatrix matrix{d, checked_int(n_out, "n_out"), n_in, packed_of(packed, packed_bytes(d, n_out, n_in), "packed")};
  const float* b = bias.is_none() ? nullptr : vector_of(py::cast<py::array>(bias), n_out, "bias");
  Floats y({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(n_out)});
  float* out = y.mutable_data();
  const py::gil_scoped_release release;
  probe_linear(matrix, b, rows, n, out, threads);
  return y;
}

Floats layer_norm(const py::array& x, const py::array& weight, const py::array& bias, float epsilon) {
  const float* rows = floats(x, 2, "x");
  const py::ssize_t n = x.shape(1);
  const float *w = vector_of(weight, n, "weight"), *b = vector_of(bias, n, "bias");
  Floats y({x.shape(0), n});
  probe_layer_norm(rows, static_cast<int>(x.shape(0)), checked_int(n, "n"), w, b, epsilon, y.mutable_data());
  return y;
}

py::tuple quantize(const py::array& x) {
  const float* rows = floats(x, 2, "x");
  const int n = static_cast<int>(x.shape(0)), d = checked_int(x.shape(1), "n");
  py::array_t<int8_t> q({n, width(d)});
  Floats scale({n, blocks(d)});
  probe_quantize(rows, n, d, q.mutable_data(), scale.mutable_data());
  return py::make_tuple(std::move(q), std::move(scale));
}

bool is_f16(const std::string& cache_dtype) {
  if (cache_dtype != "float16" && cache_dtype != "float32")
    reject("cache_dtype is '" + cache_dtype + "'; allowed are float16 and float32");
  return cache_dtype == "float16";
}

Floats attention(const py::array& q, const py::array& k, const py::array& v, float scale, const std::string& cache_dtype,
                 int threads) {
  const float *qs = floats(q, 3, "q"), *ks = floats(k, 3, "k"), *vs = floats(v, 3, "v");
  const bool f16 = is_f16(cache_dtype);
  check_threads(threads);
  for (int i : {0, 1, 2})
    if (k.shape(i) != v.shape(i) || (i > 0 && q.shape(i) != k.shape(i)))
      reject("q " + shape_of(q) + ", k " + shape_of(k) + " and v " + shape_of(v) + " do not belong together");
  if (q.shape(0) > k.shape(0)) reject("q has more positions than k");
  Floats y({q.shape(0), q.shape(1), q.shape(2)});
  float* out = y.mutable_data();
  const int n = static_cast<int>(q.shape(0)), m = static_cast<int>(k.shape(0));
  const int n_head = checked_int(q.shape(1), "n_head"), head_dim = checked_int(q.shape(2), "head_dim");
  const py::gil_scoped_release release;
  probe_attention(qs, ks, vs, n, m, n_head, head_dim, scale, f16, threads, out);
  return y;
}

// --- model and cache -------------------------------------------------------------------------------------------------

template <class T>
T option(const py::dict& config, const char* key) {
  if (!config.contains(key)) reject(std::string("config lacks '") + key + "'");
  return py::cast<T>(config[key]);
}

// The model and the arrays that its views point into.
struct PyModel {
  Model model;
  py::dict tensors;

  PyModel(const py::dict& config, const std::string& dtype, const py::dict& arrays)
      : model(read_config(config), parse_dtype(dtype),
              [&](const std::string& name, size_t bytes) {
                if (!arrays.contains(name)) reject("tensor '" + name + "' is missing");
                return packed_of(py::cast<py::array>(arrays[py::str(name)]), bytes, "tensor '" + name + "'");
              }),
        tensors(arrays) {}

  static Config read_config(const py::dict& d) {
    Config c;
    c.n_layer = checked_int(option<py::ssize_t>(d, "n_layer"), "n_layer");
    c.n_head = checked_int(option<py::ssize_t>(d, "n_head"), "n_head");
    c.n_embd = checked_int(option<py::ssize_t>(d, "n_embd"), "n_embd");
    c.n_ctx = checked_int(option<py::ssize_t>(d, "n_ctx"), "n_ctx");
    c.n_vocab = checked_int(option<py::ssize_t>(d, "n_vocab"), "n_vocab");
    c.n_inner = checked_int(option<py::ssize_t>(d, "n_inner"), "n_inner");
    c.activation = parse_activation(option<std::string>(d, "activation"));
    c.layer_norm_epsilon = option<float>(d, "layer_norm_epsilon");
    c.scale_attn_weights = option<bool>(d, "scale_attn_weights");
    c.scale_attn_by_inverse_layer_idx = option<bool>(d, "scale_attn_by_inverse_layer_idx");
    c.tie_word_embeddings = option<bool>(d, "tie_word_embeddings");
    return c;
  }
};

void check_tokens(const PyModel& m, const py::array& a, int length) {
  if (!py::isinstance<py::array_t<int32_t>>(a) || a.ndim() != 1 || !(a.flags() & py::array::c_style) || a.size() < 1)
    reject("tokens must be a non-empty C-contiguous int32 array of one dimension");
  const auto* ids = static_cast<const int32_t*>(a.data());
  const Config& c = m.model.config;
  for (py::ssize_t i = 0; i < a.size(); ++i)
    if (ids[i] < 0 || ids[i] >= c.n_vocab)
      reject("token " + std::to_string(ids[i]) + " at index " + std::to_string(i) + " is outside the vocabulary; allowed are 0 to " +
             std::to_string(c.n_vocab - 1));
  if (a.size() > c.n_ctx - length)
    reject(std::to_string(length) + " + " + std::to_string(a.size()) + " tokens exceed the context of " + std::to_string(c.n_ctx));
}

int poll_signals(void*) {
  const py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals();
}

void raise_for(gpt2fast_status status) {
  switch (status) {
    case GPT2FAST_OK:
      return;
    case GPT2FAST_INTERRUPTED:
      throw py::error_already_set();
    case GPT2FAST_NOT_FINITE:
      PyErr_SetString(PyExc_FloatingPointError, "an activation or a logit is not finite");
      throw py::error_already_set();
    case GPT2FAST_OUT_OF_MEMORY:
      throw std::bad_alloc();
    default:
      reject("the arguments do not belong together: each cache once, all of this model, all of one dtype");
  }
}

gpt2fast_control control_for(int threads, int prompt_threads, int chunk) {
  if (chunk < 0) reject("chunk is " + std::to_string(chunk) + "; allowed are 0 (512 tokens) and more");
  check_threads(threads);
  check_threads(prompt_threads);
  gpt2fast_control control{};
  control.threads = threads;
  control.prompt_threads = prompt_threads;
  control.chunk = chunk;
  control.poll = poll_signals;
  return control;
}

std::vector<Floats> forward_spans(PyModel& m, const std::vector<KvCache*>& caches, const std::vector<py::array>& tokens,
                                  const std::vector<int>& rows, int threads, int prompt_threads, int chunk) {
  const gpt2fast_control control = control_for(threads, prompt_threads, chunk);
  if (caches.empty() || caches.size() != tokens.size() || caches.size() != rows.size())
    reject("caches, tokens and rows must have one length of at least 1");
  std::vector<Floats> logits;
  std::vector<gpt2fast_span> spans;
  for (size_t i = 0; i < caches.size(); ++i) {
    check_tokens(m, tokens[i], caches[i]->length());
    const auto n = static_cast<int32_t>(tokens[i].size());
    if (rows[i] < 0 || rows[i] > n) reject("rows is " + std::to_string(rows[i]) + "; allowed are 0 to " + std::to_string(n));
    logits.emplace_back(std::vector<py::ssize_t>{rows[i], m.model.config.n_vocab});
    spans.push_back({reinterpret_cast<gpt2fast_cache*>(caches[i]), static_cast<const int32_t*>(tokens[i].data()), n, rows[i],
                     logits.back().mutable_data()});
  }
  gpt2fast_status status;
  {
    const py::gil_scoped_release release;
    status = forward(m.model, spans.data(), static_cast<int>(spans.size()), control);
  }
  raise_for(status);
  return logits;
}

Floats hidden_states(PyModel& m, const py::array& tokens, bool f16, int threads) {
  const gpt2fast_control control = control_for(threads, threads, 0);
  check_tokens(m, tokens, 0);
  const Config& c = m.model.config;
  Floats hidden({static_cast<py::ssize_t>(c.n_layer + 1), tokens.size(), static_cast<py::ssize_t>(c.n_embd)});
  float* to = hidden.mutable_data();
  KvCache cache(m.model.page_layout(f16));
  const gpt2fast_span span{reinterpret_cast<gpt2fast_cache*>(&cache), static_cast<const int32_t*>(tokens.data()),
                           static_cast<int32_t>(tokens.size()), 0, nullptr};
  gpt2fast_status status;
  {
    const py::gil_scoped_release release;
    status = forward(m.model, &span, 1, control, to);
  }
  raise_for(status);
  return hidden;
}

// --- the C table -----------------------------------------------------------------------------------------------------

const gpt2fast_api kApi = {
    .version = 1,
    .forward = [](gpt2fast_model* m, const gpt2fast_span* spans, int32_t n, const gpt2fast_control* control) {
      return forward(*reinterpret_cast<const Model*>(m), spans, n, *control);
    },
    .n_vocab = [](const gpt2fast_model* m) { return reinterpret_cast<const Model*>(m)->config.n_vocab; },
    .n_ctx = [](const gpt2fast_model* m) { return reinterpret_cast<const Model*>(m)->config.n_ctx; },
    .cache_length = [](const gpt2fast_cache* c) { return static_cast<int32_t>(reinterpret_cast<const KvCache*>(c)->length()); },
    .cache_truncate = [](gpt2fast_cache* c, int32_t n) { reinterpret_cast<KvCache*>(c)->truncate(n); },
    .now = now,
    .exp = [](const float* in, float* out, size_t n) {
      const FloatEnvironment environment;
      active().exp(in, out, n);
    },
    .log = [](const float* in, float* out, size_t n) {
      const FloatEnvironment environment;
      active().log(in, out, n);
    },
    .max = [](const float* in, size_t n) { return active().max(in, n); },
    .sum = [](const float* in, size_t n) {
      const FloatEnvironment environment;
      return active().sum(in, n);
    },
    .exp_sum = [](const float* in, float shift, float scale, float* out, size_t n) {
      const FloatEnvironment environment;
      return active().exp_sum(in, shift, scale, out, n);
    },
};

}  // namespace

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
  m.def("force_target", [](const std::optional<std::string>& name) { force_target(name.value_or("")); }, py::arg("name"));
  m.def("missing_for", [](const std::string& target, const py::dict& facts) {
    CpuFacts f;
    for (const auto& [key, value] : facts) {
      const auto name = py::cast<std::string>(key);
      const auto number = py::cast<uint64_t>(value);
      if (name == "leaf1_ecx") f.leaf1_ecx = static_cast<uint32_t>(number);
      else if (name == "leaf7_ebx") f.leaf7_ebx = static_cast<uint32_t>(number);
      else if (name == "leaf7_ecx") f.leaf7_ecx = static_cast<uint32_t>(number);
      else if (name == "leaf7_1_eax") f.leaf7_1_eax = static_cast<uint32_t>(number);
      else if (name == "xcr0") f.xcr0 = number;
      else if (name == "neon") f.neon = number != 0;
      else if (name == "dotprod") f.dotprod = number != 0;
      else if (name == "i8mm") f.i8mm = number != 0;
      else reject("'" + name + "' is no fact about a CPU");
    }
    return missing_for(target.c_str(), f);
  }, py::arg("target"), py::arg("facts"));
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

  m.def("pack", &pack_weight, py::arg("weight"), py::arg("dtype"));
  m.def("unpack", &unpack_weight, py::arg("packed"), py::arg("dtype"), py::arg("n_out"), py::arg("n_in"));
  m.def("packed_shape", &packed_shape, py::arg("dtype"), py::arg("n_out"), py::arg("n_in"));
  m.def("packed_nbytes", [](const std::string& dtype, int n_out, int n_in) {
    return packed_bytes(parse_dtype(dtype), checked_int(n_out, "n_out"), checked_int(n_in, "n_in"));
  }, py::arg("dtype"), py::arg("n_out"), py::arg("n_in"));

  m.def("linear", &linear, py::arg("x"), py::arg("packed"), py::arg("dtype"), py::arg("n_out"), py::arg("bias"),
        py::arg("threads") = 1);
  m.def("layer_norm", &layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"));
  m.def("quantize", &quantize, py::arg("x"));
  m.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("scale"), py::arg("cache_dtype") = "float16",
        py::arg("threads") = 1);
  m.def("activation", [](const py::array& x, const std::string& name) {
    const Activation kind = parse_activation(name);
    return map_array(x, [kind](const float* in, float* out, size_t n) { active().activate(in, out, n, kind); });
  }, py::arg("x"), py::arg("name"));
  m.def("exp", [](const py::array& x) { return map_array(x, active().exp); }, py::arg("x"));
  m.def("log", [](const py::array& x) { return map_array(x, active().log); }, py::arg("x"));
  m.def("tanh", [](const py::array& x) { return map_array(x, active().tanh); }, py::arg("x"));
  m.def("erf", [](const py::array& x) { return map_array(x, active().erf); }, py::arg("x"));
  m.def("exp_sum", [](const py::array& x, float shift, float scale) {
    float sum = 0;
    auto y = map_array(x, [&](const float* in, float* out, size_t n) { sum = active().exp_sum(in, shift, scale, out, n); });
    return py::make_tuple(std::move(y), sum);
  }, py::arg("x"), py::arg("shift"), py::arg("scale"));
  m.def("sum", [](const py::array& x) {
    const float* p = floats(x, 1, "x");
    const FloatEnvironment environment;
    return active().sum(p, static_cast<size_t>(x.size()));
  }, py::arg("x"));

  py::class_<KvCache>(m, "Cache")
      .def(py::init([](const PyModel& model, const std::string& dtype) { return KvCache(model.model.page_layout(is_f16(dtype))); }),
           py::arg("model"), py::arg("dtype") = "float16")
      .def_property_readonly("length", &KvCache::length)
      .def_property_readonly("nbytes", &KvCache::bytes)
      .def("truncate", &KvCache::truncate, py::arg("length"))
      .def("fork", &KvCache::fork)
      .def("capsule", [](py::object self) {
        // The capsule keeps its Python object alive.
        auto* owner = new py::object(self);
        py::capsule c(&py::cast<KvCache&>(self), "gpt2fast.cache", [](PyObject* capsule) {
          delete static_cast<py::object*>(PyCapsule_GetContext(capsule));
        });
        PyCapsule_SetContext(c.ptr(), owner);
        return c;
      });

  py::class_<PyModel>(m, "Model")
      .def(py::init<const py::dict&, const std::string&, const py::dict&>(), py::arg("config"), py::arg("dtype"), py::arg("tensors"))
      .def_property_readonly("dtype", [](const PyModel& self) { return dtype_name(self.model.dtype); })
      .def("forward", &forward_spans, py::arg("caches"), py::arg("tokens"), py::arg("rows"), py::kw_only(), py::arg("threads") = 1,
           py::arg("prompt_threads") = 1, py::arg("chunk") = 0)
      .def("hidden_states", [](PyModel& self, const py::array& tokens, int threads, const std::string& cache_dtype) {
        return hidden_states(self, tokens, is_f16(cache_dtype), threads);
      }, py::arg("tokens"), py::arg("threads") = 1, py::arg("cache_dtype") = "float16")
      .def("capsule", [](py::object self) {
        auto* owner = new py::object(self);
        py::capsule c(&py::cast<PyModel&>(self).model, "gpt2fast.model", [](PyObject* capsule) {
          delete static_cast<py::object*>(PyCapsule_GetContext(capsule));
        });
        PyCapsule_SetContext(c.ptr(), owner);
        return c;
      });

  m.def("roofs", [](int threads, size_t megabytes, const std::optional<std::string>& path, int rounds) {
    check_threads(threads);
    if (megabytes < 1 || megabytes > 65536) reject("megabytes is " + std::to_string(megabytes) + "; allowed are 1 to 65536");
    if (rounds < 1 || rounds > 1000) reject("rounds is " + std::to_string(rounds) + "; allowed are 1 to 1000");
    Roofs r;
    {
      const py::gil_scoped_release release;
      r = measure_roofs(threads, megabytes << 20, path.value_or(""), rounds);
    }
    py::dict d;
    d["read_anonymous"] = r.read_anonymous;
    d["read_mapped"] = r.read_mapped;
    d["int8_dot"] = r.int8_dot;
    d["float32_fma"] = r.float32_fma;
    return d;
  }, py::arg("threads") = 1, py::arg("megabytes") = 512, py::arg("path") = py::none(), py::arg("rounds") = 5);

  m.attr("_C_API") = py::capsule(&kApi, "gpt2fast._core._C_API");
}
