// Keys and values as a Python object.
#include "kv_cache.h"
#include "module.h"

namespace gpt2fast {
namespace {

// A cache in the hands of one call.
class Use {
 public:
  explicit Use(KvCache& cache) : cache_(cache) {
    if (!cache.acquire()) reject_busy();
  }
  ~Use() { cache_.release(); }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  KvCache& cache_;
};

py::dtype element_of(const KvCache& cache) {
  return py::dtype(cache.layout().f16 ? "float16" : "float32");
}

// Keys and values of a layer, each of shape (n_head, length, head_dim).
py::tuple read_layer(KvCache& self, int layer) {
  const Use use(self);
  const PageLayout& layout = self.layout();
  if (layer < 0 || layer >= layout.n_layer)
    reject("layer is " + std::to_string(layer) + "; allowed are 0 to " +
           std::to_string(layout.n_layer - 1));
  const std::vector<py::ssize_t> shape{layout.n_head, self.length(), layout.head_dim};
  py::array k(element_of(self), shape), v(element_of(self), shape);
  void *k_data = k.mutable_data(), *v_data = v.mutable_data();
  {
    const Released released;
    self.read(layer, k_data, v_data);
  }
  return py::make_tuple(k, v);
}

void check_part(const KvCache& cache, const py::array& a, int n, const std::string& name) {
  const PageLayout& layout = cache.layout();
  const py::tuple shape = py::make_tuple(layout.n_head, n, layout.head_dim);
  if (!a.dtype().is(element_of(cache)) || !shape_tuple(a).equal(shape) ||
      !(a.flags() & py::array::c_style))
    reject(name + " must be a C-contiguous " + std::string(py::str(element_of(cache))) +
           " array of shape " + std::string(py::str(shape)) + ", not " +
           std::string(py::str(a.dtype())) + " of shape " + shape_of(a));
}

// Fills an empty cache with n positions: `layers` gives keys and values of each layer, in order.
void write_layers(KvCache& self, int n, const py::iterable& layers) {
  const Call call;  // the iterator is Python's
  const Use use(self);
  if (self.length()) reject("the cache holds positions already; only an empty one can be written");
  constexpr int kMost = 1 << 24;  // far above any context
  if (n < 0 || n > kMost)
    reject("n is " + std::to_string(n) + "; allowed are 0 to " + std::to_string(kMost));
  self.reserve(n);
  int layer = 0;
  for (const py::handle item : layers) {
    if (layer == self.layout().n_layer) reject("there are more layers than the model has");
    if (!py::isinstance<py::tuple>(item) || py::len(item) != 2)
      reject("a layer must be a tuple of keys and values");
    const auto [k, v] = py::cast<std::pair<py::array, py::array>>(item);
    check_part(self, k, n, "keys");
    check_part(self, v, n, "values");
    const void *k_data = k.data(), *v_data = v.data();
    const Released released;
    self.write(layer++, n, k_data, v_data);
  }
  if (layer != self.layout().n_layer)
    reject("there are " + std::to_string(layer) + " layers; the model has " +
           std::to_string(self.layout().n_layer));
  self.commit(n);
}

}  // namespace

void reject_busy() { throw std::runtime_error("another thread's call is using the cache"); }

py::class_<KvCache> bind_cache(py::module_& m) {
  py::class_<KvCache> cache(m, "Cache");
  cache.def_property_readonly("length", &KvCache::length)
      .def_property_readonly("nbytes", &KvCache::bytes)
      .def(
          "truncate",
          [](KvCache& self, int length) {
            const Use use(self);
            self.truncate(length);
          },
          py::arg("length"))
      .def("fork",
           [](KvCache& self) {
             const Use use(self);
             return std::make_unique<KvCache>(self.fork());
           })
      .def("read", &read_layer, py::arg("layer"))
      .def("write", &write_layers, py::arg("n"), py::arg("layers"))
      .def("capsule", [](py::object self) {
        // The capsule keeps its Python object alive.
        auto* owner = new py::object(self);
        py::capsule c(&py::cast<KvCache&>(self), "gpt2fast.cache", [](PyObject* capsule) {
          delete static_cast<py::object*>(PyCapsule_GetContext(capsule));
        });
        PyCapsule_SetContext(c.ptr(), owner);
        return c;
      });
  return cache;
}

}  // namespace gpt2fast
