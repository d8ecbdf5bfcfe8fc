/* Digests of what the functions of libm give for many operands: usage: libm COUNT. */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint64_t next(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dull;
}

/* Mostly of moderate size, one in eight of any bits at all. */
static double number(void) {
    uint64_t bits = next();
    if (next() % 8)
        bits = (bits & ~(0x7ffull << 52)) | (uint64_t)(1023 - 20 + next() % 40) << 52;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float single(void) {
    uint32_t bits = (uint32_t)(next() >> 32);
    if (next() % 8)
        bits = (bits & ~(0xffu << 23)) | (uint32_t)(127 - 10 + next() % 20) << 23;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void digest(uint64_t *sum, const void *value, size_t size) {
    uint64_t bits = 0;
    memcpy(&bits, value, size);
    *sum = (*sum ^ bits) * 0x100000001b3ull;
    *sum ^= *sum >> 29;
}

#define BEGIN(name)                                                                                                      \
    do {                                                                                                                 \
        uint64_t sum = 0xcbf29ce484222325ull;                                                                            \
        state = 0x9e3779b97f4a7c15ull;                                                                                   \
        for (long n = 0; n < count; n++) {
#define END(name)                                                                                                        \
        }                                                                                                                \
        printf("%s %016llx\n", name, (unsigned long long)sum);                                                           \
    } while (0)
#define ONE(fn)                                                                                                          \
    BEGIN(#fn) double r = fn(number()); digest(&sum, &r, sizeof r); END(#fn);                                               \
    BEGIN(#fn "f") float r = fn##f(single()); digest(&sum, &r, sizeof r); END(#fn "f")
#define TWO(fn)                                                                                                          \
    BEGIN(#fn) double x = number(), r = fn(x, number()); digest(&sum, &r, sizeof r); END(#fn);                              \
    BEGIN(#fn "f") float x = single(), r = fn##f(x, single()); digest(&sum, &r, sizeof r); END(#fn "f")

int main(int argc, char **argv) {
    long count = argc > 1 ? atol(argv[1]) : 1000;
    ONE(sin); ONE(cos); ONE(tan); ONE(asin); ONE(acos); ONE(atan);
    ONE(sinh); ONE(cosh); ONE(tanh); ONE(asinh); ONE(acosh); ONE(atanh);
    ONE(exp); ONE(exp2); ONE(expm1); ONE(log); ONE(log2); ONE(log10); ONE(log1p);
    ONE(sqrt); ONE(cbrt); ONE(erf); ONE(erfc); ONE(tgamma); ONE(lgamma);
    ONE(j0); ONE(j1); ONE(y0); ONE(y1);
    ONE(floor); ONE(ceil); ONE(trunc); ONE(round); ONE(rint); ONE(nearbyint); ONE(logb);
    TWO(pow); TWO(atan2); TWO(hypot); TWO(fmod); TWO(remainder); TWO(fdim); TWO(fmax); TWO(fmin); TWO(nextafter); TWO(copysign);
    BEGIN("fma") double x = number(), y = number(), r = fma(x, y, number()); digest(&sum, &r, sizeof r); END("fma");
    BEGIN("fmaf") float x = single(), y = single(), r = fmaf(x, y, single()); digest(&sum, &r, sizeof r); END("fmaf");
    BEGIN("lrint") long r = lrint(number()); digest(&sum, &r, sizeof r); END("lrint");
    /* In 80 bits, without the x87's transcendental instructions, which manufacturers round in their own ways. */
    BEGIN("sqrtl") long double r = sqrtl(number()); digest(&sum, &r, 8); END("sqrtl");
    BEGIN("fmodl") long double x = number(), r = fmodl(x, number()); digest(&sum, &r, 8); END("fmodl");
    BEGIN("rintl") long double r = rintl((long double)number() * 3); digest(&sum, &r, 8); END("rintl");
    BEGIN("divl") long double x = number(), r = x / number(); digest(&sum, &r, 8); END("divl");
    return 0;
}
