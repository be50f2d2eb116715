/* The arithmetic of a merge where numpy needs a pass for every step: the same numbers, bit for bit,
 * as `ladle.merge.kernel` and `ladle.checkpoint.numbers` compute without it.
 *
 * Plain C11 without Python's headers, called through ctypes. To be compiled without contraction
 * into fused multiply-adds (-ffp-contract=off), which would round otherwise. Little-endian hosts.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
/* The loader takes the widest that the processor has. */
#define FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAST
#endif

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double from_float32(float value) { return value; }

static inline double from_bfloat16(uint16_t half) { return as_float((uint32_t)half << 16); }

static inline double from_float16(uint16_t half) {
    /* Exponent and digits go to where float32 has them; the exponent, counted from elsewhere
     * there, is put right by a multiplication, which is exact. */
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7fff) << 13;
    float scaled = as_float(rest) * 0x1p112f;
    uint32_t special = rest | 0x7f800000; /* Infinity or no number. */
    return as_float(sign | ((half & 0x7c00) == 0x7c00 ? special : as_bits(scaled)));
}

#define ADD(NAME, TYPE, FROM)                                                                     \
    FAST void ladle_start_##NAME(double *restrict total, const TYPE *restrict numbers,            \
                                 ptrdiff_t n, double weight) {                                    \
        if (weight == 1.0)                                                                        \
            for (ptrdiff_t i = 0; i < n; i++) total[i] = FROM(numbers[i]);                        \
        else                                                                                      \
            for (ptrdiff_t i = 0; i < n; i++) total[i] = weight * FROM(numbers[i]);               \
    }                                                                                             \
    FAST void ladle_add_##NAME(double *restrict total, const TYPE *restrict numbers, ptrdiff_t n, \
                               double weight) {                                                   \
        if (weight == 1.0)                                                                        \
            for (ptrdiff_t i = 0; i < n; i++) total[i] += FROM(numbers[i]);                       \
        else                                                                                      \
            for (ptrdiff_t i = 0; i < n; i++) total[i] += weight * FROM(numbers[i]);              \
    }

ADD(float32, float, from_float32)
ADD(bfloat16, uint16_t, from_bfloat16)
ADD(float16, uint16_t, from_float16)

/* Sums in LANES lanes that are added up at the end: an order that vectors of any width can keep. */
#define LANES 16

#define DOT(NAME, TYPE, FROM)                                                                     \
    FAST double ladle_dot_##NAME(const TYPE *restrict numbers, const float *restrict slope,       \
                                 ptrdiff_t n) {                                                   \
        double lanes[LANES] = {0}, total = 0;                                                     \
        ptrdiff_t i = 0;                                                                          \
        for (; i + LANES <= n; i += LANES)                                                        \
            for (int j = 0; j < LANES; j++)                                                       \
                lanes[j] += FROM(numbers[i + j]) * (double)slope[i + j];                          \
        for (int j = 0; i + j < n; j++) lanes[j] += FROM(numbers[i + j]) * (double)slope[i + j];  \
        for (int j = 0; j < LANES; j++) total += lanes[j];                                        \
        return total;                                                                             \
    }

DOT(float32, float, from_float32)
DOT(bfloat16, uint16_t, from_bfloat16)
DOT(float16, uint16_t, from_float16)

/* A float32 from which a narrower number can be rounded as if from the float64 itself: towards
 * zero, and odd where that lost anything (Boldo and Melquiond, "When double rounding is odd"). */
static inline uint32_t rounded_to_odd(double value) {
    float nearest = (float)value;
    double back = nearest, size = value < 0 ? -value : value;
    uint32_t bits = as_bits(nearest);
    uint32_t beyond = (back < 0 ? -back : back) > size, inexact = back != value;
    return (bits - beyond) | inexact;
}

FAST void ladle_to_bfloat16(uint16_t *restrict out, const double *restrict numbers, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t bits = rounded_to_odd(numbers[i]);
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        uint32_t no_number = (bits >> 16) | 0x40;
        out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? no_number : rounded);
    }
}

/* The same in fewer steps, by way of the bits, for numbers that float32 has in full: those below
 * its smallest are zero in float16 in any case. */
static inline float cut_to_odd(double value) {
    const uint64_t beyond = 0x1fffffff; /* The digits that float32 lacks. */
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits & ~beyond) | (uint64_t)((bits & beyond) != 0) << 29;
    memcpy(&value, &bits, sizeof value);
    return (float)value;
}

FAST void ladle_to_float16(uint16_t *restrict out, const double *restrict numbers, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t bits = as_bits(cut_to_odd(numbers[i]));
        uint32_t sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
        /* Numbers with fewer digits: adding 1/2 leaves the last digit of a float32 at 2^-24. */
        uint32_t small = as_bits(as_float(size) + 0.5f) - 0x3f000000;
        uint32_t usual = (size - (112u << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
        uint32_t found = size < (113u << 23) ? small : usual;
        found = size >= 0x477ff000 ? 0x7c00 : found; /* 65520 and more: infinity. */
        found = size > 0x7f800000 ? 0x7e00 : found;
        out[i] = (uint16_t)(sign | found);
    }
}
