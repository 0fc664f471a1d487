/* The backend for every 64-bit processor. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "build.h"
#include "constants.h"
#include "scalar.h"

#include "fe_portable.h"

#include "point.h"
#include "sha512.h"

#include "batch.h"

BACKEND(portable);
