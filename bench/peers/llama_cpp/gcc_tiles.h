// GCC before 12.4 and 13.3 tells its optimiser that `_tile_loadconfig` reads 8 bytes and not 64 (its bug 114098). The
// rest of llama.cpp's configuration is then never written, and its first prompt on AMX tiles ends with a protection fault.
// Put before its source of those kernels; llama.cpp itself stays as it is.
#pragma once
#include <immintrin.h>

#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
