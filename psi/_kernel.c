/* The Python face of the curve kernel: buffers in and out, sizes checked, the GIL dropped. What it computes is in curve/.

   Another thread may change an array as soon as the GIL is dropped. So what is checked because memory depends on it (the
   lengths of values, scalars in variable time, bounds, sorting keys) is copied first, or read once. Whatever else changes
   meanwhile changes the result only.

   A Backend is one implementation that this processor can run; psi.kernel chooses. psi/_kernel.pyi says what each
   method takes. Arrays must be C-contiguous; a method returns the index of the first row it refuses, or None. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "curve/backend.h"
#ifdef VESICA_X86
#include <cpuid.h>
#include <immintrin.h>
#endif
#include "curve/constants.h"

#include "curve/merge.h"
#include "curve/once.h"
#include "curve/order.h"
#include "curve/repeat.h"
#include "curve/scalar.h"
#include "curve/sha256.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernel reads numbers as little-endian bytes"
#endif

typedef struct {
    PyObject_HEAD
    const struct backend *functions;
    sha256_blocks *sha256;
} Backend;

static PyObject *outcome(int64_t bad) {
    if (bad == NO_MEMORY) return PyErr_NoMemory();
    if (bad >= 0) return PyLong_FromLongLong(bad);
    Py_RETURN_NONE;
}

/* The number of rows of `width` bytes, or -1 with an exception. */
static Py_ssize_t rows(const Py_buffer *view, Py_ssize_t width) {
    if (width > 0 && view->len % width == 0) return view->len / width;
    PyErr_Format(PyExc_ValueError, "expected rows of %zd bytes, got %zd bytes", width, view->len);
    return -1;
}

static int expect(const Py_buffer *view, Py_ssize_t size) {
    if (view->len == size) return 1;
    PyErr_Format(PyExc_ValueError, "expected %zd bytes, got %zd", size, view->len);
    return 0;
}

static PyObject *backend_from_uniform(Backend *self, PyObject *args) {
    Py_buffer elements, uniform;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "w*y*:from_uniform", &elements, &uniform)) return NULL;
    const Py_ssize_t n = rows(&uniform, 64);
    if (n >= 0 && expect(&elements, 32 * n)) {
        int64_t bad;
        Py_BEGIN_ALLOW_THREADS
        bad = self->functions->from_uniform(elements.buf, uniform.buf, (size_t)n);
        Py_END_ALLOW_THREADS
        result = outcome(bad);
    }
    PyBuffer_Release(&elements);
    PyBuffer_Release(&uniform);
    return result;
}

typedef int64_t multiply(uint8_t *products, const uint8_t *rows, const uint8_t *scalars, size_t stride, size_t n);

static PyObject *any_multiply(PyObject *args, multiply *function, size_t width) {
    Py_buffer products, sources, scalars;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "w*y*y*", &products, &sources, &scalars)) return NULL;
    const Py_ssize_t n = rows(&sources, (Py_ssize_t)width);
    if (n >= 0 && expect(&products, 32 * n) && (scalars.len == 32 || expect(&scalars, 32 * n))) {
        const size_t stride = scalars.len == 32 ? 0 : 32;
        int64_t bad;
        Py_BEGIN_ALLOW_THREADS
        bad = function(products.buf, sources.buf, scalars.buf, stride, (size_t)n);
        Py_END_ALLOW_THREADS
        result = outcome(bad);
    }
    PyBuffer_Release(&products);
    PyBuffer_Release(&sources);
    PyBuffer_Release(&scalars);
    return result;
}

static PyObject *backend_multiply(Backend *self, PyObject *args) {
    return any_multiply(args, self->functions->multiply, 32);
}
static PyObject *backend_multiply_decoded(Backend *self, PyObject *args) {
    return any_multiply(args, self->functions->multiply_decoded, self->functions->decoded);
}
static PyObject *backend_multiply_uniform(Backend *self, PyObject *args) {
    return any_multiply(args, self->functions->multiply_uniform, 64);
}

