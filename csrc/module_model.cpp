// Model and cache as Python objects, and the table of functions for code that runs without the GIL.
#include <algorithm>

#include "dispatch.h"
#include "gpt2.h"
#include "isa/machine.h"
#include "module.h"

namespace gpt2fast {
namespace {

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
                return packed_of(py::cast<py::array>(arrays[py::str(name)]), bytes,
                                 "tensor '" + name + "'");
              }),
        tensors(arrays.attr("copy")()) {
    active();  // a target that cannot be used is reported here
  }

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

// A copy of the ids, each of them checked: the array is Python's and may change.
std::vector<int32_t> checked_ids(const PyModel& m, const py::array& a, const std::string& name) {
  if (!py::isinstance<py::array_t<int32_t>>(a) || a.ndim() != 1 ||
      !(a.flags() & py::array::c_style))
    reject(name + "s must be a C-contiguous int32 array of one dimension");
  const auto* data = static_cast<const int32_t*>(a.data());
  std::vector<int32_t> ids(data, data + a.size());
  const int n_vocab = m.model.config.n_vocab;
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= n_vocab)
      reject(name + " " + std::to_string(ids[i]) + " at index " + std::to_string(i) +
             " is outside the vocabulary; allowed are 0 to " + std::to_string(n_vocab - 1));
  return ids;
}

std::vector<int32_t> checked_tokens(const PyModel& m, const py::array& a, int length) {
  std::vector<int32_t> ids = checked_ids(m, a, "token");
  const auto n = static_cast<int64_t>(ids.size()), n_ctx = int64_t{m.model.config.n_ctx};
  if (n < 1) reject("there must be a token at least");
  if (n > n_ctx - length)
    reject(std::to_string(length) + " + " + std::to_string(n) + " tokens exceed the context of " +
           std::to_string(n_ctx));
  return ids;
}

int poll_signals(void*) {
  const py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals();
}

void raise_for(gpt2fast_status status, const gpt2fast_control& control) {
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
    case GPT2FAST_CANCELLED:
      if (control.cancel && *control.cancel) {
        const auto futures = py::module_::import("concurrent.futures");
        PyErr_SetString(futures.attr("CancelledError").ptr(), "cancelled by its flag");
        throw py::error_already_set();
      }
      throw std::runtime_error("the interpreter is shutting down");
    case GPT2FAST_NO_THREAD:
      throw std::runtime_error("the system refuses to start another thread");
    case GPT2FAST_BUSY:
      reject_busy();
    default:
      reject("the caches do not all belong to this model, or differ in dtype");
  }
}

// `cancel` is a CancelFlag's capsule, or None.
gpt2fast_control control_for(int threads, int prompt_threads, int chunk, const py::object& cancel) {
  if (chunk < 0)
    reject("chunk is " + std::to_string(chunk) + "; allowed are 0 (512 tokens) and more");
  check_threads(threads);
  check_threads(prompt_threads);
  gpt2fast_control control{};
  control.threads = threads;
  control.prompt_threads = prompt_threads;
  control.chunk = chunk;
  if (!cancel.is_none()) {
    control.cancel =
        static_cast<const int32_t*>(PyCapsule_GetPointer(cancel.ptr(), "gpt2fast.cancel"));
    if (!control.cancel) throw py::error_already_set();
  }
  const auto self = PyThread_get_thread_ident();
  if (py::cast<unsigned long>(
          py::module_::import("threading").attr("main_thread")().attr("ident")) == self)
    control.poll = poll_signals;
  return control;
}

// The spans of a call, and the ids that they point to.
struct Spans {
  std::vector<gpt2fast_span> spans;
  std::vector<std::vector<int32_t>> ids;

