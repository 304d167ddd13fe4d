/* Numbers of 16 bits, for compilers that have no type for them. */
#ifndef OFA_HALF_H
#define OFA_HALF_H

#include <math.h>
#include <stdint.h>

static inline double ofa_half(uint16_t bits) {
    int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    double size = exponent > 0 ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) size = fraction == 0 ? INFINITY : NAN;
    return bits >> 15 ? -size : size;
}

#endif