static PyObject *backend_decode(Backend *self, PyObject *args) {
    Py_buffer decoded, elements;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "w*y*:decode", &decoded, &elements)) return NULL;
    const Py_ssize_t n = rows(&elements, 32);
    if (n >= 0 && expect(&decoded, n * (Py_ssize_t)self->functions->decoded)) {
        int64_t bad;
        Py_BEGIN_ALLOW_THREADS
        bad = self->functions->decode(decoded.buf, elements.buf, (size_t)n);
        Py_END_ALLOW_THREADS
        result = outcome(bad);
    }
    PyBuffer_Release(&decoded);
    PyBuffer_Release(&elements);
    return result;
}

/* A copy that no other thread can change, to be released with free; or NULL with an exception. */
static uint8_t *copied(const Py_buffer *view) {
    uint8_t *const copy = malloc((size_t)view->len + 1);
    if (copy) memcpy(copy, view->buf, (size_t)view->len);
    else PyErr_NoMemory();
    return copy;
}

/* Digits of a scalar above L would lie outside of the buckets. psi.kernel has checked already, with a better message. */
static int all_reduced(const uint8_t *scalars, Py_ssize_t n) {
    uint64_t all = 1;
    for (Py_ssize_t i = 0; i < n; i++) all &= scalar_is_reduced(scalar_load(scalars + 32 * i));
    if (!all) PyErr_SetString(PyExc_ValueError, "a scalar is not reduced modulo the order of the group");
    return (int)all;
}

static PyObject *backend_multi_scalar_vartime(Backend *self, PyObject *args) {
    Py_buffer sums, scalars, views[MAX_BATCHES];
    PyObject *batches, *result = NULL;
    const uint8_t *decoded[MAX_BATCHES];
    int taken = 0, valid = 1;
    if (!PyArg_ParseTuple(args, "w*y*O!:multi_scalar_vartime", &sums, &scalars, &PyTuple_Type, &batches)) return NULL;
    const Py_ssize_t n = rows(&scalars, 32), count = PyTuple_GET_SIZE(batches);
    if (n < 0) valid = 0;
    else if (n > INT32_MAX - 1 || count > MAX_BATCHES) {
        PyErr_SetString(PyExc_ValueError, "too many elements, or batches");
        valid = 0;
    }
    valid = valid && expect(&sums, 32 * count);
    while (valid && taken < count) {
        valid = PyObject_GetBuffer(PyTuple_GET_ITEM(batches, taken), &views[taken], PyBUF_C_CONTIGUOUS) == 0;
        if (!valid) break;
        decoded[taken] = views[taken].buf;
        valid = expect(&views[taken++], n * (Py_ssize_t)self->functions->decoded);
    }
    if (valid) {
        uint8_t *const factors = copied(&scalars);
        if (factors && all_reduced(factors, n)) {
            int64_t bad;
            Py_BEGIN_ALLOW_THREADS
            bad = self->functions->multi_scalar_vartime(sums.buf, factors, decoded, (size_t)count, (size_t)n);
            Py_END_ALLOW_THREADS
            result = outcome(bad);
        }
        free(factors);
    }
    while (taken) PyBuffer_Release(&views[--taken]);
    PyBuffer_Release(&sums);
    PyBuffer_Release(&scalars);
    return result;
}

static PyObject *backend_sum(Backend *self, PyObject *args) {
    Py_buffer sum, elements;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "w*y*:sum", &sum, &elements)) return NULL;
    const Py_ssize_t n = rows(&elements, 32);
    if (n >= 0 && expect(&sum, 32)) {
        int64_t bad;
        Py_BEGIN_ALLOW_THREADS
        bad = self->functions->sum(sum.buf, elements.buf, (size_t)n);
        Py_END_ALLOW_THREADS
        result = outcome(bad);
    }
    PyBuffer_Release(&sum);
    PyBuffer_Release(&elements);
    return result;
}

/* The same code whatever the backend. */
static PyObject *backend_first_repeat(Backend *self, PyObject *args) {
    Py_buffer elements, key;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*:first_repeat", &elements, &key)) return NULL;
    const Py_ssize_t n = rows(&elements, 32);
    if (n > INT32_MAX - 1) PyErr_SetString(PyExc_ValueError, "too many elements");
    else if (n >= 0 && expect(&key, 40)) {
        uint64_t words[5];
        int64_t found;
        memcpy(words, key.buf, sizeof words);
        Py_BEGIN_ALLOW_THREADS
        found = first_repeat(elements.buf, (size_t)n, words);
        Py_END_ALLOW_THREADS
        result = outcome(found);
    }
    PyBuffer_Release(&elements);
    PyBuffer_Release(&key);
    return result;
}