  // Logits have no place yet; n_rows are not checked.
  Spans(const PyModel& m, const std::vector<KvCache*>& caches, const std::vector<py::array>& tokens,
        const std::vector<int>& n_rows) {
    if (caches.empty() || caches.size() != tokens.size() || caches.size() != n_rows.size())
      reject("caches, tokens and what is wanted of them must have one length of at least 1");
    for (size_t i = 0; i < caches.size(); ++i) {
      if (!caches[i]) reject("cache " + std::to_string(i) + " is None");
      if (std::find(caches.begin(), caches.begin() + static_cast<std::ptrdiff_t>(i), caches[i]) !=
          caches.begin() + static_cast<std::ptrdiff_t>(i))
        reject("cache " + std::to_string(i) + " is given twice");
      ids.push_back(checked_tokens(m, tokens[i], caches[i]->length()));
      const auto n = static_cast<int32_t>(ids.back().size());
      if (n_rows[i] < 0 || n_rows[i] > n)
        reject("rows is " + std::to_string(n_rows[i]) + "; allowed are 0 to " + std::to_string(n));
      spans.push_back({reinterpret_cast<gpt2fast_cache*>(caches[i]), ids.back().data(), n,
                       n_rows[i], nullptr, nullptr});
    }
  }

  void run(const PyModel& m, const gpt2fast_control& control, const RowScores* scores) const {
    gpt2fast_status status;
    {
      const Released released;
      status =
          forward(m.model, spans.data(), static_cast<int>(spans.size()), control, nullptr, scores);
    }
    raise_for(status, control);
  }
};

std::vector<Floats> forward_spans(PyModel& m, const std::vector<KvCache*>& caches,
                                  const std::vector<py::array>& tokens,
                                  const std::vector<int>& rows, int threads, int prompt_threads,
                                  int chunk, const py::object& cancel) {
  const Call call;  // control_for() runs Python code, in which the GIL may change hands
  const gpt2fast_control control = control_for(threads, prompt_threads, chunk, cancel);
  Spans all(m, caches, tokens, rows);
  std::vector<Floats> logits;
  for (gpt2fast_span& span : all.spans) {
    logits.emplace_back(std::vector<py::ssize_t>{span.n_rows, m.model.config.n_vocab});
    span.logits = logits.back().mutable_data();
  }
  all.run(m, control, nullptr);
  return logits;
}

// One array for each span, of one TokenScore for each of its targets.
std::vector<py::array_t<TokenScore>> score_spans(PyModel& m, const std::vector<KvCache*>& caches,
                                                 const std::vector<py::array>& tokens,
                                                 const std::vector<py::array>& targets, int threads,
                                                 int prompt_threads, int chunk,
                                                 const py::object& cancel) {
  const Call call;
  const gpt2fast_control control = control_for(threads, prompt_threads, chunk, cancel);
  std::vector<std::vector<int32_t>> wanted;
  std::vector<int> n_rows;
  std::vector<py::array_t<TokenScore>> scores;
  std::vector<RowScores> rows;
  for (const py::array& array : targets) {
    wanted.push_back(checked_ids(m, array, "target"));
    n_rows.push_back(static_cast<int>(wanted.back().size()));
    scores.emplace_back(static_cast<py::ssize_t>(wanted.back().size()));
    rows.push_back({wanted.back().data(), scores.back().mutable_data()});
  }
  Spans(m, caches, tokens, n_rows).run(m, control, rows.data());
  return scores;
}

Floats hidden_states(PyModel& m, const py::array& tokens, bool f16, int threads) {
  const Call call;
  const gpt2fast_control control = control_for(threads, threads, 0, py::none());
  const std::vector<int32_t> ids = checked_tokens(m, tokens, 0);
  const Config& c = m.model.config;
  Floats hidden(
      {static_cast<py::ssize_t>(c.n_layer + 1), tokens.size(), static_cast<py::ssize_t>(c.n_embd)});
  float* to = hidden.mutable_data();
  KvCache cache = m.model.new_cache(f16);
  const gpt2fast_span span{reinterpret_cast<gpt2fast_cache*>(&cache),
                           ids.data(),
                           static_cast<int32_t>(ids.size()),
                           0,
                           nullptr,
                           nullptr};
  gpt2fast_status status;
  {
    const Released released;
    status = forward(m.model, &span, 1, control, to);
  }
  raise_for(status, control);
  return hidden;
}

