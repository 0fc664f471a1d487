/* The backend for AVX2. The pragma lets this file alone use its instructions; _kernel.c asks the processor. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

#ifdef VESICA_X86
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi2")
#endif

#include "build.h"
#include "constants.h"
#include "scalar.h"

#include "fe_avx2.h"

#include "point.h"
#include "sha512.h"

#include "batch.h"

BACKEND(avx2);

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