enum { MAX_PARTS = 8 };

/* Fills `part` from bytes, or from (rows, lengths or None); views that were taken are counted in `taken`. The lengths are
   a copy, also where an exception is set: release them with free. */
static int read_part(PyObject *item, Py_ssize_t n, struct part *part, Py_buffer *views, int *taken) {
    Py_buffer *const view = &views[*taken];
    if (!PyTuple_Check(item)) {
        if (PyObject_GetBuffer(item, view, PyBUF_C_CONTIGUOUS) < 0) return 0;
        ++*taken;
        *part = (struct part){view->buf, 0, (size_t)view->len, NULL};
        return 1;
    }
    PyObject *array, *lengths;
    if (!PyArg_ParseTuple(item, "OO", &array, &lengths)) return 0;
    if (PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS) < 0) return 0;
    ++*taken;
    if (n == 0 || view->len % n) {
        if (n || view->len) PyErr_SetString(PyExc_ValueError, "a part has another number of rows than the digests");
        *part = (struct part){view->buf, 1, 0, NULL};
        return !PyErr_Occurred();
    }
    const size_t width = (size_t)(view->len / n);
    *part = (struct part){view->buf, width, width, NULL};
    if (lengths != Py_None) {
        Py_buffer length_view;
        if (PyObject_GetBuffer(lengths, &length_view, PyBUF_C_CONTIGUOUS) < 0) return 0;
        if (expect(&length_view, n)) part->lengths = copied(&length_view);
        PyBuffer_Release(&length_view);
        if (!part->lengths) return 0;
        for (Py_ssize_t i = 0; i < n; i++)
            if (part->lengths[i] > width) {
                PyErr_SetString(PyExc_ValueError, "a value is longer than its row");
                return 0;
            }
    }
    return 1;
}

static PyObject *backend_sha512(Backend *self, PyObject *args) {
    Py_buffer digests, views[MAX_PARTS];
    Py_ssize_t n;
    PyObject *items, *result = NULL;
    struct part parts[MAX_PARTS] = {0};
    int taken = 0, valid = 1;
    if (!PyArg_ParseTuple(args, "w*nO!:sha512", &digests, &n, &PyTuple_Type, &items)) return NULL;
    const Py_ssize_t count = PyTuple_GET_SIZE(items), size = n > 0 ? digests.len / n : 0;
    if (n < 0 || count > MAX_PARTS || size > 64 || digests.len != n * size) {
        PyErr_SetString(PyExc_ValueError, "expected digests of at most 64 bytes, and at most eight parts");
        valid = 0;
    }
    for (Py_ssize_t i = 0; valid && i < count; i++)
        valid = read_part(PyTuple_GET_ITEM(items, i), n, &parts[i], views, &taken);
    if (valid) {
        int64_t bad;
        Py_BEGIN_ALLOW_THREADS
        bad = self->functions->sha512(digests.buf, (size_t)size, (size_t)n, parts, (size_t)count);
        Py_END_ALLOW_THREADS
        result = outcome(bad);
    }
    for (int i = 0; i < MAX_PARTS; i++) free((void *)parts[i].lengths);
    while (taken) PyBuffer_Release(&views[--taken]);
    PyBuffer_Release(&digests);
    return result;
}

static PyObject *backend_sha256(Backend *self, PyObject *args) {
    Py_buffer digests, data, starts, ends;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "w*y*y*y*:sha256", &digests, &data, &starts, &ends)) return NULL;
    const Py_ssize_t n = rows(&digests, 32);
    if (n >= 0 && expect(&starts, 8 * n) && expect(&ends, 8 * n)) {
        int64_t bad;
        Py_BEGIN_ALLOW_THREADS
        bad = sha256_batch(self->sha256, digests.buf, data.buf, (uint64_t)data.len, starts.buf, ends.buf, (size_t)n);
        Py_END_ALLOW_THREADS
        result = outcome(bad);
    }
    PyBuffer_Release(&digests);
    PyBuffer_Release(&data);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&ends);
    return result;
}

