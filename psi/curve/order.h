/* The order of 64-bit keys: radix sort from the least significant digit up, which is stable (Knuth, TAOCP 3, 5.2.5). Its
   time does not depend on the keys, but for digits that all keys share, which are skipped. */
#ifndef VESICA_ORDER_H
#define VESICA_ORDER_H

enum { DIGIT_BITS = 11, DIGITS = (64 + DIGIT_BITS - 1) / DIGIT_BITS, RADIX = 1 << DIGIT_BITS };

struct keyed {
    uint64_t key, place;
};

static inline size_t digit_of(uint64_t key, int digit) { return key >> digit * DIGIT_BITS & (RADIX - 1); }

/* Writes the n places of the keys in ascending order. Returns -1 or NO_MEMORY. */
static int64_t order_keys(uint64_t *order, const uint64_t *keys, size_t n) {
    size_t(*const counts)[RADIX] = calloc(DIGITS, sizeof *counts); /* then, where the next key with a digit goes */
    struct keyed *const memory = n < SIZE_MAX / 2 / sizeof *memory ? malloc(2 * n * sizeof *memory + 1) : NULL;
    if (!counts || !memory) {
        free(counts);
        free(memory);
        return NO_MEMORY;
    }
    struct keyed *from = memory, *to = memory + n;
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = read_once(&keys[i]);
        from[i].key = key;
        from[i].place = i;
        for (int digit = 0; digit < DIGITS; digit++) counts[digit][digit_of(key, digit)]++;
    }
    for (int digit = 0; digit < DIGITS && n; digit++) {
        size_t *const next = counts[digit];
        if (next[digit_of(from[0].key, digit)] == n) continue;
        for (size_t value = 0, at = 0; value < RADIX; value++) {
            const size_t count = next[value];
            next[value] = at;
            at += count;
        }
        for (size_t i = 0; i < n; i++) to[next[digit_of(from[i].key, digit)]++] = from[i];
        struct keyed *const other = from;
        from = to, to = other;
    }
    for (size_t i = 0; i < n; i++) order[i] = from[i].place;
    free(counts);
    free(memory);
    return -1;
}

#endif
