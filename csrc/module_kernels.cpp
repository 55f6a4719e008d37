// Formats and kernels one by one, for conversion, tests and benchmarks.
#include "crowding.h"
#include "dispatch.h"
#include "gpt2.h"
#include "isa/machine.h"
#include "matrix.h"
#include "module.h"
#include "probes.h"
#include "roofs.h"
#include "score.h"

namespace gpt2fast {
namespace {

py::array pack_weight(const py::array& weight, const std::string& dtype) {
  const float* w = floats(weight, 2, "weight");
  const int n_out = checked_int(weight.shape(0), "n_out"),
            n_in = checked_int(weight.shape(1), "n_in");
  const Dtype d = parse_dtype(dtype);
  py::array_t<uint8_t> out(static_cast<py::ssize_t>(packed_bytes(d, n_out, n_in)));
  uint8_t* bytes = out.mutable_data();
  {
    const Released released;
    pack(d, w, n_out, n_in, bytes);
  }
  return out;
}

py::array unpack_weight(const py::array& packed, const std::string& dtype, int n_out, int n_in) {
  const Dtype d = parse_dtype(dtype);
  checked_int(n_out, "n_out");
  checked_int(n_in, "n_in");
  const PackedMatrix matrix{d, n_out, n_in,
                            packed_of(packed, packed_bytes(d, n_out, n_in), "packed")};
  Floats out({n_out, n_in});
  float* to = out.mutable_data();
  {
    const Released released;
    for (int o = 0; o < n_out; ++o)
      unpack_row(matrix, o, to + static_cast<size_t>(o) * static_cast<size_t>(n_in));
  }
  return out;
}

py::tuple packed_shape(const std::string& dtype, int n_out, int n_in) {
  checked_int(n_out, "n_out");
  checked_int(n_in, "n_in");
  if (parse_dtype(dtype) == Dtype::int8)
    return py::make_tuple(blocks(n_out), blocks(n_in), packed_row_bytes(Dtype::int8, 1));
  return py::make_tuple(blocks(n_out), n_in, kBlock);
}

template <class Call>
Floats map_array(const py::array& x, Call call) {
  if (!py::isinstance<Floats>(x) || !(x.flags() & py::array::c_style))
    reject("x must be a C-contiguous float32 array, not " + std::string(py::str(x.dtype())) +
           " of shape " + shape_of(x));
  Floats y(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  const FloatEnvironment environment;
  call(static_cast<const float*>(x.data()), y.mutable_data(), static_cast<size_t>(x.size()));
  return y;
}

Floats linear(const py::array& x, const py::array& packed, const std::string& dtype, int n_out,
              const py::object& bias, int threads) {
  const float* rows = floats(x, 2, "x");
  check_threads(threads);
  const Dtype d = parse_dtype(dtype);
  const int n_in = checked_int(x.shape(1), "n_in"), n = static_cast<int>(x.shape(0));
  const PackedMatrix matrix{d, checked_int(n_out, "n_out"), n_in,
                            packed_of(packed, packed_bytes(d, n_out, n_in), "packed")};
  const float* b = bias.is_none() ? nullptr : vector_of(py::cast<py::array>(bias), n_out, "bias");
  Floats y({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(n_out)});
  float* out = y.mutable_data();
  const Released released;
  probe_linear(matrix, b, rows, n, out, threads);
  return y;
}

Floats layer_norm(const py::array& x, const py::array& weight, const py::array& bias,
                  float epsilon) {
  const float* rows = floats(x, 2, "x");
  const py::ssize_t n = x.shape(1);
  const float *w = vector_of(weight, n, "weight"), *b = vector_of(bias, n, "bias");
  Floats y({x.shape(0), n});
  probe_layer_norm(rows, static_cast<int>(x.shape(0)), checked_int(n, "n"), w, b, epsilon,
                   y.mutable_data());
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

Floats attention(const py::array& q, const py::array& k, const py::array& v, float scale,
                 const std::string& cache_dtype, int threads) {
  const float *qs = floats(q, 3, "q"), *ks = floats(k, 3, "k"), *vs = floats(v, 3, "v");
  const bool f16 = is_f16(cache_dtype);
  check_threads(threads);
  for (int i : {0, 1, 2})
    if (k.shape(i) != v.shape(i) || (i > 0 && q.shape(i) != k.shape(i)))
      reject("q " + shape_of(q) + ", k " + shape_of(k) + " and v " + shape_of(v) +
             " do not belong together");
  if (q.shape(0) > k.shape(0)) reject("q has more positions than k");
  Floats y({q.shape(0), q.shape(1), q.shape(2)});
  float* out = y.mutable_data();
  const int n = static_cast<int>(q.shape(0)), m = static_cast<int>(k.shape(0));
  const int n_head = checked_int(q.shape(1), "n_head"),
            head_dim = checked_int(q.shape(2), "head_dim");
  const Released released;
  probe_attention(qs, ks, vs, n, m, n_head, head_dim, scale, f16, threads, out);
  return y;
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("pack", &pack_weight, py::arg("weight"), py::arg("dtype"));
  m.def("unpack", &unpack_weight, py::arg("packed"), py::arg("dtype"), py::arg("n_out"),
        py::arg("n_in"));
  m.def("packed_shape", &packed_shape, py::arg("dtype"), py::arg("n_out"), py::arg("n_in"));
  m.def(
      "packed_nbytes",
      [](const std::string& dtype, int n_out, int n_in) {
        return packed_bytes(parse_dtype(dtype), checked_int(n_out, "n_out"),
                            checked_int(n_in, "n_in"));
      },
      py::arg("dtype"), py::arg("n_out"), py::arg("n_in"));

  m.def("linear", &linear, py::arg("x"), py::arg("packed"), py::arg("dtype"), py::arg("n_out"),
        py::arg("bias"), py::arg("threads") = 1);
  m.def("layer_norm", &layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("eps"));
  m.def("quantize", &quantize, py::arg("x"));
  m.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("scale"),
        py::arg("cache_dtype") = "float16", py::arg("threads") = 1);
  m.def(
      "activation",
      [](const py::array& x, const std::string& name) {
        const Activation kind = parse_activation(name);
        return map_array(x, [kind](const float* in, float* out, size_t n) {
          active().activate(in, out, n, kind);
        });
      },
      py::arg("x"), py::arg("name"));
  m.def("exp", [](const py::array& x) { return map_array(x, active().exp); }, py::arg("x"));
  m.def("log", [](const py::array& x) { return map_array(x, active().log); }, py::arg("x"));
  m.def("tanh", [](const py::array& x) { return map_array(x, active().tanh); }, py::arg("x"));
  m.def("erf", [](const py::array& x) { return map_array(x, active().erf); }, py::arg("x"));
  m.def(
      "exp_sum",
      [](const py::array& x, float shift, float scale) {
        float sum = 0;
        auto y = map_array(x, [&](const float* in, float* out, size_t n) {
          sum = active().exp_sum(in, shift, scale, out, n);
        });
        return py::make_tuple(std::move(y), sum);
      },
      py::arg("x"), py::arg("shift"), py::arg("scale"));
  m.def(
      "sum",
      [](const py::array& x) {
        const float* p = floats(x, 1, "x");
        const FloatEnvironment environment;
        return active().sum(p, static_cast<size_t>(x.size()));
      },
      py::arg("x"));
  m.def(
      "score",
      [](const py::array& logits, int target) {
        const float* p = floats(logits, 1, "logits");
        const int n = checked_int(logits.size(), "logits");
        if (target < 0 || target >= n)
          reject("target is " + std::to_string(target) + "; allowed are 0 to " +
                 std::to_string(n - 1));
        const FloatEnvironment environment;
        const TokenScore s = score_of(active(), p, n, target);
        return py::make_tuple(s.logprob, s.entropy, s.rank, s.likeliest);
      },
      py::arg("logits"), py::arg("target"));

  m.def(
      "roofs",
      [](int threads, size_t megabytes, const std::optional<std::string>& path, int rounds) {
        check_threads(threads);
        if (megabytes < 1 || megabytes > 65536)
          reject("megabytes is " + std::to_string(megabytes) + "; allowed are 1 to 65536");
        if (rounds < 1 || rounds > 1000)
          reject("rounds is " + std::to_string(rounds) + "; allowed are 1 to 1000");
        Roofs r;
        {
          const Released released;
          r = measure_roofs(threads, megabytes << 20, path.value_or(""), rounds);
        }
        py::dict d;
        d["read_anonymous"] = r.read_anonymous;
        d["read_mapped"] = r.read_mapped;
        d["int8_dot"] = r.int8_dot;
        d["float32_fma"] = r.float32_fma;
        return d;
      },
      py::arg("threads") = 1, py::arg("megabytes") = 512, py::arg("path") = py::none(),
      py::arg("rounds") = 5);

  py::class_<Crowding>(m, "Crowding")
      .def(py::init<>())
      .def("threads", &Crowding::threads, py::arg("asked"), py::arg("time"))
      .def("note", &Crowding::note, py::arg("asked"), py::arg("used"), py::arg("waited"),
           py::arg("seconds"), py::arg("time"));
}

}  // namespace gpt2fast