/* The same code whatever the backend. */
static PyObject *backend_order(Backend *self, PyObject *args) {
    Py_buffer order, keys;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "w*y*:order", &order, &keys)) return NULL;
    const Py_ssize_t n = rows(&keys, 8);
    if (((uintptr_t)order.buf | (uintptr_t)keys.buf) % sizeof(uint64_t))
        PyErr_SetString(PyExc_ValueError, "numbers that are not aligned");
    else if (n >= 0 && expect(&order, 8 * n)) {
        int64_t bad;
        Py_BEGIN_ALLOW_THREADS
        bad = order_keys(order.buf, keys.buf, (size_t)n);
        Py_END_ALLOW_THREADS
        result = outcome(bad);
    }
    PyBuffer_Release(&order);
    PyBuffer_Release(&keys);
    return result;
}

/* A view of rows of bytes, which may lie apart; 0 with an exception. */
static int view_table(PyObject *array, Py_buffer *view, struct table *table) {
    if (PyObject_GetBuffer(array, view, PyBUF_STRIDED_RO) < 0) return 0;
    if (view->ndim == 2 && view->itemsize == 1 && view->shape[1] >= 8 && view->strides[1] == 1) {
        *table = (struct table){view->buf, view->strides[0], (size_t)view->shape[0]};
        return 1;
    }
    PyErr_SetString(PyExc_ValueError, "expected rows of at least eight bytes");
    PyBuffer_Release(view);
    return 0;
}

/* The same code whatever the backend. */
static PyObject *backend_merge(Backend *self, PyObject *args) {
    Py_buffer places, found, views[2];
    PyObject *arrays[2], *result = NULL;
    struct table tables[2];
    int taken = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "w*w*OO:merge", &places, &found, &arrays[0], &arrays[1])) return NULL;
    while (taken < 2 && view_table(arrays[taken], &views[taken], &tables[taken])) taken++;
    if (taken < 2) goto done;
    if (((uintptr_t)places.buf | (uintptr_t)found.buf) % sizeof(int64_t))
        PyErr_SetString(PyExc_ValueError, "numbers that are not aligned");
    else if (views[0].shape[1] != views[1].shape[1])
        PyErr_SetString(PyExc_ValueError, "rows of two widths");
    else if (expect(&places, 8 * views[1].shape[0]) && expect(&found, 8 * views[1].shape[0])) {
        int64_t count;
        Py_BEGIN_ALLOW_THREADS
        count = merge_tables(places.buf, found.buf, &tables[0], &tables[1], (size_t)views[0].shape[1]);
        Py_END_ALLOW_THREADS
        result = outcome(count);
    }
done:
    while (taken) PyBuffer_Release(&views[--taken]);
    PyBuffer_Release(&places);
    PyBuffer_Release(&found);
    return result;
}

/* Scalars: the same code whatever the backend */

static PyObject *backend_reduce(Backend *self, PyObject *args) {
    Py_buffer scalars, uniform;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "w*y*:reduce", &scalars, &uniform)) return NULL;
    const Py_ssize_t n = rows(&uniform, 64);
    if (n >= 0 && expect(&scalars, 32 * n)) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++) {
            const scalar reduced = scalar_reduce((const uint8_t *)uniform.buf + 64 * i);
            memcpy((uint8_t *)scalars.buf + 32 * i, reduced.word, 32);
        }
        Py_END_ALLOW_THREADS
        result = outcome(-1);
    }
    PyBuffer_Release(&scalars);
    PyBuffer_Release(&uniform);
    return result;
}

static PyObject *backend_invert(Backend *self, PyObject *args) {
    Py_buffer value;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*:invert", &value)) return NULL;
    if (expect(&value, 32)) {
        const scalar inverse = scalar_invert(scalar_load(value.buf));
        result = PyBytes_FromStringAndSize((const char *)inverse.word, 32);
    }
    PyBuffer_Release(&value);
    return result;
}

static PyObject *backend_respond(Backend *self, PyObject *args) {
    Py_buffer nonce, challenge, secret;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*:respond", &nonce, &challenge, &secret)) return NULL;
    if (expect(&nonce, 32) && expect(&challenge, 32) && expect(&secret, 32)) {
        const scalar product = scalar_multiply(scalar_load(challenge.buf), scalar_load(secret.buf));
        const scalar response = scalar_add(scalar_load(nonce.buf), scalar_negate(product));
        result = PyBytes_FromStringAndSize((const char *)response.word, 32);
    }
    PyBuffer_Release(&nonce);
    PyBuffer_Release(&challenge);
    PyBuffer_Release(&secret);
    return result;
}

