// The native module: every source of csrc/ registers its own functions.
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace kparity {
void bind_compare(py::module_& m);
void bind_cpu(py::module_& m);
void bind_repack(py::module_& m);
void bind_rounds(py::module_& m);
}

PYBIND11_MODULE(_native, m) {
    m.doc() = "Native kernels and repacking of kparity.";
    kparity::bind_compare(m);
    kparity::bind_cpu(m);
    kparity::bind_repack(m);
    kparity::bind_rounds(m);
}