const gpt2fast_api kApi = {
    .version = 2,
    .forward =
        [](gpt2fast_model* m, const gpt2fast_span* spans, int32_t n,
           const gpt2fast_control* control) {
          const Counted call;  // ending the interpreter waits for it
          if (!call) return GPT2FAST_CANCELLED;
          return forward(*reinterpret_cast<const Model*>(m), spans, n, *control);
        },
    .n_vocab =
        [](const gpt2fast_model* m) { return reinterpret_cast<const Model*>(m)->config.n_vocab; },
    .n_ctx =
        [](const gpt2fast_model* m) { return reinterpret_cast<const Model*>(m)->config.n_ctx; },
    .n_embd =
        [](const gpt2fast_model* m) { return reinterpret_cast<const Model*>(m)->config.n_embd; },
    .cache_length =
        [](const gpt2fast_cache* c) {
          return static_cast<int32_t>(reinterpret_cast<const KvCache*>(c)->length());
        },
    .cache_truncate = [](gpt2fast_cache* c,
                         int32_t n) { reinterpret_cast<KvCache*>(c)->truncate(n); },
    .now = now,
    .enter_float = FloatEnvironment::enter,
    .leave_float = FloatEnvironment::leave,
    .exp =
        [](const float* in, float* out, size_t n) {
          const FloatEnvironment environment;
          active_or_scalar().exp(in, out, n);
        },
    .log =
        [](const float* in, float* out, size_t n) {
          const FloatEnvironment environment;
          active_or_scalar().log(in, out, n);
        },
    .max = [](const float* in, size_t n) { return active_or_scalar().max(in, n); },
    .sum =
        [](const float* in, size_t n) {
          const FloatEnvironment environment;
          return active_or_scalar().sum(in, n);
        },
    .exp_sum =
        [](const float* in, float shift, float scale, float* out, size_t n) {
          const FloatEnvironment environment;
          return active_or_scalar().exp_sum(in, shift, scale, out, n);
        },
};

}  // namespace

void bind_model(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(TokenScore, logprob, entropy, rank, likeliest);
  bind_cache(m).def(py::init([](const PyModel& model, const std::string& dtype) {
                      return std::make_unique<KvCache>(model.model.new_cache(is_f16(dtype)));
                    }),
                    py::arg("model"), py::arg("dtype") = "float16");

  py::class_<PyModel>(m, "Model")
      .def(py::init<const py::dict&, const std::string&, const py::dict&>(), py::arg("config"),
           py::arg("dtype"), py::arg("tensors"))
      .def_property_readonly("dtype",
                             [](const PyModel& self) { return dtype_name(self.model.dtype); })
      .def("forward", &forward_spans, py::arg("caches"), py::arg("tokens"), py::arg("rows"),
           py::kw_only(), py::arg("threads") = 1, py::arg("prompt_threads") = 1,
           py::arg("chunk") = 0, py::arg("cancel") = py::none())
      .def("score", &score_spans, py::arg("caches"), py::arg("tokens"), py::arg("targets"),
           py::kw_only(), py::arg("threads") = 1, py::arg("prompt_threads") = 1,
           py::arg("chunk") = 0, py::arg("cancel") = py::none())
      .def(
          "hidden_states",
          [](PyModel& self, const py::array& tokens, int threads, const std::string& cache_dtype) {
            return hidden_states(self, tokens, is_f16(cache_dtype), threads);
          },
          py::arg("tokens"), py::arg("threads") = 1, py::arg("cache_dtype") = "float16")
      .def("capsule", [](py::object self) {
        auto* owner = new py::object(self);
        py::capsule c(&py::cast<PyModel&>(self).model, "gpt2fast.model", [](PyObject* capsule) {
          delete static_cast<py::object*>(PyCapsule_GetContext(capsule));
        });
        PyCapsule_SetContext(c.ptr(), owner);
        return c;
      });

  m.attr("_C_API") = py::capsule(&kApi, "gpt2fast._core._C_API");
}

}  // namespace gpt2fast