static PyObject *backend_name(Backend *self, void *closure) {
    (void)closure;
    return PyUnicode_FromString(self->functions->name);
}

static PyObject *backend_decoded_bytes(Backend *self, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(self->functions->decoded);
}

static PyMethodDef backend_methods[] = {
    {"sha256", (PyCFunction)backend_sha256, METH_VARARGS, NULL},
    {"sha512", (PyCFunction)backend_sha512, METH_VARARGS, NULL},
    {"from_uniform", (PyCFunction)backend_from_uniform, METH_VARARGS, NULL},
    {"multiply", (PyCFunction)backend_multiply, METH_VARARGS, NULL},
    {"multiply_decoded", (PyCFunction)backend_multiply_decoded, METH_VARARGS, NULL},
    {"multiply_uniform", (PyCFunction)backend_multiply_uniform, METH_VARARGS, NULL},
    {"decode", (PyCFunction)backend_decode, METH_VARARGS, NULL},
    {"multi_scalar_vartime", (PyCFunction)backend_multi_scalar_vartime, METH_VARARGS, NULL},
    {"sum", (PyCFunction)backend_sum, METH_VARARGS, NULL},
    {"first_repeat", (PyCFunction)backend_first_repeat, METH_VARARGS, NULL},
    {"order", (PyCFunction)backend_order, METH_VARARGS, NULL},
    {"merge", (PyCFunction)backend_merge, METH_VARARGS, NULL},
    {"reduce", (PyCFunction)backend_reduce, METH_VARARGS, NULL},
    {"invert", (PyCFunction)backend_invert, METH_VARARGS, NULL},
    {"respond", (PyCFunction)backend_respond, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef backend_getset[] = {
    {"name", (getter)backend_name, NULL, NULL, NULL},
    {"decoded_bytes", (getter)backend_decoded_bytes, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot backend_slots[] = {{Py_tp_methods, backend_methods}, {Py_tp_getset, backend_getset}, {0, NULL}};
static PyType_Spec backend_spec = {"psi._kernel.Backend", sizeof(Backend), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, backend_slots};

/* SHA-256 on its own instructions, for the backends that use any. */
static sha256_blocks *sha256_of(const struct backend *functions) {
#ifdef VESICA_X86
    if (functions != &backend_portable && has_sha_ni()) return sha256_blocks_ni;
#endif
    (void)functions;
    return sha256_blocks_portable;
}

/* The backends that this processor can run, the fastest first. */
static size_t available(const struct backend **found) {
    size_t count = 0;
#ifdef VESICA_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512ifma") && __builtin_cpu_supports("bmi2"))
        found[count++] = &backend_ifma;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) found[count++] = &backend_avx2;
#endif
    found[count++] = &backend_portable;
    return count;
}

static int kernel_exec(PyObject *module) {
    const struct backend *found[4];
    const size_t count = available(found);
    PyObject *type = PyType_FromModuleAndSpec(module, &backend_spec, NULL);
    PyObject *backends = PyTuple_New((Py_ssize_t)count);
    if (!type || !backends || PyModule_AddObjectRef(module, "Backend", type) < 0) goto failed;
    for (size_t i = 0; i < count; i++) {
        Backend *backend = PyObject_New(Backend, (PyTypeObject *)type);
        if (!backend) goto failed;
        backend->functions = found[i];
        backend->sha256 = sha256_of(found[i]);
        PyTuple_SET_ITEM(backends, (Py_ssize_t)i, (PyObject *)backend);
    }
    if (PyModule_AddObjectRef(module, "BACKENDS", backends) < 0) goto failed;
    Py_DECREF(type);
    Py_DECREF(backends);
    return 0;
failed:
    Py_XDECREF(type);
    Py_XDECREF(backends);
    return -1;
}

static PyModuleDef_Slot kernel_slots[] = {{Py_mod_exec, kernel_exec}, {0, NULL}};
static struct PyModuleDef kernel_module = {
    PyModuleDef_HEAD_INIT, "psi._kernel", NULL, 0, NULL, kernel_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&kernel_module); }
